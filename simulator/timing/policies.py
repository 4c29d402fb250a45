"""Policies without codes: each worker has a shard of its own, and the round waits for all, or for some.

What they decide with is the product's: `protocol/pace.py`, `protocol/grace.py`, `protocol/waiting.py` and
`optim/backup_workers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from atoll.optim.backup_workers import (
    Spread,
    arrival_times,
    averaged,
    choose,
    curvature,
    gain,
    spread,
)
from atoll.protocol.grace import grace_ms
from atoll.protocol.ids import PeerId
from atoll.protocol.manifest import RoundRules
from atoll.protocol.pace import Pace, PaceRules, Report, next_paces
from atoll.protocol.waiting import Moment, Watch, end_ms
from atoll.simulator.timing.learner import Unit, Vector
from atoll.simulator.timing.rounds import Arrivals, Update, Work
from atoll.simulator.timing.traces import Trace

Times = npt.NDArray[np.float64]

GRACE_SHARE, GRACE_MS = 0.25, (500, 30_000)
"""The manifest's defaults."""


def by_tokens(job: int, units: Sequence[Unit]) -> Update | None:
    """The update of these units, each by its steps; None of nothing."""
    total = sum(unit.steps for unit in units)
    return Update(job, {unit: unit.steps / total for unit in units if unit.steps}) if total else None


def quorum_end_s(took_s: Times, quorum: int) -> float:
    """When a leader goes on: all are done, or the grace after the quorum is over."""
    quorum_s = float(np.sort(took_s)[quorum - 1])
    return min(float(took_s.max()), quorum_s + grace_ms(int(1000 * quorum_s), GRACE_SHARE, GRACE_MS) / 1000)


@dataclass(frozen=True)
class Quorum:
    """Waits until a fixed share of the workers is done, and then for the leader's usual grace. What the
    others did of this round is dropped, and they begin the next. (Chen et al., Revisiting distributed
    synchronous SGD, 2016; grace: Decoupled DiLoCo 2026)
    """

    workers: int
    steps: int
    quorum: float = 0.75
    name: str = "quorum"
    chains: int = 1
    learns: bool = False

    def assign(self, round_: int) -> Sequence[Work]:
        return [(Unit(worker, round_, self.steps),) for worker in range(self.workers)]

    def end_s(self, round_: int, took_s: Times) -> float:
        return quorum_end_s(took_s, math.ceil(self.quorum * self.workers))

    def close(self, arrivals: Arrivals) -> Update | None:
        return by_tokens(arrivals.round, [arrivals.work[worker][0] for worker in arrivals.arrived])

    def learn(self, update: Update, deltas: Mapping[Unit, Vector], loss: float) -> None:
        pass


def wait_all(workers: int, steps: int, chains: int = 1) -> Quorum:
    """The quorum is everybody: the round takes as long as its slowest."""
    return Quorum(workers, steps, quorum=1.0, name="wait_all", chains=chains)


@dataclass
class BackupWorkers:
    """Waits for as many as promised the most gain by time in the rounds before. (DBW: Xu et al. 2020)

    No grace: the number is the policy. The outer rate is that of a step with all momentum to come.
    """

    workers: int
    steps: int
    lr: float
    name: str = "dbw"
    chains: int = 1
    learns: bool = True
    memory: int = 8
    _times: list[list[float]] = field(default_factory=list)
    _count: int = 0
    _curve: float | None = None
    _square: float | None = None
    _variance: float | None = None
    _losses: list[float] = field(default_factory=list)

    def assign(self, round_: int) -> Sequence[Work]:
        return [(Unit(worker, round_, self.steps),) for worker in range(self.workers)]

    def end_s(self, round_: int, took_s: Times) -> float:
        ordered = np.sort(took_s)
        self._count = self._choice()
        self._times = [*self._times[1 - self.memory :], [1000 * float(took) for took in ordered]]
        return float(ordered[self._count - 1])

    def _choice(self) -> int:
        if self._curve is None or self._square is None or self._variance is None:
            return self.workers
        found = Spread(self._square, self._variance)
        gains = [gain(count, self.lr, self._curve, found) for count in range(1, self.workers + 1)]
        rose = self._losses[-1] / self._losses[-2] if len(self._losses) > 1 else 0.0
        return choose(arrival_times(self._times, self.workers), gains, self._count, rose).count

    def close(self, arrivals: Arrivals) -> Update | None:
        return by_tokens(arrivals.round, [arrivals.work[worker][0] for worker in arrivals.arrived])

    def learn(self, update: Update, deltas: Mapping[Unit, Vector], loss: float) -> None:
        vectors = [delta.astype(np.float64) for delta in deltas.values()]
        if len(vectors) > 1:
            mean = np.sum(vectors, 0) / len(vectors)
            found = spread([float((v * v).sum()) for v in vectors], float((mean * mean).sum()))
            self._square = averaged(self._square, found.square)
            self._variance = averaged(self._variance, found.variance)
            if self._losses:
                sample = curvature(self.lr, found, len(vectors), self._losses[-1] - loss)
                self._curve = averaged(self._curve, sample)
        self._losses.append(loss)


