"""Rule "nesterov": momentum that looks ahead, with the same bits on every machine. DiLoCo's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from atoll.optim.compiled import compiled
from atoll.optim.flat import Floats, floats
from atoll.optim.rules.base import below_one, positive


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
    `torch.optim.SGD(nesterov=True)` to the bit, the anchor to the last place or two. Each operation is
    rounded once: torch's `add(alpha=...)`, `lerp` and `addcmul` fuse two on some machines and not on others,
    and anchors must be bit-identical. One compiled pass over memory takes half the time of torch's five.
    Raises ValueError if the arguments are not flat fp32 vectors of one size. (DiLoCo, Douillard et al. 2023)
    """
    anchors = floats("anchor", anchor)
    momenta, updates = floats("momentum", momentum, anchors.size), floats("update", update, anchors.size)
    _step(anchors, momenta, updates, np.float32(rule.lr), np.float32(rule.momentum))


@compiled
def _step(anchor: Floats, momentum: Floats, update: Floats, lr: np.float32, mu: np.float32) -> None:
    for place in range(anchor.size):
        momentum[place] = mu * momentum[place] + update[place]
        anchor[place] -= lr * (update[place] + mu * momentum[place])
