"""A policy, a trace and a learner, put together: rounds in virtual time, with pseudo-gradients that are real.

A round begins for all workers at once. The policy says which units each works on, one after another; the
trace says when each is done; the policy says when the round ends and which units, with which weights, make
an update. What is then applied is trained for real, from the anchor that the units' round began with, and
the outer step is the product's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from atoll.optim.rules.nesterov import NesterovRule
from atoll.simulator.timing.learner import Learner, Unit, Vector
from atoll.simulator.timing.traces import Trace

Work = tuple[Unit, ...]
"""What one worker does in a round, in this order."""


@dataclass(frozen=True)
class Arrivals:
    """What a round came to. `took_s` is when each worker is done with its work, since the round began, if it
    goes on; `end_s` is when the round ended; `steps` are the whole inner steps that each had done by then."""

    round: int
    work: Sequence[Work]
    took_s: npt.NDArray[np.float64]
    end_s: float
    steps: tuple[int, ...]

    @property
    def arrived(self) -> tuple[int, ...]:
        """The workers that were done, in the order of their numbers."""
        return tuple(int(worker) for worker in np.flatnonzero(self.took_s <= self.end_s))


@dataclass(frozen=True, slots=True)
class Update:
    """The units that make the update of a job, each with the weight of its pseudo-gradient in it."""

    job: int
    weights: Mapping[Unit, float]


class Policy(Protocol):
    """Who works on what for how long, when a round ends, and with which weights."""

    @property
    def name(self) -> str: ...

    @property
    def chains(self) -> int:
        """How many anchors are trained side by side: job j is for anchor j mod chains."""

    @property
    def learns(self) -> bool:
        """Whether `learn` is to be given the pseudo-gradients."""

    def assign(self, round_: int) -> Sequence[Work]:
        """The work of each worker, by its number. Job r begins in round r."""

    def end_s(self, round_: int, took_s: npt.NDArray[np.float64]) -> float:
        """When the round ends, from the times at which workers are done; no later one may count."""

    def close(self, arrivals: Arrivals) -> Update | None:
        """What this round decides, if anything."""

    def learn(self, update: Update, deltas: Mapping[Unit, Vector], loss: float) -> None:
        """What an update consisted of, and the held-out loss after it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all policies have in common. Times in seconds of a worker at full speed, a step being one.

    `exchange_s` is the exchange of a round, in which all wait for the network and nobody for anybody.
    """

    steps: int = 8
    exchange_s: float = 0.25
    outer: NesterovRule = field(default_factory=lambda: NesterovRule(0.7, 0.6))
    rounds_max: int = 200
    limit_s: float = float("inf")


@dataclass(frozen=True, slots=True)
class Point:
    """After an update: the time, and the held-out loss of each shard."""

    now_s: float
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        return float(np.mean(self.losses))


@dataclass(slots=True)
class Spent:
    """Tokens that were possible, in steps, and what became of them; the rest was dropped, or done twice."""

    possible: float = 0.0
    waiting: float = 0.0
    exchange: float = 0.0
    useful: float = 0.0

    def shares(self) -> dict[str, float]:
        named = {"waiting": self.waiting, "exchange": self.exchange, "useful": self.useful}
        shares = {name: value / self.possible for name, value in named.items()}
        return {**shares, "unused": 1 - sum(shares.values())}


@dataclass(frozen=True, slots=True)
class History:
    """What a run came to. `points` are of the anchors in turn, where there are several."""

    points: tuple[Point, ...]
    spent: Spent
    rounds: int
    chains: int
    anchor: Vector

    def time_to(self, loss: float) -> float | None:
        """When all anchors had reached that loss, by their number: the time that one of them took."""
        times = []
        for chain in range(self.chains):
            reached = [p.now_s for p in self.points[chain :: self.chains] if p.loss <= loss]
            if not reached:
                return None
            times.append(reached[0])
        return max(times) / self.chains


class Run:
    """One policy on one trace, from the learner's first parameters."""

    def __init__(self, policy: Policy, trace: Trace, learner: Learner, setting: Setting) -> None:
        self._policy, self._trace, self._learner, self._setting = policy, trace, learner, setting
        self._anchors = [torch.from_numpy(learner.first()) for _ in range(policy.chains)]
        self._states = [setting.outer.state(anchor.numel()) for anchor in self._anchors]
        self._bases: dict[int, Vector] = {}
        self._points: list[Point] = []
        self.now_s, self.spent = 0.0, Spent()

    def until(self, loss: float | None = None) -> History:
        """Go on until all anchors have reached that loss, or one of the setting's limits is."""
        setting, round_ = self._setting, 0
        history = self._history(round_)
        while round_ < setting.rounds_max and self.now_s < setting.limit_s:
            self._round(round_)
            round_ += 1
            history = self._history(round_)
            if loss is not None and history.time_to(loss) is not None:
                break
        return history

    def _history(self, rounds: int) -> History:
        last = self._anchors[0].numpy()
        return History(tuple(self._points), self.spent, rounds, self._policy.chains, last)

    def _round(self, round_: int) -> None:
        self._bases[round_] = self._anchors[round_ % self._policy.chains].numpy().copy()
        work = self._policy.assign(round_)
        asked = [sum(unit.work for unit in units) for units in work]
        ends = [self._trace.done_s(worker, self.now_s, steps) for worker, steps in enumerate(asked)]
        took_s = np.array(ends) - self.now_s
        end_s = self._policy.end_s(round_, took_s)
        steps = self._count(asked, end_s)
        self.now_s += end_s + self._setting.exchange_s
        update = self._policy.close(Arrivals(round_, work, took_s, end_s, steps))
        if update is not None:
            self._apply(update)

    def _count(self, asked: Sequence[float], end_s: float) -> tuple[int, ...]:
        """Book the round's tokens; the whole steps that each worker has done at its end."""
        steps = []
        for worker, wanted in enumerate(asked):
            before = self._trace.work(worker, self.now_s)
            here = self._trace.work(worker, self.now_s + end_s) - before
            whole = self._trace.work(worker, self.now_s + end_s + self._setting.exchange_s) - before
            self.spent.possible += whole
            self.spent.exchange += whole - here
            self.spent.waiting += max(0.0, here - wanted)
            steps.append(int(min(wanted, here) + 1e-6))
        return tuple(steps)

    def _apply(self, update: Update) -> None:
        setting, chain = self._setting, update.job % self._policy.chains
        base = self._bases.pop(update.job)
        mean = self._learner.mean(base, update.weights)
        setting.outer.step_(self._anchors[chain], self._states[chain], torch.from_numpy(mean.copy()))
        self.spent.useful += sum(unit.work for unit, weight in update.weights.items() if weight)
        losses = self._learner.losses(self._anchors[chain].numpy())
        self._points.append(Point(self.now_s, losses))
        deltas = self._learner.deltas(base, list(update.weights)) if self._policy.learns else {}
        self._policy.learn(update, deltas, self._points[-1].loss)
