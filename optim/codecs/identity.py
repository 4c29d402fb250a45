"""Codec "fp32": the vector as it is. The yardstick for the others, and the choice for tiny models."""

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
from atoll.optim.flat import PIECE, VALUE_MAX, Floats, NonFinite, floats, pieces, within
from atoll.protocol.errors import RemoteProtocolError


@dataclass(frozen=True, slots=True)
class Identity:
    """Header, then little-endian fp32 values: 4 bytes each, lossless within +-VALUE_MAX."""

    name: str = "fp32"
    block: int = 1
    codec_id: int = 1
    feedback: bool = False

    def payload_bytes(self, numel: int) -> int:
        return HEADER_BYTES + 4 * numel

    def encode(self, x: Tensor) -> bytes:
        return new_payload(self.payload_bytes(x.numel()), partial(self.encode_into, x))

    def encode_into(self, x: Tensor, out: Buffer) -> None:
        values = floats("x", x)
        view = room(out, self.payload_bytes(values.size))
        view[:HEADER_BYTES] = pack_header(self.codec_id, self.block, values.size)
        sent = np.frombuffer(view[HEADER_BYTES:], dtype="<f4")
        scratch = np.empty(min(PIECE, values.size), dtype=np.float32)
        for piece in pieces(values.size):
            if not within(values[piece], VALUE_MAX, scratch):
                raise NonFinite(f"NaN, infinity or a value beyond {VALUE_MAX:.2g}: not encoded")
            np.copyto(sent[piece], values[piece])

    def decode(self, payload: Payload, numel: int, out: Tensor | None = None) -> Tensor:
        return decoded(partial(self._fill, payload, numel), numel, out)

    def pieces(self, payload: Payload, numel: int) -> Iterator[tuple[slice, Tensor]]:
        return in_pieces(partial(self._fill, payload, numel), numel)

    def _fill(self, payload: Payload, numel: int, place: Callable[[slice], Floats]) -> Iterator[slice]:
        view = checked(payload, self.payload_bytes(numel), pack_header(self.codec_id, self.block, numel))
        received = np.frombuffer(view[HEADER_BYTES:], dtype="<f4")
        scratch = np.empty(min(PIECE, numel), dtype=np.float32)
        for piece in pieces(numel):
            values = place(piece)
            np.copyto(values, received[piece])
            if not within(values, VALUE_MAX, scratch):
                raise RemoteProtocolError(f"payload holds NaN, infinity or a value beyond {VALUE_MAX:.2g}")
            yield piece
