"""The rendezvous of a run: peers publish their signed records and ledger heads in a Kademlia DHT.

This is the one module that imports hivemind (a second, and torch with it). A `DHTNode` and libp2p's daemon
run beside everything else in this event loop. What others store here is bounded: only the two dictionaries of
this run, one entry for each key, signed by that key, small, and not for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import warnings
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from atoll.workload.quick_imports import parts_only

with (
    parts_only("hivemind"),
    warnings.catch_warnings(),
):  # torch and hivemind warn about themselves when they are imported
    warnings.simplefilter("ignore")
    from hivemind.dht import DHTNode
    from hivemind.dht.protocol import ValidationError
    from hivemind.dht.routing import DHTID
    from hivemind.p2p import P2P, PeerID
    from hivemind.p2p.p2p_daemon_bindings.control import DaemonConnector
    from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
    from hivemind.p2p.p2p_daemon_bindings.utils import (
        P2PDaemonError,
        raise_if_failed,
        read_pbmsg_safe,
        write_pbmsg,
    )
    from hivemind.proto import p2pd_pb2
    from hivemind.utils import get_dht_time
    from hivemind.utils.logging import use_hivemind_log_handler
    from hivemind.utils.multiaddr import Multiaddr

from atoll.node.dht_entries import Rules, owner_of, subkey_of
from atoll.node.identity import Identity
from atoll.node.p2pd import P2pd
from atoll.node.transport import BootstrapFailed
from atoll.protocol.envelope import RECORD_BYTES_MAX, Record, open_record
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import Digest, PeerId, peer_id, public_key_of, short

use_hivemind_log_handler("nowhere")
log = logging.getLogger("atoll.dht")

HEAD_BYTES_MAX = 4096
LEASE_S, REPUBLISH_S = 60.0, 20.0
CHECK_S, CHECK_MAX_S, DIAL_S, ANSWER_S = 1.0, 15.0, 5.0, 3.0
KNOWN_MAX = 64

StreamHandler = Callable[[PeerId, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class DhtConfig:
    """Where libp2p listens, which of a run's addresses to meet first, and for how long to try."""

    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    initial_peers: tuple[str, ...] = ()
    announce: tuple[str, ...] = ()
    startup_s: float = 30.0
    bootstrap_s: float = 20.0


