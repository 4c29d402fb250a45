"""Synchronous data parallelism: what every other method is compared to.

In every step the gradients of all replicas are averaged and everybody takes the same step. That is one inner
loop over a batch P times as large: the gradient of the mean loss over P batches is the mean of P gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from atoll.optim.layout import Layout
from atoll.simulator.lab.methods.base import only

if TYPE_CHECKING:
    from atoll.simulator.lab.replicas import Replicas

STRETCH = 4
"""Steps between two looks at whether to evaluate or to save; nothing is exchanged less often for it."""


@dataclass(frozen=True, slots=True)
class SyncRecipe:
    """It has no knobs but those of its inner optimizer."""

    algorithm: str = "sync"

    def check(self, layout: Layout, where: str) -> None:
        return None

    def build(self, replicas: Replicas) -> Sync:
        return Sync(replicas)


def recipe(section: Mapping[str, Any], where: str) -> SyncRecipe:
    only(section, (), "sync", where)
    return SyncRecipe()


class Sync:
    """Bytes are those of an fp32 ring all-reduce of the gradient in every step: 2 (P - 1) / P * 4 numel sent
    by each of P replicas. Who is away is left out of mean and ring; a slow replica is waited for."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        replicas.together()

    turns = 1

    @property
    def anchor(self) -> Tensor:
        return self._replicas.local[0]

    def advance(self, step: int, until: int) -> int:
        churn = self._replicas.attendance.churn
        stretch = churn.every_steps if churn.leave else STRETCH
        last = min(until, (step // stretch + 1) * stretch)
        there = self._replicas.train_together(step, last)
        self._replicas.traffic.ring(self._replicas.numel, len(there), last - step)
        return last

    def finish(self, step: int) -> None:
        return None

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def counters(self) -> dict[str, Any]:
        return {}

    def restore(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        return None
