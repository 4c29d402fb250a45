"""Slow oracles for optim/coding/: LAPACK where rounding is no matter, plain Python floats where bits are.

As in `reference`: fp32(a + b) of fp32 numbers is the fp32 operation. Python never fuses two operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt

import numpy as np
from numpy.typing import NDArray

from atoll.optim.coding.codes import Code
from atoll.optim.reference import fp32


def circulant_row(workers: int, stragglers: int) -> list[float]:
    """The normalised coefficients of the polynomial, from its complex roots."""
    first = (workers - stragglers + 1) / 2
    roots = [np.exp(2j * pi * (first + step) / workers) for step in range(stragglers)]
    found = np.poly(roots).real if roots else np.ones(1)
    return [float(value) for value in found / found.sum()]


def decode_vector(code: Code, survivors: Sequence[int]) -> tuple[NDArray[np.float64], float]:
    """The shortest least-squares vector of the survivors, in their order, and the length of what is left."""
    dense = np.array([[dict(row).get(unit, 0.0) for unit in range(code.units)] for row in code.rows])
    rows = dense[list(survivors)]
    found = np.linalg.lstsq(rows.T, np.ones(code.units), rcond=1e-10)[0]
    return found, float(np.linalg.norm(found @ rows - 1.0))


def least_squares(rows: Sequence[Sequence[float]], rank: int) -> list[float]:
    """The same rotations as `coding.solve.least_squares`, number by number: the same bits."""
    turned = [list(row) for row in rows]
    turns = [[float(place == other) for other in range(len(rows))] for place in range(len(rows))]
    still = False
    while not still:
        still = True
        longest = max(_product(row, row) for row in turned)
        for p in range(len(rows)):
            for q in range(p + 1, len(rows)):
                one, other = _product(turned[p], turned[p]), _product(turned[q], turned[q])
                both = _product(turned[p], turned[q])
                small = min(one, other) <= 2.0**-96 * longest
                if not small and abs(both) > 2.0**-51 * sqrt(one * other):
                    still = False
                    cosine, sine = _angle((other - one) / (2.0 * both))
                    for vectors in (turned, turns):
                        _rotate(vectors[p], vectors[q], cosine, sine)
    squares = [_product(row, row) for row in turned]
    found = [0.0] * len(rows)
    for place in sorted(range(len(rows)), key=lambda at: -squares[at])[:rank]:
        factor = _product(turned[place], [1.0] * len(turned[place])) / squares[place]
        found = [value + turn * factor for value, turn in zip(found, turns[place], strict=True)]
    return found


def _product(one: Sequence[float], other: Sequence[float]) -> float:
    """Not `sum`, which compensates its rounding from Python 3.12 on."""
    total = 0.0
    for a, b in zip(one, other, strict=True):
        total += a * b
    return total


def _angle(zeta: float) -> tuple[float, float]:
    tangent = 1.0 / (abs(zeta) + sqrt(1.0 + zeta * zeta))
    tangent = -tangent if zeta < 0 else tangent
    cosine = 1.0 / sqrt(1.0 + tangent * tangent)
    return cosine, cosine * tangent


def _rotate(one: list[float], other: list[float], cosine: float, sine: float) -> None:
    for place, (a, b) in enumerate(zip(one, other, strict=True)):
        one[place], other[place] = cosine * a - sine * b, sine * a + cosine * b


def summed(coefficients: Sequence[float], vectors: Sequence[Sequence[float]]) -> list[float]:
    """sum(coefficient * vector) of fp32 vectors in the order given, each operation rounded to fp32."""
    total = [fp32(fp32(coefficients[0]) * value) for value in vectors[0]]
    for factor, vector in zip(coefficients[1:], vectors[1:], strict=True):
        total = [fp32(a + fp32(fp32(factor) * b)) for a, b in zip(total, vector, strict=True)]
    return total


def conforms(burst: int, window: int, distinct: int, rounds: Sequence[set[int]]) -> bool:
    """Whether every window of the rounds has few stragglers with short spans, word for word."""
    for start in range(max(1, len(rounds) - window + 1)):
        within = rounds[start : start + window]
        everyone = set().union(*within)
        if len(everyone) > distinct:
            return False
        for worker in everyone:
            at = [place for place, stragglers in enumerate(within) if worker in stragglers]
            if at[-1] - at[0] >= burst:
                return False
    return True


def repeated(own_round: Sequence[Sequence[bool]], burst: int, spare: int) -> list[list[int]]:
    """The job of each worker in each round under SR-SGC, from whether each returned in each round."""
    jobs: list[list[int]] = []
    for number in range(len(own_round)):
        earlier = number - burst
        row = [number] * len(own_round[number])
        if earlier >= 0:
            without = [
                place
                for place, back in enumerate(own_round[earlier])
                if not (back and jobs[earlier][place] == earlier)
            ]
            for place in without[: max(0, len(without) - spare)]:
                row[place] = earlier
        jobs.append(row)
    return jobs