class Libp2p:
    """Raw libp2p streams to and from peers, over this peer's p2pd. Failures are ConnectionError."""

    def __init__(self, daemon: P2pd, p2p: P2P) -> None:
        self.daemon, self.p2p = daemon, p2p
        self._connector = DaemonConnector(Multiaddr(daemon.control))

    @classmethod
    async def start(cls, identity: Identity, config: DhtConfig) -> Libp2p:
        daemon = await P2pd.start(
            identity.p2p_file, config.listen, config.announce, config.initial_peers, config.startup_s
        )
        try:
            p2p = await asyncio.wait_for(P2P.replicate(Multiaddr(daemon.control)), config.startup_s)
        except BaseException as error:
            await daemon.stop()
            if isinstance(error, (P2PDaemonError, OSError, EOFError, asyncio.TimeoutError)):
                raise BootstrapFailed(f"p2pd does not answer: {error}") from None
            raise
        assert str(p2p.peer_id) == identity.peer
        return cls(daemon, p2p)

    async def multiaddrs(self) -> tuple[str, ...]:
        """The addresses under which others may find this peer."""
        return tuple(str(address) for address in await self.p2p.get_visible_maddrs(latest=True))

    async def connect(self, peer: PeerId, multiaddrs: Sequence[str], timeout_s: float) -> None:
        """Be connected to a peer, by any of its addresses."""
        request = p2pd_pb2.ConnectRequest(
            peer=PeerID.from_base58(peer).to_bytes(),
            addrs=[address for text in multiaddrs if (address := _packed(text))],
            timeout=max(1, round(timeout_s)),
        )
        message = p2pd_pb2.Request(type=p2pd_pb2.Request.CONNECT, connect=request)
        _, _, writer = await asyncio.wait_for(self._control(message), timeout_s)
        writer.close()

    async def open(self, peer: PeerId, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new stream to a connected peer; it has proven its id to p2pd."""
        request = p2pd_pb2.StreamOpenRequest(peer=PeerID.from_base58(peer).to_bytes(), proto=[protocol])
        message = p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=request)
        _, reader, writer = await self._control(message)
        return reader, writer

    async def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Give every incoming stream of `protocol` to `handler`, with the id that the caller has proven."""

        async def accept(
            info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            with contextlib.closing(writer):
                await handler(PeerId(info.peer_id.to_base58()), reader, writer)

        await self.p2p.add_binary_stream_handler(protocol, accept)

    async def close(self) -> None:
        await self.p2p.shutdown()
        await self.daemon.stop()

    async def _control(
        self, request: p2pd_pb2.Request
    ) -> tuple[p2pd_pb2.Response, asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            reader, writer = await self._connector.open_connection()
        except OSError as error:
            raise ConnectionError(f"p2pd is gone: {error}") from None
        try:
            await write_pbmsg(writer, request)
            response = p2pd_pb2.Response()
            await read_pbmsg_safe(reader, response)
            raise_if_failed(response)
        except BaseException as error:
            writer.transport.abort()
            if isinstance(error, (P2PDaemonError, asyncio.IncompleteReadError, OSError)):
                raise ConnectionError(str(error).removeprefix("Connect failed. msg=")) from None
            raise
        return response, reader, writer


def _packed(text: str) -> bytes:
    """A multiaddr of a peer's record as p2pd takes it: without the peer, and empty if it is not one."""
    try:
        return bytes(Multiaddr(text.partition("/p2p/")[0]).to_bytes())
    except ValueError:
        return b""


class Dht:
    """This peer's place in the DHT of one run. `start` it, `publish`, `find`; `close` when done."""

    def __init__(self, libp2p: Libp2p, node: DHTNode, public_key: bytes, run_id: Digest) -> None:
        self.libp2p, self._node, self._run_id = libp2p, node, run_id
        self._peer, self._subkey = peer_id(public_key), subkey_of(public_key)
        self._members, self._heads = _names(run_id)
        self._mine: dict[str, bytes] = {}
        self._until_s: dict[str, float] = {}
        self._known: OrderedDict[PeerId, tuple[str, ...]] = OrderedDict()
        self._initial: frozenset[PeerId] = frozenset()
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, identity: Identity, run_id: Digest, config: DhtConfig) -> Dht:
        """Join the run's DHT, or begin it when there is nobody to meet.

        Raises BootstrapFailed when none of `initial_peers` answers, ConfigError for bad addresses.
        """
        known = [_parse(address) for address in config.initial_peers]
        libp2p = await Libp2p.start(identity, config)
        members, heads = _names(run_id)
        limits_bytes = {_id(members): RECORD_BYTES_MAX, _id(heads): HEAD_BYTES_MAX}
        try:
            node = await DHTNode.create(
                p2p=libp2p.p2p,
                record_validator=Rules(identity.key, limits_bytes, get_dht_time),
                wait_timeout=ANSWER_S,
                parallel_rpc=32,
                cache_locally=False,
                cache_nearest=0,
                cache_refresh_before_expiry=0,
                cache_on_store=False,
                cache_size=4,
            )
            self = cls(libp2p, node, identity.key.public, run_id)
            for peer, address in known:
                self._known[peer] = (*self._known.get(peer, ()), address)
            self._initial = frozenset(self._known)
            if known:
                await self._bootstrap(config.bootstrap_s)
        except BaseException:
            await libp2p.close()
            raise
        self._task = asyncio.ensure_future(self._keep_up())
        return self

    async def close(self) -> None:
        """Leave: DHTNode first, then P2P and its daemon. Closing twice is closing once."""
        if self._task is None:
            return
        task, self._task = self._task, None
        task.cancel()
        await asyncio.wait([task])
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._node.shutdown(), ANSWER_S)
        await self.libp2p.close()

    @property
    def alive(self) -> bool:
        return self.libp2p.daemon.alive

    def neighbours(self) -> int:
        """How many other nodes of the DHT this one knows; alone, it stores and finds only its own."""
        return len(self._node.protocol.routing_table.peer_id_to_uid)

    def traffic_bytes(self) -> tuple[int, int] | None:
        return self.libp2p.daemon.traffic_bytes()

    async def publish(self, record: bytes) -> bool:
        """Store this peer's signed record, and again every `REPUBLISH_S`, until another is published."""
        assert open_record(record, self._run_id).peer == self._peer
        return await self._publish(self._members, record)

    async def publish_head(self, head: bytes) -> bool:
        """Store what this peer knows of the ledger's head, at most `HEAD_BYTES_MAX`."""
        assert len(head) <= HEAD_BYTES_MAX
        return await self._publish(self._heads, head)

    async def find(self) -> list[Record]:
        """The signed records of the run's peers, this one's too if it is published."""
        records = []
        for owner, value in (await self._entries(self._members)).items():
            try:
                record = open_record(value, self._run_id)
            except RemoteProtocolError as error:
                log.debug("the record of %s is bad: %s", short(owner), error)
                continue
            if record.peer == owner:
                records.append(record)
                self._remember(record)
        return records

    async def heads(self) -> dict[PeerId, bytes]:
        """Who says what of the ledger's head: each entry is signed by its peer, not checked further."""
        return await self._entries(self._heads)

    async def _publish(self, name: str, value: bytes) -> bool:
        self._mine[name] = value
        return await self._store(name)

    async def _store(self, name: str) -> bool:
        until_s = max(get_dht_time() + LEASE_S, self._until_s.get(name, 0.0) + 0.001)
        self._until_s[name] = until_s
        return bool(await self._node.store(name, self._mine[name], until_s, subkey=self._subkey))

    async def _entries(self, name: str) -> dict[PeerId, bytes]:
        found = await self._node.get(name, latest=True)
        entries = {}
        for subkey, entry in found.value.items() if found and isinstance(found.value, dict) else ():
            owner = owner_of(subkey)
            if owner is not None and isinstance(entry.value, bytes):
                entries[peer_id(owner)] = entry.value
        return entries

    def _remember(self, record: Record) -> None:
        """Keep a few peers' addresses, to find the others again after this peer was cut off."""
        if record.multiaddrs and record.peer != self._peer:
            self._known[record.peer] = record.multiaddrs
            if len(self._known) > KNOWN_MAX:
                del self._known[next(peer for peer in self._known if peer not in self._initial)]

    async def _keep_up(self) -> None:
        """Publish again before it expires; meet the known peers again when they vanished from the table.

        A node that was cut off does not come back by itself, and its own `store` answers True meanwhile.
        """
        wait_s, publish_at_s = CHECK_S, get_dht_time() + REPUBLISH_S
        while True:
            await asyncio.sleep(wait_s)
            alone, due = not self.neighbours(), get_dht_time() >= publish_at_s
            wait_s = min(CHECK_MAX_S, 2 * wait_s) if alone else CHECK_S
            try:
                if (alone or due) and (missing := self._missing()) and await self._meet(missing[:4]):
                    due, wait_s = True, CHECK_S
                if due:
                    publish_at_s = get_dht_time() + REPUBLISH_S
                    await asyncio.gather(*(self._store(name) for name in list(self._mine)))
            except Exception:  # whatever hivemind raises: this loop must outlive it
                log.exception("the DHT could not be kept up; trying again")

    def _missing(self) -> list[PeerId]:
        """Known peers that are not in the routing table, the longest untried first."""
        table = self._node.protocol.routing_table.peer_id_to_uid
        missing = [peer for peer in self._known if PeerID.from_base58(peer) not in table]
        for peer in missing[:4]:
            self._known.move_to_end(peer)
        return missing

    async def _bootstrap(self, within_s: float) -> None:
        until_s, reasons = get_dht_time() + within_s, ["nobody answered"]
        while not (met := await self._meet(list(self._known), reasons)) and get_dht_time() < until_s:
            await asyncio.sleep(0.3)
        if not met:
            raise BootstrapFailed(f"none of the run's addresses answers: {reasons[-1]}")

    async def _meet(self, peers: Sequence[PeerId], reasons: list[str] | None = None) -> bool:
        """Dial and ping peers, so that both sides have each other in their tables; True if one answered."""
        answers = await asyncio.gather(*(self._ping(peer) for peer in peers))
        if reasons is not None:
            reasons += [answer for answer in answers if answer]
        if all(answers):
            return False
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._node.find_nearest_nodes([self._node.node_id]), ANSWER_S)
        return True

    async def _ping(self, peer: PeerId) -> str:
        """Empty if the peer answers as a node of this DHT, else why not."""
        node_peer = PeerID.from_base58(peer)
        try:
            await self.libp2p.connect(peer, self._known[peer], DIAL_S)
            self._node.blacklist.register_success(node_peer)
            answer = await self._node.protocol.call_ping(node_peer, validate=True)
        except asyncio.TimeoutError:
            return f"{short(peer)} does not answer in {DIAL_S:g} s"
        except (ConnectionError, ValidationError) as error:
            return f"{short(peer)}: {error}"
        return "" if answer is not None else f"{short(peer)} does not answer as a node of the DHT"


def _names(run_id: Digest) -> tuple[str, str]:
    return f"atoll/{run_id}/members", f"atoll/{run_id}/heads"


def _id(name: str) -> bytes:
    return bytes(DHTID.generate(source=name).to_bytes())


def _parse(address: str) -> tuple[PeerId, str]:
    """The peer at the end of a bootstrap address."""
    _, mark, peer = address.rpartition("/p2p/")
    try:
        public_key_of(peer)
        Multiaddr(address)
    except (RemoteProtocolError, ValueError):
        right = "/ip4/203.0.113.7/tcp/4001/p2p/12D3Koo…"
        raise ConfigError("not a libp2p address with a peer", address[:120], right) from None
    assert mark
    return PeerId(peer), address
