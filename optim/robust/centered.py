"""Centered clipping: a mean of which each contributor moves the centre by a radius at most."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum, sqrt

from atoll.optim.robust.evidence import Combination, Evidence, median


@dataclass(frozen=True, slots=True)
class CenteredClipping:
    """v <- v + sum(share * d * min(1, radius / |d|)) with d = contribution - v, a few times over.

    v begins at the previous update if there is one, else at zero. `radius` None takes the median distance
    from v anew each time, so that nobody has to know how long updates are; a fixed one bounds the result to
    `iterations` * radius from where it began, and an infinite one is the weighted mean. Needs no bound on
    how many contribute, and no number of liars: f of n shift the result by at most their share of the
    radius each time. (Karimireddy, He and Jaggi 2021)
    """

    iterations: int = 3
    radius: float | None = None
    name: str = "centered-clipping"
    needs: str = "gram"

    def __post_init__(self) -> None:
        if self.iterations < 1 or not (self.radius is None or self.radius > 0):
            raise ValueError(f"centered clipping takes iterations >= 1 and a radius > 0, not {self}")

    def decide(self, evidence: Evidence) -> Combination:
        centre = [0.0] * evidence.contributions + [1.0] * evidence.has_previous
        held = 0
        radius = 0.0
        for _ in range(self.iterations):
            distances = _distances(evidence, centre)
            radius = median(distances) if self.radius is None else self.radius
            held = sum(distance > radius for distance in distances)
            moves = [
                share * (1.0 if distance <= radius else radius / distance)
                for share, distance in zip(evidence.shares(), distances, strict=True)
            ]
            stays = fsum((1.0, *(-move for move in moves)))
            moved = moves + [0.0] * evidence.has_previous
            centre = [stays * part + move for part, move in zip(centre, moved, strict=True)]
        start = "the previous update" if evidence.has_previous else "zero"
        why = (
            f"clipped {held} of {evidence.contributions} to {radius:.4g} from a centre that began at {start}"
        )
        return Combination(tuple(centre), 1.0, why)


def _distances(evidence: Evidence, centre: list[float]) -> list[float]:
    """How far each contribution is from a combination of the rows; sums are exact, so order plays no part."""
    gram = evidence.gram.tolist()
    along = [fsum(g * part for g, part in zip(row, centre, strict=True)) for row in gram]
    square = fsum(part * inner for part, inner in zip(centre, along, strict=True))
    return [
        sqrt(max(0.0, fsum((gram[place][place], -2.0 * along[place], square))))
        for place in range(evidence.contributions)
    ]
