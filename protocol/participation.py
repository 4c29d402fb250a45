"""How much more a member counts that is seldom here, so that its data is not forgotten.

A mean over who is present favours data of those that are always present. Who takes part in one round of five
counts five times when it does: the mean gap between its rounds is an estimate of that number which needs
nobody to know the probability. The gaps stand with the members, follow from the contributors that commits
list, and are whole numbers. `optim/participation.py` is what such weights mean for the update. (FedAU, Wang
and Ji 2024)
"""

from __future__ import annotations

from dataclasses import dataclass

from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.weights import UNIT

GAP_MAX = 50
"""A gap counts so many rounds at most: K of the paper."""
WEIGHT_MAX = 10
"""A member that comes once in 50 rounds must not move the anchor 50 times as far in one."""
GAPS_MAX = 64
"""So many gaps make the mean: whoever becomes reliable is not taken for rare for ever."""


@dataclass(frozen=True, slots=True)
class Gaps:
    """The sum, in 1/UNIT, and number of a member's gaps that ended, and rounds since the last one did."""

    total: int = 0
    count: int = 0
    since: int = 0

    @property
    def factor(self) -> int:
        """The mean gap in units of 1/UNIT, rounded down; UNIT as long as none has ended."""
        return min(self.total // self.count, WEIGHT_MAX * UNIT) if self.count else UNIT

    def after(self, present: bool) -> Gaps:
        """After one more update. A round's own factor is the one before it.

        Once the mean is of GAPS_MAX gaps, each new one takes the place of a mean one. So a member that is
        always here stays as it is, and commits have nothing to say of it.
        """
        since = self.since + 1
        if not present and since < GAP_MAX:
            return Gaps(self.total, self.count, since)
        if self.count < GAPS_MAX:
            return Gaps(self.total + since * UNIT, self.count + 1)
        return Gaps(self.total - self.total // self.count + since * UNIT, self.count)

    def check(self) -> None:
        """RemoteProtocolError if no past comes to this."""
        right = self.count * UNIT <= self.total <= GAP_MAX * self.count * UNIT
        if not (right and self.count <= GAPS_MAX and self.since < GAP_MAX):
            raise RemoteProtocolError(f"{self} is no member's past")
