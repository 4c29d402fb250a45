"""Bristle's choice of whom to listen to: mostly the near, some of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, fsum

from blake3 import blake3

from atoll.optim.robust.evidence import Combination, Evidence, listed


@dataclass(frozen=True, slots=True)
class Prioritizer:
    """The weighted mean of n - f contributions, drawn by distance: near ones mostly, a few far ones.

    Sorted by distance and cut into thirds, (1 - alpha)^2 of the picks come from the nearest third,
    2 alpha (1 - alpha) from the middle and alpha^2 from the farthest; what a third cannot give, the nearest
    left give. Distance is from the previous update, or else from the contribution that the n - f nearest to
    are nearest: there is no own model that all peers could measure from. Who is drawn within a third follows
    from the hash of the evidence's seed and the place.

    Far peers stay heard, so that peers with rare data are: an outlier comes in with alpha^2 of the draws.
    Take it with the clip and with `performance`, not as the only guard; alpha 0 keeps the n - f nearest.
    (Bristle, Verbraeken et al. 2021, whose peers each draw ten at random)
    """

    alpha: float = 0.4
    name: str = "bristle"
    needs: str = "gram"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is a share, not {self.alpha}")

    def decide(self, evidence: Evidence) -> Combination:
        count = evidence.contributions
        order = nearest_first(evidence)
        chosen = self.chosen(order, max(1, count - evidence.faulty), evidence.seed)
        factors = [0.0] * len(evidence.gram)
        for place in chosen:
            factors[place] = float(evidence.weights[place])
        return Combination(tuple(factors), sum(factors), f"heard {listed(chosen)} of {count}")

    def chosen(self, order: Sequence[int], picks: int, seed: bytes) -> list[int]:
        """`picks` of the places in `order`, which are nearest first, in ascending order."""
        cuts = [0, -(-len(order) // 3), -(-2 * len(order) // 3), len(order)]
        near = 1 - self.alpha
        wanted = (near * near, 2 * self.alpha * near, self.alpha * self.alpha)
        found: list[int] = []
        for third, share in enumerate(wanted):
            room = picks - len(found)
            members = sorted(order[cuts[third] : cuts[third + 1]], key=lambda place: _lot(seed, place))
            found += members[: min(room, floor(share * picks + 0.5))]
        left = [place for place in order if place not in found]
        return sorted(found + left[: picks - len(found)])


def nearest_first(evidence: Evidence) -> list[int]:
    """Places by their distance from the reference; of equals the lower one first."""
    places = range(evidence.contributions)
    reference = evidence.contributions
    if not evidence.has_previous:
        near = max(1, evidence.contributions - evidence.faulty)
        distances = [sorted(evidence.distance(place, other) for other in places) for place in places]
        spread = [fsum(each[:near]) for each in distances]
        reference = min(places, key=lambda place: (spread[place], place))
    return sorted(places, key=lambda place: (evidence.distance(place, reference), place))


def _lot(seed: bytes, place: int) -> bytes:
    return blake3(b"prioritizer" + place.to_bytes(8, "little") + seed).digest()
