"""M-SGC: a job is cut into slots over several rounds; who missed one makes up for it, who missed none codes.

A job has W - 1 + B slots. In round r every worker runs slot m of job r - m, for all m. The first W - 1
slots are chunks of its own, computed once and by nobody else. In the last B it repeats what it missed of
these; if it missed nothing it adds up chunks of a common group by a code for lambda stragglers. The load is
near what no code needs. (Multiplexed Sequential Gradient Coding, Krishnan et al. 2023)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from types import MappingProxyType

from atoll.optim.coding.bursts import Bursts
from atoll.optim.coding.codes import Code
from atoll.optim.coding.decoding import AMPLIFICATION_MAX, Refusal, decode_vector
from atoll.optim.coding.sequential import Schedule, Task, Term

Answers = frozenset[tuple[int, int]]
"""(worker, item) of a job: items below W - 1 are the worker's own chunks, then one for each coded group."""


@dataclass(frozen=True, slots=True)
class Multiplexed:
    """The state before a round. `after` gives the next; `schedule` is what this round computes.

    `code` is for lambda stragglers, or None where lambda is the number of `workers`: then nothing is coded,
    and all of the last slots are for repeats. Chunks 0 .. n(W-1)-1 are the workers' own, worker by worker;
    the groups' follow. Raises ValueError if code, workers and bursts do not fit.
    """

    bursts: Bursts
    workers: int
    code: Code | None
    round: int = 0
    answers: Mapping[int, Answers] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.code is None:
            if self.bursts.distinct != self.workers:
                raise ValueError("only where all workers may straggle nothing is coded")
        elif (self.code.workers, self.code.stragglers) != (self.workers, self.bursts.distinct):
            raise ValueError(f"a code for {self.bursts.distinct} of {self.workers} workers, as {self.bursts}")

    @property
    def own(self) -> int:
        """W - 1: slots, and chunks, of a worker alone."""
        return self.bursts.window - 1

    @property
    def slots(self) -> int:
        return self.own + self.bursts.burst

    @property
    def delay(self) -> int:
        """T: job t can be decoded after round t + T."""
        return self.slots - 1

    @property
    def load(self) -> Fraction:
        """The share of a job's data that a worker computes in a round: all slots cost the same."""
        return self.slots * self.weights[0]

    @property
    def weights(self) -> tuple[Fraction, ...]:
        """The share of a job's data in each chunk; their sum is 1. A coded slot computes several chunks of a
        group, which are so much smaller that all slots cost the same."""
        if self.code is None:
            return (Fraction(1, self.workers * self.own),) * (self.workers * self.own)
        coded = self.code.load
        part = Fraction(1, self.workers * (self.bursts.burst + self.own * coded))
        return (coded * part,) * (self.workers * self.own) + (part,) * (self.workers * self.bursts.burst)

    def schedule(self) -> Schedule:
        """This round's tasks of each worker, newest job first; a job that was never begun has none."""
        jobs = [(self.round - slot, slot) for slot in range(min(self.slots, self.round + 1))]
        return tuple(
            tuple(task for job, slot in jobs if (task := self._task(worker, job, slot)) is not None)
            for worker in range(self.workers)
        )

    def _task(self, worker: int, job: int, slot: int) -> Task | None:
        if slot < self.own:
            return Task(job, slot, ((worker * self.own + slot, 1.0),))
        missed = [item for item in range(self.own) if (worker, item) not in self.answers[job]]
        if missed:
            return Task(job, missed[0], ((worker * self.own + missed[0], 1.0),))
        if self.code is None:
            return None
        first = self.workers * slot
        return Task(job, slot, tuple((first + unit, factor) for unit, factor in self.code.rows[worker]))

    def after(self, returned: Collection[int]) -> Multiplexed:
        """The state before the next round, when these workers' answers came in time. Late ones are lost."""
        answers = {self.round: frozenset[tuple[int, int]](), **self.answers}
        for worker, tasks in enumerate(self.schedule()):
            if worker in returned:
                for task in tasks:
                    answers[task.job] |= {(worker, task.item)}
        kept = {job: found for job, found in answers.items() if job >= self.round - self.delay}
        return replace(self, round=self.round + 1, answers=MappingProxyType(kept))

    def decode(self, job: int, amplification_max: float = AMPLIFICATION_MAX) -> tuple[Term, ...] | Refusal:
        """How the sum over a job's chunks is made of the answers so far: the workers' own chunks, then
        group by group; or why not yet. Raises ValueError for a job that is not begun, or is over.
        """
        if job not in self.answers:
            raise ValueError(f"job {job} is not among the last, {sorted(self.answers)}")
        found = self.answers[job]
        terms = [Term(worker, item, 1.0) for worker in range(self.workers) for item in range(self.own)]
        missing = [(term.worker, term.item) for term in terms if (term.worker, term.item) not in found]
        if missing:
            first = f"first chunk {missing[0][1]} of worker {missing[0][0]}"
            return Refusal(f"{len(missing)} chunks that one worker has are missing, {first}")
        for item in range(self.own, self.slots if self.code else self.own):
            decoding = self._group(found, item, amplification_max)
            if isinstance(decoding, Refusal):
                return decoding
            terms += decoding
        return tuple(terms)

    def _group(self, found: Answers, item: int, amplification_max: float) -> list[Term] | Refusal:
        assert self.code is not None
        survivors = [worker for worker in range(self.workers) if (worker, item) in found]
        decoding = decode_vector(self.code, survivors, amplification_max)
        if isinstance(decoding, Refusal):
            return Refusal(f"group {item - self.own}: {decoding.reason}")
        return [Term(worker, item, factor) for worker, factor in enumerate(decoding.coefficients) if factor]

    def decodable(self, job: int, amplification_max: float = AMPLIFICATION_MAX) -> bool:
        """Whether `decode` would not refuse."""
        return not isinstance(self.decode(job, amplification_max), Refusal)
