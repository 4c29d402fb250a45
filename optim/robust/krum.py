"""Krum: the contribution, or the contributions, whose nearest neighbours are nearest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import fsum

from atoll.optim.robust.centered import CenteredClipping
from atoll.optim.robust.evidence import Combination, Evidence, listed


def krum_order(evidence: Evidence) -> list[int]:
    """Places from the best score on; of equals the lower place first. Needs n >= f + 3.

    A score is the sum of the squared distances to the n - f - 2 nearest others, summed exactly.
    """
    places = range(evidence.contributions)
    nearest = evidence.contributions - evidence.faulty - 2
    scores = []
    for place in places:
        distances = sorted(evidence.distance(place, other) for other in places if other != place)
        scores.append(fsum(distances[:nearest]))
    return sorted(places, key=lambda place: (scores[place], place))


@dataclass(frozen=True, slots=True)
class Krum:
    """One contribution as it is, or with `several` the weighted mean of the n - f with the best scores.

    Promises something from 2f + 3 contributions on; of fewer, centered clipping decides. One contribution is
    as noisy as one peer's training and throws the others' away; several keep most of the mean's gain.
    (Blanchard et al. 2017)
    """

    several: bool = False
    needs: str = "gram"

    @property
    def name(self) -> str:
        return "multi-krum" if self.several else "krum"

    def decide(self, evidence: Evidence) -> Combination:
        count, faulty = evidence.contributions, evidence.faulty
        if count < 2 * faulty + 3:
            found = CenteredClipping().decide(evidence)
            lack = f"{self.name} needs {2 * faulty + 3} contributions for {faulty} liars, {count} came"
            return replace(found, why=f"{lack}: {found.why}")
        order = krum_order(evidence)
        chosen = sorted(order[: count - faulty] if self.several else order[:1])
        factors = [0.0] * len(evidence.gram)
        for place in chosen:
            factors[place] = float(evidence.weights[place]) if self.several else 1.0
        return Combination(tuple(factors), sum(factors), f"chose {listed(chosen)} of {count}")
