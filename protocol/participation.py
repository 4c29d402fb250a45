"""How much more a member counts that is seldom here, so that its data is not forgotten.

A mean over who is present favours data of those that are always present. Who takes part in one round of five
counts five times when it does: the mean gap between its rounds is an estimate of that number which needs
nobody to know the probability. All of it follows from the contributors that commits list, in whole numbers.
`optim/participation.py` is what such weights mean for the update. (FedAU, Wang and Ji 2024)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import PeerId
from atoll.protocol.weights import UNIT


@dataclass(frozen=True, slots=True)
class ParticipationRules:
    """A gap counts `gap_max` rounds at most (K of the paper), and a weight is `weight_max` at most."""

    gap_max: int = 50
    weight_max: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.gap_max <= 1 << 20:
            raise ConfigError(f"gap_max = {self.gap_max}", "participation", f"1 to {1 << 20}")
        if not 1 <= self.weight_max <= 1 << 16:
            raise ConfigError(f"weight_max = {self.weight_max}", "participation", f"1 to {1 << 16}")


@dataclass(frozen=True, slots=True)
class Gaps:
    """A member's past: the sum and number of the gaps that ended, and rounds since the last one did."""

    total: int = 0
    count: int = 0
    since: int = 0

    def weight(self, rules: ParticipationRules) -> int:
        """The mean gap in units of 1/UNIT, rounded down; UNIT as long as none has ended."""
        if not self.count:
            return UNIT
        return min(self.total * UNIT // self.count, rules.weight_max * UNIT)

    def after(self, present: bool, rules: ParticipationRules) -> Gaps:
        """After one more round. A round's own weight is the one before it."""
        since = self.since + 1
        if present or since >= rules.gap_max:
            return Gaps(self.total + since, self.count + 1, 0)
        return Gaps(self.total, self.count, since)


def weights_of(
    gaps: Mapping[PeerId, Gaps], contributors: Collection[PeerId], rules: ParticipationRules
) -> dict[PeerId, int]:
    """The factor of each contributor of the round that follows `gaps`."""
    return {peer: gaps.get(peer, Gaps()).weight(rules) for peer in contributors}


def next_gaps(
    gaps: Mapping[PeerId, Gaps],
    contributors: Collection[PeerId],
    registered: Collection[PeerId],
    rules: ParticipationRules,
) -> dict[PeerId, Gaps]:
    """After an update with these contributors: one entry for each who is registered, and no other.

    A round without an update (a skip) is nobody's gap: call it for updates only.
    """
    present = frozenset(contributors)
    return {peer: gaps.get(peer, Gaps()).after(peer in present, rules) for peer in sorted(registered)}
