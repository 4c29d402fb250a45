"""Codec "2bit": four bins for each block, each decoded as the mean of the values that fell into it.

With the mean m and the standard deviation s of a block of 1,024 values, the borders lie at m - 2.25 s,
m - 0.75 s and m + 0.75 s. The four means travel with the codes, 1/8 bit a value, so a block's total survives
to rounding. The error is large (0.42 of the norm of normal numbers): only with error feedback. (Quantiser of
SparseLoCo, Sarfi et al. 2025, and MuLoCo, Thérien et al. 2025. Without error feedback 2 bits lost a quarter
of the accuracy, 1 bit a third: Decoupled DiLoCo 2026.)
"""

from __future__ import annotations

import numpy as np

from atoll.optim.codecs.bins import fill_bins, restore
from atoll.optim.codecs.blockwise import VALUE_BITS, Blockwise, Format, Table
from atoll.optim.compiled import compiled
from atoll.optim.flat import Floats
from atoll.optim.kernels import Bytes, Words, largest
from atoll.optim.sums import LANES, sum_values

BINS = 4


@compiled
def quantise(words: Words, means: Floats, codes: Bytes, block: int) -> bool:
    """Fill the tables of means, [blocks * 4], and codes 0 to 3; see `Quantise`."""
    lanes = np.empty(LANES)
    for place in range(means.size // BINS):
        start, stop = place * block, min(place * block + block, words.size)
        values, to = words[start:stop].view(np.float32), codes[start:stop]
        if largest(words[start:stop]) > VALUE_BITS:
            return False
        centre = np.float32(sum_values(values, lanes) / values.size)
        fill_bins(values, centre, to, means[BINS * place : BINS * place + BINS], lanes)
    return True


TWO_BIT = Blockwise(
    "2bit", Format(8, block=1024, bits=2, table=Table(BINS, signed=True)), quantise, restore, feedback=True
)
