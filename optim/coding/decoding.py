"""Decode vectors: how much each answer counts, so that all units count alike.

Everybody computes the vector anew from the contributors in the commit, so its bits are the same everywhere.
A codec's error is amplified on the way, and by how much is known before a payload is read.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb, fsum, inf

import numpy as np

from atoll.optim.coding.codes import Code
from atoll.optim.coding.solve import Doubles, least_squares

AMPLIFICATION_MAX = 8.0
"""A codec's relative error times this still is a pseudo-gradient: int8's 0.4 % gives 3 %."""
RESIDUAL_MAX = 1e-9
SETS_MAX = 20_000
"""Survivor sets that `worst_amplification` looks at: seconds."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """The mean over units is sum(coefficients[i] * vector of worker i) / divisor.

    `coverage[k]` is the weight with which unit k enters the sum: 1 for all if exact, and `divisor` their sum.
    """

    coefficients: tuple[float, ...]
    divisor: float
    coverage: tuple[float, ...]
    amplification: float

    @property
    def residual(self) -> float:
        """By how much the coverage of a unit differs from 1 at most."""
        return max(abs(weight - 1.0) for weight in self.coverage)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why these answers give no mean."""

    reason: str


def decode_vector(
    code: Code, survivors: Collection[int], amplification_max: float = AMPLIFICATION_MAX
) -> Decoding | Refusal:
    """Coefficients, fp64 [n] with 0 for who is missing, that give every unit weight 1 to within 1e-9.

    Any n - s workers are enough; of replicas one of each group is, and the lowest counts. Among several
    vectors the shortest is taken. Refused: too few answers, or amplification beyond `amplification_max`.
    Raises ValueError for a survivor that is no row of the code.
    """
    found = _decoded(code, _mask(code, survivors))
    if isinstance(found, Refusal):
        return found
    return _bounded(found, amplification_max)


def approximate_vector(
    code: Code, survivors: Collection[int], amplification_max: float = AMPLIFICATION_MAX
) -> Decoding | Refusal:
    """Coefficients that bring every unit's weight as near to 1 as it goes, when `decode_vector` refuses.

    The divisor is the coverage there is and not the number of units: so the result is a mean, of fewer
    units or of some more than of others, and is as long as a mean. Not exact: replicas or not, the outer
    trajectory is another. Refused: no unit is covered, or amplification beyond the limit. Raises as
    `decode_vector` does.
    """
    mask = _mask(code, survivors)
    found = _decoded(code, mask)
    if isinstance(found, Refusal):
        found = _weighing(code, _nearest(code, mask))
    if found.divisor <= RESIDUAL_MAX:
        return Refusal(f"{mask.bit_count()} of {code.workers} workers answered, and no unit is covered")
    return _bounded(found, amplification_max)


def amplification(code: Code, survivors: Collection[int]) -> float:
    """(1/n) sum_i |a_i| sum_k |B_ik|: by how much decoding may multiply a codec's error; infinite if these
    survivors do not decode. 1 for replicas. Raises as `decode_vector` does."""
    found = _decoded(code, _mask(code, survivors))
    return inf if isinstance(found, Refusal) else found.amplification


def worst_amplification(code: Code) -> float:
    """The largest amplification over all sets of n - s survivors.

    Raises ValueError if there are more than 20,000 of them.
    """
    sets = comb(code.workers, code.stragglers)
    if sets > SETS_MAX:
        raise ValueError(f"{sets} sets of survivors are more than {SETS_MAX}")
    missing = combinations(range(code.workers), code.stragglers)
    return max(amplification(code, set(range(code.workers)).difference(each)) for each in missing)


def matrix(code: Code) -> Doubles:
    """B, fp64 [n, n]."""
    dense = np.zeros((code.workers, code.units))
    for place, row in enumerate(code.rows):
        for unit, value in row:
            dense[place, unit] = value
    return dense


def _mask(code: Code, survivors: Collection[int]) -> int:
    mask = 0
    for place in survivors:
        if not 0 <= place < code.workers:
            raise ValueError(f"{place} is not one of {code.workers} workers")
        mask |= 1 << place
    return mask


@lru_cache(maxsize=4096)
def _decoded(code: Code, mask: int) -> Decoding | Refusal:
    if code.groups:
        chosen = _lowest_of_groups(code, mask)
        empty = [place for place, group in enumerate(code.groups) if not any(mask >> at & 1 for at in group)]
        if empty:
            lost = ", ".join(_members(code.groups[place]) for place in empty)
            return Refusal(f"nobody answered of workers {lost}: the only holders of their units")
        return _weighing(code, chosen)
    present, least = mask.bit_count(), code.workers - code.stragglers
    if present < least:
        return Refusal(f"{present} of {code.workers} workers answered: the code needs any {least}")
    found = _weighing(code, _nearest(code, mask))
    if found.residual >= RESIDUAL_MAX:
        return Refusal(f"a unit's weight would be off by {found.residual:.1e}: rows are too nearly dependent")
    return found


def _lowest_of_groups(code: Code, mask: int) -> tuple[float, ...]:
    """1 for the lowest survivor of each group that has one."""
    chosen = [0.0] * code.workers
    for group in code.groups:
        answered = [place for place in group if mask >> place & 1]
        if answered:
            chosen[answered[0]] = 1.0
    return tuple(chosen)


def _nearest(code: Code, mask: int) -> tuple[float, ...]:
    """The shortest of the vectors that bring all coverage nearest to 1. Any n - s rows are independent, and
    more than n - s span no more."""
    if code.groups:
        return _lowest_of_groups(code, mask)
    present = [place for place in range(code.workers) if mask >> place & 1]
    coefficients = [0.0] * code.workers
    if present:
        rank = min(len(present), code.workers - code.stragglers)
        solved = least_squares(matrix(code)[present], rank)
        for place, value in zip(present, solved, strict=True):
            coefficients[place] = float(value)
    return tuple(coefficients)


def _weighing(code: Code, coefficients: tuple[float, ...]) -> Decoding:
    """What these coefficients cover and amplify. `fsum` rounds once, so the order of terms is no matter."""
    columns: list[list[float]] = [[] for _ in range(code.units)]
    for factor, row in zip(coefficients, code.rows, strict=True):
        for unit, value in row:
            columns[unit].append(factor * value)
    coverage = tuple(fsum(column) for column in columns)
    exact = max(abs(weight - 1.0) for weight in coverage) < RESIDUAL_MAX
    divisor = float(code.units) if exact else fsum(coverage)
    magnitude = fsum(abs(term) for column in columns for term in column)
    return Decoding(coefficients, divisor, coverage, magnitude / divisor if divisor > 0 else inf)


def _bounded(found: Decoding, amplification_max: float) -> Decoding | Refusal:
    if found.amplification <= amplification_max:
        return found
    most, limit = f"{found.amplification:.1f}", f"{amplification_max:g}"
    return Refusal(f"decoding would multiply the codec's error by up to {most}, more than {limit}")


def _members(group: tuple[int, ...]) -> str:
    return f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0])
