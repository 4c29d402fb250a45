"""Peers that reach each other only through libp2p (hole punching, relays): the same calls over streams.

Each call is one stream: a request frame, then frames of the answer. libp2p proves both ends' Ed25519 ids,
so there is no session. A frame is 4 bytes of length and a protobuf message, read only up to
`MESSAGE_BYTES_MAX`: hivemind's own framing would read whatever length a stranger names. A stream that ends
before the last chunk is an error; libp2p does not tell whether its end was meant.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from atoll.node import transport
from atoll.node.dht import Libp2p
from atoll.node.rate_limit import RateLimit
from atoll.node.traffic import Kind, Traffic
from atoll.node.transport import (
    CHUNK_BYTES,
    MESSAGE_BYTES_MAX,
    STALL_S,
    Blob,
    BlobSink,
    Host,
    Piece,
    Refused,
    Unreachable,
)
from atoll.node.uploads import Uploads
from atoll.protocol.envelope import Record
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest, PeerId, peer_id
from atoll.protocol.wire import messages_pb2 as wire

CONNECT_S = 5.0
REQUEST_S = 10.0
TAKEN_S = 10.0
WRITE_STALL_S = 30.0
STREAMS_MAX, STREAMS_PER_PEER = 256, 32
CONNECTED_MAX = 1024
CALL_SENT, CALL_RECEIVED = 190, 225
"""What opening a stream costs either side, beside its messages (measured by a proxy)."""
M = TypeVar("M", bound=Message)


def framed(message_bytes: int) -> int:
    """A message on the wire: our 4 bytes, and 18 per 16 KiB of libp2p (measured by a proxy)."""
    payload = message_bytes + 4
    return payload + 18 * -(-payload // (16 << 10))


def _protocol(run_id: Digest, call: str) -> str:
    return f"/atoll/1/{run_id}/{call}"


async def _write(writer: asyncio.StreamWriter, message: Message | Piece) -> int:
    data = message.SerializeToString()
    writer.write(len(data).to_bytes(4, "big"))
    writer.write(data)
    await writer.drain()
    return framed(len(data))


async def _read(reader: asyncio.StreamReader, kind: type[M]) -> tuple[M, int]:
    """The next message and its bytes on the wire; RemoteProtocolError if it is none or too large."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > MESSAGE_BYTES_MAX:
        raise RemoteProtocolError(f"a message of {size} bytes, at most {MESSAGE_BYTES_MAX} are read")
    data = await reader.readexactly(size)
    try:
        return kind.FromString(data), framed(size)
    except DecodeError:
        raise RemoteProtocolError(f"not a {kind.DESCRIPTOR.name}") from None


async def _taken(reader: asyncio.StreamReader) -> None:
    """Wait until the caller, who has the whole answer then, ends the stream.

    p2pd ends a stream that is closed here in two steps, and may reset it between them: what the other end
    had not read yet is lost then. (go-libp2p-daemon, doStreamPipe; go-yamux, Stream.Close)
    """
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        await asyncio.wait_for(reader.read(1), TAKEN_S)


