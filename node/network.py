"""A node's place in the network: its identity, servers, ways to others, and who is who.

Gives the daemon three things: `send` (a message to a peer), `fetch` (a blob from a peer), and whatever proven
messages arrive, through the callback it was started with. Signed records travel in the DHT and, so that two
peers that just met can answer each other, in the first envelopes between them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable

import structlog

from atoll import __version__
from atoll.node.addresses import split_address
from atoll.node.blobs import BlobStore, Fetcher
from atoll.node.config import NodeConfig
from atoll.node.dht import Dht, DhtConfig
from atoll.node.direct import Direct, DirectServer
from atoll.node.identity import Identity
from atoll.node.pacing import Pacer
from atoll.node.rate_limit import RateLimit
from atoll.node.router import Router
from atoll.node.streams import Streams, StreamServer
from atoll.node.traffic import Traffic
from atoll.node.transport import Blob, Unreachable, refusal
from atoll.node.uploads import Uploads
from atoll.protocol.envelope import Record, open_envelope, open_record, seal, seal_record
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import Digest, PeerId, short
from atoll.protocol.messages import Message
from atoll.protocol.wire import convert
from atoll.protocol.wire import messages_pb2 as wire

SEND_S = 8.0
SENDS_PENDING_MAX = 2048
QUEUED_PER_PEER_MAX = 256
REASONS_MAX = 256
WILDCARDS = ("0.0.0.0", "::")
LOOPBACKS = ("127.0.0.1", "::1")
DOORS_MAX = 64
FIND_S, FIND_SLOW_S = 1.0, 15.0
log = structlog.get_logger("atoll.network")

Take = Callable[[PeerId, bytes], bool]
"""Takes the bytes of a proven message; False if too many of this peer's wait already. RemoteProtocolError
says what is wrong with them."""


def _hosts(multiaddrs: tuple[str, ...]) -> list[str]:
    """The addresses of this machine that libp2p found, for a server that listens on all of them.

    Its loopback only if there is no other: to another machine, that is the other machine.
    """
    parts = [address.split("/") for address in multiaddrs]
    hosts = dict.fromkeys(part[2] for part in parts if part[1] in ("ip4", "ip6"))
    return [host for host in hosts if host not in LOOPBACKS] or list(hosts)


class Network:
    """Start it with `start`, serve after `listen_to`, `close` when done."""

    def __init__(self, config: NodeConfig, identity: Identity, run_id: Digest) -> None:
        self.config, self.identity, self.run_id = config, identity, run_id
        self.me = identity.peer
        self.traffic, self.uploads = Traffic(), Uploads(RateLimit(config.upload_bytes_per_s))
        self.downloads = RateLimit(config.download_bytes_per_s)
        self.store = BlobStore(config.blob_budget_bytes)
        self.rejected: Counter[str] = Counter()
        self.record = b""
        self._take: Take | None = None
        self._introduced: dict[PeerId, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self.pacer = Pacer(self.uploads.limit)
        self._pacing: asyncio.Task[None] | None = None
        self._sequence = 0
        self._looked_s = 0.0

    @property
    def uplink_bytes_per_s(self) -> int:
        """How fast this peer can send, as far as that is known; else 0."""
        return self.pacer.carried or self.uploads.uplink.bytes_per_s

    @classmethod
    async def start(cls, config: NodeConfig, identity: Identity, run_id: Digest) -> Network:
        """Listen, join the DHT, publish where this peer can be reached.

        Raises ConfigError for addresses that cannot be used, BootstrapFailed if nobody answers.
        """
        self = cls(config, identity, run_id)
        self.dht = await Dht.start(identity, run_id, DhtConfig(config.dht_listen, config.bootstrap))
        self._direct_server: DirectServer | None = None
        try:
            direct = await self._listen()
            streams = StreamServer(self.dht.libp2p, run_id, self, self.traffic, self.uploads)
            await streams.start()
        except BaseException:
            if self._direct_server is not None:
                await self._direct_server.stop()
            await self.dht.close()
            raise
        self._streams = Streams(self.dht.libp2p, run_id, self.traffic, self.downloads)
        direct_calls = Direct(identity.key, run_id, self.traffic, self.downloads)
        self.router = Router(self.me, direct_calls, self._streams, reach=direct_calls.reach)
        self.fetcher = Fetcher(self.store, self.router)
        await self._publish(direct)
        await self.look()
        return self

    async def _listen(self) -> tuple[str, ...]:
        if not self.config.listen:
            return ()
        host, _ = split_address(self.config.listen)
        self._direct_server = DirectServer(self.identity, self.run_id, self, self.traffic, self.uploads)
        port = await self._direct_server.start(self.config.listen)
        hosts = [host] if host not in WILDCARDS else _hosts(await self.dht.libp2p.multiaddrs())
        return tuple(f"[{shown}]:{port}" if ":" in shown else f"{shown}:{port}" for shown in hosts)

    async def _publish(self, direct: tuple[str, ...]) -> None:
        self.multiaddrs = await self.dht.libp2p.multiaddrs()
        self._sequence = max(self._sequence + 1, time.time_ns() // 1_000_000)
        record = Record(
            run_id=self.run_id,
            peer=self.me,
            sequence=self._sequence,
            direct=direct,
            certificate=self.identity.certificate if direct else None,
            multiaddrs=self.multiaddrs,
            role=self.config.role.name.lower(),
            agent=f"atoll/{__version__}",
        )
        self.record = seal_record(self.identity.key, record)
        if not await self.dht.publish(self.record):
            log.warning("the DHT did not take this peer's record; it is offered again")

    async def close(self) -> None:
        """Stop serving, then leave the DHT, always in this order."""
        for task in list(self._tasks):
            task.cancel()
        for running in (self._looking, self._pacing):
            if running is not None:
                running.cancel()
        if self._direct_server is not None:
            await self._direct_server.stop()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.router.close(), 5)
        await self.dht.close()

    # ---- who is who -----------------------------------------------------------------------------

    def listen_to(self, take: Take, found: Callable[[tuple[PeerId, ...]], None]) -> None:
        """From now on messages go to `take`, and newly discovered peers to `found`."""
        self._take = take
        self._looking = asyncio.ensure_future(self._keep_looking(found))
        self._pacing = asyncio.ensure_future(self.pacer.run())

    async def look(self) -> tuple[PeerId, ...]:
        """Learn the records that the DHT holds; who is in it."""
        records = await self.dht.find()
        for record in records:
            self.router.learn(record)
        return tuple(record.peer for record in records if record.peer != self.me)

    async def meet(self, peers: Iterable[PeerId]) -> None:
        """Ask the DHT for peers that this one has not met yet, at most once in a while."""
        unknown = any(self.router.record_of(peer) is None for peer in peers if peer != self.me)
        if unknown and time.monotonic() - self._looked_s >= FIND_S:
            self._looked_s = time.monotonic()
            with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
                await asyncio.wait_for(self.look(), SEND_S)

    async def _keep_looking(self, found: Callable[[tuple[PeerId, ...]], None]) -> None:
        known: tuple[PeerId, ...] = ()
        wait_s = FIND_S
        while True:
            with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
                peers = await asyncio.wait_for(self.look(), 10)
                wait_s = FIND_S if peers != known else min(FIND_SLOW_S, 2 * wait_s)
                known = peers
                found(peers)
                await self._hold_doors(peers)
            await asyncio.sleep(wait_s)

    async def _hold_doors(self, peers: tuple[PeerId, ...]) -> None:
        """Stay connected over libp2p to those who have not called the direct address: perhaps they cannot.

        A peer behind a NAT is reached through connections of its own; the DHT alone keeps only some.
        """
        records = [self.router.record_of(peer) for peer in peers if not self._was_called_by(peer)]
        doors = [record for record in records if record is not None and record.multiaddrs]
        await asyncio.gather(*(self._streams.hold_door(record) for record in doors[:DOORS_MAX]))

    def _was_called_by(self, peer: PeerId) -> bool:
        return self._direct_server is not None and self._direct_server.was_called_by(peer)

    def path_of(self, peer: PeerId) -> str:
        return self.router.path_of(peer)

    # ---- out ------------------------------------------------------------------------------------

    def send(self, peer: PeerId, message: Message, epoch: int, lost: Callable[[PeerId], None]) -> None:
        """Send in the background; `lost` is called if nobody answers there."""
        if len(self._tasks) >= SENDS_PENDING_MAX:
            self.rejected["own messages that found no place to wait"] += 1
            return
        task = asyncio.ensure_future(self._send(peer, message, epoch, lost))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, peer: PeerId, message: Message, epoch: int, lost: Callable[[PeerId], None]) -> None:
        await self.meet((peer,))
        if self.router.record_of(peer) is None:
            return  # the DHT will name it; the protocol repeats itself
        fresh = time.monotonic() - self._introduced.get(peer, -60.0) >= 60.0
        body = convert.encode(message, epoch)
        envelope = seal(self.identity.key, self.run_id, body, self.record if fresh else b"")
        try:
            receipt = await self.router.send(peer, envelope, SEND_S)
        except Unreachable as error:
            log.debug("unreachable", peer=short(peer), reason=error.reason)
            self._introduced.pop(peer, None)
            lost(peer)
        except RemoteProtocolError as error:
            self.reject(str(error), peer=short(peer))
        else:
            self._introduced[peer] = time.monotonic()
            if not receipt.accepted:
                log.info("refused", peer=short(peer), reason=receipt.reason, message=type(message).__name__)

    # ---- in (this is the Host that the servers serve) -------------------------------------------

    async def deliver(self, envelope: wire.Envelope) -> wire.Receipt:
        """Check an envelope and hand its message on; the sender can read why not."""
        try:
            sender, body = open_envelope(envelope, self.run_id)
            if envelope.record:
                self._learn(sender, envelope.record)
            if self._take is None:
                return refusal("this peer is still starting")
            if not self._take(sender, body):
                return refusal(f"{QUEUED_PER_PEER_MAX} of your messages wait already")
        except RemoteProtocolError as error:
            self.reject(str(error))
            return refusal(str(error))
        return wire.Receipt(accepted=True)

    def _learn(self, sender: PeerId, raw: bytes) -> None:
        record = open_record(raw, self.run_id)
        if record.peer != sender:
            raise RemoteProtocolError("the record in the envelope is another peer's")
        self.router.learn(record)

    def open_blob(self, digest: Digest) -> Blob | None:
        return self.store.open(digest)

    def reject(self, reason: str, **what: str) -> None:
        """Count and log a fault of a peer's. Its words may be in the reason, so the kinds are bounded."""
        kind = reason[:80]
        if kind not in self.rejected and len(self.rejected) >= REASONS_MAX:
            kind = "other reasons"
        self.rejected[kind] += 1
        log.warning("rejected", reason=reason, **what)
