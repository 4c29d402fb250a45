"""Ends a stream that stands still. Asyncio's own time-out makes a task for each wait; this, one timer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watch:
    """Calls `end` once `stall_s` seconds have passed without a call of `moved`. To be closed."""

    def __init__(self, stall_s: float, end: Callable[[], object]) -> None:
        self._loop, self._stall_s, self._end = asyncio.get_running_loop(), stall_s, end
        self.stalled = False
        self._moved_s = self._loop.time()
        self._timer = self._loop.call_later(stall_s, self._look)

    def moved(self) -> None:
        self._moved_s = self._loop.time()

    @contextmanager
    def resting(self) -> Iterator[None]:
        """While this side is what the stream waits for."""
        self._moved_s = math.inf
        try:
            yield
        finally:
            self.moved()

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now_s = self._loop.time()
        due_s = min(self._moved_s, now_s) + self._stall_s
        if now_s < due_s:
            self._timer = self._loop.call_at(due_s, self._look)
        else:
            self.stalled = True
            self._end()
