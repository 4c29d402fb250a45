"""The shape that most dense codecs share: a small table for each block of values, then one code a value.

    header | table of fp32 entries, block after block | codes, packed

What differs is how many entries a block has, how many bits a code, and the two kernels between values and
codes. Those work in whole blocks on pieces that stay in cache; this module sizes, packs and refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from atoll.optim.codecs.base import (
    HEADER_BYTES,
    Buffer,
    Payload,
    checked,
    decoded,
    in_pieces,
    new_payload,
    pack_header,
    room,
)
from atoll.optim.flat import NORMAL_MIN, VALUE_MAX, Floats, NonFinite, floats
from atoll.optim.kernels import Words
from atoll.optim.packing import pack, packed_bytes, padded_with_zeros, unpack
from atoll.protocol.errors import RemoteProtocolError

Codes = NDArray[Any]
"""uint8 [n], or uint16 [n] where a code has 16 bits."""

Quantise = Callable[[Words, Floats, Codes, int], bool]
"""(bits of the values uint32 [n], table to fill fp32 [blocks * entries], codes to fill [n], block): False,
with both undefined, if a value is not finite or beyond VALUE_MAX."""

Restore = Callable[[Codes, Floats, Words, int], bool]
"""(codes [n], table fp32 [blocks * entries], bits of the values to fill uint32 [n], block): False, with the
values undefined, if a code is one that no encoder writes."""

PIECE = 256 * 1024
"""Elements worked on at a time. Their unpacked codes, a byte each, stay in second-level cache between two
kernels; values need not, for a kernel does block after block. Of 16 K to 1 M elements this measured best."""

SMALL_PIECE = 128 * 1024
"""Values worked on at a time where something is done with each piece at once: half a mebibyte of them."""

VALUE_BITS = np.uint32(np.float32(VALUE_MAX).view(np.uint32))
"""VALUE_MAX as bits, to compare with the `largest` of a block."""


def bits_of(value: float) -> int:
    """The fp32 number's bits; those of positive numbers order like the numbers."""
    return int(np.float32(value).view(np.uint32))


@dataclass(frozen=True, slots=True)
class Table:
    """What a block's entries may be: 0, or of a magnitude in [least, most], and positive unless `signed`."""

    entries: int = 0
    least: float = float(NORMAL_MIN)
    most: float = VALUE_MAX
    signed: bool = False

    def check(self, table: Floats) -> None:
        """One comparison of the bits excludes negative, subnormal, oversized, infinite and NaN alike."""
        bits = table.view(np.uint32) & np.uint32(0x7FFFFFFF if self.signed else 0xFFFFFFFF)
        if not np.all((bits == 0) | ((bits >= bits_of(self.least)) & (bits <= bits_of(self.most)))):
            sign = "" if self.signed else "negative, "
            raise RemoteProtocolError(f"payload has a scale that is {sign}subnormal, too large or not finite")


@dataclass(frozen=True, slots=True)
class Format:
    """The numbers that fix a payload's layout. A piece is a multiple of `block`, which is one of 8."""

    codec_id: int
    block: int
    bits: int
    table: Table


@dataclass(frozen=True, slots=True)
class Blockwise:
    """A codec made of a layout and two kernels. See `Codec` in base.py for its methods."""

    name: str
    format: Format
    quantise: Quantise
    restore: Restore
    feedback: bool = False

    @property
    def block(self) -> int:
        return self.format.block

    def payload_bytes(self, numel: int) -> int:
        return self._codes_at(numel) + packed_bytes(numel, self.format.bits)

    def encode(self, x: Tensor) -> bytes:
        return new_payload(self.payload_bytes(x.numel()), partial(self.encode_into, x))

    def encode_into(self, x: Tensor, out: Buffer) -> None:
        values = floats("x", x)
        view = room(out, self.payload_bytes(values.size))
        view[:HEADER_BYTES] = pack_header(self.format.codec_id, self.block, values.size)
        table = np.empty(self._entries(values.size), dtype=np.float32)
        words, packed = values.view(np.uint32), self._packed(view, values.size)
        scratch = self._scratch(values.size)
        for elements, entries, codes in self._pieces(values.size, PIECE):
            unpacked = packed[codes] if scratch is None else scratch[: elements.stop - elements.start]
            if not self.quantise(words[elements], table[entries], unpacked, self.block):
                raise NonFinite(f"NaN, infinity or a value beyond {VALUE_MAX:.2g}: not encoded")
            if scratch is not None:
                pack(unpacked, self.format.bits, packed[codes])
        view[HEADER_BYTES : self._codes_at(values.size)] = table.astype("<f4", copy=False).view(np.uint8).data

    def decode(self, payload: Payload, numel: int, out: Tensor | None = None) -> Tensor:
        return decoded(partial(self._fill, payload, numel, PIECE), numel, out)

    def pieces(self, payload: Payload, numel: int) -> Iterator[tuple[slice, Tensor]]:
        return in_pieces(partial(self._fill, payload, numel, SMALL_PIECE), numel, SMALL_PIECE)

    def _fill(
        self, payload: Payload, numel: int, size: int, place: Callable[[slice], Floats]
    ) -> Iterator[slice]:
        header = pack_header(self.format.codec_id, self.block, numel)
        view = checked(payload, self.payload_bytes(numel), header)
        table = np.frombuffer(view[HEADER_BYTES : self._codes_at(numel)], dtype="<f4").astype(np.float32)
        self.format.table.check(table)
        packed = self._packed(view, numel)
        packed.flags.writeable = False  # whatever it lies in: one type, so the kernels are compiled once
        if self.format.bits < 8 and not padded_with_zeros(packed, numel, self.format.bits):
            raise RemoteProtocolError("payload has set bits behind its last code")
        scratch = self._scratch(numel)
        for elements, entries, codes in self._pieces(numel, size):
            unpacked = packed[codes]
            if scratch is not None:
                unpacked = scratch[: elements.stop - elements.start]
                unpack(packed[codes], self.format.bits, unpacked)
            if not self.restore(unpacked, table[entries], place(elements).view(np.uint32), self.block):
                raise RemoteProtocolError("payload has a code that no encoder writes")
            yield elements

    def _entries(self, numel: int) -> int:
        return self.format.table.entries * -(-numel // self.block)

    def _codes_at(self, numel: int) -> int:
        return HEADER_BYTES + 4 * self._entries(numel)

    def _packed(self, view: memoryview, numel: int) -> Codes:
        """The codes as they lie in a payload of the right size."""
        kind = "<u2" if self.format.bits == 16 else "u1"
        return np.frombuffer(view[self._codes_at(numel) :], dtype=kind)

    def _scratch(self, numel: int) -> Codes | None:
        """Room for the codes of one piece; None if they need no packing."""
        return np.empty(min(PIECE, numel), dtype=np.uint8) if self.format.bits < 8 else None

    def _pieces(self, numel: int, size: int) -> Iterator[tuple[slice, slice, slice]]:
        """Runs of whole blocks that stay in cache, as (elements, table entries, places of packed codes)."""
        per_place = max(1, 8 // self.format.bits)
        for start in range(0, numel, size):
            stop = min(start + size, numel)
            entries = slice(self._entries(start), self._entries(stop))
            yield slice(start, stop), entries, slice(start // per_place, -(-stop // per_place))
