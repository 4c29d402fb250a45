"""What a codec is, and the header that makes a payload say what it is.

    offset  bytes  field
    0       4      magic "ATLC"
    4       1      version of this header, 1
    5       1      codec id
    6       2      block, little-endian like all that follows; 0 if the codec has no blocks
    8       8      numel, elements of the vector that the payload holds

The body follows at once and its length is a function of the header alone. Sixteen bytes keep floats that
follow aligned. A receiver knows which codec and how many elements a round calls for: the header lets it
refuse other bytes with a reason, and sizes no allocation.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Protocol

import torch
from torch import Tensor

from atoll.optim.flat import PIECE, Floats, floats
from atoll.protocol.errors import RemoteProtocolError

Payload = bytes | bytearray | memoryview
Buffer = bytearray | memoryview
Fill = Callable[[Callable[[slice], Floats]], Iterator[slice]]
"""A decoder at work: given where the elements of a slice are to go, it fills one slice after the other and
yields each once it is filled."""

HEADER_BYTES = 16
_MAGIC = b"ATLC"
_VERSION = 1
_HEADER = struct.Struct("<4sBBHQ")


class Codec(Protocol):
    """Turns a flat fp32 vector, or a part of one, into payload bytes and back.

    Decoding is exact arithmetic or one rounding per element, so equal bytes give equal bits on every
    machine. Instances hold no state and may be shared by threads.
    """

    @property
    def name(self) -> str:
        """What a run manifest calls it."""

    @property
    def block(self) -> int:
        """Elements that are encoded together: parts are cut at multiples of it."""

    @property
    def feedback(self) -> bool:
        """Whether it loses so much that it must not be used without error feedback (see `Residual`)."""

    def payload_bytes(self, numel: int) -> int:
        """Exact length in bytes of the payload of `numel` elements, header included."""

    def encode(self, x: Tensor) -> bytes:
        """The payload of `x`, fp32 [n] on the CPU; `x` is left as it is.

        Raises NonFinite (a ValueError) if an element is NaN, infinite or beyond VALUE_MAX, and ValueError
        if `x` is not a flat fp32 vector.
        """

    def encode_into(self, x: Tensor, out: Buffer) -> None:
        """The same, written into `out`, writable bytes of exactly the payload's size: shared memory, or a
        buffer that serves every round. Fresh memory costs about as much as the arithmetic.

        Raises as `encode` does (`out` is then undefined), and ValueError if `out` has another size.
        """

    def decode(self, payload: Payload, numel: int, out: Tensor | None = None) -> Tensor:
        """The vector fp32 [numel] that `payload` holds, in `out` if given; all within +-VALUE_MAX.

        Raises RemoteProtocolError for any bytes that are not the payload of `numel` elements by this
        codec (`out` is then undefined), and ValueError if `out` is not fp32 [numel]. Allocates at most
        what `numel`, the caller's number, calls for.
        """

    def pieces(self, payload: Payload, numel: int) -> Iterator[tuple[slice, Tensor]]:
        """The same vector in order, a piece at a time: its place, and its values in memory that the next
        piece overwrites and the caller may. So a payload is summed, or only checked, without a vector beside.

        Raises RemoteProtocolError as `decode` does, before the first piece or at the one that is wrong.
        """


def pack_header(codec_id: int, block: int, numel: int) -> bytes:
    """The sixteen bytes at the front of a payload."""
    return _HEADER.pack(_MAGIC, _VERSION, codec_id, block, numel)


def new_payload(payload_bytes: int, fill: Callable[[memoryview], None]) -> bytes:
    """Bytes that `fill` has written in place. Through a `bytearray` every payload would be copied once more;
    `BytesIO` hands out its own buffer, first to write and then, no longer shared, as `bytes`."""
    stream = BytesIO(bytes(payload_bytes))
    view = stream.getbuffer()
    fill(view)
    view.release()
    return stream.getvalue()


def room(out: Buffer, payload_bytes: int) -> memoryview:
    """`out` as bytes to write a payload to. Raises ValueError if its size is not the payload's."""
    view = memoryview(out).cast("B")
    if view.nbytes != payload_bytes or view.readonly:
        raise ValueError(f"out must be {payload_bytes} writable bytes, not {view.nbytes}")
    return view


def checked(payload: Payload, payload_bytes: int, header: bytes) -> memoryview:
    """The payload as bytes, once its length is `payload_bytes` and it begins with `header`.

    Raises RemoteProtocolError with what differs. The expected header is the caller's, so every field of
    the one received is compared, none is believed.
    """
    view = memoryview(payload).cast("B")
    if view.nbytes != payload_bytes:
        raise RemoteProtocolError(f"payload has {view.nbytes} bytes, expected {payload_bytes}")
    if view[:HEADER_BYTES] != header:
        raise RemoteProtocolError(_difference(bytes(view[:HEADER_BYTES]), header))
    return view


def target(numel: int, out: Tensor | None) -> tuple[Tensor, Floats]:
    """The tensor that a decoder fills, fp32 [numel], and its numpy view. Raises ValueError if unfit."""
    tensor = torch.empty(numel, dtype=torch.float32) if out is None else out
    return tensor, floats("out", tensor, numel)


def decoded(fill: Fill, numel: int, out: Tensor | None) -> Tensor:
    """All that `fill` fills, in `out` if given. Raises ValueError if `out` is unfit."""
    tensor, values = target(numel, out)
    for _ in fill(values.__getitem__):
        pass
    return tensor


def in_pieces(fill: Fill, numel: int, size: int = PIECE) -> Iterator[tuple[slice, Tensor]]:
    """What `fill` fills, in memory for one piece of at most `size` elements."""
    room = torch.empty(min(size, numel), dtype=torch.float32)
    values = floats("room", room)
    for piece in fill(lambda piece: values[: piece.stop - piece.start]):
        yield piece, room[: piece.stop - piece.start]


def _difference(received: bytes, expected: bytes) -> str:
    names = ("magic", "version", "codec id", "block", "numel")
    pairs = zip(names, _HEADER.unpack(received), _HEADER.unpack(expected), strict=True)
    return "payload header: " + ", ".join(
        f"{n} {got!r}, expected {want!r}" for n, got, want in pairs if got != want
    )
