"""How much of a machine's time is given to training; for the rest of it the trainer rests, step by step."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

EFFORT_MIN = 0.05
LOOK_S = 0.05
"""A rest is looked up from this often: it ends as soon as a round does."""
LATELY = 8
LONGER_MAX = 3.0


class Effort:
    """Trains for `share` of the time: a step of a second is followed by a rest of 1 / share - 1 seconds.

    A step counts as at most `LONGER_MAX` times the shortest of the last `LATELY`: one during which the
    machine slept, or the process was stopped, would call for a rest of hours. `clock` tells seconds.
    """

    def __init__(
        self,
        share: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._more = 1.0 / share - 1.0
        self._clock, self._sleep = clock, sleep
        self._begun_s: float | None = None
        self._rest_s = 0.0
        self._lately_s: deque[float] = deque(maxlen=LATELY)

    def begin(self) -> None:
        """A step begins now."""
        self._begun_s = self._clock()

    def end(self) -> None:
        """The step that began last, if there was one, is done."""
        if self._begun_s is not None:
            self._lately_s.append(self._clock() - self._begun_s)
            usual_s = min(self._lately_s) * LONGER_MAX
            self._rest_s, self._begun_s = min(self._lately_s[-1], usual_s) * self._more, None

    def rest(self, enough: Callable[[], bool]) -> None:
        """Wait for as long as the last step calls for, or until it is enough."""
        end_s, self._rest_s = self._clock() + self._rest_s, 0.0
        while (left_s := end_s - self._clock()) > 0 and not enough():
            self._sleep(min(left_s, LOOK_S))
