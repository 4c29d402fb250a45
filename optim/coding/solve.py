"""Small linear systems with the same bits on every machine: LAPACK's depend on its build and its threads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atoll.optim.compiled import compiled

Doubles = NDArray[np.float64]

SWEEPS = 40
"""Rotations converge quadratically: eight sweeps do for 64 rows. The rest is for rows that are noise."""
_AT_RIGHT_ANGLES = 2.0**-51
_NOISE = 2.0**-96
"""The square of 2^-48: rows that much shorter than the longest are what rounding left of dependent ones."""


def solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """x of matrix @ x = right, [n, n] and [n], by elimination with partial pivoting, in Python's floats.

    Raises ValueError if the matrix is singular to fp64.
    """
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for column in range(size):
        pivot = max(range(column, size), key=lambda place: abs(rows[place][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        if rows[column][column] == 0.0:
            raise ValueError("the matrix is singular")
        for below in rows[column + 1 :]:
            factor = below[column] / rows[column][column]
            for place in range(column, size + 1):
                below[place] -= factor * rows[column][place]
    found = [0.0] * size
    for row in range(size - 1, -1, -1):
        value = rows[row][size]
        for column in range(row + 1, size):
            value -= rows[row][column] * found[column]
        found[row] = value / rows[row][row]
    return found


def least_squares(rows: Doubles, rank: int) -> Doubles:
    """The shortest a, fp64 [m], that brings a @ rows nearest to all ones; `rows` are fp64 [m, n].

    By singular values, of which the `rank` largest count: who knows the rank needs no threshold. They come
    from rotations of pairs of rows in a fixed order (one-sided Jacobi), so all bits are the same everywhere.
    """
    turned = np.ascontiguousarray(rows, dtype=np.float64).copy()
    turns = np.eye(len(turned))
    squares, along = np.empty(len(turned)), np.empty(len(turned))
    _turn(turned, turns)
    _measure(turned, squares, along)
    largest = np.argsort(-squares, kind="stable")[:rank]
    found = np.zeros(len(turned))
    for place in largest:
        found += turns[place] * (along[place] / squares[place])
    return found


@compiled
def _turn(rows: Doubles, turns: Doubles) -> None:
    """Rotate pairs of rows until all stand at right angles; `turns` suffers the same rotations."""
    for _ in range(SWEEPS):
        longest = 0.0
        for p in range(len(rows)):
            longest = max(longest, _dot(rows[p], rows[p]))
        still = True
        for p in range(len(rows) - 1):
            for q in range(p + 1, len(rows)):
                one, other, both = _dot(rows[p], rows[p]), _dot(rows[q], rows[q]), _dot(rows[p], rows[q])
                if (
                    abs(both) <= _AT_RIGHT_ANGLES * np.sqrt(one * other)
                    or min(one, other) <= _NOISE * longest
                ):
                    continue
                still = False
                zeta = (other - one) / (2.0 * both)
                tangent = 1.0 / (abs(zeta) + np.sqrt(1.0 + zeta * zeta))
                if zeta < 0.0:
                    tangent = -tangent
                cosine = 1.0 / np.sqrt(1.0 + tangent * tangent)
                _rotate(rows[p], rows[q], cosine, cosine * tangent)
                _rotate(turns[p], turns[q], cosine, cosine * tangent)
        if still:
            return


@compiled
def _rotate(one: Doubles, other: Doubles, cosine: float, sine: float) -> None:
    for place in range(one.size):
        before = one[place]
        one[place] = cosine * before - sine * other[place]
        other[place] = sine * before + cosine * other[place]


@compiled
def _dot(one: Doubles, other: Doubles) -> float:
    total = 0.0
    for place in range(one.size):
        total += one[place] * other[place]
    return total


@compiled
def _measure(rows: Doubles, squares: Doubles, along: Doubles) -> None:
    """Of each row the square of its length, and its product with the vector of ones."""
    for place in range(len(rows)):
        squares[place] = _dot(rows[place], rows[place])
        total = 0.0
        for value in rows[place]:
            total += value
        along[place] = total
