"""Members that are seldom in time, each with a topic of its own: weights by tokens, and by participation.

    python benchmarks/participation.py --json

Twelve workers train a small language model (simulator/timing/learner.py), non-iid shards. Two of them are in
a quarter of the updates, drawn from the seed, and the others in all. What each kind of weight makes of the
same updates: the mean held-out loss over all shards after the rounds, and how far the two rare shards' loss
is above that of a run in which everybody is always there. `participation` uses the product's factors and
share.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import numpy as np
import torch

from atoll.protocol.participation import Gaps
from atoll.protocol.weights import UNIT
from atoll.simulator.timing import text
from atoll.simulator.timing.learner import Learner, Unit
from atoll.simulator.timing.rounds import Setting

WORKERS, STEPS, ROUNDS = 12, 8, 60
RARE, SHARE = (0, 1), 0.25
Weights = Callable[[Sequence[int], Sequence[Gaps]], dict[int, float]]


def by_tokens(here: Sequence[int], gaps: Sequence[Gaps]) -> dict[int, float]:
    return {worker: 1 / len(here) for worker in here}


def by_participation(here: Sequence[int], gaps: Sequence[Gaps]) -> dict[int, float]:
    """Divided by all who are registered, as `optim/participation.share_` brings a mean to."""
    return {worker: gaps[worker].factor / UNIT / len(gaps) for worker in here}


def by_participation_alone(here: Sequence[int], gaps: Sequence[Gaps]) -> dict[int, float]:
    """The plain mean of these weights, which no run can have."""
    total = sum(gaps[worker].factor for worker in here)
    return {worker: gaps[worker].factor / total for worker in here}


def losses(learner: Learner, seed: int, weights: Weights, share: float) -> tuple[float, ...]:
    """The held-out loss of each shard after all rounds."""
    draw, outer = np.random.default_rng(seed), Setting().outer
    anchor = torch.from_numpy(learner.first())
    state, gaps = outer.state(anchor.numel()), [Gaps()] * WORKERS
    for round_ in range(ROUNDS):
        away = {worker for worker in RARE if draw.random() >= share}
        here = [worker for worker in range(WORKERS) if worker not in away]
        found = {Unit(worker, round_, STEPS): each for worker, each in weights(here, gaps).items()}
        outer.step_(anchor, state, torch.from_numpy(learner.mean(anchor.numpy(), found).copy()))
        gaps = [each.after(worker not in away) for worker, each in enumerate(gaps)]
    return learner.losses(anchor.numpy())


def measure(seeds: Sequence[int]) -> dict[str, Any]:
    kinds: dict[str, tuple[Weights, float]] = {
        "all there": (by_tokens, 1.0),
        "tokens": (by_tokens, SHARE),
        "participation": (by_participation, SHARE),
        "participation, plain mean": (by_participation_alone, SHARE),
    }
    found: dict[str, dict[str, float]] = {}
    runs = {seed: Learner(text.load("non-iid", WORKERS, seed), seed) for seed in seeds}
    for name, (weights, share) in kinds.items():
        each = [losses(learner, seed, weights, share) for seed, learner in runs.items()]
        found[name] = {
            "loss": round(mean(mean(one) for one in each), 4),
            "rare": round(mean(one[worker] for one in each for worker in RARE), 4),
        }
    for row in found.values():
        row["behind"] = round(row["rare"] / found["all there"]["rare"] - 1, 4)
    return {"seeds": list(seeds), "rounds": ROUNDS, "share": SHARE, **found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--json", action="store_true", help="one line")
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = measure([int(seed) for seed in given.seeds.split(",")])
    print(json.dumps(result, indent=None if given.json else 1))


if __name__ == "__main__":
    main()
