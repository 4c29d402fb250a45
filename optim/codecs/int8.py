"""Codec "int8": blockwise symmetric 8-bit codes, a quarter of the bytes.

A block of 256 values shares one fp32 scale, its largest magnitude / 127; a code is the value in units of
the scale, rounded to nearest. So an error is at most half a step of its own block, and one outlier
coarsens 255 neighbours, not the vector. A zero block has scale 0 and codes 0; so has one whose scale would be
subnormal (magnitudes below 1.5e-36). Decoding is code to fp32 (exact), then one multiplication.
(8-bit blockwise quantisation, Dettmers et al. 2021; absmax and linear steps here, since pseudo-gradients of
one block have similar sizes.)
"""

from __future__ import annotations

import numpy as np

from atoll.optim.codecs.blockwise import VALUE_BITS, Blockwise, Format, Table
from atoll.optim.compiled import compiled
from atoll.optim.flat import NORMAL_MIN, VALUE_MAX, Floats
from atoll.optim.kernels import Bytes, Words, contains, scale_of

CODE_MAX = np.float32(127)


@compiled
def quantise(words: Words, scales: Floats, codes: Bytes, block: int) -> bool:
    """Fill scales and two's complement codes; see `Quantise`."""
    for place in range(scales.size):
        start, stop = place * block, min(place * block + block, words.size)
        values, to = words[start:stop].view(np.float32), codes[start:stop]
        most, scale, inverse = scale_of(words[start:stop], CODE_MAX, NORMAL_MIN)
        if most > VALUE_BITS:
            return False
        scales[place] = scale
        for element in range(values.size):
            to[element] = np.int32(np.rint(values[element] * inverse)) & 255
    return True


@compiled
def restore(codes: Bytes, scales: Floats, words: Words, block: int) -> bool:
    """code * scale; False if a code is -128."""
    refused = False
    for place in range(scales.size):
        start, stop = place * block, min(place * block + block, words.size)
        received, to, scale = codes[start:stop], words[start:stop].view(np.float32), scales[place]
        refused |= contains(received, 128)
        for element in range(to.size):
            to[element] = np.float32(np.int8(received[element])) * scale
    return not refused


INT8 = Blockwise(
    "int8", Format(2, block=256, bits=8, table=Table(1, most=VALUE_MAX / 127)), quantise, restore
)
