"""Blobs: whole or not at all, within the budget, from whoever has them."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.node.blobs import BlobStore, Fetcher, FetchFailed, StoreFull
from atoll.node.disk import Disk
from atoll.node.transport import Refused, Unreachable
from atoll.protocol.errors import ConfigError, RemoteProtocolError
from atoll.protocol.ids import BlobRef, PeerId, digest_of

A, B, C = PeerId("peer a"), PeerId("peer b"), PeerId("peer c")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def test_gives_back_what_was_put() -> None:
    store = BlobStore(100)
    ref = store.put(b"hello", round=1, kind="result")
    assert ref == BlobRef(digest_of(b"hello"), 5)
    assert (store.has(ref.digest), store.get(ref.digest)) == (True, b"hello")
    opened = store.open(ref.digest)
    assert opened is not None
    assert (opened.view, opened.kind) == (b"hello", "result")
    assert opened.view.readonly
    assert store.get(digest_of(b"other")) is None


def test_does_not_copy_large_arrays() -> None:
    data = bytearray(b"12345678")
    store = BlobStore(100)
    ref = store.put(memoryview(data).cast("I"), round=1, kind="result")
    view = store.get(ref.digest)
    assert view is not None
    assert view.obj is data


def test_the_same_blob_counts_once_and_lives_as_long_as_its_last_round() -> None:
    store = BlobStore(10)
    ref = store.put(b"12345678", round=1, kind="result")
    store.put(b"12345678", round=3, kind="state")
    assert store.used_bytes == 8
    store.forget_before(3)
    assert store.has(ref.digest)
    store.forget_before(4)
    assert (store.has(ref.digest), store.used_bytes) == (False, 0)


def test_forgets_old_rounds_for_room_but_never_the_present_one() -> None:
    store = BlobStore(10)
    old = store.put(b"aaaa", round=1, kind="result")
    newer = store.put(b"bbbb", round=2, kind="result")
    third = store.put(b"cccc", round=3, kind="result")
    assert [store.has(ref.digest) for ref in (old, newer, third)] == [False, True, True]
    with pytest.raises(StoreFull, match="no room for 9 bytes"):
        store.put(b"ddddddddd", round=3, kind="result")
    with pytest.raises(StoreFull):
        store.put(b"eeeeeeeeeee", round=9, kind="result")


@given(st.lists(st.tuples(st.binary(max_size=12), st.integers(0, 4), st.booleans()), max_size=30))
def test_never_exceeds_its_budget(puts: list[tuple[bytes, int, bool]]) -> None:
    store = BlobStore(20)
    for data, at, receive in puts:
        try:
            if receive:
                sink = store.receive(BlobRef(digest_of(data), len(data)), round=at, kind="state")
                sink.write(data)
                sink.finish()
                sink.abandon()
            else:
                store.put(data, round=at, kind="state")
        except StoreFull:
            pass
        assert 0 <= store.used_bytes <= 20
    store.forget_before(5)
    assert (store.used_bytes, len(store)) == (0, 0)


def test_serves_a_range_of_a_file_without_counting_it(tmp_path: Path) -> None:
    path, store = tmp_path / "anchor", BlobStore(0)
    data = bytes(range(256)) * 64
    path.write_bytes(data)
    at = mmap.ALLOCATIONGRANULARITY + 5
    ref = BlobRef(digest_of(data[at : at + 1000]), 1000)
    store.put_file(path, at, ref, round=1, kind="state")
    view = store.get(ref.digest)
    assert view is not None
    path.unlink()
    store.forget(ref.digest)
    assert bytes(view) == data[at : at + 1000], "a stream that is being served keeps its bytes"
    assert (store.used_bytes, len(store)) == (0, 0)


def test_what_is_put_aside_is_served_and_not_counted(tmp_path: Path) -> None:
    store, disk = BlobStore(100), Disk(tmp_path)
    old, new = (store.put(bytes([n]) * 30, round=n, kind="contribution") for n in (1, 2))
    reader = store.open(old.digest)
    ((digest, view),) = store.in_memory(before_round=2)
    assert digest == old.digest
    store.move(digest, disk.aside(view))
    assert store.used_bytes == new.size
    assert store.in_memory(before_round=2) == []
    assert reader is not None
    assert store.get(old.digest) == reader.view == bytes([1]) * 30
    found = store.get(old.digest)
    assert found is not None
    assert isinstance(found.obj, mmap.mmap)
    assert found.readonly
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "results"}, "the file has no name"
    store.forget(old.digest)
    assert store.used_bytes == new.size
    store.move(old.digest, view)  # forgotten while it was written
    assert not store.has(old.digest)
    disk.close()


def test_a_file_that_is_short_or_damaged_is_an_error(tmp_path: Path) -> None:
    path, store = tmp_path / "anchor", BlobStore(100)
    path.write_bytes(b"hello")
    for ref in (BlobRef(digest_of(b"hello"), 6), BlobRef(digest_of(b"other"), 5)):
        with pytest.raises(ConfigError):
            store.put_file(path, 0, ref, round=1, kind="state")
    with pytest.raises(ConfigError, match="No such file"):
        store.put_file(tmp_path / "none", 0, BlobRef(digest_of(b"x"), 1), round=1, kind="state")
    assert len(store) == 0


class TestSink:
    ref = BlobRef(digest_of(b"hello"), 5)

    def test_takes_pieces_in_order(self) -> None:
        store = BlobStore(10)
        sink = store.receive(self.ref, round=1, kind="result")
        for piece in (b"he", b"", b"llo"):
            sink.write(piece)
        assert (sink.received, store.has(self.ref.digest)) == (5, False)
        sink.finish()
        assert (store.get(self.ref.digest), store.used_bytes) == (b"hello", 5)

    @pytest.mark.parametrize("data", [b"", b"hell", b"hello!", b"jello"])
    def test_short_long_or_other_bytes_never_become_a_blob(self, data: bytes) -> None:
        store = BlobStore(10)
        sink = store.receive(self.ref, round=1, kind="result")

        def whole() -> None:
            sink.write(data)
            sink.finish()

        with pytest.raises(RemoteProtocolError):
            whole()
        sink.abandon()
        sink.abandon()
        assert (store.has(self.ref.digest), store.used_bytes) == (False, 0)

    def test_room_is_taken_before_the_first_byte(self) -> None:
        store = BlobStore(8)
        store.receive(self.ref, round=1, kind="result")
        with pytest.raises(StoreFull):
            store.receive(self.ref, round=1, kind="result")


Step = Callable[[Any], None]


class Holders:
    """Peers that behave as told: each step of a peer is one pull from it."""

    def __init__(self, **steps: list[Step]) -> None:
        self.steps = {PeerId(f"peer {name}"): list(steps) for name, steps in steps.items()}
        self.pulls: list[tuple[PeerId, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def pull(self, peer: PeerId, ref: BlobRef, sink: Any, **_: Any) -> None:
        self.pulls.append((peer, sink.received))
        await self.gate.wait()
        self.steps[peer].pop(0)(sink)


DATA = b"0123456789"
REF = BlobRef(digest_of(DATA), len(DATA))


def sends(until: int, data: bytes = DATA) -> Step:
    """Send the rest up to a place; the blob ends at 10, else the peer is gone."""

    def step(sink: Any) -> None:
        sink.write(data[sink.received : until])
        if until < len(DATA):
            raise Unreachable(A, "connection lost")
        sink.finish()

    return step


def refuses(sink: Any) -> None:
    raise Refused(A, "no such blob")


def fetch(store: BlobStore, holders: Holders, peers: list[PeerId], fetcher: Fetcher | None = None) -> Any:
    fetcher = fetcher or Fetcher(store, holders)
    return fetcher.fetch(REF, peers, round=1, kind="result", timeout_s=5)


def test_the_next_holder_goes_on_where_the_last_stopped() -> None:
    async def story() -> None:
        store, faults = BlobStore(100), []
        holders = Holders(a=[sends(4)], b=[refuses], c=[sends(10)])
        fetcher = Fetcher(store, holders, lambda peer, error: faults.append((peer, str(error))))
        assert await fetch(store, holders, [A, B, C, A], fetcher) == DATA
        assert holders.pulls == [(A, 0), (B, 4), (C, 4)]
        assert [peer for peer, _ in faults] == [A, B]

    run(story())


def test_no_holder_is_an_error_with_every_reason() -> None:
    async def story() -> None:
        store, holders = BlobStore(100), Holders(a=[sends(4)], b=[refuses])
        with pytest.raises(FetchFailed, match=r"connection lost.*no such blob"):
            await fetch(store, holders, [A, B])
        assert store.used_bytes == 0
        with pytest.raises(FetchFailed, match="nobody holds it"):
            await fetch(store, holders, [])

    run(story())


def test_a_liars_first_half_does_not_spoil_an_honest_second_half() -> None:
    """The digest fails over bytes of two peers: the second may send all of them."""

    async def story() -> None:
        store = BlobStore(100)
        holders = Holders(a=[sends(4, b"lies567890")], b=[sends(10), sends(10)])
        assert await fetch(store, holders, [A, B]) == DATA
        assert holders.pulls == [(A, 0), (B, 4), (B, 0)]

    run(story())


def test_a_liar_alone_is_named_and_the_next_is_asked() -> None:
    async def story() -> None:
        store, faults = BlobStore(100), []
        holders = Holders(a=[sends(10, b"lies567890")], b=[sends(10)])
        fetcher = Fetcher(store, holders, lambda peer, error: faults.append((peer, type(error))))
        assert await fetch(store, holders, [A, B], fetcher) == DATA
        assert faults == [(A, RemoteProtocolError)]

    run(story())


def test_fetches_of_one_blob_share_a_transfer_and_their_holders() -> None:
    async def story() -> None:
        store, holders = BlobStore(100), Holders(a=[refuses], b=[sends(10)])
        holders.gate.clear()
        fetcher = Fetcher(store, holders)
        both = asyncio.gather(fetch(store, holders, [A], fetcher), fetch(store, holders, [B, A], fetcher))
        while not holders.pulls:
            await asyncio.sleep(0)
        holders.gate.set()
        assert await both == [DATA, DATA]
        assert holders.pulls == [(A, 0), (B, 0)]
        assert await fetch(store, holders, [], fetcher) == DATA, "it is in the store now"

    run(story())


def test_a_transfer_ends_with_the_last_who_waits_for_it() -> None:
    async def story() -> None:
        store, holders = BlobStore(10), Holders(a=[sends(10)] * 2)
        holders.gate.clear()
        fetcher = Fetcher(store, holders)
        first, second = (asyncio.ensure_future(fetch(store, holders, [A], fetcher)) for _ in range(2))
        while not holders.pulls:
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        assert store.used_bytes == 10
        second.cancel()
        await asyncio.wait([second])
        holders.gate.set()
        while store.used_bytes:
            await asyncio.sleep(0)
        assert await fetch(store, holders, [A], fetcher) == DATA, "a later fetch begins anew"

    run(story())


def test_a_blob_beyond_the_budget_is_not_begun() -> None:
    async def story() -> None:
        holders = Holders(a=[sends(10)])
        with pytest.raises(StoreFull):
            await fetch(BlobStore(9), holders, [A])
        assert holders.pulls == []

    run(story())
