"""SR-SGC: a job's missing rows are computed again B rounds later, and only as many as the code cannot spare.

Load and delay of a code for s = ceil(B * lambda / (W - 1 + B)) stragglers, where lambda may straggle.
(Selective Repetition, Sequential Gradient Coding, Krishnan et al. 2023)
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

Rows = frozenset[int]


def stragglers_for(bursts: Bursts) -> int:
    """s of the code that SR-SGC needs. Raises ValueError unless B divides W - 1."""
    if (bursts.window - 1) % bursts.burst:
        raise ValueError(f"the burst must divide the window less one: {bursts}")
    return -(-bursts.burst * bursts.distinct // (bursts.window - 1 + bursts.burst))


@dataclass(frozen=True, slots=True)
class SelectiveRepeat:
    """The state before a round. `after` gives the next; `schedule` is what this round computes.

    `answers` has the rows that came for each of the last jobs, and `in_time` those that came in the job's
    own round. Raises ValueError if the code is for other than `stragglers_for(bursts)`.
    """

    bursts: Bursts
    code: Code
    round: int = 0
    answers: Mapping[int, Rows] = field(default_factory=lambda: MappingProxyType({}))
    in_time: Mapping[int, Rows] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.code.stragglers != stragglers_for(self.bursts):
            raise ValueError(
                f"a code for {stragglers_for(self.bursts)} stragglers, not {self.code.stragglers}"
            )

    @property
    def delay(self) -> int:
        """T: job t can be decoded after round t + T."""
        return self.bursts.burst

    @property
    def load(self) -> Fraction:
        """The share of a job's data that a worker computes in a round."""
        return Fraction(self.code.load, self.code.units)

    @property
    def weights(self) -> tuple[Fraction, ...]:
        """The share of a job's data in each chunk: chunks are the code's units."""
        return (Fraction(1, self.code.units),) * self.code.units

    def schedule(self) -> Schedule:
        """This round's tasks: of the v workers that did not answer job t - B in its own round the first v - s
        repeat it; all others do job t."""
        earlier = self.round - self.delay
        again: list[int] = []
        if earlier >= 0:
            missing = [place for place in range(self.code.workers) if place not in self.in_time[earlier]]
            again = missing[: max(0, len(missing) - self.code.stragglers)]
        jobs = (earlier if place in again else self.round for place in range(self.code.workers))
        return tuple((Task(job, 0, row),) for job, row in zip(jobs, self.code.rows, strict=True))

    def after(self, returned: Collection[int]) -> SelectiveRepeat:
        """The state before the next round, when these workers' answers came in time. Late ones are lost."""
        came: dict[int, set[int]] = {self.round: set()}
        for place, (task,) in enumerate(self.schedule()):
            if place in returned:
                came.setdefault(task.job, set()).add(place)
        answers = dict(self.answers)
        for job, places in came.items():
            answers[job] = answers.get(job, frozenset()) | places
        in_time = {**self.in_time, self.round: frozenset(came[self.round])}
        oldest = self.round - self.delay
        return replace(
            self,
            round=self.round + 1,
            answers=MappingProxyType({job: rows for job, rows in answers.items() if job >= oldest}),
            in_time=MappingProxyType({job: rows for job, rows in in_time.items() if job >= oldest}),
        )

    def decode(self, job: int, amplification_max: float = AMPLIFICATION_MAX) -> tuple[Term, ...] | Refusal:
        """How the sum over a job's chunks is made of the answers so far, by row; or why not yet.

        Raises ValueError for a job that is not begun, or is over.
        """
        if job not in self.answers:
            raise ValueError(f"job {job} is not among the last, {sorted(self.answers)}")
        found = decode_vector(self.code, self.answers[job], amplification_max)
        if isinstance(found, Refusal):
            return found
        return tuple(Term(place, 0, factor) for place, factor in enumerate(found.coefficients) if factor)

    def decodable(self, job: int, amplification_max: float = AMPLIFICATION_MAX) -> bool:
        """Whether `decode` would not refuse."""
        return not isinstance(self.decode(job, amplification_max), Refusal)
