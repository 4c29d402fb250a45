"""Virtual time: what happens when, in milliseconds; ties in the order in which they were asked for."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    def __init__(self) -> None:
        self.now_ms = 0
        self.happened = 0
        self._asked = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []

    def later(self, after_ms: int, act: Callable[..., None], *arguments: Any) -> None:
        self._asked += 1
        heapq.heappush(self._heap, (self.now_ms + after_ms, self._asked, act, arguments))

    def run(self, until_ms: int, done: Callable[[], bool]) -> bool:
        """Let time pass until `done()`, or `until_ms`; whether it was done."""
        while not done():
            if not self._heap or self._heap[0][0] > until_ms:
                self.now_ms = max(self.now_ms, until_ms)
                return False
            self.now_ms, _, act, arguments = heapq.heappop(self._heap)
            self.happened += 1
            act(*arguments)
        return True
