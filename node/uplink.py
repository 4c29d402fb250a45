"""How fast this peer can send, as its transfers to others show."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SAMPLE_BYTES, SAMPLE_S = 4 << 20, 0.02
"""Less than this says nothing: it fits into buffers on the way."""
KEPT = 0.5
"""The share of the estimate that a new sample leaves."""


class Uplink:
    """Bytes per second while anything is being sent; what waits for nobody to ask is not counted.

    With several transfers at a time the clock runs once, so that it is what all of them get together.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._sending = 0
        self._since_s = 0.0
        self._sent, self._busy_s = 0, 0.0
        self._rate = 0.0

    @property
    def bytes_per_s(self) -> int:
        """The estimate, 0 as long as there is none."""
        return int(self._rate)

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
                self._busy_s += self._clock_s() - self._since_s
                self._take()

    def sent(self, count_bytes: int) -> None:
        self._sent += count_bytes

    def _take(self) -> None:
        if self._sent < SAMPLE_BYTES or self._busy_s < SAMPLE_S:
            return
        sample = self._sent / self._busy_s
        self._rate = KEPT * self._rate + (1 - KEPT) * sample if self._rate else sample
        self._sent, self._busy_s = 0, 0.0
