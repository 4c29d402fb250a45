"""States from several donors at once: real gRPC servers that die, lie, stall, or hold only some blobs."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from serve_peer import RUN
from transport_contract import MIB, Island, noise, run

from atoll.node import uploads
from atoll.node.blobs import BlobStore, FetchFailed
from atoll.node.chunks import OUTSTANDING_MAX, digests_of
from atoll.node.direct import Direct, DirectServer
from atoll.node.identity import load_or_create
from atoll.node.incoming import Incoming
from atoll.node.router import Router
from atoll.node.state_fetch import Pace, StateFetcher
from atoll.node.traffic import Traffic
from atoll.node.transport import Blob
from atoll.node.uploads import Uploads
from atoll.protocol.envelope import Record
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_of

BLOBS = (noise(5 * MIB + 11, 1), noise(4 * MIB, 2), noise(1000, 3))
REFS = tuple(BlobRef(digest_of(blob), len(blob)) for blob in BLOBS)
TOTAL = sum(map(len, BLOBS))


@dataclass
class Donor(Island):
    """Serves the state; after `pulls_left` pulls of chunks it dies, freezes or lies, as told.

    It sends no chunk before `may` says so: else one donor may be done before the other is known.
    """

    then: str = ""
    pulls_left: int = 1 << 30
    may: Callable[[], bool] = lambda: True
    pulls: int = 0
    lists: int = 0
    holds: tuple[int, ...] = (0, 1, 2)
    uploads: Uploads = field(default_factory=Uploads)
    traffic: Traffic = field(default_factory=Traffic)
    server: Any = None
    record: Any = None

    def __post_init__(self) -> None:
        for blob in self.holds:
            self.store.put(BLOBS[blob], round=1, kind="state")

    @property
    def peer(self) -> PeerId:
        peer: PeerId = self.record.peer
        return peer

    @property
    def sent(self) -> int:
        return self.traffic.snapshot()["kinds"]["state"]["sent"]

    def open_blob(self, digest: Digest) -> Blob | None:
        blob = self.store.open(digest)
        if blob is not None and self.then == "false list":
            other = bytearray(blob.view)
            other[len(other) // 2] ^= 1
            return Blob(memoryview(other), "state")
        return blob


class Server(DirectServer):
    """Counts pulls of chunks, and lets the donor do what it is to do after so many."""

    async def _stream(self, blob: Blob, request: Any, caller: PeerId, context: Any) -> None:
        donor = self._host
        assert isinstance(donor, Donor)
        donor.pulls_left -= not request.digests
        donor.pulls += not request.digests
        donor.lists += request.digests
        while not request.digests and not donor.may():
            await asyncio.sleep(0.005)
        if donor.pulls_left < 0 and not request.digests:
            if donor.then == "dies":
                donor.server = asyncio.ensure_future(self.stop(0))
            if donor.then in ("dies", "freezes"):
                await asyncio.Event().wait()
            if donor.then == "wrong bytes":
                blob = Blob(memoryview(bytes(len(blob.view))), "state")
        await super()._stream(blob, request, caller, context)


@dataclass
class Joiner:
    """Who fetches."""

    folder: Path
    router: Router
    donors: Sequence[Donor]
    pace: Pace
    traffic: Traffic
    store: BlobStore = field(default_factory=lambda: BlobStore(32 * MIB))
    faults: dict[PeerId, str] = field(default_factory=dict)

    def fetcher(self, folder: str = "incoming") -> StateFetcher:
        return StateFetcher(
            self.folder / folder,
            self.store,
            self.router,
            self.pace,
            lambda peer, error: self.faults.update({peer: str(error)}),
        )

    async def fetch(self, fetcher: StateFetcher | None = None, donors: Sequence[Donor] = ()) -> None:
        """Get the state; it must be right."""
        holders = [donor.peer for donor in donors or self.donors]
        views = await (fetcher or self.fetcher()).fetch(REFS, holders, round=1)
        assert [bytes(view) for view in views] == list(BLOBS)


@asynccontextmanager
async def swarm(folder: Path, *donors: Donor, stall_s: float = 10.0) -> AsyncIterator[Joiner]:
    caller = load_or_create(folder / "caller")
    traffic = Traffic()
    way = Direct(caller.key, RUN, traffic)
    router = Router(caller.peer, way, None)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(router.close)
        for number, donor in enumerate(donors):
            identity = load_or_create(folder / f"donor-{number}")
            server = Server(identity, RUN, donor, donor.traffic, donor.uploads)
            port = await server.start("127.0.0.1:0")
            stack.push_async_callback(server.stop, 0)
            donor.record = Record(RUN, identity.peer, 1, (f"127.0.0.1:{port}",), identity.certificate)
            router.learn(donor.record)
        yield Joiner(folder, router, donors, Pace(MIB, stall_s), traffic)


def test_two_donors_share_the_work(tmp_path: Path) -> None:
    async def story() -> None:
        one, other = Donor(), Donor()
        one.may, other.may = lambda: other.pulls >= one.pulls - 3, lambda: one.pulls >= other.pulls - 3
        async with swarm(tmp_path, one, other) as joiner:
            fetcher = joiner.fetcher()
            await joiner.fetch(fetcher)
            assert min(donor.sent for donor in joiner.donors) > MIB
            received = joiner.traffic.snapshot()["kinds"]["state"]["received"]
            assert TOTAL < received < 1.01 * TOTAL + fetcher.repeated_bytes + MIB
            assert joiner.faults == {}
            other = tmp_path / "incoming" / digest_of(b"of the next load")
            other.write_bytes(b"x")
            await fetcher.discard(REFS)
            assert list((tmp_path / "incoming").iterdir()) == [other]

    run(story())


def test_goes_on_when_a_donor_dies(tmp_path: Path) -> None:
    async def story() -> None:
        dying = Donor(then="dies", pulls_left=1)
        async with swarm(tmp_path, dying, Donor(may=lambda: dying.pulls_left < 0)) as joiner:
            await joiner.fetch()
            assert joiner.donors[1].sent > TOTAL / 2
            assert set(joiner.faults) == {joiner.donors[0].peer}

    run(story())


def test_a_donor_that_stalls_costs_no_deadline(tmp_path: Path) -> None:
    async def story() -> None:
        frozen = Donor(then="freezes", pulls_left=1)
        alive = Donor(may=lambda: frozen.pulls_left < 0)
        async with swarm(tmp_path, frozen, alive, stall_s=1000) as joiner:
            await asyncio.wait_for(joiner.fetch(), 15)

    run(story())


@pytest.mark.parametrize("then", ["wrong bytes", "false list"])
def test_a_liar_is_found_named_and_left_out(tmp_path: Path, then: str) -> None:
    async def story() -> None:
        liar = Donor(then=then, pulls_left=0)

        def seen() -> bool:
            return liar.lists == 2 and (then == "false list" or liar.pulls_left < 0)

        async with swarm(tmp_path, liar, Donor(may=seen), Donor(may=seen)) as joiner:
            fetcher = joiner.fetcher()
            await joiner.fetch(fetcher)
            assert set(joiner.faults) == {liar.peer}
            assert "digest" in joiner.faults[liar.peer] or "false" in joiner.faults[liar.peer]
            assert liar.sent < 6 * MIB
            assert fetcher.repeated_bytes < 6 * MIB

    run(story())


def test_liars_who_agree_are_found_by_the_digest_of_the_whole(tmp_path: Path) -> None:
    async def story() -> None:
        donors = [Donor(then="false list"), Donor(then="false list")]
        donors.append(Donor(may=lambda: donors[0].lists == donors[1].lists == 2))
        async with swarm(tmp_path, *donors) as joiner:
            await joiner.fetch()
            assert set(joiner.faults) == {donor.peer for donor in donors[:2]}

    run(story())


def test_where_all_lie_there_is_no_state_and_no_end_of_trying(tmp_path: Path) -> None:
    async def story() -> None:
        donors = [Donor(then="false list"), Donor(then="wrong bytes", pulls_left=0)]
        async with swarm(tmp_path, *donors) as joiner:
            with pytest.raises(FetchFailed):
                await joiner.fetch()
            assert joiner.store.used_bytes == 0

    run(story())


def test_donors_that_hold_different_blobs(tmp_path: Path) -> None:
    async def story() -> None:
        donors = [Donor(holds=(0,)), Donor(holds=(1,)), Donor(holds=(2,))]
        async with swarm(tmp_path, *donors) as joiner:
            await joiner.fetch()
            for donor, blob in zip(donors, BLOBS, strict=True):
                assert donor.sent > len(blob)
            with pytest.raises(FetchFailed, match="no blob"):
                await joiner.fetch(joiner.fetcher("other"), donors[:2])

    run(story())


def test_a_second_try_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    """Also after a restart: all that is left of the first try is its files."""

    async def story() -> None:
        first, second = Donor(then="dies", pulls_left=8), Donor()
        async with swarm(tmp_path, first, second) as joiner:
            with pytest.raises(FetchFailed):
                await joiner.fetch(donors=[first])
            stale = tmp_path / "incoming" / digest_of(b"of another state")
            stale.write_bytes(b"x")
            await joiner.fetch(donors=[second])
            assert second.sent < TOTAL - 2 * MIB
            assert not stale.exists()

    run(story())


def test_what_is_in_the_files_is_believed_by_its_digest_only(tmp_path: Path) -> None:
    async def story() -> None:
        async with swarm(tmp_path, Donor()) as joiner:
            (tmp_path / "incoming").mkdir()
            (tmp_path / "incoming" / REFS[0].digest).write_bytes(bytes(7 * MIB))
            (tmp_path / "incoming" / REFS[1].digest).write_bytes(BLOBS[1][: 2 * MIB + 1])
            await joiner.fetch()
            assert joiner.donors[0].sent < TOTAL - 1.9 * MIB

    run(story())


def test_blobs_that_are_here_and_equal_blobs_come_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with swarm(tmp_path, Donor()) as joiner:
            joiner.store.put(BLOBS[0], round=1, kind="state")
            refs = (REFS[1], REFS[0], REFS[1])
            views = await joiner.fetcher().fetch(refs, [joiner.donors[0].peer], round=1)
            assert [bytes(view) for view in views] == [BLOBS[1], BLOBS[0], BLOBS[1]]
            assert joiner.donors[0].sent < 1.01 * len(BLOBS[1])

    run(story())


def test_a_donor_serves_few_joiners_at_a_time_and_all_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "CALLERS_MAX", 1)
    monkeypatch.setattr("atoll.node.chunks.REST_S", 0.05)

    async def story() -> None:
        donor, most = Donor(), 0
        async with swarm(tmp_path / "one", donor) as one, swarm(tmp_path / "two", Donor()) as two:
            two.router.learn(donor.record)
            place = donor.uploads.place

            @contextmanager
            def watched(*args: Any) -> Any:
                nonlocal most
                with place(*args) as given:
                    most = max(most, len(donor.uploads._pulls))
                    yield given

            donor.uploads.place = watched  # type: ignore[method-assign]
            await asyncio.gather(one.fetch(), two.fetch(donors=[donor]))
            assert most == 1

    run(story())


def test_memory_holds_a_few_chunks_whatever_the_state_is(tmp_path: Path) -> None:
    size = 48 * MIB
    large = bytes(range(256)) * (size // 256)
    ref = BlobRef(digest_of(large), size)

    async def story() -> None:
        donors = [Donor(), Donor()]
        for donor in donors:
            donor.store.put(large, round=1, kind="state")
        async with swarm(tmp_path, *donors) as joiner:
            tracemalloc.start()
            try:
                (view,) = await joiner.fetcher().fetch([ref], [donor.peer for donor in donors], round=1)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert view == large
            assert peak < (OUTSTANDING_MAX + 8) * MIB

    run(story())


def test_a_disk_that_gives_back_other_bytes_is_no_donors_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Incoming.write
    monkeypatch.setattr(
        Incoming, "write", lambda self, blob, start, data: write(self, blob, start, data[:-1])
    )

    async def story() -> None:
        async with swarm(tmp_path, Donor()) as joiner:
            with pytest.raises(OSError, match="gives back other bytes"):
                await joiner.fetch()
            assert joiner.faults == {}

    run(story())


def test_lists_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []

    def counted(view: memoryview) -> bytes:
        hashed.append(len(view))
        return digests_of(view)

    monkeypatch.setattr(uploads, "digests_of", counted)

    async def story() -> None:
        async with swarm(tmp_path, Donor()) as joiner:
            await joiner.fetch()
            await joiner.fetch(joiner.fetcher("again"))
            assert sorted(hashed) == sorted(map(len, BLOBS[:2]))

    run(story())
