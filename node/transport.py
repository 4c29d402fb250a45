"""The seam between a peer and the network: two calls out, two calls in, the same on every transport.

`send` carries a signed envelope and brings back a receipt. `pull` streams a blob into a sink, from where
the sink stopped last time, so that another holder can finish what one began. There are two implementations:
direct gRPC over TLS (`direct.py`) and libp2p streams (`streams.py`); what they share about chunks is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from atoll.node.traffic import Kind
from atoll.protocol.envelope import ENVELOPE_BYTES_MAX, Record
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_bytes, digest_from_bytes, short
from atoll.protocol.wire import messages_pb2 as wire

CHUNK_BYTES_MIN, CHUNK_BYTES, CHUNK_BYTES_MAX = 8 << 10, 256 << 10, 1 << 20
"""Of the smallest chunk that a caller may wish for, of one where it has no wish, and of the largest."""
MESSAGE_BYTES_MAX = ENVELOPE_BYTES_MAX + (64 << 10)
"""No message of either transport is larger: an envelope or a chunk, and what surrounds it."""

STALL_S = 5.0
PULLS_PER_PEER = 16
"""How many blobs one caller may stream from a server at once; a router asks for fewer."""
REASON_CHARACTERS = 300


class Unreachable(Exception):
    """Nobody answered, the connection broke, or the answer stalled: the peer may be dead.

    `answered` tells whether this path had worked before it failed: if not, another path is worth a try.
    """

    def __init__(self, peer: PeerId, reason: str, *, answered: bool = False) -> None:
        self.peer, self.reason, self.answered = peer, reason, answered
        super().__init__(f"{short(peer)} is unreachable: {reason}")


class Refused(Exception):
    """The peer answered, and said no. The reason is the peer's own, shortened."""

    def __init__(self, peer: PeerId, reason: str) -> None:
        self.peer, self.reason = peer, printable(reason)
        super().__init__(f"{short(peer)} refused: {self.reason}")


class BootstrapFailed(Exception):
    """None of the addresses that should lead into the run answered."""


def printable(reason: str) -> str:
    """A peer's text as one line that is safe in a log and a terminal."""
    shown = "".join(letter if letter.isprintable() else " " for letter in reason[:REASON_CHARACTERS])
    return shown.strip() or "no reason given"


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that are served to others, what for (the bytes are counted as that), and of which round."""

    view: memoryview
    kind: Kind
    round: int = 0


class BlobSink(Protocol):
    """Takes the bytes of one blob in order. `finish` checks them: RemoteProtocolError if they are wrong.

    It may want a range only: then `received` begins where the range does, and `stop` is where it ends. Or it
    wants, in place of bytes, the `digests` of the blob's chunks.
    """

    @property
    def ref(self) -> BlobRef: ...
    @property
    def received(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def digests(self) -> bool: ...
    def write(self, data: bytes | memoryview) -> None: ...
    def finish(self) -> None: ...


class Host(Protocol):
    """What a peer serves. The envelope's key is the caller's own; its signature is the host's to check."""

    async def deliver(self, envelope: wire.Envelope) -> wire.Receipt: ...
    def open_blob(self, digest: Digest) -> Blob | None: ...


class Transport(Protocol):
    """Carries envelopes and blobs to the peer of a record.

    Raises Unreachable, Refused, or RemoteProtocolError where the peer's bytes are bad.
    """

    async def send(self, record: Record, envelope: wire.Envelope, timeout_s: float) -> wire.Receipt: ...

    async def pull(
        self,
        record: Record,
        ref: BlobRef,
        sink: BlobSink,
        *,
        kind: Kind,
        timeout_s: float,
        stall_s: float = STALL_S,
    ) -> None: ...

    async def close(self) -> None: ...


def refusal(reason: str) -> wire.Receipt:
    return wire.Receipt(accepted=False, reason=reason)


def request_for(
    ref: BlobRef, sink: BlobSink, run_id: Digest, chunk_bytes: int = CHUNK_BYTES
) -> wire.BlobRequest:
    """Ask for what the sink does not have yet, in chunks of a size."""
    return wire.BlobRequest(
        run_id=digest_bytes(run_id),
        digest=digest_bytes(ref.digest),
        size=ref.size,
        offset=sink.received,
        stop=0 if sink.digests or sink.stop == ref.size else sink.stop,
        digests=sink.digests,
        chunk_bytes=chunk_bytes,
    )


