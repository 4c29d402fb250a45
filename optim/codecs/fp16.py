"""Codec "fp16": IEEE half precision, rounded to nearest, halfway to even.

Half the bytes and a relative error of at most 2^-11 for magnitudes from 6.1e-5 to 65504; smaller ones err by
at most 2^-25 (3e-8), larger ones become +-65504. (OpenDiLoCo, Jaghouar et al. 2024, saw no loss from fp16
pseudo-gradients.) Written out here since numpy converts at 1 to 2 GB/s on one core, and numba not at all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atoll.optim.codecs.blockwise import VALUE_BITS, Blockwise, Format, Table
from atoll.optim.compiled import compiled
from atoll.optim.flat import Floats
from atoll.optim.kernels import Words, largest

CODE_MOST = np.uint16(0x7BFF)
"""65504. Above it come infinity and NaN."""
MOST = np.uint32(np.float32(65504).view(np.uint32))
NORMAL = np.uint32(np.float32(2.0**-14).view(np.uint32))
"""The least magnitude that fp16 has with all its digits; smaller ones are multiples of 2^-24."""
REBIAS = np.uint32((127 - 15) << 23)
"""What the biased exponents of fp32 and fp16 differ by."""
HALF = np.float32(0.5)
"""Numbers from here to 1 are multiples of 2^-24 in fp32: adding it rounds a small one to such."""
HALF_BITS = np.uint32(HALF.view(np.uint32))


@compiled
def quantise(words: Words, table: Floats, codes: NDArray[np.uint16], block: int) -> bool:
    """Fill codes; there is no table. See `Quantise`."""
    if largest(words) > VALUE_BITS:
        return False
    for place in range(words.size):
        size = min(np.uint32(words[place] & np.uint32(0x7FFFFFFF)), MOST)
        odd = np.uint32(np.uint32(size >> np.uint32(13)) & np.uint32(1))
        usual = np.uint32(np.uint32(size - REBIAS + np.uint32(0xFFF) + odd) >> np.uint32(13))
        small = np.uint32(np.float32(np.uint32(size).view(np.float32) + HALF).view(np.uint32) - HALF_BITS)
        sign = np.uint32(np.uint32(words[place] >> np.uint32(16)) & np.uint32(0x8000))
        codes[place] = (usual if size >= NORMAL else small) | sign
    return True


@compiled
def restore(codes: NDArray[np.uint16], table: Floats, words: Words, block: int) -> bool:
    """The same number in fp32, exact; False if it is not finite."""
    most = np.uint16(0)
    for place in range(words.size):
        size = np.uint32(codes[place] & np.uint16(0x7FFF))
        most = max(most, np.uint16(size))
        usual = np.uint32(np.uint32(size << np.uint32(13)) + REBIAS)
        small = np.float32(np.float32(size) * np.float32(2.0**-24)).view(np.uint32)
        sign = np.uint32(np.uint32(codes[place] & np.uint16(0x8000)) << np.uint32(16))
        words[place] = (usual if size >= np.uint32(0x400) else small) | sign
    return bool(most <= CODE_MOST)


FP16 = Blockwise("fp16", Format(3, block=1, bits=16, table=Table(0)), quantise, restore)
