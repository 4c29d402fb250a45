"""Codec "int4": blockwise symmetric 4-bit codes, an eighth of the bytes.

Like int8 with 15 levels: a block of 128 values shares one fp32 scale, its largest magnitude / 7, and a code
is the value in units of the scale, rounded to nearest, as a nibble in two's complement. An error is at most
a fourteenth of the block's largest magnitude. Blocks are half of int8's, since with so few levels one
outlier costs its neighbours more. (Decoupled DiLoCo 2026 finds int4 outer gradients as good as bf16.)
"""

from __future__ import annotations

import numpy as np

from atoll.optim.codecs.blockwise import VALUE_BITS, Blockwise, Format, Table
from atoll.optim.compiled import compiled
from atoll.optim.flat import NORMAL_MIN, VALUE_MAX, Floats
from atoll.optim.kernels import Bytes, Words, contains, scale_of

CODE_MAX = np.float32(7)


@compiled
def quantise(words: Words, scales: Floats, codes: Bytes, block: int) -> bool:
    """Fill scales and codes 0 to 15, of which 9 to 15 stand for -7 to -1; see `Quantise`."""
    for place in range(scales.size):
        start, stop = place * block, min(place * block + block, words.size)
        values, to = words[start:stop].view(np.float32), codes[start:stop]
        most, scale, inverse = scale_of(words[start:stop], CODE_MAX, NORMAL_MIN)
        if most > VALUE_BITS:
            return False
        scales[place] = scale
        for element in range(values.size):
            to[element] = np.int32(np.rint(values[element] * inverse)) & 15
    return True


@compiled
def restore(codes: Bytes, scales: Floats, words: Words, block: int) -> bool:
    """code * scale; False if a code is 8, which would be -8."""
    refused = False
    for place in range(scales.size):
        start, stop = place * block, min(place * block + block, words.size)
        received, to, scale = codes[start:stop], words[start:stop].view(np.float32), scales[place]
        refused |= contains(received, 8)
        for element in range(to.size):
            to[element] = np.float32((np.int32(received[element]) ^ 8) - 8) * scale
    return not refused


INT4 = Blockwise("int4", Format(6, block=128, bits=4, table=Table(1, most=VALUE_MAX / 7)), quantise, restore)
