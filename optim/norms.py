"""Norms with the same bits on every machine.

`torch.sum` and `numpy.sum` add in an order that follows threads and vector width. Here the order is part of
the definition: squares of fp32 numbers, exact in fp64, are added in fp64 by halving. Elements i and i + n/2
of a piece are added, then i and i + n/4, and so on; pieces are added one after another. Each addition is
elementwise, so neither a thread nor a vector unit can change which two numbers meet.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from atoll.optim.flat import PIECE, floats, pieces

assert PIECE & (PIECE - 1) == 0, "halving needs a power of two"


def sum_of_squares(vector: Tensor) -> float:
    """The sum of the squares of an fp32 vector [n], in fp64; ValueError if it is not one.

    An element meets at most 16 roundings in its piece of 65,536, and one for each piece after it. Never
    infinite for finite elements.
    """
    values = floats("vector", vector)
    squares = np.empty(min(PIECE, _power_of_two(values.size)), dtype=np.float64)
    total = 0.0
    for piece in pieces(values.size):
        found = values[piece]
        np.copyto(squares[: found.size], found)
        squares[found.size :] = 0.0
        np.multiply(squares, squares, out=squares)
        total += _folded(squares)
    return total


def _folded(terms: NDArray[np.float64]) -> float:
    """The sum of a power of two of terms, by halving in place. Zeros behind them change nothing."""
    half = terms.size
    while half > 1:
        half //= 2
        np.add(terms[:half], terms[half : 2 * half], out=terms[:half])
    return float(terms[0])


def _power_of_two(numel: int) -> int:
    """The least power of two that is not below `numel`, at least 1."""
    return 1 << max(0, numel - 1).bit_length()


def norm(vector: Tensor) -> float:
    """The Euclidean length of an fp32 vector [n], in fp64: `sqrt` rounds correctly everywhere."""
    return sqrt(sum_of_squares(vector))
