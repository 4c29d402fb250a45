"""Rule "delayed-nesterov": pushes of single peers, as they come, with momentum once in N pushes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from atoll.optim.flat import floats
from atoll.optim.rules.base import PIECE, at_least_one, below_one, positive, walk


@dataclass(frozen=True, slots=True)
class DelayedNesterovRule:
    """State: the momentum, the sum of pushes since it moved, and their number [1].

    Each call of `step_` is one peer's pseudo-gradient, taken at once; nobody waits for a mean. Momentum that
    moved at every push would count each worker's direction as often as there are workers. So `period` pushes
    (N, as many as workers) are collected and move it by their mean, and only the last of them takes the
    momentum's step. `spread` (c, from 0 to 1/N) gives a share of that step to each of the others. N = 1 is
    Nesterov. Raises ValueError for knobs that cannot train. (Asynchronous Local-SGD, Liu et al. 2024)
    """

    lr: float = 0.7
    momentum: float = 0.9
    period: int = 4
    spread: float = 0.0
    name: ClassVar[str] = "delayed-nesterov"

    def __post_init__(self) -> None:
        positive("outer lr", self.lr)
        below_one("outer momentum", self.momentum)
        at_least_one("outer period", self.period)
        if not 0 <= self.spread * self.period <= 1:
            raise ValueError(f"outer spread must be in [0, 1 / {self.period}], not {self.spread}")

    def state(self, numel: int) -> tuple[Tensor, ...]:
        return torch.zeros(numel), torch.zeros(numel), torch.zeros(1)

    def step_(self, anchor: Tensor, state: Sequence[Tensor], update: Tensor) -> None:
        """pushes <- pushes + g, and at the last push of a period
              momentum <- mu * momentum + pushes / N;  pushes <- 0
              anchor <- anchor - lr * ((1 - c * (N - 1)) * mu * momentum + g / N)
        and at the others
              anchor <- anchor - lr * (c * mu * momentum + g / N)
        """
        momentum, pushes, count = state
        numel = floats("anchor", anchor).size
        floats("count", count, 1)
        scratch = torch.empty((2, min(PIECE, numel)), dtype=torch.float32)
        walked = walk(numel, {"momentum": momentum, "pushes": pushes, "update": update})
        taken = int(count[0]) + 1
        last = taken >= self.period
        with torch.no_grad():
            count.fill_(0 if last else taken)
            for piece in walked:
                vectors = (anchor[piece], momentum[piece], pushes[piece], update[piece])
                self._piece(*vectors, scratch[:, : piece.stop - piece.start], last)

    def _piece(
        self, anchor: Tensor, momentum: Tensor, pushes: Tensor, push: Tensor, scratch: Tensor, last: bool
    ) -> None:
        move, share = scratch
        pushes.add_(push)
        if last:
            momentum.mul_(self.momentum).add_(torch.div(pushes, self.period, out=share))
            pushes.zero_()
        part = 1 - self.spread * (self.period - 1) if last else self.spread
        torch.mul(momentum, part * self.momentum, out=move)
        move.add_(torch.div(push, self.period, out=share)).mul_(self.lr)
        anchor.sub_(move)
