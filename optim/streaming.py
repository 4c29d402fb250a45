"""When each fragment is sent and applied while training goes on, and how what was trained meanwhile is kept.

Time here is inner steps. Fragment p is sent once in H steps, at its offset, and applied `overlap` steps
later: an exchange has that many steps to finish, and the peak of traffic is one fragment, not the model.
(Streaming DiLoCo, Douillard et al. 2025)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.optim.flat import floats


@dataclass(frozen=True, slots=True)
class Turn:
    """What is due after an inner step: first `send` these fragments, then `apply` those."""

    send: tuple[int, ...] = ()
    apply: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Schedule:
    """H inner `steps` between two exchanges of a fragment, P `fragments`, and `overlap` tau, below H / P.

    `offsets[p]` in [0, H) says after how many steps of every H fragment p is sent; p * H / P if left out.
    Raises ValueError if H is then no multiple of P, or one would be sent while another is in flight.
    """

    steps: int
    fragments: int = 1
    overlap: int = 0
    offsets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.fragments < 1 or self.steps < 1:
            raise ValueError(f"{self.steps} steps and {self.fragments} fragments: both are at least 1")
        if not self.offsets:
            if self.steps % self.fragments:
                raise ValueError(f"{self.steps} steps are no multiple of {self.fragments} fragments")
            spread = self.steps // self.fragments
            object.__setattr__(self, "offsets", tuple(range(0, self.steps, spread)))
        if len(self.offsets) != self.fragments or not all(0 <= at < self.steps for at in self.offsets):
            raise ValueError(
                f"offsets {self.offsets}: {self.fragments} of them, from 0 to {self.steps - 1}, are right"
            )
        if not 0 <= self.overlap < self._gap:
            raise ValueError(f"overlap must be from 0 to {self._gap - 1} here, not {self.overlap}")

    @property
    def _gap(self) -> int:
        """The fewest steps from one time of sending to the next."""
        times = sorted(set(self.offsets))
        after = [*times[1:], times[0] + self.steps]
        return min(later - earlier for earlier, later in zip(times, after, strict=True))

    def at(self, step: int) -> Turn:
        """What is due after inner step `step`, counted from 1 over the whole run."""
        if step < 1:
            raise ValueError(f"inner steps are counted from 1, not {step}")
        return Turn(self._sent(step), self._sent(step - self.overlap))

    def _sent(self, step: int) -> tuple[int, ...]:
        if step < 1:
            return ()
        return tuple(place for place, at in enumerate(self.offsets) if at == step % self.steps)


def merge_(local: Tensor, anchor: Tensor, alpha: float) -> None:
    """local <- (1 - alpha) * anchor + alpha * local, in place, both fp32 [n]: what a fragment trains on from.

    `anchor` is the fragment's after its outer step; `local` holds what was trained while that was on its way.
    0 takes the anchor to the bit, 1 leaves `local` alone; the paper mixes with 1/2. Only this worker uses
    the result. Raises ValueError if alpha is not in [0, 1] or a vector is not flat fp32 of the other's size.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], not {alpha}")
    floats("local", local, floats("anchor", anchor).size)
    with torch.no_grad():
        if alpha == 0:
            local.copy_(anchor)
        elif alpha < 1:
            local.mul_(alpha).add_(anchor.mul(1 - alpha))
