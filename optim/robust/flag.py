"""Flag aggregator: the mean within the subspace that most contributions are near."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, sqrt

import numpy as np

from atoll.optim.compiled import compiled
from atoll.optim.jacobi import eigen_symmetric
from atoll.optim.robust.evidence import Combination, Evidence
from atoll.optim.sums import Doubles

SPAN_MIN = 1e-12
"""An eigenvalue below this share of the largest is the rounding of fp32 vectors, not a direction."""
SINE_MIN = 1e-7
"""What keeps the weight of a contribution within the subspace finite. (the reference code's)"""


@dataclass(frozen=True, slots=True)
class Span:
    """n vectors in an orthonormal basis of their span, from their inner products alone.

    `coordinates` [n, r] are the vectors' own; the basis vectors are sums of the vectors by `basis` [n, r].
    """

    coordinates: Doubles
    basis: Doubles

    @classmethod
    def of(cls, gram: Doubles) -> Span:
        values, vectors = eigen_symmetric(gram)
        rank = int((values > SPAN_MIN * max(values[0], 0.0)).sum()) if len(values) else 0
        lengths = np.sqrt(values[:rank])
        return cls(vectors[:, :rank] * lengths, vectors[:, :rank] / lengths)


@dataclass(frozen=True, slots=True)
class Flag:
    """sum(share * Y Y^T g), with Y the `rank` directions that minimise sum(sin(Y, g)), by reweighting.

    Each contribution counts by its direction only: its distance from the subspace, not that distance's
    square, so a minority far from it does not turn it. What a liar adds at right angles to all others is
    cut away; what it adds within their span (a flipped sign) is not, so this is for noise and few odd
    directions, after the clip. `rank` None is half of the contributions and a half more: of one or two it
    cuts nothing. `pairs` weighs the directions between pairs as well. Starts from unit weights, where the
    reference draws at random. (Almasi et al. 2024)
    """

    rank: int | None = None
    iterations: int = 5
    pairs: float = 0.0
    name: str = "flag"
    needs: str = "gram"

    def __post_init__(self) -> None:
        rank = 1 if self.rank is None else self.rank
        if min(rank, self.iterations) < 1 or not 0 <= self.pairs < float("inf"):
            raise ValueError(f"the flag aggregator takes rank, iterations >= 1 and pairs >= 0, not {self}")

    def decide(self, evidence: Evidence) -> Combination:
        count, norms = evidence.contributions, evidence.norms()
        inverse = np.array([1.0 / norm if norm else 0.0 for norm in norms])
        span = Span.of(evidence.gram[:count, :count] * inverse * inverse[:, None])
        directions = self.directions(span.coordinates)
        mean = np.zeros(span.coordinates.shape[1])
        for share, norm, vector in zip(evidence.shares(), norms, span.coordinates, strict=True):
            mean += share * norm * vector
        kept = product(product(mean[None], directions), directions.T.copy())
        factors = product(kept, span.basis.T.copy())[0] * inverse
        why = f"projected {count} onto {directions.shape[1]} of {span.coordinates.shape[1]} directions"
        return Combination((*factors.tolist(), *([0.0] * evidence.has_previous)), 1.0, why)

    def directions(self, vectors: Doubles) -> Doubles:
        """The subspace as orthonormal columns [r, rank] for unit vectors (or zeros) as rows [n, r]."""
        count = len(vectors)
        rank = min(self.rank or (count + 2) // 2, vectors.shape[1])
        stack, scale = vectors, [1.0] * count
        if self.pairs and count > 1:  # each pair stands for two: j from i, and i from j
            stack = _with_pairs(vectors)
            scale += [sqrt(2.0) * self.pairs / (count * (count - 1))] * (len(stack) - count)
        found = _top(stack, scale, rank)
        for _ in range(self.iterations):
            within = product(stack, found)
            weights = [
                each / sqrt(sqrt(abs(1.0 - fsum(row * row for row in rows)) + SINE_MIN))
                for each, rows in zip(scale, within.tolist(), strict=True)
            ]
            found = _top(stack, weights, rank)
        return found


def _with_pairs(vectors: Doubles) -> Doubles:
    """The vectors, and the difference of each pair behind them."""
    count = len(vectors)
    pairs = [vectors[i] - vectors[j] for i in range(count) for j in range(i + 1, count)]
    return np.vstack([vectors, *pairs])


def _top(stack: Doubles, weights: Sequence[float], rank: int) -> Doubles:
    """The first left singular vectors of the weighted rows' transpose, as columns [r, rank]."""
    weighted = stack * np.array(weights)[:, None]
    _, vectors = eigen_symmetric(product(weighted.T.copy(), weighted))
    return np.ascontiguousarray(vectors[:, :rank])


@compiled
def product(left: Doubles, right: Doubles) -> Doubles:
    """left [n, k] times right [k, m]; each sum runs over k ascending, as no BLAS promises."""
    found = np.zeros((left.shape[0], right.shape[1]))
    for row in range(left.shape[0]):
        for inner in range(left.shape[1]):
            for column in range(right.shape[1]):
                found[row, column] += left[row, inner] * right[inner, column]
    return found
