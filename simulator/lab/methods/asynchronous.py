"""Asynchronous DiLoCo: each replica pushes when it has done its H steps, and nobody waits for a mean.

Replicas begin at different times in the round, as they would in a swarm that nothing synchronises. A push is
applied at once, and the replica goes on from the anchor as it then is.
(Asynchronous Local-SGD with Delayed Nesterov, Liu et al. 2024)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atoll.optim.codecs import codec
from atoll.optim.feedback import Residual
from atoll.optim.layout import Layout
from atoll.optim.rules import OuterRule, outer_rule
from atoll.simulator.lab.methods.base import OUTER, Outer, codec_name, one_of, only, together
from atoll.simulator.lab.methods.sending import Packing, difference
from atoll.simulator.lab.traffic import FP32_BYTES
from atoll.workload.fields import parse, real, whole

if TYPE_CHECKING:
    from atoll.simulator.lab.replicas import Replicas

DELAYED = "delayed-nesterov"
KEYS = ("steps", "codec", "feedback", "outer")


@dataclass(frozen=True, slots=True)
class AsyncRecipe:
    """The rule's `period` is the number of replicas if it is left out."""

    algorithm: str = one_of("async")
    steps: int = whole(50, 1, 1_000_000)
    codec: str = codec_name("fp32")
    feedback: float = real(1.0, 0.0, 1.0)
    outer: Outer = field(default=Outer(DELAYED, {"lr": 0.7, "momentum": 0.9}), metadata=OUTER)

    def check(self, layout: Layout, where: str) -> None:
        return None

    def build(self, replicas: Replicas) -> Asynchronous:
        period = {"period": len(replicas)} if self.outer.rule == DELAYED else {}
        return Asynchronous(self, replicas, outer_rule(self.outer.rule, {**period, **self.outer.knobs}))


def recipe(section: Mapping[str, Any], where: str) -> AsyncRecipe:
    only(section, KEYS, "async", where)
    made = parse(AsyncRecipe, {"algorithm": "async", **section}, where)
    together(made.outer, Packing(made.codec, "sparse", feedback=made.feedback), where)
    return made


class Asynchronous:
    """A push is one payload to whoever holds the anchor, and the anchor back in fp32; both are counted."""

    def __init__(self, recipe: AsyncRecipe, replicas: Replicas, rule: OuterRule) -> None:
        self._recipe, self._replicas, self._rule = recipe, replicas, rule
        self._codec = codec(recipe.codec)
        self.anchor = replicas.local[0].clone()
        self._state = rule.state(replicas.numel)
        self._started = replicas.local.clone()
        self._residuals = [Residual(replicas.numel, recipe.feedback) for _ in replicas.tokens]

    @property
    def turns(self) -> int:
        return len(self._replicas)

    def advance(self, step: int, until: int) -> int:
        for replica in self._replicas.returning(step):
            self._fetch(replica)
            self._residuals[replica].load(torch.zeros(self._replicas.numel))
        last = step + 1
        while last < until and not self._due(last):
            last += 1
        there = self._replicas.train_all(step, last)
        for replica in self._due(last):
            if replica in there:
                self._push(replica, last)
        return last

    def finish(self, step: int) -> None:
        for replica in self._replicas.present(step - 1):
            if replica not in self._due(step):
                self._push(replica, step)

    def _due(self, step: int) -> list[int]:
        """Who ends its H inner steps with global step `step`."""
        return [m for m in range(len(self._replicas)) if self._pushes(m, step) > self._pushes(m, step - 1)]

    def _pushes(self, replica: int, step: int) -> int:
        ahead = replica * self._recipe.steps // len(self._replicas)
        return (self._replicas.attendance.steps(replica, 0, step) + ahead) // self._recipe.steps

    def _push(self, replica: int, step: int) -> None:
        delta = difference(self._started[replica], self._replicas.local[replica].clone())
        residual = self._residuals[replica]
        if delta is not None and bool(delta.any()):
            vector = residual.offer(delta)
            if self._replicas.attendance.delivers(replica, step):
                payload = self._codec.encode(vector)
                self._replicas.traffic.message(len(payload))
                decoded = self._codec.decode(payload, vector.numel())
                residual.accepted(decoded)
                self._rule.step_(self.anchor, self._state, decoded)
            elif self._replicas.attendance.churn.late == "carry":
                residual.carried()
            else:
                residual.dropped()
        self._fetch(replica)

    def _fetch(self, replica: int) -> None:
        self._replicas.local[replica].copy_(self.anchor)
        self._started[replica].copy_(self.anchor)
        self._replicas.traffic.message(FP32_BYTES * self._replicas.numel)

    # ---- on disk --------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        found = {"anchor": self.anchor, "started": self._started}
        found |= {f"state.{place}": tensor for place, tensor in enumerate(self._state)}
        return found | {f"residual.{m}": each.buffer for m, each in enumerate(self._residuals)}

    def counters(self) -> dict[str, Any]:
        return {}

    def restore(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
