"""How fast each worker is, when: speeds in slots of time, drawn from one seed. And when machines fail.

A worker's speed is a share of full speed, constant within a slot. So the work that it can do from one
moment to another is a sum, and the moment at which some work is done is that sum's inverse: exact, and the
same for every policy, whatever rounds it makes of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """`speeds` is [workers, slots], above 0; beyond the last slot the trace begins again."""

    name: str
    speeds: Floats
    slot_s: float

    @property
    def workers(self) -> int:
        return int(self.speeds.shape[0])

    @property
    def period_s(self) -> float:
        return float(self.slot_s * self.speeds.shape[1])

    @cached_property
    def _sums(self) -> Floats:
        """The work done at each slot's beginning, and at the end: [workers, slots + 1]."""
        sums = np.zeros((self.workers, self.speeds.shape[1] + 1))
        np.cumsum(self.speeds * self.slot_s, axis=1, out=sums[:, 1:])
        return sums

    @cached_property
    def _starts(self) -> Floats:
        return np.arange(self.speeds.shape[1] + 1) * self.slot_s

    def work(self, worker: int, now_s: float) -> float:
        """Seconds of full speed that the worker can have worked until now."""
        periods, rest_s = divmod(now_s, self.period_s)
        return float(periods * self._sums[worker, -1] + np.interp(rest_s, self._starts, self._sums[worker]))

    def done_s(self, worker: int, start_s: float, work: float) -> float:
        """When the worker has done so much work, if it begins at `start_s`."""
        target = self.work(worker, start_s) + work
        periods, rest = divmod(target, self._sums[worker, -1])
        return float(periods * self.period_s + np.interp(rest, self._sums[worker], self._starts))


# ---- traces ---------------------------------------------------------------------------------------


def calm(workers: int) -> Trace:
    """No stragglers: everybody at full speed, always."""
    return Trace("none", np.ones((workers, 1)), 1.0)


def random(workers: int, slots: int, slot_s: float, seed: int, mean: float = 0.5) -> Trace:
    """Each slot takes 1 + X times as long, X exponential with that mean, drawn anew for each worker and slot.

    (The shifted-exponential model of run times: Lee et al., Speeding up distributed machine learning using
    codes, 2018)
    """
    slowdown = 1 + np.random.default_rng(seed).exponential(mean, (workers, slots))
    return Trace("random", 1 / slowdown, slot_s)


def bursty(
    workers: int,
    slots: int,
    slot_s: float,
    seed: int,
    *,
    falls: float = 0.05,
    recovers: float = 0.4,
    slower: float = 5.0,
) -> Trace:
    """Each worker is good or bad by a chain of its own: a bad one is `slower` times slower.

    A good worker turns bad with probability `falls` at each slot, a bad one good with `recovers`: it is bad
    falls / (falls + recovers) of the time, for 1 / recovers slots on end. The first slot is drawn from these
    shares. (Gilbert-Elliott, as in Krishnan et al., Sequential gradient coding for straggler mitigation,
    2023; up to five times slower: Tandon et al. 2017)
    """
    draws = np.random.default_rng(seed).random((workers, slots))
    bad = np.empty((workers, slots), bool)
    bad[:, 0] = draws[:, 0] < falls / (falls + recovers)
    for slot in range(1, slots):
        bad[:, slot] = np.where(bad[:, slot - 1], draws[:, slot] >= recovers, draws[:, slot] < falls)
    return Trace("bursty", np.where(bad, 1 / slower, 1.0), slot_s)


def persistent(workers: int, seed: int, *, share: float = 0.17, slower: float = 5.0) -> Trace:
    """A fixed share of the workers, whom the seed picks, is always `slower` times slower: an old machine."""
    slow = np.random.default_rng(seed).permutation(workers)[: round(share * workers)]
    speeds = np.ones((workers, 1))
    speeds[slow] = 1 / slower
    return Trace("persistent", speeds, 1.0)


def mix(workers: int, slower: Sequence[float] = (1.0, 2.0, 4.0)) -> Trace:
    """Workers of several kinds in turn, each always so many times slower than full speed."""
    speeds = [1 / slower[worker % len(slower)] for worker in range(workers)]
    return Trace("mix", np.array(speeds)[:, None], 1.0)


# ---- failures -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failures:
    """Each of them up for a memoryless time, then away for a memoryless time; the first draw is from the
    shares that this leads to. (Machines: Kokolis et al., Revisiting reliability in large-scale machine
    learning research clusters, 2024; volunteers: Javadi et al., Discovering statistical models of
    availability in SETI@home, 2011, where a mixture fits better than one exponential)
    """

    up_s: float
    away_s: float

    @classmethod
    def half_life(cls, half_life_s: float, away_s: float) -> Failures:
        """Half of those that are up are gone after that time."""
        return cls(half_life_s / float(np.log(2)), away_s)

    @property
    def share_up(self) -> float:
        return self.up_s / (self.up_s + self.away_s)
