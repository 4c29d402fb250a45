"""What "int8-mean" and "2bit" share: uniform bins, each decoded as the mean of what fell into it."""

from __future__ import annotations

import numpy as np

from atoll.optim.compiled import compiled
from atoll.optim.flat import NORMAL_MIN, Floats
from atoll.optim.kernels import Bytes, Words
from atoll.optim.sums import Doubles, bin_means, sum_squares

SPAN = 6.0
"""Standard deviations from the first bin to the last, or as near as rounding to whole bins comes."""


@compiled
def fill_bins(values: Floats, centre: np.float32, codes: Bytes, means: Floats, lanes: Doubles) -> None:
    """Fill the codes of one block, uint8 [n], and the mean of each bin, fp32 [bins].

    A bin is 6 / bins standard deviations around `centre` wide; bin `bins` / 2 has it in its middle, and the
    outer ones hold all that lies beyond. A block without deviation is all in the middle one. `lanes`, fp64
    [LANES], is room to work in.
    """
    bins = means.size
    deviation = np.sqrt(sum_squares(values, centre, lanes) / max(1, values.size - 1))
    step = SPAN * deviation / bins
    inverse = np.float32(1.0 / step if step >= NORMAL_MIN else 0.0)
    for place in range(values.size):
        code = np.int32(np.rint((values[place] - centre) * inverse)) + bins // 2
        codes[place] = min(max(code, 0), bins - 1)
    bin_means(values, codes, means)


@compiled
def restore(codes: Bytes, means: Floats, words: Words, block: int) -> bool:
    """The mean of each code's bin, see `Restore`. Every code has one, for there are 2^bits bins."""
    blocks = -(-words.size // block)
    for place in range(blocks):
        start, stop = place * block, min(place * block + block, words.size)
        received, to = codes[start:stop], words[start:stop].view(np.float32)
        bins = means.size // blocks
        table = means[bins * place : bins * place + bins]
        for element in range(to.size):
            to[element] = table[received[element]]
    return True
