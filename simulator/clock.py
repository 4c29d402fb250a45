"""Virtual time: what happens when, in milliseconds; ties in the order in which they were asked for.

Many things happen in one millisecond of a large network, so each millisecond has a list and only the
milliseconds are in a heap. What is asked for by `first` comes before all else of its millisecond: a fault
then strikes at the same place of the trace whether it was drawn just now or read from a list long ago.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

_Deed = tuple[Callable[..., None], tuple[Any, ...]]


class Clock:
    """`news` says that something happened for which `run` should ask whether it is done."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.happened = 0
        self.news = True
        self._times: list[int] = []
        self._deeds: dict[int, list[_Deed]] = {}
        self._first: dict[int, list[_Deed]] = {}
        self._next = 0

    def later(self, after_ms: int, act: Callable[..., None], *arguments: Any) -> None:
        at_ms = self.now_ms + after_ms
        deeds = self._deeds.get(at_ms)
        if deeds is None:
            self._deeds[at_ms] = [(act, arguments)]
            heapq.heappush(self._times, at_ms)
        else:
            deeds.append((act, arguments))

    def first(self, at_ms: int, act: Callable[..., None], *arguments: Any) -> None:
        """Do this at the very beginning of a millisecond that is still to come."""
        self._first.setdefault(at_ms, []).append((act, arguments))
        if at_ms not in self._deeds:
            self._deeds[at_ms] = []
            heapq.heappush(self._times, at_ms)

    def run(self, until_ms: int, done: Callable[[], bool]) -> bool:
        """Let time pass until `done()`, or `until_ms`; whether it was done. It is asked after news."""
        if done():
            return True
        while self._times and self._times[0] <= until_ms:
            self.now_ms = at_ms = self._times[0]
            for act, arguments in self._first.pop(at_ms, ()):
                act(*arguments)
            if self._pass(self._deeds[at_ms], done):
                return True
            del self._deeds[at_ms]
            heapq.heappop(self._times)
            self._next = 0
        self.now_ms = max(self.now_ms, until_ms)
        return done()

    def _pass(self, deeds: list[_Deed], done: Callable[[], bool]) -> bool:
        """The rest of this millisecond; what is asked for meanwhile, for no time at all, is part of it."""
        start = index = self._next
        while index < len(deeds):
            act, arguments = deeds[index]
            index += 1
            act(*arguments)
            if self.news:
                self.news = False
                if done():
                    self.happened += index - start
                    self._next = index
                    return True
        self.happened += index - start
        return False
