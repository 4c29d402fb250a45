"""Codec "topk": of each 4096 elements the 64 largest, two bits each: 1/136 of the bytes.

What a place sends is the mean of its bin, and everything else stays in the residual, so this codec needs
error feedback. (SparseLoCo, Sarfi et al. 2025: chunked top-k with 12-bit places and 2-bit values; bins and
bin means as in INTELLECT-1, Jaghouar et al. 2024)
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
from atoll.optim.codecs.sparse_kernels import (
    CHUNK,
    FINE,
    VALUE_MAX_BITS,
    WRONG,
    topk_bytes,
    topk_decode,
    topk_encode,
)
from atoll.optim.flat import VALUE_MAX, Floats, NonFinite, floats, pieces
from atoll.protocol.errors import ConfigError, RemoteProtocolError


@dataclass(frozen=True, slots=True)
class TopK:
    """Header, then for each chunk: four bf16 bin means, k ascending 12-bit places, k 2-bit codes.

    Of a short last chunk min(k, its size) values are sent. Magnitudes that tie are taken from the lowest
    place on. bf16 halves the table (means are rounded by at most 2^-9, which the residual takes up).
    """

    k: int = 64
    name: str = "topk"
    block: int = CHUNK
    codec_id: int = 10
    feedback: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.k <= CHUNK:
            raise ConfigError(f"k is {self.k}", "codec topk", f"k values of {CHUNK}: 1 to {CHUNK}")

    def payload_bytes(self, numel: int) -> int:
        whole, rest = divmod(numel, self.block)
        tail = topk_bytes(min(self.k, rest)) if rest else 0
        return HEADER_BYTES + whole * topk_bytes(self.k) + tail

    def encode(self, x: Tensor) -> bytes:
        return new_payload(self.payload_bytes(x.numel()), partial(self.encode_into, x))

    def encode_into(self, x: Tensor, out: Buffer) -> None:
        values = floats("x", x)
        view = room(out, self.payload_bytes(values.size))
        view[:HEADER_BYTES] = pack_header(self.codec_id, self.block, values.size)
        highest = topk_encode(values, self.k, np.frombuffer(view[HEADER_BYTES:], dtype=np.uint8))
        if highest > VALUE_MAX_BITS:
            raise NonFinite(f"NaN, infinity or a value beyond {VALUE_MAX:.2g}: not encoded")

    def decode(self, payload: Payload, numel: int, out: Tensor | None = None) -> Tensor:
        return decoded(partial(self._fill, payload, numel), numel, out)

    def pieces(self, payload: Payload, numel: int) -> Iterator[tuple[slice, Tensor]]:
        return in_pieces(partial(self._fill, payload, numel), numel)

    def _fill(self, payload: Payload, numel: int, place: Callable[[slice], Floats]) -> Iterator[slice]:
        view = checked(payload, self.payload_bytes(numel), pack_header(self.codec_id, self.block, numel))
        body = np.frombuffer(view[HEADER_BYTES:].toreadonly(), dtype=np.uint8)
        for piece in pieces(numel):
            bytes_ = self.payload_bytes(piece.stop - piece.start) - HEADER_BYTES
            wrong = topk_decode(body[:bytes_], self.k, place(piece))
            if wrong != FINE:
                raise RemoteProtocolError(f"payload has {WRONG[wrong]}")
            body = body[bytes_:]
            yield piece