@dataclass
class Dynamic:
    """Runs with `wait = "dynamic"`: a leader foresees who is done when from the steps that workers report.

    It hears of them as often as members say that they are alive, and decides again whenever it hears.
    (Dynamic backup workers: Xu, Neglia and Sebastianelli 2020)
    """

    steps: int
    trace: Trace
    exchange_s: float
    rules: RoundRules = field(default_factory=lambda: RoundRules(wait="dynamic"))
    name: str = "dynamic"
    chains: int = 1
    learns: bool = False
    _now_s: float = 0.0

    def __post_init__(self) -> None:
        self._peers = [PeerId(f"{worker:03d}") for worker in range(self.trace.workers)]
        self._quorum = math.ceil(self.rules.quorum * len(self._peers))

    def assign(self, round_: int) -> Sequence[Work]:
        return [(Unit(worker, round_, self.steps),) for worker in range(len(self._peers))]

    def end_s(self, round_: int, took_s: Times) -> float:
        arrivals = sorted(math.ceil(1000 * took) for took in took_s)
        now_ms, watch, every_ms = arrivals[self._quorum - 1], Watch(), self.rules.lease_ms // 3
        for at_ms in range(every_ms, now_ms, every_ms):
            self._report(watch, at_ms)
        until_ms = self._until_ms(now_ms, took_s, watch)
        while now_ms < until_ms:
            told_ms = (now_ms // every_ms + 1) * every_ms
            now_ms = min(until_ms, told_ms, *(at_ms for at_ms in arrivals if at_ms > now_ms))
            if now_ms == told_ms:
                self._report(watch, now_ms)
            until_ms = self._until_ms(now_ms, took_s, watch)
        end_s = min(float(took_s.max()), now_ms / 1000)
        self._now_s += end_s + self.exchange_s
        return end_s

    def _until_ms(self, now_ms: int, took_s: Times, watch: Watch) -> int:
        done = [math.ceil(1000 * took) <= now_ms for took in took_s]
        offers = {peer for peer, here in zip(self._peers, done, strict=True) if here}
        missing = {peer: self.steps for peer in self._peers if peer not in offers}
        if not missing:
            return now_ms
        times = (now_ms, 0, math.ceil(1000 * np.sort(took_s)[self._quorum - 1]), int(1000 * self.exchange_s))
        until_ms = end_ms(Moment(*times, self.rules), watch, offers, missing)
        assert until_ms is not None
        return until_ms

    def _report(self, watch: Watch, at_ms: int) -> None:
        for worker, peer in enumerate(self._peers):
            begun = self.trace.work(worker, self._now_s)
            done = self.trace.work(worker, self._now_s + at_ms / 1000) - begun
            watch.report(peer, int(min(done, self.steps)), at_ms)

    def close(self, arrivals: Arrivals) -> Update | None:
        return by_tokens(arrivals.round, [arrivals.work[worker][0] for worker in arrivals.arrived])

    def learn(self, update: Update, deltas: Mapping[Unit, Vector], loss: float) -> None:
        pass


@dataclass
class Compass:
    """Steps by measured speed, so that all are done together; who is late contributes what it has done.

    Speeds and assignments are `protocol/pace.py`'s; the quorum is the manifest's default. A round begins with
    nobody's speed known. (DyLU: Liu et al. 2024; FedCompass: Li et al. 2024; free-form participation: Yang et
    al., Anarchic federated learning, 2022)
    """

    workers: int
    steps: int
    quorum: float = 0.5
    name: str = "compass"
    chains: int = 1
    learns: bool = False
    _paces: dict[PeerId, Pace] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._peers = [PeerId(f"{worker:03d}") for worker in range(self.workers)]
        self._rules = PaceRules(self.steps)
        self._paces = dict.fromkeys(self._peers, Pace(0, self.steps))

    def assign(self, round_: int) -> Sequence[Work]:
        paces = [self._paces[peer] for peer in self._peers]
        return [(Unit(worker, round_, pace.steps),) for worker, pace in enumerate(paces)]

    def end_s(self, round_: int, took_s: Times) -> float:
        return quorum_end_s(took_s, math.ceil(self.quorum * self.workers))

    def close(self, arrivals: Arrivals) -> Update | None:
        done = [Unit(worker, arrivals.round, steps) for worker, steps in enumerate(arrivals.steps) if steps]
        trained_s = np.minimum(arrivals.took_s, arrivals.end_s)
        reports = {
            self._peers[unit.shard]: Report(unit.steps, round(1000 * trained_s[unit.shard])) for unit in done
        }
        self._paces = next_paces(self._paces, reports, self._peers, arrivals.round, self._rules)
        return by_tokens(arrivals.round, done)

    def learn(self, update: Update, deltas: Mapping[Unit, Vector], loss: float) -> None:
        pass
