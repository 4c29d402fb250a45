"""The outer step: Nesterov momentum that gives the same bits on every machine."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from atoll.optim.flat import floats, pieces

_PIECE = 128 * 1024
"""Elements at a time: large enough for torch to use its threads, small enough to stay in cache."""


@dataclass(frozen=True, slots=True)
class NesterovRule:
    """The outer optimiser of a run; DiLoCo's values are 0.7 and 0.9. Raises ValueError outside
    lr > 0 and 0 <= momentum < 1."""

    lr: float
    momentum: float

    def __post_init__(self) -> None:
        if not (isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"outer lr must be a positive number, not {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"outer momentum must be in [0, 1), not {self.momentum}")


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
    floats("momentum", momentum, numel)
    floats("update", update, numel)
    scratch = torch.empty(min(_PIECE, numel), dtype=torch.float32)
    with torch.no_grad():
        for piece in pieces(numel, _PIECE):
            _step_piece(anchor[piece], momentum[piece], update[piece], rule, scratch)


def _step_piece(
    anchor: Tensor, momentum: Tensor, update: Tensor, rule: NesterovRule, scratch: Tensor
) -> None:
    move = scratch[: anchor.numel()]
    momentum.mul_(rule.momentum).add_(update)
    torch.mul(momentum, rule.momentum, out=move)
    move.add_(update).mul_(rule.lr)
    anchor.sub_(move)
