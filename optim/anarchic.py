"""Peers that do as many inner steps as they like: each counts by the direction of a step, not by their
number.

A pseudo-gradient of K steps is about K steps long. Averaged as it is, one that did ten times the steps
decides the update alone. Here each is first brought to the length of `common` steps. AFA-CD averages what
arrived; AFA-CS the newest of every member, present or not, so that the absent are not forgotten. Where
weights are all that may change, `protocol/weights.per_step` comes to the same with `common` the harmonic mean
of all steps. (Anarchic Federated Learning, Yang et al. 2022)
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator

import torch
from torch import Tensor

from atoll.optim.flat import VALUE_MAX, floats
from atoll.optim.mean import mean_of

STEPS_MAX = 1 << 24
"""Whole numbers that fp32 holds exactly."""


def brought_to(update: Tensor, steps: int, common: int) -> Tensor:
    """update * (common / steps): a new fp32 vector, two roundings for each element, clamped to VALUE_MAX.

    Raises ValueError unless both numbers of steps are from 1 to STEPS_MAX.
    """
    if not (1 <= steps <= STEPS_MAX and 1 <= common <= STEPS_MAX):
        raise ValueError(f"steps are 1 to {STEPS_MAX}, not {steps} and {common}")
    floats("update", update)
    with torch.no_grad():
        return update.mul(common / steps).clamp_(-VALUE_MAX, VALUE_MAX)


def arrivals(updates: Iterable[tuple[int, Tensor]], common: int, numel: int) -> Tensor | None:
    """AFA-CD: the mean of (steps, pseudo-gradient fp32 [numel]) brought to `common` steps each, in this
    order.

    None if there are none.
    """
    return mean_of(((1, brought_to(update, steps, common)) for steps, update in updates), numel)


class Newest:
    """AFA-CS: every member's newest pseudo-gradient, brought to `common` steps; a vector for each."""

    def __init__(self, numel: int, common: int, members: Collection[Hashable]) -> None:
        self.numel, self.common = numel, common
        self._members = tuple(members)
        self._newest: dict[Hashable, Tensor] = {}

    def take(self, member: Hashable, steps: int, update: Tensor) -> None:
        """Replace a member's pseudo-gradient, fp32 [numel]. Raises KeyError for one that is no member."""
        if member not in self._members:
            raise KeyError(member)
        floats("update", update, self.numel)
        self._newest[member] = brought_to(update, steps, self.common)

    def mean(self) -> Tensor | None:
        """The mean over all members in their order; who never gave one counts as zero. None if nobody did.

        Summed anew each time: a running sum would keep the roundings of all that was ever taken out.
        """
        return mean_of(self._all(), self.numel) if self._newest else None

    def _all(self) -> Iterator[tuple[int, Tensor]]:
        zeros = torch.zeros(self.numel)
        for member in self._members:
            yield 1, self._newest.get(member, zeros)
