"""Rule "adaptive": one diagonal scaling for all peers, which changes only when a round does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from atoll.optim.flat import floats
from atoll.optim.rules.base import PIECE, below_one, positive, walk


@dataclass(frozen=True, slots=True)
class AdaptiveRule:
    """State: the decayed sum of squares S, and the decayed number W of what it sums [1].

        S <- beta * S + (1 - beta) * h^2;  W <- beta * W + (1 - beta);  D = max(floor, sqrt(S / W))

    S / W is a mean of squares from the first step on, without a power of beta: powers of one libm differ
    from another's. All peers see the same h, so they share D, and a mean of scaled steps is the scaled mean
    step. `step_` takes the round's update as h and divides it by D: adaptive outer steps, each coordinate
    about `lr` long. A caller whose *inner* steps divide by D (`scale`) moves by plain averaging and calls
    `refresh_` with the mean of the workers' gradients. Raises ValueError for knobs that cannot train.
    (Local Methods with Adaptivity via Scaling, Chezhegov et al. 2024; FedAdaGrad, Reddi et al. 2020)
    """

    lr: float = 0.01
    beta: float = 0.9
    floor: float = 1e-3
    name: ClassVar[str] = "adaptive"

    def __post_init__(self) -> None:
        positive("outer lr", self.lr)
        below_one("outer beta", self.beta)
        positive("outer floor", self.floor)

    def state(self, numel: int) -> tuple[Tensor, ...]:
        return torch.zeros(numel), torch.zeros(1)

    def refresh_(self, state: Sequence[Tensor], seen: Tensor) -> None:
        """Take `seen` (h), fp32 [numel], into the scaling."""
        squares, weight = state
        floats("weight", weight, 1)
        numel = floats("squares", squares).size
        scratch = torch.empty(min(PIECE, numel), dtype=torch.float32)
        walked = walk(numel, {"seen": seen})
        with torch.no_grad():
            weight.mul_(self.beta).add_(1 - self.beta)
            for piece in walked:
                square = torch.mul(seen[piece], seen[piece], out=scratch[: piece.stop - piece.start])
                squares[piece].mul_(self.beta).add_(square.mul_(1 - self.beta))

    def scale(self, state: Sequence[Tensor], vector: Tensor, out: Tensor | None = None) -> Tensor:
        """vector / D, fp32 [numel], in `out` if given. Raises ValueError before the first `refresh_`."""
        squares, weight = state
        numel = floats("squares", squares).size
        result = torch.empty_like(squares) if out is None else out
        scratch = torch.empty(min(PIECE, numel), dtype=torch.float32)
        seen = float(weight[0])
        if not seen > 0:
            raise ValueError("nothing was taken into the scaling yet")
        with torch.no_grad():
            for piece in walk(numel, {"vector": vector, "out": result}):
                divisor = torch.div(squares[piece], seen, out=scratch[: piece.stop - piece.start])
                torch.div(vector[piece], divisor.sqrt_().clamp_(min=self.floor), out=result[piece])
        return result

    def step_(self, anchor: Tensor, state: Sequence[Tensor], update: Tensor) -> None:
        """Take `update` into D, then anchor <- anchor - lr * update / D"""
        numel = floats("anchor", anchor).size
        walk(numel, {"squares": state[0], "update": update})
        self.refresh_(state, update)
        move = self.scale(state, update)
        with torch.no_grad():
            anchor.sub_(move.mul_(self.lr))
