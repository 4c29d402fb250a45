"""FedLD's aggregation: the contributions' principal directions, each as long as its share of the variance."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum, sqrt

from atoll.optim.jacobi import eigen_symmetric
from atoll.optim.robust.evidence import Combination, Evidence
from atoll.optim.robust.flag import SPAN_MIN

ALONG_MIN = 1e-9
"""A contribution whose part of an eigenvector is smaller stands at right angles: its sign is rounding."""


@dataclass(frozen=True, slots=True)
class FedLD:
    """sum over the first 0.8 n principal directions of (variance share) * sum(share * |g| * sign along it).

    For peers with data of different kinds: what most agree on grows and what they disagree on shrinks. No
    defence, since a loud liar is a principal direction; clip first. Equal contributions are returned as they
    are. The paper's loss has another part, in training, that is not here. (Zeng et al. 2024)
    """

    kept: float = 0.8
    name: str = "fedld"
    needs: str = "gram"

    def __post_init__(self) -> None:
        if not 0 < self.kept <= 1:
            raise ValueError(f"kept is the share of the directions, in (0, 1], not {self.kept}")

    def decide(self, evidence: Evidence) -> Combination:
        count, norms, shares = evidence.contributions, evidence.norms(), evidence.shares()
        values, vectors = eigen_symmetric(evidence.gram[:count, :count])
        total = fsum(max(0.0, value) for value in values.tolist())
        factors = [0.0] * len(evidence.gram)
        directions = [
            (value, vector)
            for value, vector in zip(values.tolist(), vectors.T.tolist(), strict=True)
            if value > SPAN_MIN * max(values[0], 0.0)
        ][: max(1, int(self.kept * count))]
        for value, vector in directions:
            lengths = zip(shares, norms, vector, strict=True)
            strength = value / total * fsum(share * norm * _sign(part) for share, norm, part in lengths)
            for place, part in enumerate(vector):
                factors[place] += strength * part / sqrt(value)
        why = f"kept {len(directions)} principal directions of {count} contributions"
        return Combination(tuple(factors), 1.0, why)


def _sign(part: float) -> int:
    return (part > ALONG_MIN) - (part < -ALONG_MIN)
