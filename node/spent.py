"""Where a trainer's seconds go: how much of the time it takes inner steps, and what keeps it from them."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, fields, replace
from typing import Literal

WINDOW_S, SAMPLE_S = 300.0, 5.0

Kind = Literal["steps_s", "merge_s", "hand_over_s", "save_s", "rest_s", "wait_s", "other_s"]


@dataclass(frozen=True, slots=True)
class Spent:
    """The seconds of a trainer up to `at_s`, on the machine's monotonic clock; every second is of one kind.

    Inner steps, with their data and the report of each; taking in anchors; handing a pseudo-gradient over;
    copying the inner optimiser's state to save it; resting, where the volunteer gives only a share of the
    time; waiting for the daemon; and what is left, such as loading and checks.
    """

    steps_s: float = 0.0
    merge_s: float = 0.0
    hand_over_s: float = 0.0
    save_s: float = 0.0
    rest_s: float = 0.0
    wait_s: float = 0.0
    other_s: float = 0.0
    at_s: float = 0.0

    def until(self, now_s: float, kind: Kind) -> Spent:
        """The same a little later, if nothing but `kind` was done since."""
        passed_s = max(0.0, now_s - self.at_s)
        return replace(self, **{kind: getattr(self, kind) + passed_s, "at_s": self.at_s + passed_s})

    def after(self, earlier: Spent) -> Spent:
        """With what an earlier trainer spent."""
        sums = {f.name: getattr(self, f.name) + getattr(earlier, f.name) for f in fields(self)}
        return Spent(**{**sums, "at_s": self.at_s})


class Stopwatch:
    """Divides the seconds of one thread up: each lap is of one kind."""

    def __init__(self) -> None:
        self.spent = Spent(at_s=time.monotonic())

    def lap(self, kind: Kind) -> None:
        """What passed since the last lap was `kind`."""
        self.spent = self.spent.until(time.monotonic(), kind)


class Utilisation:
    """The share of the last minutes in which inner steps ran."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque()

    def share(self, spent: Spent) -> float | None:
        """Take note of what was spent until now; the share since some minutes ago, None at first."""
        at_s, samples = spent.at_s, self._samples
        if not samples or at_s >= samples[-1][0] + SAMPLE_S:
            samples.append((at_s, spent.steps_s))
        while samples[0][0] < at_s - WINDOW_S:
            samples.popleft()
        since_s, steps_s = samples[0]
        return (spent.steps_s - steps_s) / (at_s - since_s) if at_s > since_s else None
