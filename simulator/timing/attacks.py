"""What attackers send in place of their pseudo-gradients, knowing everybody's, and training under attack."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isfinite
from statistics import NormalDist, mean

import numpy as np
import numpy.typing as npt
import torch

from atoll.optim.codecs import CODECS
from atoll.optim.robust import aggregate
from atoll.optim.rules.nesterov import NesterovRule
from atoll.simulator.timing.learner import BATCH, NUMEL, Learner, Unit, Vector
from atoll.simulator.timing.text import VOCABULARY

Stack = npt.NDArray[np.float32]

IDENTITY = CODECS["fp32"]
LOSS_MAX = 20.0
"""Beyond it a run has diverged: guessing at random costs less than 5 nats."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What attackers know: what each would have found if it were honest, [attackers, NUMEL]; the honest
    ones' pseudo-gradients, [honest, NUMEL]; those of poisoned labels; and the last update."""

    own: Stack
    honest: Stack
    poisoned: Callable[[], Stack]
    previous: Vector
    draws: np.random.Generator


def sign_flip(seen: Seen) -> Stack:
    """The opposite, four times as long: at a quarter of the workers a plain mean then goes uphill."""
    return -4 * seen.own


def scaled(seen: Seen) -> Stack:
    """Fifty times as long: one outvotes the rest in a mean."""
    return 50 * seen.own


def gaussian(seen: Seen) -> Stack:
    """Noise ten times as long as the honest ones' median. (Blanchard et al. 2017)"""
    length = np.median(np.linalg.norm(seen.honest, axis=1))
    noise = seen.draws.standard_normal(seen.own.shape)
    found: Stack = (10 * length * noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(np.float32)
    return found


def small_bias(seen: Seen) -> Stack:
    """All the same, off the honest mean by as many deviations as leave most honest ones farther out.

    (A little is enough: Baruch et al. 2019)
    """
    attackers, honest = len(seen.own), len(seen.honest)
    needed = (attackers + honest) // 2 + 1 - attackers
    share = min(0.99, max(0.51, (honest - needed) / honest))
    bias = seen.honest.mean(0) - NormalDist().inv_cdf(share) * seen.honest.std(0)
    return np.repeat(bias[None], attackers, 0).astype(np.float32)


def labels(seen: Seen) -> Stack:
    """Honest training on wrong labels."""
    return seen.poisoned()


def free_ride(seen: Seen) -> Stack:
    """No work: the last update again, with a little noise."""
    noise = seen.draws.standard_normal(seen.own.shape) * (0.01 * seen.previous.std())
    found: Stack = (seen.previous + noise).astype(np.float32)
    return found


ATTACKS: dict[str, Callable[[Seen], Stack]] = {
    "none": lambda seen: seen.own,
    "sign_flip": sign_flip,
    "scaled": scaled,
    "gaussian": gaussian,
    "small_bias": small_bias,
    "labels": labels,
    "free_ride": free_ride,
}


@dataclass(frozen=True, slots=True)
class Defence:
    """An aggregation rule of `optim/robust`, with the median-norm clip or not."""

    rule: str
    clip: bool = True

    @property
    def name(self) -> str:
        return self.rule if self.clip else f"{self.rule}, no clip"


@dataclass(frozen=True, slots=True)
class Field:
    """Who trains: so many workers, of whom the last `attackers` attack; the rule is told of `faulty`."""

    workers: int
    attackers: int
    faulty: int
    steps: int = 8
    rounds: int = 16


def trained(learner: Learner, field: Field, attack: str, defence: Defence, seed: int) -> float | None:
    """The held-out loss after training under attack; None if it diverged."""
    poisoned = Learner(learner.text, learner.seed, learner.inner, np.arange(VOCABULARY)[::-1].copy())
    anchor, outer = torch.from_numpy(learner.first()), NesterovRule(0.7, 0.6)
    state, update, loss = outer.state(NUMEL), torch.zeros(NUMEL), 0.0
    draws = np.random.default_rng(seed)
    for round_ in range(field.rounds):
        sent = _sent(learner, poisoned, field, attack, anchor.numpy().copy(), update.numpy(), round_, draws)
        update = _aggregated(sent, field, defence, update, round_)
        outer.step_(anchor, state, update)
        loss = mean(learner.losses(anchor.numpy()))
        if not isfinite(loss) or loss > LOSS_MAX:
            return None
    return loss


def _sent(
    learner: Learner,
    poisoned: Learner,
    field: Field,
    attack: str,
    anchor: Vector,
    update: Vector,
    round_: int,
    draws: np.random.Generator,
) -> Stack:
    """What all workers send in a round, the attackers' at the end: [workers, NUMEL]."""
    units = [Unit(worker, round_, field.steps) for worker in range(field.workers)]
    found = learner.deltas(anchor, units)
    bad = units[field.workers - field.attackers :]
    honest = _stack(found[unit] for unit in units[: field.workers - field.attackers])
    if not bad:
        return honest
    own = _stack(found[unit] for unit in bad)
    seen = Seen(own, honest, lambda: _stack(poisoned.deltas(anchor, bad).values()), update, draws)
    return np.concatenate([honest, ATTACKS[attack](seen)])


def _stack(vectors: Iterable[Vector]) -> Stack:
    return np.stack(list(vectors))


def _aggregated(
    sent: Stack, field: Field, defence: Defence, previous: torch.Tensor, round_: int
) -> torch.Tensor:
    tokens = field.steps * BATCH
    payloads = [(tokens, IDENTITY.encode(torch.from_numpy(each.copy()))) for each in sent]
    found = aggregate(
        defence.rule,
        payloads,
        IDENTITY,
        NUMEL,
        faulty=field.faulty,
        clip=defence.clip,
        previous=previous,
        seed=str(round_).encode(),
    )
    assert found is not None
    return found
