"""The orthonormal DCT-II basis with the same bits on every machine.

A library's cosine may differ in the last bit from one instruction set to another, and a decoder that uses
it would too. So the cosines are summed as integers with 128 binary places, and rounded once.
"""

from __future__ import annotations

from functools import lru_cache
from math import isqrt

import numpy as np

from atoll.optim.flat import Floats

_PLACES = 128
_ONE = 1 << _PLACES
_PI = 0x3243F6A8885A308D313198A2E03707344
"""Pi with 128 binary places."""


@lru_cache(maxsize=64)
def basis(size: int) -> Floats:
    """fp32 [frequency u, position x], read-only: sqrt(2 / size) cos(pi (2x + 1) u / 2 size), orthonormal."""
    quarter = [_cosine(nth, size) for nth in range(size + 1)]
    half = quarter + [-cosine for cosine in quarter[-2::-1]]
    wave = half + half[-2:0:-1]
    first, other = isqrt((_ONE << _PLACES) // size), isqrt((2 * _ONE << _PLACES) // size)
    rows = [[first] * size]
    for u in range(1, size):
        rows.append([other * wave[(2 * x + 1) * u % (4 * size)] >> _PLACES for x in range(size)])
    table = np.array([[value / _ONE for value in row] for row in rows], dtype=np.float32)
    table.setflags(write=False)
    return table


def _cosine(nth: int, size: int) -> int:
    """cos(pi nth / 2 size) for nth <= size, with 128 binary places (the last few are not right)."""
    if nth == size:
        return 0
    angle = _PI * nth // (2 * size)
    square = angle * angle >> _PLACES
    term, total, k = _ONE, 0, 0
    while term:
        total += term
        k += 2
        term = -(term * square >> _PLACES) // (k * (k - 1))
    return total
