"""Which outer rules of a manifest a node can follow: those whose state is at most a momentum."""

from __future__ import annotations

from atoll.protocol.combinations import AGGREGATIONS
from atoll.protocol.errors import ConfigError
from atoll.protocol.manifest import OuterRules

OUTER_KNOWN: dict[str, tuple[str | float, ...]] = {
    "rule": ("nesterov", "average", "sgd"),
    "aggregation": tuple(name for name in AGGREGATIONS if name != "rda"),
}


def check_outer_known(outer: OuterRules, where: str) -> None:
    """ConfigError for outer rules that only the lab can run: `atoll simulate training`."""
    for key, known in OUTER_KNOWN.items():
        value = getattr(outer, key)
        if value not in known:
            right = f"{', '.join(map(str, known))}; nodes of this version know no other"
            raise ConfigError(f"{key} = {value!r}", where, right)
