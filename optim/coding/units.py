"""Work units, and which member computes which: a function of the sorted list of workers, so of the commit.

A unit is a shard and a round: the inner steps of that round from its anchor, over that shard's data in an
order that the two determine, from an inner state that is bound to the unit and not to who computes it
(reset at the start of the round, or kept with the shard). Its pseudo-gradient is then a function of shard,
round and anchor.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from atoll.optim.coding.codes import Code


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """`shard` counts from 0; it takes the place that a member's index has where nothing is coded."""

    round: int
    shard: int

    @property
    def name(self) -> str:
        """What logs and files call it; names sort as units do, up to a billion rounds."""
        return f"round-{self.round:09d}/{shard_name(self.shard)}"


def unit_of(shard: int, round_: int) -> Unit:
    """The unit of a shard in a round. Raises ValueError if one is negative."""
    if shard < 0 or round_ < 0:
        raise ValueError(f"shard {shard} of round {round_}: both count from 0")
    return Unit(round_, shard)


def shard_name(shard: int) -> str:
    """What the data of a shard are called, by everybody who holds them."""
    return f"shard-{shard:04d}"


def row_of(worker: str, workers: Sequence[str]) -> int:
    """The code's row of a worker: its rank. ValueError if the list is unsorted, doubled, or without it."""
    if any(one >= other for one, other in pairwise(workers)):
        raise ValueError("workers must be sorted and different: the rank of each is its row")
    rank = bisect_left(workers, worker)
    if rank == len(workers) or workers[rank] != worker:
        raise ValueError(f"{worker!r} is not among the workers")
    return rank


def units_of(worker: str, workers: Sequence[str], code: Code, round_: int) -> tuple[Unit, ...]:
    """What a worker computes in a round, in the order in which it adds it up. Raises as `row_of` does, and
    ValueError if the code is not for as many workers."""
    if code.workers != len(workers):
        raise ValueError(f"a code for {code.workers} workers, and {len(workers)} are listed")
    return tuple(unit_of(shard, round_) for shard, _ in code.rows[row_of(worker, workers)])


def holders_of(shard: int, workers: Sequence[str], code: Code) -> tuple[str, ...]:
    """Who must hold the data of a shard, where shards are private: losing s of them loses no data."""
    return tuple(workers[place] for place in code.holders(shard))
