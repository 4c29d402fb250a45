"""Which chunk of a state to ask of whom: decided here, carried out by state_fetch.py. Pure.

A state is some blobs, each cut into chunks. Every donor is asked for the list of its blobs' chunk digests,
which also says what it holds. A blob's digest does not cover the list, so the list that most donors gave is
believed, and found false if chunks that fit it do not make the blob. Donors that agree with it are asked for
chunks, the rarest blob first, as many at a time as keep the donor's link busy; who is done early does more.
At the end, chunks that are late are asked of a second donor.
(rarest first, endgame: Cohen 2003, Incentives Build Robustness in BitTorrent)
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from blake3 import blake3

from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import BlobRef, PeerId

CHUNK_BYTES = 1 << 20
CHUNKS_MAX = 8192
"""Of a blob: its list of digests has 256 KiB at most. Larger blobs have larger chunks."""

DIGEST_BYTES = 32
DONORS_MAX = 16
OUTSTANDING_MAX = 12
"""Chunks on their way at once, of all donors: what is in memory, and fewer than a router lets out."""

PER_DONOR_MAX = 4
ASKERS_MAX = 3
"""Of one chunk, if those before are late."""

LISTS_PER_DONOR = 4
AHEAD_S = 0.25
"""A donor is asked for what it sends in this time beyond the chunk that is coming: more than a round trip."""

LATE = 1.5
"""A chunk is late after so many times what its donor's rate promised."""

UNPROVEN_S = 2.0
"""What a chunk is thought to take a donor that has sent none yet."""

REST_S, REST_MAX_S = 1.0, 30.0
LACKS_S = 2.0


def chunk_bytes(size: int) -> int:
    """The length of a blob's chunks, but for the last one."""
    length = CHUNK_BYTES
    while length * CHUNKS_MAX < size:
        length *= 2
    return length


