"""Which rules of a manifest this version of the node can follow: whole vectors, one round at a time."""

from __future__ import annotations

from atoll.protocol.errors import ConfigError
from atoll.protocol.manifest import RoundRules

_KNOWN: dict[str, object] = {}


def check_exchange(rules: RoundRules, where: str) -> None:
    """ConfigError for rounds that the protocol has and this node's arithmetic has not."""
    for key, known in _KNOWN.items():
        value = getattr(rules, key)
        if value != known:
            raise ConfigError(f"{key} = {value!r}", where, f"{known!r}; nodes of this version know no other")
