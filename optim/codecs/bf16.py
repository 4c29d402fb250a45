"""Codec "bf16": the upper half of each fp32 number, rounded to nearest, halfway to even.

Half the bytes, fp32's whole range, and a relative error of at most 2^-8: for values of very different sizes,
where "fp16" would clamp or lose the small ones. Integer arithmetic throughout.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atoll.optim.codecs.blockwise import VALUE_BITS, Blockwise, Format, Table
from atoll.optim.flat import Floats
from atoll.optim.kernels import Words, kernel, largest

CODE_MOST = np.uint16(VALUE_BITS >> np.uint32(16))
"""VALUE_MAX, which has no lower half: rounding never leads beyond it."""


@kernel
def quantise(words: Words, table: Floats, codes: NDArray[np.uint16], block: int) -> bool:
    """Fill codes; there is no table. See `Quantise`."""
    if largest(words) > VALUE_BITS:
        return False
    for place in range(words.size):
        odd = np.uint32(np.uint32(words[place] >> np.uint32(16)) & np.uint32(1))
        codes[place] = np.uint32(words[place] + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    return True


@kernel
def restore(codes: NDArray[np.uint16], table: Floats, words: Words, block: int) -> bool:
    """The number whose upper half the code is; False beyond VALUE_MAX, or if it is not finite."""
    most = np.uint16(0)
    for place in range(words.size):
        most = max(most, np.uint16(codes[place] & np.uint16(0x7FFF)))
        words[place] = np.uint32(codes[place]) << np.uint32(16)
    return bool(most <= CODE_MOST)


BF16 = Blockwise("bf16", Format(4, block=1, bits=16, table=Table(0)), quantise, restore)