def chunk_count(size: int) -> int:
    return -(-size // chunk_bytes(size))


def bounds(size: int, index: int) -> tuple[int, int]:
    """Where a chunk begins and ends in its blob."""
    length = chunk_bytes(size)
    return index * length, min(size, (index + 1) * length)


def digests_of(view: memoryview) -> bytes:
    """BLAKE3 of every chunk of a blob, one after the other: a list as it is sent."""
    cuts = (bounds(len(view), index) for index in range(chunk_count(len(view))))
    return b"".join(blake3(view[start:stop]).digest() for start, stop in cuts)


class Ask(NamedTuple):
    """One request to one donor: a chunk of a blob, or with none the blob's list."""

    peer: PeerId
    blob: int
    chunk: int | None


class Chunk(NamedTuple):
    blob: int
    number: int


@dataclass(slots=True)
class _Donor:
    lists: dict[int, bytes] = field(default_factory=dict)
    lacks_until_s: dict[int, float] = field(default_factory=dict)
    listing: set[int] = field(default_factory=set)
    running: dict[Chunk, float] = field(default_factory=dict)
    rest_until_s: float = 0.0
    failures: int = 0
    busy: bool = False
    sent: int = 0
    worked_s: float = 0.0
    counted_s: float = 0.0
    begun_s: float = 0.0

    def rate(self) -> float | None:
        """Bytes per second of the time that it was asked for any, up to the last chunk; None before that."""
        return self.sent / self.counted_s if self.counted_s > 0 else None

    def took(self, count_bytes: int, now_s: float) -> None:
        self.sent += count_bytes
        self.counted_s = self.worked_s + (now_s - self.begun_s if self.running else 0.0)

    def start(self, chunk: Chunk, now_s: float) -> None:
        self.busy = False
        if not self.running:
            self.begun_s = now_s
        self.running[chunk] = now_s

    def stop(self, chunk: Chunk, now_s: float) -> None:
        if self.running.pop(chunk, None) is not None and not self.running:
            self.worked_s += now_s - self.begun_s


class Chunks:
    """The chunks of a state's blobs: which are here, which are on their way, and who may be asked for more.

    The caller carries out what `next` says and tells how each request ended: `listed`, `arrived`, `failed`,
    `refused`, `busy`, `dropped`. `liars` are left out from then on.
    """

    def __init__(self, blobs: Sequence[BlobRef], donors: Iterable[PeerId]) -> None:
        self.sizes = [ref.size for ref in blobs]
        self.liars: set[PeerId] = set()
        self.believed: list[bytes | None] = [
            bytes.fromhex(ref.digest) if chunk_count(ref.size) == 1 else None for ref in blobs
        ]
        self._length = max(map(chunk_bytes, self.sizes), default=CHUNK_BYTES)
        self._single = [chunk_count(size) <= 1 for size in self.sizes]
        self._free = [list(range(chunk_count(size))) for size in self.sizes]
        self._stored: list[dict[int, bytes]] = [{} for _ in blobs]
        self._here: list[set[int]] = [set() for _ in blobs]
        self._asked: dict[Chunk, set[PeerId]] = {}
        self._donors = {peer: _Donor() for peer in list(dict.fromkeys(donors))[:DONORS_MAX]}
        self.false: list[set[bytes]] = [set() for _ in blobs]

    # ---- what is here ---------------------------------------------------------------------------

    def whole(self, blob: int) -> bool:
        """Whether every chunk that the believed list names is here."""
        return len(self._here[blob]) == chunk_count(self.sizes[blob])

    def digest(self, blob: int, index: int) -> bytes | None:
        """What the believed list says of a chunk."""
        believed = self.believed[blob]
        return None if believed is None else believed[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

    def here(self, blob: int) -> int:
        """How many chunks of a blob are here."""
        return len(self._here[blob])

    def found(self, blob: int, digests: bytes) -> None:
        """A file of an earlier try holds bytes of these digests: those that fit need not come again."""
        for index in range(len(digests) // DIGEST_BYTES):
            self._stored[blob][index] = digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        self._sort(blob)

    # ---- what to do -----------------------------------------------------------------------------

    def next(self, now_s: float) -> list[Ask]:
        """The requests to make now; they count as made."""
        asks = [ask for peer, donor in self._able(now_s) for ask in self._lists(peer, donor, now_s)]
        while ask := self._next_chunk(now_s):
            asks.append(ask)
        return asks

    def hopeless(self, now_s: float) -> bool:
        """Whether nobody has what is missing, as far as can be told now: ask after `next` said nothing."""
        working = any(donor.listing or donor.running for donor in self._donors.values())
        return not working and not any(
            donor.busy
            and any(free and self._holds(donor, blob, now_s) for blob, free in enumerate(self._free))
            for peer, donor in self._donors.items()
            if peer not in self.liars
        )

    def _able(self, now_s: float) -> list[tuple[PeerId, _Donor]]:
        return [
            (peer, donor)
            for peer, donor in self._donors.items()
            if peer not in self.liars and donor.rest_until_s <= now_s
        ]

    def _lists(self, peer: PeerId, donor: _Donor, now_s: float) -> list[Ask]:
        asks = []
        for blob, single in enumerate(self._single):
            if len(donor.listing) >= LISTS_PER_DONOR:
                break
            wanted = not single and not self.whole(blob) and blob not in donor.lists
            if wanted and blob not in donor.listing and donor.lacks_until_s.get(blob, 0.0) <= now_s:
                donor.listing.add(blob)
                asks.append(Ask(peer, blob, None))
        return asks

    def _next_chunk(self, now_s: float) -> Ask | None:
        """One more chunk, for the donor with the fewest on their way that can take one."""
        able = self._able(now_s)
        if sum(len(donor.running) for donor in self._donors.values()) >= OUTSTANDING_MAX:
            return None
        for peer, donor in sorted(able, key=lambda item: len(item[1].running)):
            if len(donor.running) < self._places(donor, len(able)):
                chunk = self._fresh(donor, now_s) or self._late(peer, donor, now_s)
                if chunk is not None:
                    self._asked.setdefault(chunk, set()).add(peer)
                    donor.start(chunk, now_s)
                    return Ask(peer, *chunk)
        return None

    def _places(self, donor: _Donor, donors: int) -> int:
        """How many chunks keep this donor's link busy."""
        rate = donor.rate()
        wanted = 2 if rate is None else 1 + max(1, round(rate * AHEAD_S / self._length))
        return min(wanted, PER_DONOR_MAX, max(1, OUTSTANDING_MAX // donors))

    def _holds(self, donor: _Donor, blob: int, now_s: float) -> bool:
        if self._single[blob]:
            return donor.lacks_until_s.get(blob, 0.0) <= now_s
        return blob in donor.lists and donor.lists[blob] == self.believed[blob]

    def _fresh(self, donor: _Donor, now_s: float) -> Chunk | None:
        """A chunk that nobody was asked for, of the blob that the fewest hold."""
        blobs = [blob for blob, free in enumerate(self._free) if free and self._holds(donor, blob, now_s)]
        if not blobs:
            return None
        others = [other for peer, other in self._donors.items() if peer not in self.liars]
        rarest = min(blobs, key=lambda blob: sum(self._holds(other, blob, now_s) for other in others))
        return Chunk(rarest, heapq.heappop(self._free[rarest]))

    def _late(self, peer: PeerId, donor: _Donor, now_s: float) -> Chunk | None:
        """The chunk that others are latest with, if this one would have it sooner."""
        mine_s, found = self._expected_s(donor, len(donor.running) + 1), None
        for chunk, askers in self._asked.items():
            if peer not in askers and len(askers) < ASKERS_MAX and self._holds(donor, chunk.blob, now_s):
                left_s = min(self._left_s(self._donors[other], chunk, now_s) for other in askers)
                if left_s > mine_s:
                    mine_s, found = left_s, chunk
        return found

    def _expected_s(self, donor: _Donor, running: int) -> float:
        rate = donor.rate()
        return UNPROVEN_S if rate is None else running * self._length / rate

    def _left_s(self, donor: _Donor, chunk: Chunk, now_s: float) -> float:
        """What a chunk will still take; one that is late, as long again as it took."""
        took_s = now_s - donor.running[chunk]
        expected_s = self._expected_s(donor, len(donor.running))
        return took_s if took_s > LATE * expected_s else max(0.0, expected_s - took_s)

    # ---- how requests ended ---------------------------------------------------------------------

    def listed(self, ask: Ask, digests: bytes, now_s: float) -> bool:
        """A donor's list came; whether another list is believed now."""
        donor = self._donors[ask.peer]
        donor.listing.discard(ask.blob)
        donor.failures = 0
        known = [other.lists[ask.blob] for other in self._donors.values() if ask.blob in other.lists]
        donor.lists[ask.blob] = next((same for same in known if same == digests), digests)
        if digests in self.false[ask.blob]:
            self.liars.add(ask.peer)
        return self._believe(ask.blob)

    def arrived(self, ask: Ask, digest: bytes, now_s: float) -> list[Ask]:
        """A chunk came and has this digest. Its donor lied if its own list says otherwise.

        Returns who else was asked for the same chunk, in vain now.
        """
        assert ask.chunk is not None
        chunk, donor = Chunk(ask.blob, ask.chunk), self._donors[ask.peer]
        donor.failures = 0
        start, stop = bounds(self.sizes[ask.blob], ask.chunk)
        donor.took(stop - start, now_s)
        right = digest == self.digest(*chunk)
        if not right and (self._single[ask.blob] or self._said(donor, chunk) != digest):
            self.liars.add(ask.peer)
            self._believe_all()
        others = [Ask(peer, *chunk) for peer in self._asked.get(chunk, ()) if peer != ask.peer]
        if right:
            self._stored[ask.blob][ask.chunk] = digest
            self._here[ask.blob].add(ask.chunk)
        self.dropped(ask, now_s)
        return others if right else []

    def failed(self, ask: Ask, now_s: float) -> None:
        """Nobody answered, or no longer: leave it alone for a while, longer each time."""
        donor = self._donors[ask.peer]
        donor.busy = False
        donor.rest_until_s = now_s + min(REST_MAX_S, REST_S * 2**donor.failures)
        donor.failures = min(donor.failures + 1, 10)
        self.dropped(ask, now_s)

    def refused(self, ask: Ask, now_s: float) -> None:
        """It does not hold the blob, not yet or no longer."""
        donor = self._donors[ask.peer]
        donor.lists.pop(ask.blob, None)
        donor.lacks_until_s[ask.blob] = now_s + LACKS_S
        self._believe(ask.blob)
        self.dropped(ask, now_s)

    def busy(self, ask: Ask, now_s: float) -> None:
        """It serves as many others as it will: try again soon, for as long as it takes."""
        donor = self._donors[ask.peer]
        donor.busy, donor.rest_until_s = True, now_s + REST_S
        self.dropped(ask, now_s)

    def lied(self, ask: Ask, now_s: float) -> None:
        """What it sent cannot be: leave it out."""
        self.liars.add(ask.peer)
        self.dropped(ask, now_s)
        self._believe_all()

    def dropped(self, ask: Ask, now_s: float) -> None:
        """The request is over; its chunk may be asked of others, if it is not here."""
        donor = self._donors[ask.peer]
        if ask.chunk is None:
            donor.listing.discard(ask.blob)
            return
        chunk = Chunk(ask.blob, ask.chunk)
        donor.stop(chunk, now_s)
        askers = self._asked.get(chunk, set())
        askers.discard(ask.peer)
        if not askers and self._asked.pop(chunk, None) is not None and ask.chunk not in self._here[ask.blob]:
            heapq.heappush(self._free[ask.blob], ask.chunk)

    def disproved(self, blob: int) -> None:
        """All chunks fit the believed list, and the blob is another one: who gave that list lied.

        RemoteProtocolError for a blob that has no chunks: what named it was wrong.
        """
        believed = self.believed[blob]
        if believed is None:
            raise RemoteProtocolError("an empty blob with another digest than that of nothing")
        self.false[blob].add(believed)
        self.liars |= {peer for peer, donor in self._donors.items() if donor.lists.get(blob) == believed}
        self._believe_all()

    def proven(self, blob: int) -> None:
        """The blob is here and right, and so is the believed list: who gave another one lied."""
        believed = self.believed[blob]
        self.liars |= {p for p, donor in self._donors.items() if donor.lists.get(blob, believed) != believed}
        self._believe_all()

    # ---- whom to believe ------------------------------------------------------------------------

    def _said(self, donor: _Donor, chunk: Chunk) -> bytes | None:
        digests = donor.lists.get(chunk.blob)
        return digests and digests[chunk.number * DIGEST_BYTES : (chunk.number + 1) * DIGEST_BYTES]

    def _believe_all(self) -> None:
        for blob in range(len(self.sizes)):
            self._believe(blob)

    def _believe(self, blob: int) -> bool:
        """Believe the list that most gave, the present one in a tie; keep the chunks that fit it."""
        before = self.believed[blob]
        if self._single[blob]:
            return False
        honest = [donor for peer, donor in self._donors.items() if peer not in self.liars]
        votes = Counter(donor.lists[blob] for donor in honest if blob in donor.lists)
        if not votes and before not in self.false[blob]:
            return False  # whoever gave it is gone: what fits it is as good as before
        best = max(votes, key=lambda digests: (votes[digests], digests == before), default=None)
        if best == before:
            return False
        self.believed[blob] = best
        self._sort(blob)
        return True

    def _sort(self, blob: int) -> None:
        """Which chunks are here and which are free to be asked for, by the believed list."""
        every = range(chunk_count(self.sizes[blob]))
        stored = self._stored[blob]
        self._here[blob] = {i for i in every if i in stored and stored[i] == self.digest(blob, i)}
        self._free[blob] = [
            i for i in every if i not in self._here[blob] and Chunk(blob, i) not in self._asked
        ]
