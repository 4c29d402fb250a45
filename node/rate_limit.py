"""What a volunteer lets Atoll use of a link, or what it carries, shared fairly among those who want it.

Whoever wants to send (or to read on) waits for its turn. A peer's transfers of one kind are one flow, however
many streams they are; among the flows that wait, the one that got the least for its weight is next, so a
joiner that takes a whole state leaves updates eight ninths of the link, and all of it while none moves.
(start-time fair queueing; Goyal, Vin and Cheng 1996)
"""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass, field

from atoll.node.traffic import Kind
from atoll.node.transport import CHUNK_BYTES_MAX
from atoll.protocol.ids import PeerId

BURST_S = 0.025
"""What was left unused for this long may be made up for at once; and how long one chunk should take."""
FLOWS_KEPT = 64
FIRST, USUAL, EARLY = range(3)
"""Contributions are what everybody waits for: a sum that is sent meanwhile is of no use before the last one
is made. What is for a round that has not begun nobody waits for yet."""
EVERY_S = 1.0
"""Each rank has a turn this often: a stream that stands still looks broken."""
WEIGHTS: dict[Kind, float] = {"contribution": 8.0, "result": 8.0, "state": 1.0, "control": 8.0, "dht": 8.0}


@dataclass(slots=True, order=True)
class _Wish:
    """Somebody's wait for its turn: `start` is where its flow stands, `number` the order of coming."""

    rank: int
    start: float
    number: int
    kind: Kind = field(compare=False)
    size: int = field(compare=False)
    round: int = field(compare=False)
    granted: asyncio.Future[None] = field(compare=False)


class RateLimit:
    """At most `bytes_per_s` over any stretch much longer than BURST_S; 0 is no limit."""

    def __init__(self, bytes_per_s: int = 0) -> None:
        self.bytes_per_s = bytes_per_s
        self._round = 0
        self._wishes: list[_Wish] = []
        self._flows: dict[tuple[PeerId, Kind], float] = {}
        self._reached, self._numbers = 0.0, 0
        self._free_s, self._served_s = 0.0, [0.0] * 3
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether anybody waits for a turn."""
        return bool(self._wishes)

    def set(self, bytes_per_s: int) -> None:
        """Another limit from now on; without one all who wait may go."""
        if bytes_per_s != self.bytes_per_s:
            self.bytes_per_s = bytes_per_s
            self._grant()

    def enter(self, round_: int) -> None:
        """The round that is in progress: nobody waits yet for what is for a later one."""
        if round_ != self._round:
            self._round = round_
            for wish in self._wishes:
                wish.rank = self._rank(wish.kind, wish.round)
            heapq.heapify(self._wishes)

    def chunk_bytes(self) -> int:
        """The most that one turn should be for, so that all flows move."""
        return min(int(BURST_S * self.bytes_per_s) or CHUNK_BYTES_MAX, CHUNK_BYTES_MAX)

    async def turn(self, peer: PeerId, kind: Kind, size: int, round_: int = 0) -> None:
        """Wait until `size` bytes to or from a peer may move. Flows that wait share the rate by WEIGHTS.

        Contributions go before all else, but those to a later `round_` than the one in progress after it.
        """
        if not self.bytes_per_s:
            return
        loop, flow, rank = asyncio.get_running_loop(), (peer, kind), self._rank(kind, round_)
        self._forget()
        start = max(self._reached, self._flows.get(flow, 0.0))
        if rank <= USUAL:
            self._flows[flow] = start + size / WEIGHTS[kind]
        wish = _Wish(rank, start, self._numbers, kind, size, round_, loop.create_future())
        self._numbers += 1
        if all(other.rank != rank for other in self._wishes):
            self._served_s[rank] = loop.time()
        heapq.heappush(self._wishes, wish)
        self._grant()
        await wish.granted

    def _grant(self) -> None:
        """Let go whoever's turn it is; be called again when it is the next one's."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        while self._wishes and (self._free_s <= now_s or not self.bytes_per_s):
            wish = self._next(now_s)
            if wish.granted.done():
                continue  # it was cancelled: its bytes never move
            if wish.rank == USUAL:
                self._reached = wish.start
            if self.bytes_per_s:
                self._free_s = max(self._free_s, now_s - BURST_S) + wish.size / self.bytes_per_s
            wish.granted.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._wishes:
            self._timer = loop.call_at(self._free_s, self._grant)

    def _rank(self, kind: Kind, round_: int) -> int:
        return EARLY if round_ > self._round else FIRST if kind == "contribution" else USUAL

    def _next(self, now_s: float) -> _Wish:
        """Take the wish whose turn it is."""
        late = [wish for wish in self._wishes if now_s - self._served_s[wish.rank] >= EVERY_S]
        wish = min(late, default=self._wishes[0])
        self._wishes.remove(wish)
        heapq.heapify(self._wishes)
        self._served_s[wish.rank] = now_s
        return wish

    def _forget(self) -> None:
        """Nobody waits: what flows had is of no matter. Many do: of who had least it matters least."""
        if not self._wishes:
            self._flows.clear()
        elif len(self._flows) > 2 * FLOWS_KEPT:
            most = heapq.nlargest(FLOWS_KEPT, self._flows.items(), key=lambda flow: flow[1])
            self._flows = dict(most)
