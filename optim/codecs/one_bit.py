"""Codec "1bit": the sign of each value, times the mean magnitude of its block of 1,024.

The mean is the one factor that leaves the smallest error, still 0.60 of the norm of normal numbers: only
with error feedback. A zero has the sign +, so a zero block decodes to zeros.
(1-bit SGD, Seide et al. 2014; the mean magnitude as in EF-signSGD, Karimireddy et al. 2019. 1-bit Adam,
Tang et al. 2021, takes the root mean square.)
"""

from __future__ import annotations

import numpy as np

from atoll.optim.codecs.blockwise import VALUE_BITS, Blockwise, Format, Table
from atoll.optim.compiled import compiled
from atoll.optim.flat import NORMAL_MIN, Floats
from atoll.optim.kernels import Bytes, Words, largest
from atoll.optim.sums import LANES, sum_magnitudes


@compiled
def quantise(words: Words, scales: Floats, codes: Bytes, block: int) -> bool:
    """Fill scales and codes, 1 for what is below zero; see `Quantise`."""
    lanes = np.empty(LANES)
    for place in range(scales.size):
        start, stop = place * block, min(place * block + block, words.size)
        values, to = words[start:stop].view(np.float32), codes[start:stop]
        if largest(words[start:stop]) > VALUE_BITS:
            return False
        mean = np.float32(sum_magnitudes(values, lanes) / values.size)
        scales[place] = mean if mean >= NORMAL_MIN else np.float32(0)
        border = np.float32(0) if mean >= NORMAL_MIN else np.float32(-np.inf)
        for element in range(values.size):
            to[element] = values[element] < border
    return True


@compiled
def restore(codes: Bytes, scales: Floats, words: Words, block: int) -> bool:
    """The scale, negative for code 1. Every code stands for something."""
    for place in range(scales.size):
        start, stop = place * block, min(place * block + block, words.size)
        received, to, scale = codes[start:stop], words[start:stop].view(np.float32), scales[place]
        for element in range(to.size):
            to[element] = -scale if received[element] else scale
    return True


ONE_BIT = Blockwise("1bit", Format(9, block=1024, bits=1, table=Table(1)), quantise, restore, feedback=True)