def open_requested(host: Host, request: wire.BlobRequest, run_id: Digest) -> Blob | str:
    """The blob that a caller asks for, up to where its range ends, or the reason why it gets none."""
    if request.run_id != digest_bytes(run_id):
        return "the request is for another run"
    try:
        digest = digest_from_bytes(request.digest)
    except RemoteProtocolError as error:
        return str(error)
    blob = host.open_blob(digest)
    if blob is None:
        return f"no blob {digest[:12]} here"
    stop = request.stop or request.size
    if request.size != len(blob.view) or not request.offset <= stop <= request.size:
        return f"the blob has {len(blob.view)} bytes, not {request.offset} to {stop} of {request.size}"
    return blob if stop == request.size else replace(blob, view=blob.view[:stop])


@dataclass(frozen=True, slots=True)
class Piece:
    """A `Chunk` whose data is a view of bytes that lie elsewhere: protobuf would copy them twice more."""

    data: memoryview
    last: bool
    refused: str = ""

    def SerializeToString(self) -> bytes:
        """As protobuf writes it: only what is not empty."""
        head = _DATA + _varint(len(self.data)) if self.data else b""
        return b"".join((head, self.data, _LAST if self.last else b""))

    def ByteSize(self) -> int:
        size = len(self.data)
        return (1 + len(_varint(size)) + size if size else 0) + len(_LAST) * self.last


_DATA, _LAST = b"\x0a", b"\x10\x01"
"""Field 1, of bytes; field 2, true."""


def _varint(value: int) -> bytes:
    """A whole number in groups of seven bits. (protobuf encoding)"""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def read_chunk(raw: bytes) -> Piece | wire.Chunk:
    """A chunk of a stream: the usual ones as a view, all others as protobuf reads them."""
    if raw[:1] == _DATA:
        size, at, shift = 0, 1, 0
        while at < min(len(raw), 6):
            size |= (raw[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if raw[at - 1] < 0x80:
                rest = raw[at + size :]
                if len(raw) >= at + size and rest in (b"", _LAST):
                    return Piece(memoryview(raw)[at : at + size], rest == _LAST)
                break
    return wire.Chunk.FromString(raw)


def chunks(
    blob: Blob, offset: int, size: int = CHUNK_BYTES, most: Callable[[], int] = lambda: CHUNK_BYTES_MAX
) -> Iterator[Piece]:
    """The rest of a blob from `offset`; the last chunk says that it is the last, also of an empty rest.

    `size` is what the caller wishes for. Each costs the same work on both sides, however large it is; but one
    that takes longer than a stall to come looks like one, and only the caller sees how fast they come. `most`
    is for who sends slowly of its own will, and asked for each.
    """
    end, size = len(blob.view), min(max(size or CHUNK_BYTES, CHUNK_BYTES_MIN), CHUNK_BYTES_MAX)
    while True:
        until = min(offset + min(size, most()), end)
        yield Piece(blob.view[offset:until], until == end)
        if until == end:
            return
        offset = until


def absorb(peer: PeerId, chunk: Piece | wire.Chunk, sink: BlobSink) -> bool:
    """Write a chunk into the sink; True after the last one, whose blob is then checked.

    A stream of empty chunks would never stall and never end, so only the last may be empty.
    """
    if chunk.refused:
        raise Refused(peer, chunk.refused)
    if not chunk.data and not chunk.last:
        raise RemoteProtocolError("an empty chunk that is not the last")
    if len(chunk.data) > CHUNK_BYTES_MAX:
        raise RemoteProtocolError(f"a chunk of {len(chunk.data)} bytes, at most {CHUNK_BYTES_MAX} are read")
    sink.write(chunk.data)
    if chunk.last:
        sink.finish()
    return chunk.last


def cut_short(ref: BlobRef, sink: BlobSink) -> str:
    return f"the stream ended after {sink.received} of {sink.stop} bytes, without a last chunk"
