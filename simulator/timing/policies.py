"""Policies without codes: each worker has a shard of its own, and the round waits for all, or for some."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atoll.simulator.timing.learner import Unit, Vector
from atoll.simulator.timing.rounds import Arrivals, Update, Work

Times = npt.NDArray[np.float64]


def by_tokens(job: int, units: Sequence[Unit]) -> Update | None:
    """The update of these units, each by its steps; None of nothing."""
    total = sum(unit.steps for unit in units)
    return Update(job, {unit: unit.steps / total for unit in units if unit.steps}) if total else None


@dataclass(frozen=True)
class Quorum:
    """Waits until a fixed share of the workers is done, and then for the grace of `leading.decide`: a share
    of the time so far. What the others did of this round is dropped, and they begin the next. (Chen et al.,
    Revisiting distributed synchronous SGD, 2016; grace: Decoupled DiLoCo 2026)
    """

    workers: int
    steps: int
    quorum: float = 0.75
    grace_share: float = 0.25
    name: str = "quorum"
    chains: int = 1

    def assign(self, round_: int) -> Sequence[Work]:
        return [(Unit(worker, round_, self.steps),) for worker in range(self.workers)]

    def end_s(self, round_: int, took_s: Times) -> float:
        quorum_s = float(np.sort(took_s)[math.ceil(self.quorum * self.workers) - 1])
        return min(float(took_s.max()), quorum_s * (1 + self.grace_share))

    def close(self, arrivals: Arrivals) -> Update | None:
        return by_tokens(arrivals.round, [arrivals.work[worker][0] for worker in arrivals.arrived])

    def learn(self, update: Update, deltas: Mapping[Unit, Vector], loss: float) -> None:
        pass


def wait_all(workers: int, steps: int) -> Quorum:
    """The quorum is everybody: the round takes as long as its slowest."""
    return Quorum(workers, steps, quorum=1.0, name="wait_all")
