"""Rounds that wait for a share of the workers, and merge what comes late into the next one.

A round ends as soon as so many contributions are there. Who is not done trains on from its old anchor, also
through the exchange, and its pseudo-gradient counts in the round in which it comes, by `protocol/weights.py`;
beyond the bound its work is lost and it begins anew. What the product would carry in the residual is lost
here. (FedBuff, Nguyen et al. 2022; FedAST, Askin et al. 2024)
"""

from __future__ import annotations

import math

import numpy as np
import torch

from atoll.protocol.weights import stale
from atoll.simulator.timing.learner import Learner, Unit, Vector
from atoll.simulator.timing.rounds import History, Point, Setting, Spent
from atoll.simulator.timing.traces import Trace


class Buffered:
    """One trace, from the learner's first parameters; `quorum` is the share of the workers waited for."""

    name = "merge"

    def __init__(
        self, trace: Trace, learner: Learner, setting: Setting, quorum: float = 0.5, staleness_max: int = 8
    ) -> None:
        self._trace, self._learner, self._setting = trace, learner, setting
        self._enough, self._staleness_max = math.ceil(quorum * trace.workers), staleness_max
        self._anchor = torch.from_numpy(learner.first())
        self._state = setting.outer.state(self._anchor.numel())
        self._bases: dict[int, Vector] = {0: self._anchor.numpy().copy()}
        self._begun = [(0, 0.0)] * trace.workers
        self._points: list[Point] = []
        self.now_s, self.spent = 0.0, Spent()

    def until(self, loss: float | None = None) -> History:
        """Go on until the anchor has reached that loss, or one of the setting's limits is."""
        setting, round_ = self._setting, 0
        while round_ < setting.rounds_max and self.now_s < setting.limit_s:
            self._round(round_)
            round_ += 1
            if loss is not None and self._points[-1].loss <= loss:
                break
        return History(tuple(self._points), self.spent, round_, 1, self._anchor.numpy())

    def _round(self, round_: int) -> None:
        steps = self._setting.steps
        done_s = [self._trace.done_s(worker, at_s, steps) for worker, (_, at_s) in enumerate(self._begun)]
        end_s = max(self.now_s, sorted(done_s)[self._enough - 1])
        here = [worker for worker, at_s in enumerate(done_s) if at_s <= end_s]
        units = {worker: Unit(worker, self._begun[worker][0], steps) for worker in here}
        factors = {worker: stale(round_ - units[worker].job, self._staleness_max) for worker in here}
        self._book(here, done_s, end_s)
        self._step({units[worker]: factors[worker] / sum(factors.values()) for worker in here})
        self._bases[round_ + 1] = self._anchor.numpy().copy()
        for worker, (begun, _) in enumerate(self._begun):
            if worker in here or round_ + 1 - begun > self._staleness_max:
                self._begun[worker] = (round_ + 1, self.now_s)
        oldest = min(begun for begun, _ in self._begun)
        self._bases = {begun: base for begun, base in self._bases.items() if begun >= oldest}

    def _book(self, here: list[int], done_s: list[float], end_s: float) -> None:
        """The tokens of the round, up to the end of its exchange, in which only the late train."""
        before_s, self.now_s = self.now_s, end_s + self._setting.exchange_s
        for worker in range(self._trace.workers):
            work = [self._trace.work(worker, at_s) for at_s in (before_s, end_s, self.now_s)]
            self.spent.possible += work[2] - work[0]
            if worker in here:
                self.spent.waiting += work[1] - self._trace.work(worker, max(before_s, done_s[worker]))
                self.spent.exchange += work[2] - work[1]
                self.spent.useful += self._setting.steps
            else:
                self.spent.waiting += work[2] - self._trace.work(worker, min(self.now_s, done_s[worker]))

    def _step(self, weights: dict[Unit, float]) -> None:
        mean = np.zeros(self._anchor.numel(), np.float32)
        for begun in sorted({unit.job for unit in weights}):
            same = {unit: weight for unit, weight in weights.items() if unit.job == begun}
            mean += self._learner.mean(self._bases[begun], same)
        self._setting.outer.step_(self._anchor, self._state, torch.from_numpy(mean))
        losses = self._learner.losses(self._anchor.numpy())
        self._points.append(Point(self.now_s, losses))
