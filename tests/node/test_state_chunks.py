"""What to ask of whom, decided without a network: a driver plays donors of given speeds in virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.node import chunks as rules
from atoll.node.chunks import (
    CHUNK_BYTES,
    CHUNKS_MAX,
    DONORS_MAX,
    LISTS_PER_DONOR,
    OUTSTANDING_MAX,
    Ask,
    Chunks,
    bounds,
    chunk_bytes,
    chunk_count,
    digests_of,
)
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_of

A, B, C, D = (PeerId(f"peer {name}") for name in "abcd")
MIB = 1 << 20


@dataclass
class Donor:
    """Sends `rate` bytes a second, shared by what it was asked for; holds some of the blobs."""

    rate: float
    holds: frozenset[int] = frozenset(range(9))
    dies_s: float = float("inf")
    freezes_s: float = float("inf")
    pulls: dict[Ask, float] = field(default_factory=dict)
    sent: int = 0
    most: int = 0


@dataclass
class Play:
    """Carries out what `Chunks` says, in steps of 10 ms, until the state is here or nobody can give it."""

    sizes: list[int]
    donors: dict[PeerId, Donor]
    chunks: Chunks = field(init=False)
    now_s: float = 0.0
    stall_s: float = 10.0

    def __post_init__(self) -> None:
        self.chunks = Chunks([BlobRef(Digest("01" * 32), size) for size in self.sizes], self.donors)

    def run(self, until_s: float = 150.0) -> bool:
        """Whether the whole state came."""
        while not all(self.chunks.whole(blob) for blob in range(len(self.sizes))):
            asks = self.chunks.next(self.now_s)
            for ask in asks:
                self._ask(ask)
            running = sum(len(donor.pulls) for donor in self.donors.values())
            assert running <= OUTSTANDING_MAX
            if not asks and self.chunks.hopeless(self.now_s):
                return False
            assert self.now_s < until_s
            self._step()
        return True

    def _ask(self, ask: Ask) -> None:
        donor = self.donors[ask.peer]
        if ask.chunk is not None:
            assert ask not in donor.pulls
            start, stop = bounds(self.sizes[ask.blob], ask.chunk)
            donor.pulls[ask] = stop - start
            donor.most = max(donor.most, len(donor.pulls))
        elif self.now_s >= donor.dies_s:
            self.chunks.failed(ask, self.now_s)
        elif ask.blob not in donor.holds:
            self.chunks.refused(ask, self.now_s)
        else:
            self.chunks.listed(ask, b"\1" * 32 * chunk_count(self.sizes[ask.blob]), self.now_s)

    def _step(self) -> None:
        self.now_s += 0.01
        for donor in self.donors.values():
            if self.now_s >= donor.dies_s:
                self._give_up(donor)
            elif self.now_s < donor.freezes_s:
                self._send(donor, 0.01 * donor.rate)
            elif self.now_s >= donor.freezes_s + self.stall_s:
                self._give_up(donor)

    def _give_up(self, donor: Donor) -> None:
        for ask in list(donor.pulls):
            del donor.pulls[ask]
            self.chunks.failed(ask, self.now_s)

    def _send(self, donor: Donor, count: float) -> None:
        shared = list(donor.pulls)
        for ask in shared:
            if ask not in donor.pulls:
                continue
            donor.pulls[ask] -= count / len(shared)
            if donor.pulls[ask] <= 0:
                del donor.pulls[ask]
                start, stop = bounds(self.sizes[ask.blob], ask.chunk or 0)
                donor.sent += stop - start
                for other in self.chunks.arrived(ask, b"\1" * 32, self.now_s):
                    del self.donors[other.peer].pulls[other]
                    self.chunks.dropped(other, self.now_s)


def play(sizes_mib: list[int], **donors: Donor) -> Play:
    return Play([size * MIB for size in sizes_mib], {PeerId(f"peer {n}"): d for n, d in donors.items()})


def test_a_list_is_bounded_and_chunks_cover_the_blob() -> None:
    for size in (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 100 * MIB + 7, CHUNKS_MAX * MIB + 1, 280 << 30):
        assert chunk_count(size) <= CHUNKS_MAX
        ends = [bounds(size, index) for index in range(chunk_count(size))]
        assert sum(stop - start for start, stop in ends) == size
        assert all(stop - start <= chunk_bytes(size) for start, stop in ends)
    data = random.Random(1).randbytes(2 * CHUNK_BYTES + 5)
    assert digests_of(memoryview(data))[64:] == blake3(data[2 * CHUNK_BYTES :]).digest()


def test_donors_share_the_work_by_their_speed() -> None:
    p = play([60, 60], a=Donor(3 * MIB), b=Donor(MIB))
    assert p.run()
    assert p.now_s < 1.05 * 120 / 4
    assert p.donors[A].sent == pytest.approx(3 * p.donors[B].sent, rel=0.1)


def test_a_donor_that_dies_costs_what_it_was_sending() -> None:
    p = play([40], a=Donor(2 * MIB), b=Donor(2 * MIB, dies_s=5.0))
    assert p.run()
    assert p.now_s < 1.1 * (5 + (40 - 20) / 2)


def test_a_frozen_donor_costs_no_deadline() -> None:
    """Its chunks are asked of another as soon as there is nothing else to ask for."""
    p = play([40], a=Donor(2 * MIB), b=Donor(2 * MIB, freezes_s=5.0))
    assert p.run()
    assert p.now_s < 1.1 * (5 + (40 - 20) / 2)


def test_a_donor_frozen_from_the_start_is_overtaken_even_for_one_chunk() -> None:
    p = play([1], a=Donor(MIB, freezes_s=0.0), b=Donor(MIB))
    assert p.run(until_s=5.0)


def test_a_very_slow_donor_does_not_keep_the_end_waiting() -> None:
    p = play([40], a=Donor(4 * MIB), b=Donor(MIB / 50))
    assert p.run()
    assert p.now_s < 1.1 * 10


def test_a_blob_that_few_hold_comes_first() -> None:
    both, one = frozenset({0, 1}), frozenset({0})
    p = play([20, 20], a=Donor(MIB, holds=both), b=Donor(MIB, holds=one))
    assert p.run()
    assert p.now_s < 1.1 * 20, "else the donor that holds both would be left with the rare one alone"
    assert p.donors[B].sent == 20 * MIB


def test_without_any_holder_it_is_hopeless() -> None:
    assert not play([4, 4], a=Donor(MIB, holds=frozenset({0}))).run()
    assert not play([4]).run()
    assert not play([4], a=Donor(MIB, dies_s=1.0), b=Donor(MIB, dies_s=2.0)).run()


def test_a_fast_donor_is_asked_for_more_at_a_time_and_none_for_too_much() -> None:
    p = play([100], a=Donor(20 * MIB), b=Donor(MIB / 2))
    assert p.run()
    assert (p.donors[A].most, p.donors[B].most) == (rules.PER_DONOR_MAX, 2)
    many = play([100], **{f"{n}": Donor(4 * MIB) for n in range(DONORS_MAX + 5)})
    assert many.run()
    assert len([donor for donor in many.donors.values() if donor.sent]) <= DONORS_MAX


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.lists(
        st.tuples(st.sampled_from([0.2, 1.0, 5.0]), st.sampled_from([0.0, 0.7, 3.0, 1e9]), st.booleans()),
        max_size=5,
    ),
)
def test_it_comes_as_long_as_one_donor_lives(
    sizes: list[int], others: list[tuple[float, float, bool]]
) -> None:
    donors = {
        f"{n}": Donor(rate * MIB, dies_s=at if dies else 1e9, freezes_s=1e9 if dies else at)
        for n, (rate, at, dies) in enumerate(others)
    }
    p = play(sizes, **donors, last=Donor(MIB))
    assert p.run()
    frozen = sum(not dies and at < 1e9 for _, at, dies in others)
    assert p.now_s <= 2 * sum(sizes) + 5 + 3 * frozen, "each that freezes is noticed once"


class TestLists:
    """Whom to believe: two chunks, whose digests donors name."""

    true = b"\1" * 64

    def chunks(self, *donors: PeerId) -> Chunks:
        made = Chunks([BlobRef(digest_of(b"x"), 2 * CHUNK_BYTES)], donors)
        assert {ask.peer for ask in made.next(0.0)} == set(donors)
        return made

    def test_what_most_say(self) -> None:
        chunks = self.chunks(A, B, C)
        chunks.listed(Ask(A, 0, None), b"\2" * 64, 0.0)
        assert chunks.believed[0] == b"\2" * 64
        assert [ask.peer for ask in chunks.next(0.0)] == [A, A]
        for peer in (B, C):
            chunks.listed(Ask(peer, 0, None), self.true, 0.0)
        assert chunks.believed[0] == self.true
        assert chunks.arrived(Ask(A, 0, 0), b"\2" * 32, 0.1) == []
        assert (chunks.here(0), chunks.liars) == (0, set()), (
            "it is what A said: that it lies is not known yet"
        )
        again = chunks.next(0.1)
        assert [ask.chunk for ask in again] == [0]
        assert again[0].peer in (B, C)

    def test_who_breaks_its_own_word_is_left_out(self) -> None:
        chunks = self.chunks(A, B)
        for peer in (A, B):
            chunks.listed(Ask(peer, 0, None), self.true, 0.0)
        asked = chunks.next(0.0)
        assert {(ask.peer, ask.chunk) for ask in asked} == {(A, 0), (B, 1)}
        chunks.arrived(Ask(A, 0, 0), b"\3" * 32, 0.1)
        assert chunks.liars == {A}
        assert [(ask.peer, ask.chunk) for ask in chunks.next(0.1)] == [(B, 0)]

    def test_a_list_whose_chunks_do_not_make_the_blob_puts_all_out_who_gave_it(self) -> None:
        chunks = self.chunks(A, B, C)
        false = b"\1" * 32 + b"\2" * 32
        for peer, said in ((A, false), (B, false), (C, self.true)):
            chunks.listed(Ask(peer, 0, None), said, 0.0)
        for ask in chunks.next(0.0):
            assert ask.chunk is not None
            chunks.arrived(ask, false[32 * ask.chunk :][:32], 0.1)
        assert chunks.whole(0)
        chunks.disproved(0)
        assert (chunks.liars, chunks.believed[0]) == ({A, B}, self.true)
        assert (chunks.whole(0), chunks.here(0)) == (False, 1), "the chunk on which all agree is kept"
        assert chunks.next(0.2) == [Ask(C, 0, 1)]
        chunks.arrived(Ask(C, 0, 1), b"\1" * 32, 0.3)
        assert chunks.whole(0)

    def test_the_same_lie_later_puts_out_at_once(self) -> None:
        chunks = self.chunks(A, B)
        false = b"\2" * 64
        chunks.listed(Ask(A, 0, None), false, 0.0)
        for ask in chunks.next(0.0):
            chunks.arrived(ask, b"\2" * 32, 0.1)
        chunks.disproved(0)
        chunks.listed(Ask(B, 0, None), false, 0.2)
        assert chunks.liars == {A, B}
        assert chunks.next(0.3) == []
        assert chunks.hopeless(0.3)

    def test_who_said_otherwise_than_what_came_true_lied(self) -> None:
        chunks = self.chunks(A, B)
        chunks.listed(Ask(A, 0, None), self.true, 0.0)
        chunks.listed(Ask(B, 0, None), b"\2" * 64, 0.0)
        chunks.proven(0)
        assert chunks.liars == {B}

    def test_a_try_goes_on_with_what_is_in_the_file(self) -> None:
        chunks = self.chunks(A)
        chunks.found(0, b"\1" * 32 + b"\7" * 32)
        chunks.listed(Ask(A, 0, None), self.true, 0.0)
        assert chunks.next(0.0) == [Ask(A, 0, 1)]

    def test_a_list_that_came_stays_good_when_its_donor_dies(self) -> None:
        chunks = self.chunks(A, B)
        chunks.listed(Ask(A, 0, None), self.true, 0.0)
        assert chunks.next(0.0) == [Ask(A, 0, 0), Ask(A, 0, 1)]
        chunks.arrived(Ask(A, 0, 0), b"\1" * 32, 0.1)
        chunks.refused(Ask(A, 0, 1), 0.2)
        assert (chunks.believed[0], chunks.here(0)) == (self.true, 1)


def test_a_busy_donor_is_waited_for() -> None:
    chunks = Chunks([BlobRef(digest_of(b"x"), 5)], [A])
    (ask,) = chunks.next(0.0)
    chunks.busy(ask, 0.0)
    assert (chunks.next(0.5), chunks.hopeless(0.5)) == ([], False)
    assert chunks.next(1.0) == [ask]


def test_a_donor_that_is_busy_with_chunks_and_lists_another_blob_is_waited_for() -> None:
    chunks = Chunks([BlobRef(digest_of(b"%d" % n), 2 * CHUNK_BYTES) for n in range(2)], [A])
    first, second = chunks.next(0.0)
    chunks.listed(first, b"\1" * 64, 0.0)
    for ask in chunks.next(0.0):
        chunks.busy(ask, 0.0)
    chunks.listed(second, b"\1" * 64, 0.1)
    assert (chunks.next(0.1), chunks.hopeless(0.1)) == ([], False)
    assert chunks.next(1.0)


def test_lists_are_asked_for_a_few_at_a_time() -> None:
    chunks = Chunks([BlobRef(digest_of(b"%d" % n), 2 * CHUNK_BYTES) for n in range(20)], [A])
    asks = chunks.next(0.0)
    assert len(asks) == LISTS_PER_DONOR
    for ask in asks:
        chunks.listed(ask, b"\1" * 64, 0.0)
    assert len([ask for ask in chunks.next(0.0) if ask.chunk is None]) == LISTS_PER_DONOR
