"""Rule "nesterov": momentum that looks ahead, with the same bits on every machine. DiLoCo's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from atoll.optim.flat import floats
from atoll.optim.rules.base import PIECE, below_one, positive, walk


@dataclass(frozen=True, slots=True)
class NesterovRule:
    """State: the momentum. Raises ValueError outside lr > 0 and 0 <= momentum < 1."""

    lr: float = 0.7
    momentum: float = 0.9
    name: ClassVar[str] = "nesterov"

    def __post_init__(self) -> None:
        positive("outer lr", self.lr)
        below_one("outer momentum", self.momentum)

    def state(self, numel: int) -> tuple[Tensor, ...]:
        return (torch.zeros(numel),)

    def step_(self, anchor: Tensor, state: Sequence[Tensor], update: Tensor) -> None:
        (momentum,) = state
        step_(anchor, momentum, update, self)


def step_(anchor: Tensor, momentum: Tensor, update: Tensor, rule: NesterovRule) -> None:
    """One outer step, in place on `anchor` and `momentum`; all three are fp32 [n] on the CPU.

        momentum <- mu * momentum + update
        anchor   <- anchor - lr * (update + mu * momentum)

    A momentum of zeros makes the first step torch's own first step. Momentum equals that of
    `torch.optim.SGD(nesterov=True)` to the bit, the anchor to the last place or two. It is written as
    separate `mul`, `add` and `sub`, each rounded once: `add(alpha=...)`, `lerp` and `addcmul` fuse two
    operations on some machines and not on others, and anchors must be bit-identical. Raises ValueError
    if the arguments are not flat fp32 vectors of one size. (DiLoCo, Douillard et al. 2023)
    """
    numel = floats("anchor", anchor).size
    scratch = torch.empty(min(PIECE, numel), dtype=torch.float32)
    with torch.no_grad():
        for piece in walk(numel, {"momentum": momentum, "update": update}):
            _step_piece(anchor[piece], momentum[piece], update[piece], rule, scratch)


def _step_piece(
    anchor: Tensor, momentum: Tensor, update: Tensor, rule: NesterovRule, scratch: Tensor
) -> None:
    move = scratch[: anchor.numel()]
    momentum.mul_(rule.momentum).add_(update)
    torch.mul(momentum, rule.momentum, out=move)
    move.add_(update).mul_(rule.lr)
    anchor.sub_(move)
