"""Which way to a peer: direct if it answers there, libp2p otherwise."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from serve_peer import RUN

from atoll.node import router as router_module
from atoll.node.blobs import BlobStore, Fetcher
from atoll.node.router import DIRECT_AGAIN_S, SENDS_PER_PEER, Router
from atoll.node.traffic import KINDS, OTHERS, PEERS_MAX, Traffic
from atoll.node.transport import Unreachable
from atoll.protocol.envelope import Record, seal
from atoll.protocol.ids import BlobRef, PeerId, digest_of
from atoll.protocol.keys import Key
from atoll.protocol.wire import messages_pb2 as wire

ME, PEER = Key.generate(), Key.generate()
FULL = Record(RUN, PEER.peer, 1, ("127.0.0.1:1",), digest_of(b"certificate"), ("/ip4/127.0.0.1/tcp/1",))
HELLO = wire.Envelope(body=b"hello")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


@dataclass
class Way:
    """A transport that does as told, and tells what it was asked."""

    does: Callable[[], None] = lambda: None
    calls: list[tuple[str, float]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    closed: bool = False

    async def send(self, record: Record, envelope: wire.Envelope, timeout_s: float) -> wire.Receipt:
        self.calls.append((record.peer, timeout_s))
        if self.gate is not None:
            await self.gate.wait()
        self.does()
        return wire.Receipt(accepted=True)

    async def pull(self, record: Record, ref: BlobRef, sink: Any, **limits: Any) -> None:
        self.calls.append((record.peer, limits["timeout_s"]))
        self.does()
        sink.write(b"hello")
        sink.finish()

    async def close(self) -> None:
        self.closed = True


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def lost(answered: bool = False) -> Callable[[], None]:
    def fail() -> None:
        raise Unreachable(PEER.peer, "nobody there", answered=answered)

    return fail


def ways(record: Record = FULL) -> tuple[Router, Way, Way, Clock]:
    direct, libp2p, clock = Way(), Way(), Clock()
    router = Router(ME.peer, direct, libp2p, clock)
    assert router.learn(record)
    return router, direct, libp2p, clock


def test_takes_the_direct_way_where_it_answers() -> None:
    async def story() -> None:
        router, direct, libp2p, _ = ways()
        assert router.path_of(PEER.peer) == "none"
        assert (await router.send(PEER.peer, HELLO, 5)).accepted
        assert (len(direct.calls), len(libp2p.calls), router.path_of(PEER.peer)) == (1, 0, "direct")
        await router.close()
        assert (direct.closed, libp2p.closed) == (True, True)

    run(story())


@pytest.mark.parametrize(
    "record",
    [replace(FULL, direct=()), replace(FULL, certificate=None)],
    ids=["no address", "no certificate"],
)
def test_takes_libp2p_where_there_is_no_direct_address(record: Record) -> None:
    async def story() -> None:
        router, direct, libp2p, _ = ways(record)
        await router.send(PEER.peer, HELLO, 5)
        assert (len(direct.calls), len(libp2p.calls), router.path_of(PEER.peer)) == (0, 1, "libp2p")

    run(story())


def test_falls_back_at_once_and_tries_the_direct_way_again_after_a_while() -> None:
    async def story() -> None:
        router, direct, libp2p, clock = ways()
        direct.does = lost()
        for _ in range(3):
            assert (await router.send(PEER.peer, HELLO, 5)).accepted
        assert (len(direct.calls), len(libp2p.calls), router.path_of(PEER.peer)) == (1, 3, "libp2p")
        clock.now_s += DIRECT_AGAIN_S + 1
        direct.does = lambda: None
        await router.send(PEER.peer, HELLO, 5)
        assert (len(libp2p.calls), router.path_of(PEER.peer)) == (3, "direct")

    run(story())


def test_a_new_address_is_tried_at_once() -> None:
    async def story() -> None:
        router, direct, libp2p, _ = ways()
        direct.does = lost()
        await router.send(PEER.peer, HELLO, 5)
        assert router.learn(replace(FULL, sequence=2, direct=("127.0.0.1:2",)))
        direct.does = lambda: None
        await router.send(PEER.peer, HELLO, 5)
        assert (len(libp2p.calls), router.path_of(PEER.peer)) == (1, "direct")

    run(story())


def test_a_peer_that_dies_on_a_way_that_worked_is_not_sought_on_the_other() -> None:
    async def story() -> None:
        router, direct, libp2p, _ = ways()
        direct.does = lost(answered=True)
        with pytest.raises(Unreachable):
            await router.send(PEER.peer, HELLO, 5)
        assert (libp2p.calls, router.path_of(PEER.peer)) == ([], "none")

    run(story())


def test_a_direct_way_that_eats_the_deadline_is_not_taken_next_time() -> None:
    async def story() -> None:
        router, direct, libp2p, clock = ways()

        def eats() -> None:
            clock.now_s += 5
            lost()()

        direct.does = eats
        with pytest.raises(Unreachable):
            await router.send(PEER.peer, HELLO, 5)
        assert libp2p.calls == []
        assert (await router.send(PEER.peer, HELLO, 5)).accepted
        assert (len(direct.calls), router.path_of(PEER.peer)) == (1, "libp2p")

    run(story())


def test_when_no_way_is_left_all_are_tried_next_time() -> None:
    async def story() -> None:
        router, direct, libp2p, _ = ways()
        direct.does = libp2p.does = lost()
        for tries in (1, 2):
            with pytest.raises(Unreachable, match="nobody there"):
                await router.send(PEER.peer, HELLO, 5)
            assert (len(direct.calls), len(libp2p.calls)) == (tries, tries)

    run(story())


def test_a_direct_address_that_is_silent_keeps_no_call_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "HEAD_START_S", 0.01)

    async def story() -> None:
        answers, tries = asyncio.Event(), []

        async def reach(record: Record) -> None:
            tries.append(record.peer)
            await answers.wait()

        direct, libp2p = Way(), Way()
        router = Router(ME.peer, direct, libp2p, reach=reach)
        router.learn(FULL)
        await asyncio.gather(*(router.send(PEER.peer, HELLO, 5) for _ in range(5)))
        assert (len(tries), len(direct.calls), len(libp2p.calls)) == (1, 0, 5)
        answers.set()
        await router.send(PEER.peer, HELLO, 5)
        assert (len(direct.calls), router.path_of(PEER.peer)) == (1, "direct")

    run(story())


def test_an_address_that_cannot_be_reached_is_left_alone_for_a_while() -> None:
    async def story() -> None:
        tries = []

        async def reach(record: Record) -> None:
            tries.append(record.peer)
            lost()()

        direct, libp2p, clock = Way(), Way(), Clock()
        router = Router(ME.peer, direct, libp2p, clock, reach)
        router.learn(FULL)
        for _ in range(3):
            await router.send(PEER.peer, HELLO, 5)
        assert (len(tries), len(direct.calls), len(libp2p.calls)) == (1, 0, 3)
        clock.now_s += DIRECT_AGAIN_S + 1
        await router.send(PEER.peer, HELLO, 5)
        assert len(tries) == 2

    run(story())


def test_an_unknown_peer_and_one_without_addresses_are_unreachable() -> None:
    async def story() -> None:
        router, *_ = ways(replace(FULL, direct=(), multiaddrs=()))
        with pytest.raises(Unreachable, match="names no address"):
            await router.send(PEER.peer, HELLO, 5)
        with pytest.raises(Unreachable, match="no record"):
            await router.send(Key.generate().peer, HELLO, 5)

    run(story())


def test_the_fallback_gets_only_the_time_that_is_left() -> None:
    async def story() -> None:
        router, direct, libp2p, clock = ways()

        def slow() -> None:
            clock.now_s += 3
            lost()()

        direct.does = slow
        await router.send(PEER.peer, HELLO, 5)
        assert libp2p.calls == [(PEER.peer, pytest.approx(2))]

    run(story())


def test_one_frozen_peer_does_not_take_all_places() -> None:
    async def story() -> None:
        router, direct, _, _ = ways()
        other = Key.generate()
        router.learn(replace(FULL, peer=other.peer))
        direct.gate = asyncio.Event()
        frozen = [asyncio.ensure_future(router.send(PEER.peer, HELLO, 5)) for _ in range(100)]
        while len(direct.calls) < SENDS_PER_PEER:
            await asyncio.sleep(0)
        calls = asyncio.ensure_future(router.send(other.peer, HELLO, 5))
        while direct.calls[-1][0] != other.peer:
            await asyncio.sleep(0)
        assert len(direct.calls) == SENDS_PER_PEER + 1
        with pytest.raises(Unreachable, match="no turn"):
            await router.send(PEER.peer, HELLO, 0.01)
        direct.gate.set()
        assert (await calls).accepted
        assert all(receipt.accepted for receipt in await asyncio.gather(*frozen))

    run(story())


def test_the_book_takes_only_newer_records_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "RECORDS_MAX", 3)

    async def story() -> None:
        router, *_ = ways(replace(FULL, sequence=5))
        for sequence, taken in ((5, False), (4, False), (6, True)):
            assert router.learn(replace(FULL, sequence=sequence)) is taken
        record = router.record_of(PEER.peer)
        assert record is not None
        assert record.sequence == 6
        assert not router.learn(replace(FULL, peer=ME.peer)), "this peer's own record is of no use"
        for _ in range(10):
            await router.send(PEER.peer, HELLO, 5)
            router.learn(replace(FULL, peer=Key.generate().peer))
        assert len(router.peers()) == 3
        assert PEER.peer in router.peers(), "a peer that is spoken to stays"

    run(story())


def test_pulls_go_the_same_ways_and_blobs_are_fetched_through_it() -> None:
    async def story() -> None:
        router, direct, libp2p, _ = ways()
        direct.does = lost()
        store, ref = BlobStore(100), BlobRef(digest_of(b"hello"), 5)
        got = await Fetcher(store, router).fetch(ref, [PEER.peer], round=1, kind="state", timeout_s=5)
        assert (got, len(direct.calls), len(libp2p.calls)) == (b"hello", 1, 1)

    run(story())


def test_traffic_is_counted_by_kind_direction_and_peer() -> None:
    traffic = Traffic()
    traffic.sent("result", PEER.peer, 10)
    traffic.sent("control", PEER.peer, 1)
    traffic.received("result", PEER.peer, 5)
    seen = traffic.snapshot()
    assert seen["kinds"]["result"] == {"sent": 10, "received": 5}
    assert seen["peers"][PEER.peer] == {"sent": 11, "received": 5}
    assert set(seen["kinds"]) == set(KINDS)
    for number in range(2 * PEERS_MAX):
        traffic.sent("control", PeerId(f"peer {number}"), 1)
    seen = traffic.snapshot()
    assert len(seen["peers"]) == PEERS_MAX + 1
    assert seen["peers"][OTHERS]["sent"] == PEERS_MAX + 1
    assert seen["kinds"]["control"]["sent"] == 2 * PEERS_MAX + 1


@pytest.mark.swarm
def test_real_peers_one_behind_a_closed_direct_address(tmp_path: Path) -> None:
    """Direct and libp2p in one process: the direct address is closed, so libp2p carries envelope and blob."""
    from test_direct import DirectWires
    from test_libp2p import Libp2pWires
    from transport_contract import Island, noise

    from atoll.node.identity import load_or_create

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{probe.getsockname()[1]}"

    async def story() -> None:
        server, caller, island = load_or_create(tmp_path / "s"), load_or_create(tmp_path / "c"), Island()
        ref = island.store.put(noise(1 << 20), round=1, kind="state")
        envelope = seal(caller.key, RUN, b"hello")
        direct_wires, libp2p_wires = DirectWires(), Libp2pWires()
        async with (
            direct_wires.serving(server, island, Traffic()) as near,
            libp2p_wires.serving(server, island, Traffic()) as far,
            direct_wires.calling(caller, Traffic()) as direct,
            libp2p_wires.calling(caller, Traffic()) as libp2p,
        ):
            router = Router(caller.peer, direct, libp2p)
            record = replace(near, direct=(closed,), multiaddrs=far.multiaddrs)
            router.learn(record)
            assert (await router.send(server.peer, envelope, 10)).accepted
            assert router.path_of(server.peer) == "libp2p"
            fetcher = Fetcher(BlobStore(2 << 20), router)
            got = await fetcher.fetch(ref, [server.peer], round=1, kind="state", timeout_s=10)
            assert got == noise(1 << 20)
            router.learn(replace(record, sequence=2, direct=near.direct))
            assert (await router.send(server.peer, envelope, 10)).accepted
            assert router.path_of(server.peer) == "direct"

    run(story())
