"""Which straggler code makes most of its time, if updates must be exact: replicas, cyclic, SR-SGC, M-SGC.

    python benchmarks/codes.py --json        # a quarter of a minute

Times only, nothing is trained: how much data a swarm puts into exact updates per time. Everybody computes
the same in a round, so a code that computes each unit r times covers an r-th of the data. Cyclic codes are
measured against replicas, with times drawn anew for each round: 1 + X, X exponential with mean 1, or five
times slower with 11 %. Sequential codes are measured against waiting for all, with chains of rounds that
are five times slower, and each has the best (B, W, lambda) of a grid, chosen afterwards. What would speak
against them further is left out: what codecs lose, updates that come late, chunks that are small batches.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from atoll.optim.coding.bursts import Bursts, must_wait, stragglers
from atoll.optim.coding.selective_repeat import stragglers_for
from atoll.protocol.ids import PeerId
from atoll.protocol.replicas import groups_of

Floats = npt.NDArray[np.float64]
SLOWER, DRAWS, ROUNDS, ABSENT = 5.0, 20_000, 150, 0.1
CYCLIC = ((5, 1), (7, 1), (8, 1), (9, 1), (15, 1), (5, 2), (7, 2), (8, 2), (11, 2), (12, 2))
SWARMS = (12, 64, 256)
CHAINS = ((0.05, 0.4), (0.01, 0.9), (0.002, 0.9))
"""Probabilities of turning bad and good again, round by round: 11, 1.1 and 0.2 % of the time bad."""
GRID = ((1, 2), (2, 3, 4), (1, 2, 4, 8, 16, 27, 48))


def drawn(kind: str, workers: int) -> Floats:
    chance = np.random.default_rng(0)
    if kind == "random":
        return 1 + chance.exponential(1.0, (DRAWS, workers))
    return np.where(chance.random((DRAWS, workers)) < 0.11, SLOWER, 1.0)


def groups(workers: int, lost: int) -> list[list[int]]:
    """The product's own groups, of workers by their number."""
    named = groups_of([PeerId(f"{worker:03}") for worker in range(workers)], lost + 1)
    return [[int(peer) for peer in group] for group in named]


def groups_end(times: Floats, workers: int, lost: int) -> Floats:
    """When one of each group of replicas is done."""
    ends = [times[:, group].min(axis=1) for group in groups(workers, lost)]
    return np.max(ends, axis=0)


def cyclic(workers: int, lost: int) -> dict[str, Any]:
    """A cyclic code covers n / (s + 1) units and ends with the (n - s)-th; replicas cover floor of it."""
    units = groups(workers, lost)
    row: dict[str, Any] = {"workers": workers, "lost": lost, "units": [len(units), workers / (lost + 1)]}
    for kind in ("random", "bursts"):
        times = drawn(kind, workers)
        rate = workers / (lost + 1) / np.sort(times, axis=1)[:, workers - lost - 1].mean()
        row[kind] = round(float(rate / (len(units) / groups_end(times, workers, lost).mean())), 2)
    row["exact_replicas"] = round(math.prod(1 - ABSENT ** len(group) for group in units), 3)
    chances = (
        math.comb(workers, away) * ABSENT**away * (1 - ABSENT) ** (workers - away) for away in range(lost + 1)
    )
    row["exact_cyclic"] = round(math.fsum(chances), 3)
    return row


def chain(workers: int, falls: float, recovers: float) -> Floats:
    """How many times slower each worker is in each round."""
    chance = np.random.default_rng(1)
    slow, bad = np.ones((ROUNDS, workers)), chance.random(workers) < falls / (falls + recovers)
    for round_ in range(ROUNDS):
        slow[round_, bad] = SLOWER
        draw = chance.random(workers)
        bad = np.where(bad, draw >= recovers, draw < falls)
    return slow


def took(load: float, bursts: Bursts, slow: Floats) -> float:
    """All rounds of a sequential code, which waits for everybody where its model of bursts would not hold."""
    past: list[frozenset[int]] = []
    total = 0.0
    for times in load * slow:
        late = stragglers(dict(enumerate(times.tolist())))
        if late and must_wait(bursts, past, late):
            late = frozenset()
        past = [*past, late][-bursts.window :]
        waited = max(float(times[worker]) for worker in range(len(times)) if worker not in late)
        total += max(waited, 2 * float(times.min())) if late else waited
    return total


def loads(bursts: Bursts) -> Iterator[tuple[str, float]]:
    """What a worker computes of a round, as a multiple of its share without a code."""
    extra = bursts.window - 1 + bursts.burst
    chunks = bursts.burst + (bursts.window - 1) * (bursts.distinct + 1)
    yield "m_sgc", (bursts.distinct + 1) * extra / chunks
    if (bursts.window - 1) % bursts.burst == 0:
        yield "sr_sgc", stragglers_for(bursts) + 1.0


def sequential(workers: int, falls: float, recovers: float) -> dict[str, Any]:
    """Updates by time, as multiples of what waiting for all comes to."""
    slow = chain(workers, falls, recovers)
    waited = float(slow.max(axis=1).sum())
    best = {"wait_all": 1.0, "replicas": waited / float(2 * groups_end(slow, workers, 1).sum())}
    for burst, window, distinct in product(*GRID):
        if burst < window and distinct <= workers:
            bursts = Bursts(burst, window, distinct)
            for name, load in loads(bursts):
                best[name] = max(best.get(name, 0.0), waited / took(load, bursts, slow))
    rates = {name: round(rate, 2) for name, rate in best.items()}
    return {"workers": workers, "bad": round(falls / (falls + recovers), 4), **rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    found = {
        "cyclic": [cyclic(*code) for code in CYCLIC],
        "sequential": [sequential(workers, *chances) for workers in SWARMS for chances in CHAINS],
    }
    if given.json:
        print(json.dumps(found))
        return
    for name, rows in found.items():
        print(name)
        for row in rows:
            print("   ", "  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