class StreamServer:
    """Serves a host on libp2p."""

    def __init__(
        self,
        libp2p: Libp2p,
        run_id: Digest,
        host: Host,
        traffic: Traffic,
        uploads: Uploads | None = None,
    ) -> None:
        self._libp2p, self._run_id, self._host, self._traffic = libp2p, run_id, host, traffic
        self._uploads = uploads or Uploads()
        self._streams: Counter[PeerId] = Counter()
        self._pulls: Counter[PeerId] = Counter()

    async def start(self) -> None:
        await self._libp2p.serve(_protocol(self._run_id, "deliver"), self._deliver)
        await self._libp2p.serve(_protocol(self._run_id, "pull"), self._pull)

    async def _deliver(
        self, caller: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with self._place(self._streams, caller, STREAMS_PER_PEER) as free:
            if free is None:
                return
            try:
                envelope, count = await asyncio.wait_for(_read(reader, wire.Envelope), REQUEST_S)
                if not free:
                    raise RemoteProtocolError(f"{STREAMS_PER_PEER} calls of yours are running")
                self._traffic.received("control", caller, count + CALL_SENT)
                if len(envelope.public_key) != 32 or peer_id(envelope.public_key) != caller:
                    raise RemoteProtocolError("the envelope is not the caller's own")
                receipt = await self._host.deliver(envelope)
            except RemoteProtocolError as error:
                receipt = transport.refusal(str(error))
            except (OSError, EOFError, asyncio.TimeoutError):
                return
            self._traffic.sent("control", caller, CALL_RECEIVED)
            await self._answer(writer, receipt, "control", caller)
            await _taken(reader)

    async def _pull(self, caller: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._place(self._pulls, caller, transport.PULLS_PER_PEER) as free:
            if free is None:
                return
            try:
                request, count = await asyncio.wait_for(_read(reader, wire.BlobRequest), REQUEST_S)
                if not free:
                    raise RemoteProtocolError(f"{transport.PULLS_PER_PEER} pulls of yours are running")
                asked = await self._uploads.open(self._host, request, self._run_id)
                with self._uploads.place(caller, asked, request) as blob:
                    if isinstance(blob, str):
                        raise RemoteProtocolError(blob)
                    self._traffic.received(blob.kind, caller, count + CALL_SENT)
                    self._traffic.sent(blob.kind, caller, CALL_RECEIVED)
                    if not await self._give(caller, writer, blob, request):
                        return
            except RemoteProtocolError as error:
                await self._answer(writer, wire.Chunk(refused=str(error)), "control", caller)
            except (OSError, EOFError, asyncio.TimeoutError):
                return
            await _taken(reader)

    async def _give(
        self, caller: PeerId, writer: asyncio.StreamWriter, blob: Blob, request: wire.BlobRequest
    ) -> bool:
        """Write the chunks; False if they ended before the last one, or the caller did not take them."""
        limit, uplink, last = self._uploads.limit, self._uploads.uplink, False
        with uplink.sending():
            for chunk in transport.chunks(blob, request.offset, request.chunk_bytes, limit.chunk_bytes):
                await self._uploads.turn(caller, blob, len(chunk.data))
                if not await self._answer(writer, chunk, blob.kind, caller):
                    return False
                uplink.sent(chunk.ByteSize())
                last = chunk.last
        return last

    async def _answer(
        self, writer: asyncio.StreamWriter, message: Message | Piece, kind: Kind, caller: PeerId
    ) -> bool:
        """Write a frame; False if the caller is gone or does not read."""
        try:
            self._traffic.sent(kind, caller, await asyncio.wait_for(_write(writer, message), WRITE_STALL_S))
        except (OSError, asyncio.TimeoutError):
            writer.transport.abort()
            return False
        return True

    @asynccontextmanager
    async def _place(
        self, running: Counter[PeerId], caller: PeerId, limit: int
    ) -> AsyncIterator[bool | None]:
        """Whether the caller may have one more stream. None: it has too many to be even told so.

        Who is told has its request read first: closing over unread bytes would reset the stream and
        lose the answer.
        """
        free = running[caller] < limit if running.total() < STREAMS_MAX else None
        running[caller] += 1
        try:
            yield free if running[caller] <= 2 * limit else None
        finally:
            running[caller] -= 1
            if not running[caller]:
                del running[caller]


class Streams:
    """The calling side."""

    def __init__(
        self, libp2p: Libp2p, run_id: Digest, traffic: Traffic, downloads: RateLimit | None = None
    ) -> None:
        self._libp2p, self._run_id, self._traffic = libp2p, run_id, traffic
        self._downloads = downloads or RateLimit()
        self._connected: OrderedDict[PeerId, tuple[str, ...]] = OrderedDict()

    async def send(self, record: Record, envelope: wire.Envelope, timeout_s: float) -> wire.Receipt:
        try:
            return await asyncio.wait_for(self._deliver(record, envelope), timeout_s)
        except asyncio.TimeoutError:
            raise self._lost(record, f"not done in {timeout_s:g} s") from None

    async def pull(
        self,
        record: Record,
        ref: BlobRef,
        sink: BlobSink,
        *,
        kind: Kind,
        timeout_s: float,
        stall_s: float = STALL_S,
    ) -> None:
        try:
            await asyncio.wait_for(self._stream(record, ref, sink, kind, stall_s), timeout_s)
        except asyncio.TimeoutError:
            raise self._lost(record, f"not done in {timeout_s:g} s") from None

    async def hold_door(self, record: Record) -> None:
        """Be connected to a peer, so that it can open streams to here: a NAT lets in who was called first."""
        with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
            await self._libp2p.connect(record.peer, record.multiaddrs, CONNECT_S)

    async def close(self) -> None:
        """Nothing is held between calls; p2pd keeps the connections and is closed with the DHT."""

    async def _deliver(self, record: Record, envelope: wire.Envelope) -> wire.Receipt:
        size = envelope.ByteSize()
        if size > MESSAGE_BYTES_MAX:
            raise Refused(record.peer, f"a message of {size} bytes, at most {MESSAGE_BYTES_MAX} are read")
        async with self._open(record, "deliver") as (reader, writer):
            self._traffic.sent("control", record.peer, await _write(writer, envelope) + CALL_SENT)
            receipt, count = await _read(reader, wire.Receipt)
            self._traffic.received("control", record.peer, count + CALL_RECEIVED)
            return receipt

    async def _stream(self, record: Record, ref: BlobRef, sink: BlobSink, kind: Kind, stall_s: float) -> None:
        async with self._open(record, "pull") as (reader, writer):
            size = min(CHUNK_BYTES, self._downloads.chunk_bytes())
            request = transport.request_for(ref, sink, self._run_id, size)
            self._traffic.sent(kind, record.peer, await _write(writer, request) + CALL_SENT)
            self._traffic.received(kind, record.peer, CALL_RECEIVED)
            done = False
            while not done:
                try:
                    chunk, count = await asyncio.wait_for(_read(reader, wire.Chunk), stall_s)
                except asyncio.TimeoutError:
                    here = f"{sink.received} of {sink.stop} bytes are here"
                    raise self._lost(record, f"no chunk for {stall_s:g} s, {here}") from None
                except asyncio.IncompleteReadError:
                    raise self._lost(record, transport.cut_short(ref, sink)) from None
                self._traffic.received(kind, record.peer, count)
                await self._downloads.turn(record.peer, kind, len(chunk.data))
                done = transport.absorb(record.peer, chunk, sink)

    @asynccontextmanager
    async def _open(
        self, record: Record, call: str
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A stream to the peer of a record, connected first if it is not known to be."""
        try:
            if self._connected.get(record.peer) != record.multiaddrs:
                await self._libp2p.connect(record.peer, record.multiaddrs, CONNECT_S)
                self._connected[record.peer] = record.multiaddrs
                if len(self._connected) > CONNECTED_MAX:
                    self._connected.popitem(last=False)
            reader, writer = await self._libp2p.open(record.peer, _protocol(self._run_id, call))
        except asyncio.TimeoutError:
            raise self._lost(record, f"no connection in {CONNECT_S:g} s") from None
        except ConnectionError as error:
            raise self._lost(record, transport.printable(str(error))) from None
        try:
            yield reader, writer
        except (OSError, EOFError) as error:
            raise self._lost(record, f"the stream broke: {error or 'it ended'}") from None
        finally:
            writer.transport.abort()

    def _lost(self, record: Record, reason: str) -> Unreachable:
        self._connected.pop(record.peer, None)
        return Unreachable(record.peer, reason)
