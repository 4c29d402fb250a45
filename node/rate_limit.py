"""What a volunteer lets Atoll use of a link, shared fairly among those who want it.

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

BURST_S = 0.1
"""What was left unused for this long may be made up for at once; and how long one chunk should take."""
FLOWS_KEPT = 64
WEIGHTS: dict[Kind, float] = {"contribution": 8.0, "result": 8.0, "state": 1.0, "control": 8.0, "dht": 8.0}


@dataclass(slots=True, order=True)
class _Wish:
    """Somebody's wait for its turn: `start` is where its flow stands, `number` the order of coming."""

    start: float
    number: int
    size: int = field(compare=False)
    granted: asyncio.Future[None] = field(compare=False)


class RateLimit:
    """At most `bytes_per_s` over any stretch much longer than BURST_S; 0 is no limit."""

    def __init__(self, bytes_per_s: int = 0) -> None:
        self.bytes_per_s = bytes_per_s
        self._wishes: list[_Wish] = []
        self._flows: dict[tuple[PeerId, Kind], float] = {}
        self._reached, self._numbers = 0.0, 0
        self._free_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def chunk_bytes(self) -> int:
        """The most that one turn should be for, so that all flows move."""
        return min(int(BURST_S * self.bytes_per_s) or CHUNK_BYTES_MAX, CHUNK_BYTES_MAX)

    async def turn(self, peer: PeerId, kind: Kind, size: int) -> None:
        """Wait until `size` bytes to or from a peer may move. Flows that wait share the rate by WEIGHTS."""
        if not self.bytes_per_s:
            return
        flow = peer, kind
        self._forget()
        start = max(self._reached, self._flows.get(flow, 0.0))
        self._flows[flow] = start + size / WEIGHTS[kind]
        wish = _Wish(start, self._numbers, size, asyncio.get_running_loop().create_future())
        self._numbers += 1
        heapq.heappush(self._wishes, wish)
        self._grant()
        await wish.granted

    def _grant(self) -> None:
        """Let go whoever's turn it is; be called again when it is the next one's."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        while self._wishes and self._free_s <= now_s:
            wish = heapq.heappop(self._wishes)
            if wish.granted.done():
                continue  # it was cancelled: its bytes never move
            self._reached = wish.start
            self._free_s = max(self._free_s, now_s - BURST_S) + wish.size / self.bytes_per_s
            wish.granted.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._wishes:
            self._timer = loop.call_at(self._free_s, self._grant)

    def _forget(self) -> None:
        """Nobody waits: what flows had is of no matter. Many do: of who had least it matters least."""
        if not self._wishes:
            self._flows.clear()
        elif len(self._flows) > 2 * FLOWS_KEPT:
            most = heapq.nlargest(FLOWS_KEPT, self._flows.items(), key=lambda flow: flow[1])
            self._flows = dict(most)
