"""In which views the other members of a round say they are, and what follows for one's own: two-thirds runs.

A single word must not move anybody, so a later view is entered behind more members than may lie, and left
again only when so many are in it that they could have agreed. Those who waited in vain then time out
together, and no two honest members are ever more than a view apart for long.
(Castro and Liskov, Practical Byzantine Fault Tolerance, 1999: section 4.5.2)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.protocol.ids import PeerId


@dataclass(slots=True)
class Views:
    """The latest view that each other member has named; they never go back."""

    claims: dict[PeerId, int] = field(default_factory=dict)

    def hear(self, peer: PeerId, view: int) -> None:
        self.claims[peer] = max(view, self.claims.get(peer, 0))

    def vouched(self, liars_max: int) -> int:
        """The latest view that at least one honest member has reached."""
        ranked = sorted(self.claims.values(), reverse=True)
        return ranked[liars_max] if len(ranked) > liars_max else 0

    def together(self, view: int, needed: int) -> bool:
        """Whether enough members, this one counted, are in `view` or beyond for it to come to a vote."""
        return view == 0 or 1 + sum(claim >= view for claim in self.claims.values()) >= needed
