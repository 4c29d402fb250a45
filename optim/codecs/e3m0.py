"""Codec "e3m0": blockwise 4-bit floats of a sign and three bits of exponent, an eighth of the bytes.

A block of 256 values shares one fp32 scale, its largest magnitude / 16. In units of the scale a value becomes
the nearest of 0, +-1/4, 1/2, 1, 2, 4, 8, 16; halfway goes up. The relative error is at most a third for
magnitudes from 3/16 on, and smaller ones err by an eighth at most. A step depends on the value and hardly
on the block, so blocks may be large. Zero is code 0; code 8 would be a second one, and is refused.
(E3M0 outer gradients without error feedback: Streaming DiLoCo, Douillard et al. 2025. The paper gives no
scale. Nearest value rather than nearest logarithm, which would err by 0.41.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atoll.optim.codecs.blockwise import VALUE_BITS, Blockwise, Format, Table
from atoll.optim.compiled import compiled
from atoll.optim.flat import NORMAL_MIN, VALUE_MAX, Floats
from atoll.optim.kernels import Bytes, Words, contains, scale_of

LARGEST = np.float32(16)
SCALE_LEAST = np.float32(4 * NORMAL_MIN)
"""A quarter of a scale must be normal too."""

# The upper half of an fp32 number: sign, eight bits of exponent (biased by 127), seven of mantissa.
MAGNITUDE = np.uint16(0x7FFF)
MANTISSA_BITS = np.uint16(7)
HALF_MANTISSA = np.uint16(0x40)
ZERO_EXPONENT = np.uint16(127 - 3)
EIGHTH = np.uint16(0x3E00)
SIGN_SHIFT, SIGN = np.uint16(12), np.uint16(8)


@compiled
def quantise(words: Words, scales: Floats, codes: Bytes, block: int) -> bool:
    """Fill scales and codes: 0 for zero, else exponent + 3, plus 8 if negative; see `Quantise`."""
    upper = np.empty(block, dtype=np.uint16)
    for place in range(scales.size):
        start, stop = place * block, min(place * block + block, words.size)
        values = words[start:stop].view(np.float32)
        most, scale, inverse = scale_of(words[start:stop], LARGEST, SCALE_LEAST)
        if most > VALUE_BITS:
            return False
        scales[place] = scale
        for element in range(values.size):
            scaled = np.float32(values[element] * inverse).view(np.uint32)
            upper[element] = scaled >> np.uint32(16)
        nearest(upper[: values.size], codes[start:stop])
    return True


@compiled
def nearest(upper: NDArray[np.uint16], codes: Bytes) -> None:
    """The code of each scaled value, from its upper half: no border between two codes has lower bits.

    A power of two is nearest up to 1.5 times itself. There, adding half of the mantissa's range carries into
    the exponent. Only the border between 0 and the least power, 1/4, lies elsewhere, at 1/8. Sixteen bits
    fill twice as many lanes of a processor as thirty-two.
    """
    for element in range(codes.size):
        size = np.uint16(upper[element] & MAGNITUDE)
        exponent = np.uint16(np.uint16(size + HALF_MANTISSA) >> MANTISSA_BITS)
        code = max(np.uint16(max(exponent, ZERO_EXPONENT) - ZERO_EXPONENT), np.uint16(size >= EIGHTH))
        negative = np.uint16(np.uint16(upper[element] >> SIGN_SHIFT) & SIGN)
        codes[element] = code | (negative if code > 0 else np.uint16(0))


@compiled
def restore(codes: Bytes, scales: Floats, words: Words, block: int) -> bool:
    """Power of two * scale, exact; False if a code is 8, a negative zero."""
    refused = False
    for place in range(scales.size):
        start, stop = place * block, min(place * block + block, words.size)
        received, to, scale = codes[start:stop], words[start:stop].view(np.float32), scales[place]
        refused |= contains(received, 8)
        for element in range(to.size):
            code = np.uint32(received[element])
            exponent = code & np.uint32(7)
            power = (exponent + np.uint32(124)) << np.uint32(23) | (code & np.uint32(8)) << np.uint32(28)
            to[element] = np.uint32(power if exponent > 0 else np.uint32(0)).view(np.float32) * scale
    return not refused


E3M0 = Blockwise(
    "e3m0",
    Format(7, block=256, bits=4, table=Table(1, least=float(SCALE_LEAST), most=VALUE_MAX / 16)),
    quantise,
    restore,
)
