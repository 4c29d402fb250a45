"""What a rule knows of a round, and what it decides: numbers for each contribution, no vectors.

A contribution's place is its position among those that weigh something, in the order that the commit lists
them. The previous update, where a rule is given it, has the place after the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import fsum, sqrt

import numpy as np

from atoll.optim.mean import check_weight
from atoll.optim.sums import Doubles


@dataclass(frozen=True, slots=True)
class Evidence:
    """Weights and the Gram matrix of a round's contributions, of the whole vector or of one part.

    `gram` is fp64 [n, n], or [n + 1, n + 1] with the previous update last; n weights, all positive. `faulty`
    is how many of the n may lie, see `tolerated`. `seed` is for rules that draw: bytes that every peer knows
    and none chose, such as the parent commit's digest. Raises ValueError for numbers that are none of this.
    """

    gram: Doubles
    weights: tuple[int, ...]
    faulty: int = 0
    seed: bytes = b""

    def __post_init__(self) -> None:
        size = len(self.weights)
        total = 0
        for weight in self.weights:
            check_weight(weight, total)
            total += weight
        if not all(self.weights):
            raise ValueError("a contribution of weight 0 is no evidence: leave it out")
        if self.gram.shape not in ((size, size), (size + 1, size + 1)):
            raise ValueError(f"the Gram matrix is {self.gram.shape} for {size} contributions")
        if not np.isfinite(self.gram).all():
            raise ValueError("the Gram matrix holds NaN or an infinity")
        if self.faulty < 0:
            raise ValueError(f"{self.faulty} faulty contributions")

    @property
    def contributions(self) -> int:
        return len(self.weights)

    @property
    def has_previous(self) -> bool:
        return len(self.gram) > len(self.weights)

    @property
    def total(self) -> int:
        """The sum of the weights."""
        return sum(self.weights)

    def shares(self) -> list[float]:
        """Each weight's part of the total."""
        return [weight / self.total for weight in self.weights]

    def norms(self) -> list[float]:
        """The length of each contribution."""
        return [sqrt(self.gram[place, place]) for place in range(self.contributions)]

    def distance(self, first: int, second: int) -> float:
        """The square of the distance between the vectors at two places, never negative."""
        gram = self.gram
        return max(0.0, float(gram[first, first] - 2.0 * gram[first, second] + gram[second, second]))


@dataclass(frozen=True, slots=True)
class Combination:
    """sum(factor * vector) / total, and why. There is a factor for each place of the evidence."""

    factors: tuple[float, ...]
    total: float
    why: str


@dataclass(frozen=True, slots=True)
class Sorting:
    """For each coordinate the mean of the values that are `kept` of all n in ascending order, and why.

    Vectors are multiplied by their `factors` first.
    """

    factors: tuple[float, ...]
    kept: tuple[int, int]
    why: str


Decision = Combination | Sorting


def tolerated(share: float, contributions: int) -> int:
    """How many of the contributions may lie if this share of them may: floor(share * n).

    Of the decimal number: 0.29 of 100 are 29, though 0.29 * 100 is less in fp64. Raises ValueError unless
    0 <= share < 0.5.
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"a share of {share} liars: no rule holds from half on, give 0 <= share < 0.5")
    return int(Fraction(repr(float(share))) * contributions)


def median(values: Sequence[float]) -> float:
    """The middle value, or halfway between the two middle ones; there must be one."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else fsum((ordered[half - 1], ordered[half])) / 2


def listed(places: Sequence[int]) -> str:
    """Places as people read them."""
    return ", ".join(str(place) for place in places)
