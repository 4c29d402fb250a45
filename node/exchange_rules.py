"""Which rules of a manifest this version of the node can follow.

Whole vectors, one round at a time; outer rules whose state is at most a momentum; codecs that owners can use
for a mean as peers do for a contribution.
"""

from __future__ import annotations

from atoll.protocol.combinations import CODECS, FEEDBACK_CODECS
from atoll.protocol.errors import ConfigError
from atoll.protocol.manifest import OuterRules, RoundRules

_KNOWN = {"fragments": 1, "overlap": 0, "exchange": "dense"}
OUTER_KNOWN: dict[str, tuple[str | float, ...]] = {
    "rule": ("nesterov", "average", "sgd"),
    "codec": tuple(name for name in CODECS if name not in FEEDBACK_CODECS),
    "aggregation": ("mean",),
    "feedback": (1.0,),
}


def check_exchange(rules: RoundRules, where: str) -> None:
    """ConfigError for rounds that the protocol has and this node's arithmetic has not."""
    for key, known in _KNOWN.items():
        value = getattr(rules, key)
        if value != known:
            raise ConfigError(f"{key} = {value!r}", where, f"{known!r}; nodes of this version know no other")


def check_outer_known(outer: OuterRules, where: str) -> None:
    """ConfigError for outer rules that only the lab can run: `atoll simulate training`."""
    for key, known in OUTER_KNOWN.items():
        value = getattr(outer, key)
        if value not in known:
            right = f"{', '.join(map(str, known))}; nodes of this version know no other"
            raise ConfigError(f"{key} = {value!r}", where, right)
