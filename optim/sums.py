"""Sums that give equal bits on every machine: fp64, in an order that no vector width and no thread changes.

Lane j of 64 adds up elements j, j + 64, ...; then each half of the lanes is added to the other until one is
left. So a processor may add 2, 4, 8 or 16 lanes at once. Sums of bins go element by element.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atoll.optim.compiled import compiled
from atoll.optim.flat import NORMAL_MIN, Floats
from atoll.optim.kernels import Bytes

Doubles = NDArray[np.float64]

LANES = 64


@compiled
def sum_values(values: Floats, lanes: Doubles) -> float:
    """The sum of fp32 values; `lanes` is room to work in, fp64 [LANES]."""
    lanes[:] = 0.0
    for start in range(0, values.size, LANES):
        row = values[start : min(start + LANES, values.size)]
        for lane in range(row.size):
            lanes[lane] += np.float64(row[lane])
    return fold(lanes)


@compiled
def sum_magnitudes(values: Floats, lanes: Doubles) -> float:
    """The sum of |x|."""
    lanes[:] = 0.0
    for start in range(0, values.size, LANES):
        row = values[start : min(start + LANES, values.size)]
        for lane in range(row.size):
            lanes[lane] += np.float64(abs(row[lane]))
    return fold(lanes)


@compiled
def sum_squares(values: Floats, centre: np.float32, lanes: Doubles) -> float:
    """The sum of (x - centre)^2; the difference is fp32, so its square in fp64 is exact."""
    lanes[:] = 0.0
    for start in range(0, values.size, LANES):
        row = values[start : min(start + LANES, values.size)]
        for lane in range(row.size):
            difference = np.float64(np.float32(row[lane] - centre))
            lanes[lane] += difference * difference
    return fold(lanes)


@compiled
def fold(lanes: Doubles) -> float:
    """The sum of the lanes; they are overwritten."""
    half = LANES // 2
    while half > 0:
        for lane in range(half):
            lanes[lane] += lanes[lane + half]
        half //= 2
    return float(lanes[0])


@compiled
def bin_means(values: Floats, codes: Bytes, means: Floats) -> None:
    """Fill `means`, fp32 [bins], with the mean of the values that have each code, all below `bins`.

    0 where none has it, and where the mean would be a subnormal number. A bin's mean times its count is its
    total, to one rounding of the mean.
    """
    sums, counts = np.zeros(means.size), np.zeros(means.size, dtype=np.int64)
    for place in range(values.size):
        sums[codes[place]] += np.float64(values[place])
        counts[codes[place]] += 1
    for code in range(means.size):
        mean = np.float32(sums[code] / max(1, counts[code]))
        means[code] = mean if abs(mean) >= NORMAL_MIN else np.float32(0)
