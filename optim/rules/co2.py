"""Rule "co2": heavy-ball momentum for updates that come a round late, with a penalty and a bound for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from atoll.optim.flat import floats
from atoll.optim.norms import norm
from atoll.optim.rules.base import PIECE, below_one, positive, walk

PENALTIES = ("const", "gap")
_KEPT = 0.9
"""Of the running mean of gaps at each step; so a penalty never exceeds 1 + 1 / (1 - 0.9) = 11."""


@dataclass(frozen=True, slots=True)
class Co2Rule:
    """State: the momentum, and the running mean of gaps [1].

    The caller applies after round t the update of round t-1, so that a whole round hides the exchange. Its
    pseudo-gradients were taken one step of the anchor ago: the gap. `penalty` "gap" divides them by
    1 + gap / (running mean of gaps), which is 2 while gaps stay alike and 1 while the anchor has not moved;
    "const" divides by `staleness`. `clip` bounds every element of the momentum. The published code has the
    constant 1 as penalty and throws the clipped momentum away; here clipping clips. Raises ValueError for
    knobs that cannot train. (CO2, Sun et al. 2024)
    """

    lr: float = 1.0
    momentum: float = 0.5
    clip: float = 1.0
    penalty: str = "const"
    staleness: float = 1.0
    name: ClassVar[str] = "co2"

    def __post_init__(self) -> None:
        positive("outer lr", self.lr)
        below_one("outer momentum", self.momentum)
        if not self.clip > 0:
            raise ValueError(f"outer clip must be above 0, not {self.clip}")
        if self.penalty not in PENALTIES:
            raise ValueError(f"outer penalty must be one of {', '.join(PENALTIES)}, not {self.penalty!r}")
        if not 1 <= self.staleness < float("inf"):
            raise ValueError(f"outer staleness must be a number from 1 on, not {self.staleness}")

    def state(self, numel: int) -> tuple[Tensor, ...]:
        return torch.zeros(numel), torch.zeros(1)

    def step_(self, anchor: Tensor, state: Sequence[Tensor], update: Tensor) -> None:
        """momentum <- clip(mu * momentum + update / penalty); anchor <- anchor - lr * momentum"""
        momentum, gaps = state
        numel = floats("anchor", anchor).size
        floats("gaps", gaps, 1)
        walked = walk(numel, {"momentum": momentum, "update": update})
        penalty = self._penalty(momentum, gaps)
        scratch = torch.empty(min(PIECE, numel), dtype=torch.float32)
        with torch.no_grad():
            for piece in walked:
                move = scratch[: piece.stop - piece.start]
                torch.div(update[piece], penalty, out=move)
                momentum[piece].mul_(self.momentum).add_(move).clamp_(-self.clip, self.clip)
                torch.mul(momentum[piece], self.lr, out=move)
                anchor[piece].sub_(move)

    def _penalty(self, momentum: Tensor, gaps: Tensor) -> float:
        """What the late update is divided by. The gap is lr * |momentum|: the step before was just that.

        lr stands above and below, so it is left out.
        """
        if self.penalty == "const":
            return self.staleness
        gap = norm(momentum)
        if gap == 0:
            return 1.0
        before = float(gaps[0])
        mean = _KEPT * before + (1 - _KEPT) * gap if before else gap
        gaps.fill_(mean)
        return 1 + gap / mean
