"""What every transport must do. `test_direct.py` and `test_libp2p.py` run it over their own sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
from serve_peer import RUN, Server, process

from atoll.node import transport
from atoll.node.blobs import BlobStore, Fetcher, Sink
from atoll.node.chunks import digests_of
from atoll.node.identity import Identity, load_or_create
from atoll.node.rate_limit import BURST_S, RateLimit
from atoll.node.router import Router
from atoll.node.state_fetch import ListSink, RangeSink
from atoll.node.traffic import Traffic
from atoll.node.transport import Blob, Refused, Transport, Unreachable
from atoll.node.uploads import Uploads
from atoll.protocol.envelope import ENVELOPE_BYTES_MAX, Record, open_envelope, seal
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest, digest_of
from atoll.protocol.keys import Key
from atoll.protocol.wire import messages_pb2 as wire

MIB = 1 << 20


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def noise(count_bytes: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(count_bytes)


@dataclass
class Island:
    """A host with a store: it checks envelopes as a peer does, and keeps what it took."""

    store: BlobStore = field(default_factory=lambda: BlobStore(256 * MIB))
    taken: list[bytes] = field(default_factory=list)
    says: str = ""
    uploads: Uploads = field(default_factory=Uploads)

    async def deliver(self, envelope: wire.Envelope) -> wire.Receipt:
        _, body = open_envelope(envelope, RUN)
        if self.says:
            return wire.Receipt(accepted=False, reason=self.says)
        self.taken.append(body)
        return wire.Receipt(accepted=True)

    def open_blob(self, digest: Digest) -> Blob | None:
        return self.store.open(digest)


@dataclass
class World:
    """One server and one caller of a transport, in this process."""

    island: Island
    record: Record
    server_traffic: Traffic
    caller: Identity
    transport: Transport
    traffic: Traffic
    downloads: RateLimit
    store: BlobStore = field(default_factory=lambda: BlobStore(256 * MIB))

    def sink(self, ref: BlobRef) -> Sink:
        return self.store.receive(ref, round=1, kind="result")

    async def pull(self, ref: BlobRef, sink: Sink | None = None, stall_s: float = 3) -> bytes:
        sink = sink or self.sink(ref)
        await self.transport.pull(self.record, ref, sink, kind="result", timeout_s=20, stall_s=stall_s)
        blob = self.store.get(ref.digest)
        assert blob is not None
        return bytes(blob)

    async def say(self, body: bytes, key: Key | None = None) -> wire.Receipt:
        return await self.transport.send(self.record, seal(key or self.caller.key, RUN, body), 10)


class Wires(Protocol):
    """A transport under test: opens its server and its caller."""

    name: str

    def serving(self, identity: Identity, island: Island, traffic: Traffic) -> Any: ...
    def calling(self, identity: Identity, traffic: Traffic, downloads: RateLimit = ...) -> Any: ...


@asynccontextmanager
async def world(wires: Wires, folder: Path) -> AsyncIterator[World]:
    island, there, here, downloads = Island(), Traffic(), Traffic(), RateLimit()
    server, caller = load_or_create(folder / "server"), load_or_create(folder / "caller")
    async with AsyncExitStack() as stack:
        record, way = await asyncio.gather(
            stack.enter_async_context(wires.serving(server, island, there)),
            stack.enter_async_context(wires.calling(caller, here, downloads)),
        )
        yield World(island, record, there, caller, way, here, downloads)


@asynccontextmanager
async def proxy(port: int) -> AsyncIterator[tuple[int, dict[str, int]]]:
    """A port that leads to `port` of this machine, and a count of the bytes that pass."""
    passed, writers = {"sent": 0, "received": 0}, []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        writers.append(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                passed[way] += len(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, back, "sent"), pump(there, writer, "received"))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], passed
    finally:
        server.close()
        for writer in writers:
            writer.close()


class Killing(Sink):
    """A sink that sends a signal to the server once some bytes are here."""

    def __init__(self, store: BlobStore, ref: BlobRef, server: Server, sign: signal.Signals) -> None:
        super().__init__(store, ref, 1, "result")
        self._server: Server | None = server
        self._sign = sign

    def write(self, data: bytes) -> None:
        super().write(data)
        if self._server is not None and self.received >= MIB:
            self._server.signal(self._sign)
            self._server = None


class Contract:
    """Tests that a transport inherits."""

    wires: Wires

    def test_delivers_envelopes_and_brings_the_receipt_back(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                assert (await w.say(b"hello")).accepted
                assert w.island.taken == [b"hello"]
                w.island.says = "not in this round"
                receipt = await w.say(b"again")
                assert (receipt.accepted, receipt.reason) == (False, "not in this round")

        run(story())

    def test_many_envelopes_at_once(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                receipts = await asyncio.gather(*(w.say(b"%d" % i) for i in range(30)))
                assert all(receipt.accepted for receipt in receipts)
                assert sorted(w.island.taken, key=int) == [b"%d" % i for i in range(30)]

        run(story())

    def test_many_pulls_at_once_through_a_router(self, tmp_path: Path) -> None:
        """More than a server grants one caller: the router lets them wait for their turn."""

        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                router = Router(w.caller.peer, w.transport, w.transport)
                router.learn(w.record)
                fetcher = Fetcher(w.store, router)
                blobs = [noise(100_000, seed) for seed in range(3 * transport.PULLS_PER_PEER)]
                refs = [w.island.store.put(blob, round=1, kind="state") for blob in blobs]
                got = await asyncio.gather(
                    *(
                        fetcher.fetch(ref, [w.record.peer], round=1, kind="state", timeout_s=20)
                        for ref in refs
                    )
                )
                assert got == blobs

        run(story())

    def test_refuses_the_envelope_of_another_peer(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                receipt = await w.say(b"hello", Key.generate())
                assert (receipt.accepted, receipt.reason) == (
                    False,
                    "the envelope is not the caller's own",
                )
                assert not w.island.taken

        run(story())

    def test_refuses_a_mis_signed_envelope_with_the_hosts_reason(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                envelope = seal(w.caller.key, RUN, b"hello")
                envelope.body = b"other"
                receipt = await w.transport.send(w.record, envelope, 10)
                assert not receipt.accepted
                assert "signature does not match" in receipt.reason

        run(story())

    def test_refuses_an_envelope_that_is_too_large(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                with pytest.raises(Refused, match=r"larger|at most"):
                    await w.say(bytes(ENVELOPE_BYTES_MAX + 100_000))
                assert (await w.say(bytes(ENVELOPE_BYTES_MAX))).accepted
                assert [len(body) for body in w.island.taken] == [ENVELOPE_BYTES_MAX]

        run(story())

    @pytest.mark.parametrize("size", [0, 1, transport.CHUNK_BYTES, 3 * MIB + 5])
    def test_pulls_a_blob_whole(self, tmp_path: Path, size: int) -> None:
        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                ref = w.island.store.put(noise(size), round=1, kind="result")
                assert await w.pull(ref) == noise(size)

        run(story())

    def test_goes_on_where_the_sink_stopped(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                blob = noise(2 * MIB)
                ref, sink = w.island.store.put(blob, round=1, kind="result"), None
                sink = w.sink(ref)
                sink.write(blob[: MIB + 3])
                assert await w.pull(ref, sink) == blob
                assert w.traffic.snapshot()["kinds"]["result"]["received"] < 1.1 * MIB

        run(story())

    def test_carries_a_range_and_a_list_of_digests(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                blob = noise(3 * MIB + 5)
                ref = w.island.store.put(blob, round=1, kind="state")
                for index in (0, 2, 3):
                    sink = RangeSink(ref, index)
                    await w.transport.pull(w.record, ref, sink, kind="state", timeout_s=20)
                    assert sink.data == blob[index * MIB : (index + 1) * MIB]
                assert w.traffic.snapshot()["kinds"]["state"]["received"] < 1.01 * (2 * MIB + 5) + 2000
                digests = ListSink(ref)
                await w.transport.pull(w.record, ref, digests, kind="state", timeout_s=20)
                assert digests.data == digests_of(memoryview(blob))
                other = w.island.store.put(noise(9), round=1, kind="result")
                with pytest.raises(Refused, match="only the blobs of states"):
                    await w.transport.pull(w.record, other, ListSink(other), kind="state", timeout_s=20)

        run(story())

    @pytest.mark.parametrize("side", ["upload", "download"])
    def test_keeps_to_a_limit(self, tmp_path: Path, side: str) -> None:
        """A blob of half a second takes no less; a slow reader is not taken for one that is gone."""

        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                limit = w.island.uploads.limit if side == "upload" else w.downloads
                limit.bytes_per_s = 2 * MIB
                begun_s = time.monotonic()
                refs = [w.island.store.put(noise(MIB // 2, n), round=1, kind="state") for n in (1, 2)]
                assert await asyncio.gather(*map(w.pull, refs)) == [noise(MIB // 2, 1), noise(MIB // 2, 2)]
                assert time.monotonic() - begun_s > 0.5 - 2 * BURST_S

        run(story())

    def test_counts_what_it_carries_on_both_sides(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                await w.pull(w.island.store.put(noise(2 * MIB), round=1, kind="contribution"))
                await w.say(b"hello")
                here, there = w.traffic.snapshot(), w.server_traffic.snapshot()
                assert 2 * MIB < here["kinds"]["result"]["received"] < 1.005 * 2 * MIB
                assert 2 * MIB < there["kinds"]["contribution"]["sent"] < 1.005 * 2 * MIB
                assert here["kinds"]["control"]["sent"] == there["kinds"]["control"]["received"] > 5
                assert list(there["peers"]) == [w.caller.peer]

        run(story())

    def test_its_count_agrees_with_that_of_a_proxy(self, tmp_path: Path) -> None:
        """Messages and what carries them: to 1 % for a blob, to a tenth for small messages."""

        async def story() -> None:
            async with world(self.wires, tmp_path) as w, proxy(self.port_of(w.record)) as (port, passed):
                w.record = self.at_port(w.record, port)
                assert (await w.say(b"the first call also opens the channel")).accepted
                refs = [w.island.store.put(noise(4 * MIB, n), round=1, kind="result") for n in (1, 2)]
                for work, kind, way, tolerance in (
                    (lambda: w.pull(refs[0]), "result", "received", 0.01),
                    (
                        lambda: asyncio.gather(*(w.say(bytes(1000)) for _ in range(20))),
                        "control",
                        "sent",
                        0.1,
                    ),
                    (lambda: w.pull(refs[1]), "result", "received", 0.01),
                ):
                    before, counted = passed[way], w.traffic.snapshot()["kinds"][kind][way]
                    await work()
                    counted = w.traffic.snapshot()["kinds"][kind][way] - counted
                    assert counted == pytest.approx(passed[way] - before, rel=tolerance)

        run(story())

    at_port: Callable[[Record, int], Record]
    port_of: Callable[[Record], int]

    def test_refuses_pulls_with_a_readable_reason(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                ref = w.island.store.put(noise(1000), round=1, kind="result")
                missing = BlobRef(digest_of(b"missing"), 10)
                with pytest.raises(Refused, match="no blob"):
                    await w.pull(missing)
                with pytest.raises(Refused, match="has 1000 bytes"):
                    await w.pull(BlobRef(ref.digest, 999))
                assert len(w.store) == 0

        run(story())

    def test_bytes_of_another_digest_are_an_error(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                w.island.open_blob = lambda _: Blob(memoryview(noise(1000)), "result")  # type: ignore[method-assign]
                with pytest.raises(RemoteProtocolError, match="do not have the digest"):
                    await w.pull(BlobRef(digest_of(b"other"), 1000))
                assert len(w.store) == 0

        run(story())

    @pytest.mark.parametrize("wrong", ["no last chunk", "last too early", "too long", "empty chunks"])
    def test_a_wrong_stream_is_never_a_blob(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
    ) -> None:
        def chunks(blob: Blob, offset: int, size: int, most: int) -> Iterator[wire.Chunk]:
            whole = bytes(blob.view)
            yield wire.Chunk(data=whole[:1000])
            if wrong == "last too early":
                yield wire.Chunk(data=whole[1000:-1], last=True)
            if wrong == "too long":
                yield wire.Chunk(data=whole[1000:] + b"!", last=True)
            while wrong == "empty chunks":
                yield wire.Chunk()

        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                ref = w.island.store.put(noise(2000), round=1, kind="result")
                monkeypatch.setattr(transport, "chunks", chunks)
                with pytest.raises((RemoteProtocolError, Unreachable)) as caught:
                    await w.pull(ref)
                said = {
                    "no last chunk": "without a last chunk",
                    "last too early": "came after 1999 of 2000",
                    "too long": "more than the 2000 bytes",
                    "empty chunks": "empty chunk",
                }
                assert said[wrong] in str(caught.value)
                assert len(w.store) == 0

        run(story())

    def test_nobody_there(self, tmp_path: Path) -> None:
        async def story() -> None:
            async with world(self.wires, tmp_path) as w:
                record = self.at_no_address(w.record)
                began = time.monotonic()
                with pytest.raises(Unreachable) as caught:
                    await w.transport.send(record, seal(w.caller.key, RUN, b"hello"), 5)
                assert not caught.value.answered
                assert time.monotonic() - began < 6

        run(story())

    at_no_address: Callable[[Record], Record]


class ProcessContract:
    """Tests with servers that really die; each starts processes."""

    wires: Wires

    def test_a_server_killed_in_a_stream_and_another_holder(self, tmp_path: Path) -> None:
        """The blob is whole in the end, the second holder sends what is missing, and no p2pd is left."""
        ref = BlobRef(digest_of(noise(32 * MIB)), 32 * MIB)

        async def story() -> None:
            traffic, store = Traffic(), BlobStore(64 * MIB)
            caller, island = load_or_create(tmp_path / "caller"), Island()
            island.store.put(noise(32 * MIB), round=1, kind="result")
            second = load_or_create(tmp_path / "second")
            async with (
                self.wires.calling(caller, traffic) as way,
                self.wires.serving(second, island, Traffic()) as alive,
            ):
                sink = Killing(store, ref, server, signal.SIGKILL)
                with pytest.raises(Unreachable):
                    await way.pull(dying, ref, sink, kind="result", timeout_s=20)
                came = sink.received
                assert MIB <= came < 32 * MIB
                await way.pull(alive, ref, sink, kind="result", timeout_s=20)
                assert store.get(ref.digest) == noise(32 * MIB)
                peers = traffic.snapshot()["peers"]
                assert peers[alive.peer]["received"] < 1.01 * (32 * MIB - came)

        with process(self.wires.name, tmp_path / "first") as server:
            dying = server.record
            daemons = psutil.Process(server.pid).children()
            run(story())
            gone, orphans = psutil.wait_procs(daemons, timeout=10)
            assert (len(gone), orphans) == (self.daemons, [])

    def test_a_frozen_server_costs_one_deadline(self, tmp_path: Path) -> None:
        ref = BlobRef(digest_of(noise(32 * MIB)), 32 * MIB)

        async def story() -> None:
            store, caller = BlobStore(64 * MIB), load_or_create(tmp_path / "caller")
            async with self.wires.calling(caller, Traffic()) as way:
                sink, began = Killing(store, ref, server, signal.SIGSTOP), time.monotonic()
                with pytest.raises(Unreachable):
                    await way.pull(frozen, ref, sink, kind="result", timeout_s=20, stall_s=1)
                assert time.monotonic() - began < 4
                began = time.monotonic()
                with pytest.raises(Unreachable):
                    await way.send(frozen, seal(caller.key, RUN, b"are you there"), 1)
                assert time.monotonic() - began < 2

        with process(self.wires.name, tmp_path / "frozen") as server:
            frozen = server.record
            run(story())

    def test_a_server_restarted_at_its_address_is_reached_again(self, tmp_path: Path) -> None:
        async def story() -> None:
            caller = load_or_create(tmp_path / "caller")
            envelope = seal(caller.key, RUN, b"hello")
            async with self.wires.calling(caller, Traffic()) as way:
                with process(self.wires.name, tmp_path / "server") as server:
                    first = server.record
                    assert (await way.send(first, envelope, 5)).accepted
                with pytest.raises(Unreachable):
                    await way.send(first, envelope, 3)
                with process(self.wires.name, tmp_path / "server", self.listen_at(first)) as server:
                    again = server.record
                    assert (again.direct, again.peer) == (first.direct, first.peer)
                    began = time.monotonic()
                    while True:
                        try:
                            receipt = await way.send(again, envelope, 3)
                            break
                        except Unreachable:
                            assert time.monotonic() - began < 8
                            await asyncio.sleep(0.05)
                    assert receipt.accepted

        run(story())

    daemons: int
    listen_at: Callable[[Record], str]
