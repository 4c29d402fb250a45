"""Rules "average" and "sgd": an outer step without memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from atoll.optim.flat import floats
from atoll.optim.rules.base import PIECE, positive, walk


@dataclass(frozen=True, slots=True)
class AverageRule:
    """The anchor becomes the mean of the peers' parameters. No state, no knobs. (FedAvg; Local SGD)"""

    name: ClassVar[str] = "average"

    def state(self, numel: int) -> tuple[Tensor, ...]:
        return ()

    def step_(self, anchor: Tensor, state: Sequence[Tensor], update: Tensor) -> None:
        """anchor <- anchor - update"""
        () = state
        for piece in walk(floats("anchor", anchor).size, {"update": update}):
            with torch.no_grad():
                anchor[piece].sub_(update[piece])


@dataclass(frozen=True, slots=True)
class SgdRule:
    """A step of `lr` along the mean. No state: with error feedback, the residual is the memory, and a
    momentum beside it would count what it holds back twice. (SparseLoCo, Sarfi et al. 2025: lr 1)"""

    lr: float = 1.0
    name: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        positive("outer lr", self.lr)

    def state(self, numel: int) -> tuple[Tensor, ...]:
        return ()

    def step_(self, anchor: Tensor, state: Sequence[Tensor], update: Tensor) -> None:
        """anchor <- anchor - lr * update"""
        () = state
        numel = floats("anchor", anchor).size
        scratch = torch.empty(min(PIECE, numel), dtype=torch.float32)
        with torch.no_grad():
            for piece in walk(numel, {"update": update}):
                move = scratch[: piece.stop - piece.start]
                torch.mul(update[piece], self.lr, out=move)
                anchor[piece].sub_(move)
