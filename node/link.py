"""The caller's way to one peer: TLS connections to its direct address, and the session on them.

Most peers need one connection. TCP by the usual rules (cubic) takes every lost packet for a full queue, and
the further away the other side is, the longer it takes to speed up again: with 1 % loss and 40 ms one
connection carries 4 Mbit/s of any link. So where the way is long, streams that run at the same time get
connections of their own, up to `LANES_MAX`.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from atoll.node.addresses import split_address
from atoll.node.identity import CERTIFICATE_NAME
from atoll.node.rpc.peer_pb2_grpc import PeerStub
from atoll.node.sessions import answer
from atoll.node.transport import (
    CHUNK_BYTES,
    CHUNK_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    Refused,
    Unreachable,
    read_chunk,
)
from atoll.protocol.envelope import Record
from atoll.protocol.ids import digest_bytes
from atoll.protocol.keys import Key
from atoll.protocol.wire import messages_pb2 as wire

SESSION_KEY = "session-bin"
PULL = "/atoll.Peer/Pull"
CONNECT_S = 3.0

LANES_MAX = 6
FAR_S = 0.01
"""A round trip from which on a way is long."""
LANE_BYTES_MIN = 256 << 10
"""Smaller blobs are there before a connection is."""

CHUNK_S = 0.05
"""How long a stream may take for a chunk, at the pace of the last one."""

LOOKAHEAD_BYTES = 1 << 20
"""What a stream may send ahead of its reader at once: 64 KiB, gRPC's own, is 13 Mbit/s at 40 ms until its
estimates have grown."""

SIZES = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX + (1 << 20)),
    ("grpc.max_metadata_size", 8 << 10),
]
_CALLER = [
    *SIZES,
    ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
    ("grpc.keepalive_time_ms", 3000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),  # so each channel has a connection of its own
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.ssl_target_name_override", CERTIFICATE_NAME),
]

Metadata = list[tuple[str, bytes]]


@dataclass(slots=True, eq=False)
class _Lane:
    """One connection, and how many blobs it carries now."""

    channel: grpc.aio.Channel
    stub: PeerStub
    streams: int = 0


class Link:
    """To one peer at one address: made on first use. `token` is the session, on all of its connections."""

    def __init__(self, record: Record) -> None:
        self.record, self.users, self.retired = record, 0, False
        self.token, self.answered = b"", False
        self.round_trip_s, self.chunk_bytes = 0.0, CHUNK_BYTES
        self._way: tuple[str, grpc.ChannelCredentials] | None = None
        self._lanes: list[_Lane] = []
        self._opening = asyncio.Lock()

    @property
    def connections(self) -> int:
        return len(self._lanes)

    def serves(self, record: Record) -> bool:
        return (self.record.direct, self.record.certificate) == (record.direct, record.certificate)

    async def session(self, key: Key) -> tuple[PeerStub, Metadata]:
        """A stub and the metadata of a session on it; Refused if the server will have none."""
        async with self._opening:
            if self._way is None:
                self._way = await self._dial()
                self._lanes.append(self._open(*self._way))
            stub = self._lanes[0].stub
            if not self.token:
                self.token = await self._prove(stub, key)
        return stub, [(SESSION_KEY, self.token)]

    def carried(self, count_bytes: int, seconds: float) -> None:
        """What a stream came to: the next one's chunks are as large as it would have brought in `CHUNK_S`."""
        if count_bytes >= LANE_BYTES_MIN and seconds > 0:
            soon = int(CHUNK_S * count_bytes / seconds)
            self.chunk_bytes = min(max(soon, CHUNK_BYTES), CHUNK_BYTES_MAX)

    @asynccontextmanager
    async def lane(self, key: Key, size: int) -> AsyncIterator[tuple[PeerStub, Metadata]]:
        """The connection for a blob of `size` bytes: the one with the fewest, or a new one."""
        _, metadata = await self.session(key)
        lane = min(self._lanes, key=lambda one: one.streams)
        far = self.round_trip_s >= FAR_S and size >= LANE_BYTES_MIN
        if lane.streams and far and len(self._lanes) < LANES_MAX and self._way is not None:
            lane = self._open(*self._way)
            self._lanes.append(lane)
        lane.streams += 1
        try:
            yield lane.stub, metadata
        finally:
            lane.streams -= 1

    def forget(self, metadata: Metadata) -> None:
        """The server does not know this session (any more)."""
        if self.token == metadata[0][1]:
            self.token = b""

    def lost(self, reason: str) -> Unreachable:
        """The failure of a call. That this path had worked is told once: the next caller tries another."""
        answered, self.answered = self.answered, False
        return Unreachable(self.record.peer, reason, answered=answered)

    async def close(self) -> None:
        for lane in self._lanes:
            await lane.channel.close()

    def _open(self, address: str, credentials: grpc.ChannelCredentials) -> _Lane:
        channel = grpc.aio.secure_channel(address, credentials, options=_CALLER)
        stub = PeerStub(channel)
        stub.Pull = channel.unary_stream(PULL, wire.BlobRequest.SerializeToString, read_chunk)
        return _Lane(channel, stub)

    async def _dial(self) -> tuple[str, grpc.ChannelCredentials]:
        reasons = []
        for address in self.record.direct:
            try:
                der = await asyncio.wait_for(fetch_certificate(address), CONNECT_S)
            except asyncio.TimeoutError:
                reasons.append(f"{address}: no answer in {CONNECT_S:g} s")
            except (OSError, ValueError) as error:
                reasons.append(f"{address}: {error}")
            else:
                if hashlib.sha256(der).hexdigest() == self.record.certificate:
                    roots = ssl.DER_cert_to_PEM_cert(der).encode()
                    return address, grpc.ssl_channel_credentials(roots)
                reasons.append(f"{address}: its certificate is not the one in the peer's record")
        raise self.lost("; ".join(reasons) or "its record names no direct address")

    async def _prove(self, stub: PeerStub, key: Key) -> bytes:
        record = self.record
        assert record.certificate is not None
        challenge = wire.Challenge(run_id=digest_bytes(record.run_id), public_key=key.public)
        nonce = (await stub.Greet(challenge, timeout=CONNECT_S)).nonce
        asked_s = time.monotonic()
        session = await stub.Prove(answer(key, record.certificate, nonce, record.run_id), timeout=CONNECT_S)
        self.round_trip_s = time.monotonic() - asked_s
        if not session.token:
            raise Refused(record.peer, session.refused)
        return bytes(session.token)


async def fetch_certificate(address: str) -> bytes:
    """The DER certificate that a TLS server shows, not trusted yet."""
    host, port = split_address(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        return writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
    finally:
        writer.transport.abort()
