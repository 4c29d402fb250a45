"""What the two sequential codes have in common: a task, an answer, and the sum that an answer enters.

A sequential code works on one job a round and lets a job be finished some rounds later, so that who
straggled may make up for it. For training that means jobs that do not depend on each other (trials of
settings, paths, fragments with anchors of their own), or a pseudo-gradient that is applied that many rounds
late. Jobs, rounds and workers count from 0; job t is begun in round t.
"""

from __future__ import annotations

from dataclasses import dataclass

from atoll.optim.coding.codes import Row


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker does for a job in a round: compute the chunks of `row` and send their sum, one vector.

    A chunk is a share of the job's data, and its value a sum over these data. `item` tells a worker's tasks
    for one job apart: an answer is named by (job, worker, item), whichever round it came in.
    """

    job: int
    item: int
    row: Row


@dataclass(frozen=True, slots=True)
class Term:
    """One answer's part in a job's sum over all its chunks."""

    worker: int
    item: int
    coefficient: float


Schedule = tuple[tuple[Task, ...], ...]
"""The tasks of each worker in a round, in the order in which it does them."""
