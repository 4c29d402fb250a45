"""Rule "eager": step with an estimate while the round's mean is still on its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from atoll.optim.flat import floats
from atoll.optim.rules.base import at_least_one, below_one, positive, walk
from atoll.optim.rules.nesterov import NesterovRule, step_


@dataclass(frozen=True, slots=True)
class EagerRule:
    """State of each worker: the momentum, the mean that it received last, and its own share in that mean.

    A worker that ends round t steps at once, with the last mean in which its own stale pseudo-gradient is
    swapped for the fresh one (`estimate`), and trains on; `received_` takes the true mean when it comes. So
    anchors differ from worker to worker, by about 1/M of a pseudo-gradient in a step, and the differences
    add up. Therefore every worker also steps a shared anchor by the true means (`shared`, a Nesterov rule
    with the same knobs; the same bits everywhere, one round late), and every `resync` rounds waits for the
    round's mean and takes the shared anchor and momentum as its own (`resync_`): no byte more is sent.
    Raises ValueError for knobs that cannot train. (Eager Updates, Kale et al. 2025; the resync is ours)
    """

    lr: float = 0.4
    momentum: float = 0.9
    resync: int = 10
    name: ClassVar[str] = "eager"

    def __post_init__(self) -> None:
        positive("outer lr", self.lr)
        below_one("outer momentum", self.momentum)
        at_least_one("outer resync", self.resync)

    @property
    def shared(self) -> NesterovRule:
        """The rule of the anchor that all workers agree on."""
        return NesterovRule(self.lr, self.momentum)

    def state(self, numel: int) -> tuple[Tensor, ...]:
        return torch.zeros(numel), torch.zeros(numel), torch.zeros(numel)

    def estimate(self, state: Sequence[Tensor], own: Tensor, share: float) -> Tensor:
        """(mean - share * own before) + share * own, fp32 [n]: what to give to `step_` now.

        `own` is this worker's fresh pseudo-gradient and `share` its weight in a mean, 1/M for M equal ones.
        In this order a worker alone (share 1) steps with exactly its own. Before the first mean, with a
        state of zeros, the estimate is share * own. Raises ValueError for other shapes or shares.
        """
        _, mean, before = state
        if not 0 < share <= 1:
            raise ValueError(f"a worker's share in a mean is above 0 and at most 1, not {share}")
        walk(floats("own", own).size, {"mean": mean, "own before": before})
        with torch.no_grad():
            return mean.sub(before.mul(share)).add_(own.mul(share))

    def step_(self, anchor: Tensor, state: Sequence[Tensor], update: Tensor) -> None:
        """The Nesterov step of this worker's own anchor; `update` is an estimate."""
        momentum, _, _ = state
        step_(anchor, momentum, update, self.shared)

    def received_(self, state: Sequence[Tensor], mean: Tensor, own: Tensor) -> None:
        """The true mean of a round arrived, and `own` is what this worker had given to it."""
        _, last, before = state
        walk(last.numel(), {"last mean": last, "own before": before, "mean": mean, "own": own})
        with torch.no_grad():
            last.copy_(mean)
            before.copy_(own)

    def resync_(self, anchor: Tensor, state: Sequence[Tensor], shared: Tensor, momentum: Tensor) -> None:
        """Take the shared anchor and its momentum as this worker's own."""
        walk(floats("anchor", anchor).size, {"own": state[0], "shared": shared, "momentum": momentum})
        with torch.no_grad():
            anchor.copy_(shared)
            state[0].copy_(momentum)
