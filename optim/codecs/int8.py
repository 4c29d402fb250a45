"""Codec "int8": blockwise symmetric 8-bit codes, a quarter of the bytes.

A block of 256 values shares one fp32 scale, its largest magnitude / 127; a code is the value in units of
the scale, rounded to nearest. So an error is at most half a step of its own block, and one outlier
coarsens 255 neighbours, not the vector. (8-bit blockwise quantisation, Dettmers et al. 2021; absmax and
linear steps here, since pseudo-gradients of one block have similar sizes.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from atoll.optim.codecs.base import (
    HEADER_BYTES,
    Buffer,
    Payload,
    checked,
    new_payload,
    pack_header,
    room,
    target,
)
from atoll.optim.flat import PIECE, VALUE_MAX, Floats, NonFinite, floats
from atoll.protocol.errors import RemoteProtocolError

Codes = NDArray[np.int8]

CODE_MAX = 127
SCALE_MAX = np.float32(VALUE_MAX / CODE_MAX)
SCALE_MIN = np.finfo(np.float32).tiny
"""Smallest normal fp32. A block whose scale would be subnormal (magnitudes below 1.5e-36) becomes zeros:
products then never depend on whether a machine flushes subnormal numbers."""

_BIT_PATTERNS = tuple(int(np.float32(scale).view(np.uint32)) for scale in (SCALE_MIN, SCALE_MAX))


@dataclass(frozen=True, slots=True)
class Int8:
    """Header, one fp32 scale for each block (the last may be short), one int8 code for each element.

    A zero block has scale 0 and codes 0. Decoding is code to fp32 (exact), then one multiplication.
    """

    name: str = "int8"
    block: int = 256
    codec_id: int = 2
    feedback: bool = False

    def payload_bytes(self, numel: int) -> int:
        return HEADER_BYTES + 4 * -(-numel // self.block) + numel

    def encode(self, x: Tensor) -> bytes:
        return new_payload(self.payload_bytes(x.numel()), partial(self.encode_into, x))

    def encode_into(self, x: Tensor, out: Buffer) -> None:
        values = floats("x", x)
        view = room(out, self.payload_bytes(values.size))
        view[:HEADER_BYTES] = pack_header(self.codec_id, self.block, values.size)
        scales, codes = self._body(view, values.size)
        magnitudes = _fill_codes(codes, values, self.block)
        if magnitudes.size and not magnitudes.max() <= VALUE_MAX:
            raise NonFinite(f"NaN, infinity or a value beyond {VALUE_MAX:.2g}: not encoded")
        np.divide(magnitudes, np.float32(CODE_MAX), out=scales)
        for place in np.flatnonzero((scales < SCALE_MIN) & (magnitudes > 0)):
            scales[place] = 0
            codes[place * self.block : (place + 1) * self.block] = 0

    def decode(self, payload: Payload, numel: int, out: Tensor | None = None) -> Tensor:
        tensor, values = target(numel, out)
        view = checked(payload, self.payload_bytes(numel), pack_header(self.codec_id, self.block, numel))
        received, codes = self._body(view, numel)
        scales = received.astype(np.float32)
        _check(scales, codes)
        for elements, blocks, shape in _rows(numel, self.block):
            rows = values[elements].reshape(shape)
            np.copyto(rows, codes[elements].reshape(shape))
            np.multiply(rows, scales[blocks, None], out=rows)
        return tensor

    def _body(self, view: memoryview, numel: int) -> tuple[Floats, Codes]:
        """Scales and codes as they lie in a payload of the right size."""
        codes_at = HEADER_BYTES + 4 * -(-numel // self.block)
        return np.frombuffer(view[HEADER_BYTES:codes_at], dtype="<f4"), np.frombuffer(
            view[codes_at:], dtype=np.int8
        )


def _rows(numel: int, block: int) -> Iterator[tuple[slice, slice, tuple[int, int]]]:
    """Cache-sized runs of whole blocks as (elements, blocks, [rows, block]); a short last block alone."""
    whole, rest = divmod(numel, block)
    rows = PIECE // block
    for first in range(0, whole, rows):
        last = min(first + rows, whole)
        yield slice(first * block, last * block), slice(first, last), (last - first, block)
    if rest:
        yield slice(whole * block, numel), slice(whole, whole + 1), (1, rest)


def _fill_codes(codes: Codes, values: Floats, block: int) -> Floats:
    """Fill `codes` with each value in units of its block's scale, and return each block's largest |x|.

    One walk, so that `values` come from memory once. It does not stop for what is not finite: the largest
    |x| shows it (NaN if the block has one), and the codes beside it mean nothing.
    """
    magnitudes = np.empty(-(-values.size // block), dtype=np.float32)
    inverse = np.empty((PIECE // block, 1), dtype=np.float32)
    scratch = np.empty(min(PIECE, values.size), dtype=np.float32)
    with np.errstate(invalid="ignore"):
        for elements, blocks, shape in _rows(values.size, block):
            rows, scaled = values[elements].reshape(shape), scratch[: shape[0] * shape[1]].reshape(shape)
            np.abs(rows, out=scaled).max(axis=1, out=magnitudes[blocks])
            steps = inverse[: shape[0]]
            np.maximum(magnitudes[blocks, None], CODE_MAX * SCALE_MIN, out=steps)
            np.divide(np.float32(CODE_MAX), steps, out=steps)
            np.multiply(rows, steps, out=scaled)
            np.rint(scaled, out=scaled)
            np.copyto(codes[elements].reshape(shape), scaled, casting="unsafe")
    return magnitudes


def _check(scales: Floats, codes: Codes) -> None:
    """Refuse what no encoder writes. One comparison of the scales' bits excludes negative, subnormal,
    oversized, infinite and NaN alike."""
    bits = scales.view(np.uint32)
    least, most = _BIT_PATTERNS
    if not np.all((bits == 0) | ((bits >= least) & (bits <= most))):
        raise RemoteProtocolError("payload has a scale that is negative, subnormal, too large or not finite")
    if codes.size and codes.min() < -CODE_MAX:
        raise RemoteProtocolError(f"payload has a code below -{CODE_MAX}")
