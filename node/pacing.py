"""Keeps what this peer sends a little below what its link carries, so that nothing waits in a router's queue.

Routers of homes hold tenths of a second of bytes. Whoever sends as fast as TCP will fills that queue: then
votes wait behind updates, somebody's call in the same house stutters, and what overflows is sent twice. And
only what has not left this process can still be put in order. So when the way gets longer while there is more
to send, uploads are held to what the link was seen to carry. They try more now and then, and less when the
queue is back. (after LEDBAT, RFC 6817, and BBR, Cardwell et al. 2016; for all connections of a peer together)
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass

from atoll.node import tcp_info
from atoll.node.rate_limit import RateLimit

TICK_S, IDLE_S, LOOK_S = 0.1, 0.4, 2.0
"""How often connections are read while there is something to send, and else; and looked for."""
WINDOW_S = 1.0
"""What a link carries is measured over this long, all of it with a queue: acknowledgements come in bursts."""
QUEUE_S = 0.1
"""A way that takes this much longer has a queue on it; a chunk of this peer's own makes half of it."""
DRAINING, BELOW = 0.9, 0.97
"""How much of what a link carries is sent while it has a queue, and when it has none."""
TRY_S, MORE, MORE_MAX = 1.0, 0.03, 0.25
"""After so long without a queue so much more is tried, and twice as much the next time."""
SETTLE_S, KEPT = 1.5, 0.85
"""How long one measurement counts, and how much of it the next one leaves: less is sent meanwhile."""
SHARE_MIN, FORGET_S = 0.5, 60.0
"""Who else uses the link leaves this of what it carried at best: the run goes on. But links change."""
WAITING_BYTES_MIN = 32 << 10
"""Less than this is on its way anyhow, and says nothing of what the link would carry."""
SAYS_BYTES_MIN = 4 << 10
"""A connection with less on its way does not tell how long a queue is."""
PACED_BYTES_PER_S_MAX = 6_000_000
"""Faster links are left to TCP: what one of their queues holds is there in no time."""


@dataclass(frozen=True, slots=True)
class Sample:
    """All connections at one time. `wanted`: there is more to send than has been sent."""

    arrived_bytes: int
    queue_s: float
    wanted: bool


class Pace:
    """Bytes per second that this peer may send; 0 as long as nothing speaks for a limit."""

    def __init__(self) -> None:
        self.bytes_per_s = 0
        self._window: deque[tuple[float, Sample]] = deque()
        self.carried = self._before = self._best = 0.0
        self._calm_s, self._more, self._settled_s = 0.0, MORE, -math.inf

    def tick(self, now_s: float, sample: Sample) -> None:
        """Take one sample; every `TICK_S` or so."""
        passed_s = now_s - self._window[-1][0] if self._window else 0.0
        if not sample.wanted or passed_s >= WINDOW_S / 2:
            self._window.clear()
        if not sample.wanted:
            return
        self._window.append((now_s, sample))
        if sample.queue_s >= QUEUE_S:
            self._queued(now_s)
        elif self.bytes_per_s:
            self._calm(passed_s)

    def _queued(self, now_s: float) -> None:
        """Send less than the link carries until the queue is gone; what was tried last was too much."""
        self._calm_s, self._more, self.carried = 0.0, MORE, self._before
        carried = self._measured(now_s)
        if carried and now_s - self._settled_s >= SETTLE_S:
            self._settled_s = now_s
            self._best = max(carried, self._best * (1 - SETTLE_S / FORGET_S))
            self._before = self.carried = max(carried, self.carried * KEPT, self._best * SHARE_MIN)
        if self.carried:
            self._hold(self.carried * DRAINING)

    def _calm(self, passed_s: float) -> None:
        """Send a little less than the link is thought to carry; after a while without a queue try more."""
        self._calm_s += passed_s
        if self._calm_s >= TRY_S:
            self._before, self.carried = self.carried, self.carried * (1 + self._more)
            self._calm_s, self._more = 0.0, min(2 * self._more, MORE_MAX)
        self._hold(self.carried * BELOW)

    def _measured(self, now_s: float) -> float:
        """What arrived by second over `WINDOW_S`, all of which had more to send and a queue; else 0."""
        while len(self._window) > 2 and now_s - self._window[1][0] >= WINDOW_S:
            self._window.popleft()
        (begun_s, begun), (_, last) = self._window[0], self._window[-1]
        queued = all(sample.queue_s >= QUEUE_S / 2 for _, sample in self._window)
        if not queued or now_s - begun_s < 0.99 * WINDOW_S:
            return 0.0
        return (last.arrived_bytes - begun.arrived_bytes) / (now_s - begun_s)

    def _hold(self, bytes_per_s: float) -> None:
        self.bytes_per_s = int(bytes_per_s) if bytes_per_s <= PACED_BYTES_PER_S_MAX else 0


class Pacer:
    """Reads this process' connections, and sets the limit of its uploads, which had the volunteer's own."""

    def __init__(self, limit: RateLimit, loopback: bool = False) -> None:
        self._limit, self._most, self._loopback = limit, limit.bytes_per_s, loopback
        self._pace = Pace()
        self._arrived: dict[tcp_info.Connection, int] = {}
        self._total = 0

    @property
    def bytes_per_s(self) -> int:
        """What uploads are held to so that no queue forms; 0 if they are not."""
        return self._pace.bytes_per_s

    @property
    def carried(self) -> int:
        """What the link was seen to carry, in bytes per second; 0 if uploads are not held to it."""
        return int(self._pace.carried) if self._pace.bytes_per_s else 0

    async def run(self) -> None:
        """Until cancelled. Where the kernel tells nothing this does nothing."""
        looked_s = -math.inf
        while True:
            now_s = time.monotonic()
            if now_s - looked_s >= LOOK_S:
                seen, looked_s = tcp_info.connections(self._loopback), now_s
                self._arrived = {one: self._arrived.get(one, -1) for one in seen}
            sample = self._read()
            self._pace.tick(now_s, sample)
            self._limit.set(min((rate for rate in (self._most, self.bytes_per_s) if rate), default=0))
            await asyncio.sleep(TICK_S if sample.wanted else IDLE_S)

    def _read(self) -> Sample:
        """The sum over all connections; one that is new counts from here.

        The queue of this peer's own link is before all others, so the least of those to several counts.
        """
        waiting, queues = 0, dict[str, float]()
        for one, before in self._arrived.items():
            info = tcp_info.read(one.descriptor)
            if info is None:
                continue
            self._total += max(0, info.arrived_bytes - before) if before >= 0 else 0
            self._arrived[one] = info.arrived_bytes
            waiting += info.waiting_bytes
            if info.waiting_bytes >= SAYS_BYTES_MIN:
                queues[one.host] = max(queues.get(one.host, 0.0), info.queue_s)
        queue_s = min(queues.values(), default=0.0)
        return Sample(self._total, queue_s, self._limit.busy or waiting >= WAITING_BYTES_MIN)
