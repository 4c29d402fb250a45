"""Codec "int8-mean": 8-bit codes into 256 bins, each decoded as the mean of the values that fell into it.

Bins are uniform over +-3 standard deviations of a block (around zero: the mean is not subtracted), and the
outer two hold what lies beyond. A block's table of means travels with its codes, so the total of a block
survives to rounding, and that of every bin: no bias, whatever the distribution. An error is at most a bin's
width within +-3 deviations and unbounded beyond, where "int8" errs by its half step: choose this one where
sums matter and outliers do not. (INTELLECT-1 / PRIME, Jaghouar et al. 2024)

A block has 32,768 values: the table is then 1/4 bit a value. PRIME has one table for each buffer that a ring
passes on; here every part of a vector brings its own, and its size must follow from the part's length.
"""

from __future__ import annotations

import numpy as np

from atoll.optim.codecs.bins import fill_bins, restore
from atoll.optim.codecs.blockwise import VALUE_BITS, Blockwise, Format, Table
from atoll.optim.compiled import compiled
from atoll.optim.flat import Floats
from atoll.optim.kernels import Bytes, Words, largest
from atoll.optim.sums import LANES

BINS = 256


@compiled
def quantise(words: Words, means: Floats, codes: Bytes, block: int) -> bool:
    """Fill the tables of means, [blocks * 256], and codes; see `Quantise`."""
    lanes = np.empty(LANES)
    for place in range(means.size // BINS):
        start, stop = place * block, min(place * block + block, words.size)
        values, to = words[start:stop].view(np.float32), codes[start:stop]
        if largest(words[start:stop]) > VALUE_BITS:
            return False
        fill_bins(values, np.float32(0), to, means[BINS * place : BINS * place + BINS], lanes)
    return True


INT8_MEAN = Blockwise(
    "int8-mean", Format(5, block=32_768, bits=8, table=Table(BINS, signed=True)), quantise, restore
)
