"""Policies with straggler codes: more than one worker does each unit, so that a round lacks nobody's data.

The codes, their schedules and their decode vectors are `optim/coding/`. What an update weighs each unit
with is what decoding comes to: the decode vector times the rows of those that answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from atoll.optim.coding.bursts import Bursts, must_wait, stragglers
from atoll.optim.coding.codes import Row, repetition
from atoll.optim.coding.decoding import Refusal, decode_vector
from atoll.optim.coding.multiplexed import Multiplexed
from atoll.optim.coding.selective_repeat import SelectiveRepeat, stragglers_for
from atoll.simulator.timing.learner import BATCH, Unit, Vector
from atoll.simulator.timing.policies import Times
from atoll.simulator.timing.rounds import Arrivals, Update, Work


def decoded(rows: Iterable[tuple[float, Row]], units: Sequence[Unit], job: int) -> Update:
    """The update that (coefficient, row) of the answers come to: each unit's share of the job's data, if
    decoding is exact."""
    whole = sum(unit.work for unit in units)
    weights = dict.fromkeys(units, 0.0)
    for coefficient, row in rows:
        for place, factor in row:
            weights[units[place]] += coefficient * factor * (units[place].work / whole)
    return Update(job, weights)


@dataclass(frozen=True)
class Repetition:
    """FRC: groups of s + 1 workers do the same s + 1 units; the round ends once one of each group is done.

    (Tandon et al., Gradient coding, 2017)
    """

    workers: int
    steps: int
    stragglers: int = 1
    name: str = "frc"
    chains: int = 1
    learns: bool = False

    def _units(self, job: int) -> list[Unit]:
        return [Unit(shard, job, self.steps) for shard in range(self.workers)]

    def assign(self, round_: int) -> Sequence[Work]:
        units = self._units(round_)
        return [
            tuple(units[place] for place, _ in row) for row in repetition(self.workers, self.stragglers).rows
        ]

    def end_s(self, round_: int, took_s: Times) -> float:
        code, order = repetition(self.workers, self.stragglers), np.argsort(took_s, kind="stable").tolist()
        enough = next(
            count
            for count in range(1, self.workers + 1)
            if not isinstance(decode_vector(code, order[:count]), Refusal)
        )
        return float(took_s[order[enough - 1]])

    def close(self, arrivals: Arrivals) -> Update | None:
        code = repetition(self.workers, self.stragglers)
        found = decode_vector(code, arrivals.arrived)
        assert not isinstance(found, Refusal), found.reason
        rows = zip(found.coefficients, code.rows, strict=True)
        return decoded(rows, self._units(arrivals.round), arrivals.round)

    def learn(self, update: Update, deltas: Mapping[Unit, Vector], loss: float) -> None:
        pass


@dataclass
class Sequential:
    """A sequential code: a job may be finished some rounds later, so who straggled makes up for it.

    A round ends when all are done that take less than twice as long as the fastest; if those that are left
    out would break the bursty model, it ends when all are done. As many anchors as a job has rounds are
    trained side by side; or one, to which each update comes that many rounds late. (Krishnan et al.,
    Sequential gradient coding for straggler mitigation, 2023)
    """

    name: str
    bursts: Bursts
    state: SelectiveRepeat | Multiplexed
    steps: int
    batches: tuple[int, ...]
    shards: int
    chains: int
    learns: bool = False
    _past: list[frozenset[int]] = field(default_factory=list)
    _rows: dict[tuple[int, int, int], Row] = field(default_factory=dict)
    _made: dict[int, list[Unit]] = field(default_factory=dict)

    def _units(self, job: int) -> list[Unit]:
        """The chunks of a job: each worker's own, then group by group, a chunk of each shard."""
        if job in self._made:
            return self._made[job]
        each = self.state.own if isinstance(self.state, Multiplexed) else 0
        own, units = each * self.shards, []
        for chunk, batch in enumerate(self.batches):
            mine = chunk < own
            shard = chunk // each if mine else (chunk - own) % self.shards
            part = chunk % each if mine else 1 + (chunk - own) // self.shards + own // self.shards
            units.append(Unit(shard, job, self.steps, part if own else 0, batch))
        self._made[job] = units
        return units

    def assign(self, round_: int) -> Sequence[Work]:
        schedule = self.state.schedule()
        for worker, tasks in enumerate(schedule):
            for task in tasks:
                self._rows[task.job, worker, task.item] = task.row
        return [
            tuple(self._units(task.job)[place] for task in tasks for place, _ in task.row)
            for tasks in schedule
        ]

    def end_s(self, round_: int, took_s: Times) -> float:
        late = stragglers(dict(enumerate(took_s.tolist())))
        if must_wait(self.bursts, self._past, late):
            late = frozenset()
        self._past = [*self._past[1 - self.bursts.window :], late] if self.bursts.window > 1 else [late]
        waited = max(float(took_s[worker]) for worker in range(len(took_s)) if worker not in late)
        return max(waited, 2 * float(took_s.min())) if late else waited

    def close(self, arrivals: Arrivals) -> Update | None:
        self.state = self.state.after(arrivals.arrived)
        job = arrivals.round - self.state.delay
        if job < 0:
            return None
        terms = self.state.decode(job)
        assert not isinstance(terms, Refusal), terms.reason
        rows = [(term.coefficient, self._rows[job, term.worker, term.item]) for term in terms]
        for key in [key for key in self._rows if key[0] <= job]:
            del self._rows[key]
        return decoded(rows, self._made.pop(job), job)

    def learn(self, update: Update, deltas: Mapping[Unit, Vector], loss: float) -> None:
        pass


def sr_sgc(workers: int, steps: int, bursts: Bursts, side_by_side: bool = True) -> Sequential:
    """Selective repetition."""
    code = repetition(workers, stragglers_for(bursts))
    state = SelectiveRepeat(bursts, code)
    chains = state.delay + 1 if side_by_side else 1
    return Sequential("sr_sgc", bursts, state, steps, (BATCH,) * workers, workers, chains)


def m_sgc(workers: int, steps: int, bursts: Bursts, side_by_side: bool = True) -> Sequential:
    """Multiplexed: a job's batches are divided among its chunks by their shares, all whole numbers."""
    state = Multiplexed(bursts, workers, repetition(workers, bursts.distinct))
    batches = [share * workers * BATCH for share in state.weights]
    if any(batch.denominator != 1 for batch in batches):
        raise ValueError(f"{workers} batches of {BATCH} do not divide into shares of {state.weights}")
    chains = state.delay + 1 if side_by_side else 1
    return Sequential("m_sgc", bursts, state, steps, tuple(map(int, batches)), workers, chains)
