"""Peers that reach each other directly: gRPC over TLS, both ends known by their Ed25519 peer id.

The caller looks at the server's certificate, compares its digest with the server's signed record, and then
trusts that certificate and no other. It proves itself by a signature (see `sessions.py`), and every later
call carries the session. A server serves one run.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc

from atoll.node import transport
from atoll.node.addresses import check_free
from atoll.node.identity import Identity
from atoll.node.link import SESSION_KEY, SIZES, Link
from atoll.node.rate_limit import RateLimit
from atoll.node.rpc.peer_pb2_grpc import PeerServicer, add_PeerServicer_to_server
from atoll.node.sessions import UNKNOWN, Doorkeeper
from atoll.node.stall import Watch
from atoll.node.traffic import Kind, Traffic
from atoll.node.transport import (
    STALL_S,
    Blob,
    BlobSink,
    Host,
    Refused,
)
from atoll.node.uploads import Uploads
from atoll.protocol.envelope import Record
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest, PeerId, peer_id
from atoll.protocol.keys import Key
from atoll.protocol.wire import messages_pb2 as wire

REACH_S = 10.0
WRITE_STALL_S = 30.0
LINKS_MAX = 64
CALLERS_MAX = 1024
CALLS_MAX = 512
"""Calls that a server works on at once; more are refused by gRPC itself."""

_SERVER = [
    *SIZES,
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
]
_GONE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
)
T = TypeVar("T")


def framed(message_bytes: int) -> int:
    """A message on the wire: 5 bytes of gRPC, and 25 per 16 KiB of HTTP/2 and TLS (measured by a proxy)."""
    payload = message_bytes + 5
    return payload + 25 * -(-payload // (16 << 10))


CALL_SENT, CALL_RECEIVED = 130, 55
"""What a call and its answer cost beside their messages on a channel in use (measured by a proxy)."""


def _pull_handler(pull: Callable[..., Any]) -> grpc.RpcMethodHandler:
    """The generated handler, but for a stream that is written from views."""
    return grpc.unary_stream_rpc_method_handler(
        pull, wire.BlobRequest.FromString, lambda chunk: chunk.SerializeToString()
    )


class DirectServer(PeerServicer):
    """Serves a host to the callers who prove themselves."""

    def __init__(
        self,
        identity: Identity,
        run_id: Digest,
        host: Host,
        traffic: Traffic,
        uploads: Uploads | None = None,
    ) -> None:
        self._host, self._run_id, self._traffic = host, run_id, traffic
        self._uploads = uploads or Uploads()
        self._door = Doorkeeper(identity.certificate, run_id)
        self._pulls: Counter[PeerId] = Counter()
        self._callers: OrderedDict[PeerId, None] = OrderedDict()
        self._server = grpc.aio.server(options=_SERVER, maximum_concurrent_rpcs=CALLS_MAX)
        self._credentials = grpc.ssl_server_credentials(
            [(identity.certificate_key_pem, identity.certificate_pem)]
        )
        add_PeerServicer_to_server(self, self._server)
        self._server.add_registered_method_handlers("atoll.Peer", {"Pull": _pull_handler(self.Pull)})
        self.port = 0

    async def start(self, listen: str) -> int:
        """Listen on `host:port` and return the real port (0 asks for any); ConfigError if that cannot be."""
        check_free(listen)
        try:
            self.port = self._server.add_secure_port(listen, self._credentials)
        except RuntimeError:
            raise ConfigError(f"cannot listen on {listen}", right="a free port of this machine") from None
        await self._server.start()
        return self.port

    async def stop(self, grace_s: float = 0.5) -> None:
        await self._server.stop(grace_s)

    async def Greet(self, request: wire.Challenge, context: grpc.aio.ServicerContext) -> wire.Nonce:
        return self._door.greet(request, time.monotonic())

    async def Prove(self, request: wire.Proof, context: grpc.aio.ServicerContext) -> wire.Session:
        session = self._door.prove(request, time.monotonic())
        if session.token:
            caller = peer_id(request.public_key)
            self._callers[caller] = None
            self._callers.move_to_end(caller)
            if len(self._callers) > CALLERS_MAX:
                self._callers.popitem(last=False)
        return session

    def was_called_by(self, peer: PeerId) -> bool:
        """Whether this peer has proven itself here: the address works for it."""
        return peer in self._callers

    async def Deliver(self, request: wire.Envelope, context: grpc.aio.ServicerContext) -> wire.Receipt:
        caller = self._caller(context)
        if caller is None:
            return transport.refusal(UNKNOWN)
        if len(request.public_key) != 32 or peer_id(request.public_key) != caller:
            return transport.refusal("the envelope is not the caller's own")
        self._traffic.received("control", caller, framed(request.ByteSize()) + CALL_SENT)
        try:
            receipt = await self._host.deliver(request)
        except RemoteProtocolError as error:
            receipt = transport.refusal(str(error))
        self._traffic.sent("control", caller, framed(receipt.ByteSize()) + CALL_RECEIVED)
        return receipt

    async def Pull(self, request: wire.BlobRequest, context: grpc.aio.ServicerContext) -> None:
        caller = self._caller(context)
        if caller is None:
            await context.write(wire.Chunk(refused=UNKNOWN))
            return
        asked = await self._uploads.open(self._host, request, self._run_id)
        if self._pulls[caller] >= transport.PULLS_PER_PEER:
            asked = f"{transport.PULLS_PER_PEER} pulls of yours are running"
        with self._uploads.place(caller, asked, request) as blob:
            if isinstance(blob, str):
                await context.write(wire.Chunk(refused=blob))
            else:
                await self._stream(blob, request, caller, context)

    async def _stream(
        self, blob: Blob, request: wire.BlobRequest, caller: PeerId, context: grpc.aio.ServicerContext
    ) -> None:
        self._traffic.received(blob.kind, caller, framed(request.ByteSize()) + CALL_SENT)
        self._pulls[caller] += 1
        task = asyncio.current_task()
        assert task is not None
        watch, limit = Watch(WRITE_STALL_S, task.cancel), self._uploads.limit
        try:
            with self._uploads.uplink.sending():
                for chunk in transport.chunks(blob, request.offset, request.chunk_bytes, limit.chunk_bytes):
                    with watch.resting():
                        await self._uploads.turn(caller, blob, len(chunk.data))
                    await context.write(chunk)
                    watch.moved()
                    self._traffic.sent(blob.kind, caller, framed(chunk.ByteSize()))
                    self._uploads.uplink.sent(chunk.ByteSize())
        except asyncio.CancelledError:
            if not watch.stalled:
                raise
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the caller stopped reading")
        finally:
            watch.close()
            self._pulls[caller] -= 1
            if not self._pulls[caller]:
                del self._pulls[caller]
            self._traffic.sent(blob.kind, caller, CALL_RECEIVED)

    def _caller(self, context: grpc.aio.ServicerContext) -> PeerId | None:
        for name, value in context.invocation_metadata() or ():
            if name == SESSION_KEY and isinstance(value, bytes):
                return self._door.caller(value, time.monotonic())
        return None


class Direct:
    """The calling side: one link for each peer, the least recently used ones closed."""

    def __init__(
        self, key: Key, run_id: Digest, traffic: Traffic, downloads: RateLimit | None = None
    ) -> None:
        self._key, self._run_id, self._traffic = key, run_id, traffic
        self._downloads = downloads or RateLimit()
        self._links: OrderedDict[PeerId, Link] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    async def send(self, record: Record, envelope: wire.Envelope, timeout_s: float) -> wire.Receipt:
        async with self._using(record) as link:
            return await _bounded(link, self._deliver(link, envelope), timeout_s)

    async def reach(self, record: Record) -> None:
        """Have a session with the peer, or know that there is none to be had."""
        async with self._using(record) as link:
            await _bounded(link, link.session(self._key), REACH_S)

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
        async with self._using(record) as link:
            await _bounded(link, self._stream(link, ref, sink, kind, stall_s), timeout_s)

    async def close(self) -> None:
        for link in self._links.values():
            self._retire(link, at_once=True)
        self._links.clear()
        await asyncio.gather(*self._closing)

    async def _deliver(self, link: Link, envelope: wire.Envelope) -> wire.Receipt:
        peer, receipt = link.record.peer, transport.refusal(UNKNOWN)
        for _ in range(2):
            stub, metadata = await link.session(self._key)
            self._traffic.sent("control", peer, framed(envelope.ByteSize()) + CALL_SENT)
            receipt = await stub.Deliver(envelope, metadata=metadata)
            self._traffic.received("control", peer, framed(receipt.ByteSize()) + CALL_RECEIVED)
            link.answered = True
            if receipt.accepted or receipt.reason != UNKNOWN:
                break
            link.forget(metadata)
        return receipt

    async def _stream(self, link: Link, ref: BlobRef, sink: BlobSink, kind: Kind, stall_s: float) -> None:
        for last_try in (False, True):
            async with link.lane(self._key, sink.stop - sink.received) as (stub, metadata):
                size = min(link.chunk_bytes, self._downloads.chunk_bytes())
                request = transport.request_for(ref, sink, self._run_id, size)
                self._traffic.sent(kind, link.record.peer, framed(request.ByteSize()) + CALL_SENT)
                call = stub.Pull(request, metadata=metadata)
                try:
                    await self._drain(call, link, sink, kind, stall_s)
                    return
                except Refused as refused:
                    if refused.reason != UNKNOWN or last_try:
                        raise
                    link.forget(metadata)
                finally:
                    call.cancel()

    async def _drain(
        self,
        call: grpc.aio.UnaryStreamCall,
        link: Link,
        sink: BlobSink,
        kind: Kind,
        stall_s: float,
    ) -> None:
        peer, done = link.record.peer, False
        begun_s, begun = time.monotonic(), sink.received
        self._traffic.received(kind, peer, CALL_RECEIVED)
        watch = Watch(stall_s, call.cancel)
        try:
            while not done:
                chunk = await call.read()
                watch.moved()
                if chunk is grpc.aio.EOF:
                    raise RemoteProtocolError(transport.cut_short(sink.ref, sink))
                link.answered = True
                self._traffic.received(kind, peer, framed(chunk.ByteSize()))
                with watch.resting():
                    await self._downloads.turn(peer, kind, len(chunk.data))
                done = transport.absorb(peer, chunk, sink)
            link.carried(sink.received - begun, time.monotonic() - begun_s)
        except asyncio.CancelledError:
            if not watch.stalled:
                raise
            told = f"no chunk for {stall_s:g} s, {sink.received} of {sink.stop} bytes are here"
            raise link.lost(told) from None
        finally:
            watch.close()

    @asynccontextmanager
    async def _using(self, record: Record) -> AsyncIterator[Link]:
        link = self._link(record)
        link.users += 1
        try:
            yield link
        finally:
            link.users -= 1
            if link.retired and not link.users:
                self._retire(link)

    def _link(self, record: Record) -> Link:
        """The peer's link, now the newest; a record with another address or certificate gets a new one."""
        link = self._links.pop(record.peer, None)
        if link is None or not link.serves(record):
            if link is not None:
                self._retire(link)
            link = Link(record)
        self._links[record.peer] = link
        idle = [peer for peer, other in self._links.items() if not other.users and other is not link]
        for peer in idle[: max(0, len(self._links) - LINKS_MAX)]:
            self._retire(self._links.pop(peer))
        return link

    def _retire(self, link: Link, at_once: bool = False) -> None:
        """Close a link once nobody uses it: closing a channel cancels the calls on it."""
        link.retired = True
        if at_once or not link.users:
            task = asyncio.ensure_future(link.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


async def _bounded(link: Link, work: Awaitable[T], timeout_s: float) -> T:
    try:
        return await asyncio.wait_for(work, timeout_s)
    except asyncio.TimeoutError:
        raise link.lost(f"not done in {timeout_s:g} s") from None
    except grpc.aio.AioRpcError as error:
        reason = transport.printable(error.details() or error.code().name)
        if error.code() in _GONE:
            raise link.lost(reason) from None
        raise Refused(link.record.peer, reason) from None
