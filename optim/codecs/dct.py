"""Codec "dct": the 32 largest cosine coefficients of each 64 x 64 block: 1/146 of the bytes.

A pseudo-gradient's smooth part is in few coefficients, each of which moves the whole block; the rest stays
in the residual, so this codec needs error feedback. (DeMo, Peng et al. 2024, which transforms the momentum
of each step; here the pseudo-gradient of a round)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
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
from atoll.optim.codecs.cosines import basis
from atoll.optim.codecs.sparse_kernels import (
    CHUNK,
    FINE,
    VALUE_MAX_BITS,
    WRONG,
    dct_bytes,
    dct_decode,
    dct_encode,
)
from atoll.optim.flat import VALUE_MAX, Floats, NonFinite, floats, pieces
from atoll.protocol.errors import ConfigError, RemoteProtocolError

SIDE = 64


@dataclass(frozen=True, slots=True)
class Dct:
    """Header, then for each block: k bf16 coefficients, k ascending 12-bit places among the coefficients.

    A block is 4096 consecutive elements as 64 rows of 64 (of a 2-D parameter, if the vector was tiled).
    Of the elements after the last whole block, whole rows are a lower block and the rest is a block of
    one row; of a block smaller than k all coefficients are sent. Decoding sums products in one order, in
    fp32, and cuts at +-VALUE_MAX, which no coefficients of sane values reach by more than a rounding.
    """

    k: int = 32
    name: str = "dct"
    block: int = CHUNK
    codec_id: int = 11
    feedback: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.k <= CHUNK:
            raise ConfigError(f"k is {self.k}", "codec dct", f"k coefficients of {CHUNK}: 1 to {CHUNK}")

    def payload_bytes(self, numel: int) -> int:
        return HEADER_BYTES + sum(bytes_ for _, bytes_, _, _ in self._sections(numel))

    def encode(self, x: Tensor) -> bytes:
        return new_payload(self.payload_bytes(x.numel()), partial(self.encode_into, x))

    def encode_into(self, x: Tensor, out: Buffer) -> None:
        values = floats("x", x)
        view = room(out, self.payload_bytes(values.size))
        view[:HEADER_BYTES] = pack_header(self.codec_id, self.block, values.size)
        body = np.frombuffer(view[HEADER_BYTES:], dtype=np.uint8)
        for elements, bytes_, rows, columns in self._sections(values.size):
            down, across = basis(rows), basis(columns)
            highest = dct_encode(values[elements], self.k, down, across, body[:bytes_])
            if highest > VALUE_MAX_BITS:
                raise NonFinite(f"NaN, infinity or a value beyond {VALUE_MAX:.2g}: not encoded")
            body = body[bytes_:]

    def decode(self, payload: Payload, numel: int, out: Tensor | None = None) -> Tensor:
        return decoded(partial(self._fill, payload, numel), numel, out)

    def pieces(self, payload: Payload, numel: int) -> Iterator[tuple[slice, Tensor]]:
        return in_pieces(partial(self._fill, payload, numel), numel)

    def _fill(self, payload: Payload, numel: int, place: Callable[[slice], Floats]) -> Iterator[slice]:
        view = checked(payload, self.payload_bytes(numel), pack_header(self.codec_id, self.block, numel))
        body = np.frombuffer(view[HEADER_BYTES:].toreadonly(), dtype=np.uint8)
        for elements, bytes_, rows, columns in self._sections(numel):
            wrong = dct_decode(body[:bytes_], self.k, basis(rows), basis(columns), place(elements))
            if wrong != FINE:
                raise RemoteProtocolError(f"payload has {WRONG[wrong]}")
            body = body[bytes_:]
            yield elements

    def _sections(self, numel: int) -> Iterator[tuple[slice, int, int, int]]:
        """Runs of equal blocks as (elements, payload bytes, rows, columns): square, lower, one row.

        A run has at most `PIECE` elements."""
        start = 0
        for rows, columns in ((SIDE, SIDE), (numel % CHUNK // SIDE, SIDE), (1, numel % SIDE)):
            size = rows * columns
            if size and numel - start >= size:
                whole = numel - (numel - start) % size
                for piece in pieces(whole - start):
                    blocks = (piece.stop - piece.start) // size
                    elements = slice(start + piece.start, start + piece.stop)
                    yield elements, blocks * dct_bytes(min(self.k, size)), rows, columns
                start = whole
