"""Small compiled loops that the block codecs share, and what all of theirs keep to, beside `compiled`:

* Constants are fp32 objects (`np.float32(127)`): a bare Python number would make the arithmetic fp64.
* Sums are fp64 in an order that is written down, see `sums`. Largest magnitudes are integer maxima, for
  which no order matters.
* A NaN never becomes an integer or an index: codecs look at `largest` before they convert.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atoll.optim.compiled import compiled

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]


@compiled
def largest(words: Words) -> int:
    """The largest magnitude among fp32 numbers given as their bits, as bits: 0 of none.

    Magnitudes order like their bits, infinity above all numbers and NaN above infinity.
    """
    most = np.uint32(0)
    for place in range(words.size):
        most = max(most, np.uint32(words[place] & np.uint32(0x7FFFFFFF)))
    return int(most)


@compiled
def contains(codes: Bytes, code: int) -> bool:
    """Whether one of `codes` is `code`."""
    found = np.uint8(0)
    for place in range(codes.size):
        found |= np.uint8(codes[place] == code)
    return bool(found != 0)


@compiled
def scale_of(words: Words, top: np.float32, least: np.float32) -> tuple[int, np.float32, np.float32]:
    """A block's largest magnitude as bits, the scale in units of which it is `top`, and that scale's inverse.

    Scale and inverse are 0 where the scale would be below `least`; they mean nothing if a value is NaN.
    """
    most = np.uint32(largest(words))
    magnitude = np.uint32(most).view(np.float32)
    scale, inverse = magnitude / top, top / magnitude
    if scale < least:
        scale, inverse = np.float32(0), np.float32(0)
    return most, scale, inverse
