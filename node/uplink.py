"""How fast this peer can send, as its transfers to others show."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median_low

STRETCHES_FROM = ((4 << 20, 2.0), (16 << 20, 0.5))
"""Bytes and seconds from which on a stretch says something: some megabytes fit into buffers on the way."""
STRETCHES = 9


class Uplink:
    """Bytes per second while anything is being sent; what waits for nobody to ask is not counted.

    With several transfers at a time the clock runs once, so that it is what all of them get together. The
    median of the last stretches counts. A single one says little: receivers that are busy with others slow it
    down, buffers on the way take megabytes of it at once, and of equals one looks half as fast as the next.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._sending = 0
        self._since_s = 0.0
        self._sent, self._busy_s = 0, 0.0
        self._rates: deque[float] = deque(maxlen=STRETCHES)

    @property
    def bytes_per_s(self) -> int:
        """The estimate, 0 as long as there is none."""
        return int(median_low(self._rates)) if self._rates else 0

    @contextmanager
    def sending(self) -> Iterator[None]:
        """While a transfer is under way."""
        if not self._sending:
            self._since_s = self._clock_s()
        self._sending += 1
        try:
            yield
        finally:
            self._sending -= 1
            if not self._sending:
                self._count()

    def sent(self, count_bytes: int) -> None:
        self._sent += count_bytes
        self._count()

    def _count(self) -> None:
        """The time so far; a stretch ends here if it says enough."""
        now_s = self._clock_s()
        self._busy_s += now_s - self._since_s
        self._since_s = now_s
        if any(self._sent >= enough and self._busy_s >= long_s for enough, long_s in STRETCHES_FROM):
            self._rates.append(self._sent / self._busy_s)
            self._sent, self._busy_s = 0, 0.0
