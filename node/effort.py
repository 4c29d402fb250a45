"""How much of a machine's time is given to training; for the rest of it the trainer rests, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable

EFFORT_MIN = 0.05
LOOK_S = 0.05
"""A rest is looked up from this often: it ends as soon as a round does."""


class Effort:
    """Trains for `share` of the time: a step of a second is followed by a rest of 1 / share - 1 seconds."""

    def __init__(self, share: float) -> None:
        self._more = 1.0 / share - 1.0
        self._begun_s: float | None = None
        self._rest_s = 0.0

    def begin(self) -> None:
        """A step begins now."""
        self._begun_s = time.monotonic()

    def end(self) -> None:
        """The step that began last, if there was one, is done."""
        if self._begun_s is not None:
            self._rest_s, self._begun_s = (time.monotonic() - self._begun_s) * self._more, None

    def rest(self, enough: Callable[[], bool]) -> None:
        """Wait for as long as the last step calls for, or until it is enough."""
        end_s, self._rest_s = time.monotonic() + self._rest_s, 0.0
        while (left_s := end_s - time.monotonic()) > 0 and not enough():
            time.sleep(min(left_s, LOOK_S))
