"""Eager updates: replicas step at once, with an estimate of the mean that is still on its way.

Every replica has an anchor of its own; the one that is evaluated is the shared one, a round behind.
(Eager Updates for Overlapped Communication, Kale et al. 2025)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atoll.optim.layout import Layout
from atoll.optim.rules import EagerRule
from atoll.protocol.errors import ConfigError
from atoll.simulator.lab.methods.base import OUTER, Outer, codec_name, one_of, only, together
from atoll.simulator.lab.methods.sending import Packing, Sending, Trained, difference
from atoll.simulator.lab.traffic import FP32_BYTES
from atoll.workload.fields import parse, whole

if TYPE_CHECKING:
    from atoll.simulator.lab.replicas import Replicas

KEYS = ("steps", "codec", "outer")


@dataclass(frozen=True, slots=True)
class EagerRecipe:
    """Whole-model rounds, dense, without error feedback: a residual would be a second stale share."""

    algorithm: str = one_of("eager")
    steps: int = whole(50, 1, 1_000_000)
    codec: str = codec_name("fp32")
    outer: Outer = field(default=Outer("eager", {"lr": 0.4, "momentum": 0.9}), metadata=OUTER)

    def check(self, layout: Layout, where: str) -> None:
        return None

    def build(self, replicas: Replicas) -> Eager:
        return Eager(self, replicas)


def recipe(section: Mapping[str, Any], where: str) -> EagerRecipe:
    only(section, KEYS, "eager", where)
    made = parse(EagerRecipe, {"algorithm": "eager", **section}, where)
    if made.outer.rule != EagerRule.name:
        raise ConfigError(f"outer rule {made.outer.rule!r}", where, 'rule = "eager"')
    together(made.outer, Packing(made.codec, feedback=0.0), where)
    return made


class Eager:
    def __init__(self, recipe: EagerRecipe, replicas: Replicas) -> None:
        self._steps, self._replicas = recipe.steps, replicas
        self._rule = EagerRule(**recipe.outer.knobs)
        self._sending = Sending(Packing(recipe.codec, feedback=0.0), replicas.layout)
        self.anchor = replicas.local[0].clone()
        (self._momentum,) = self._rule.shared.state(replicas.numel)
        self._own = replicas.local.clone()
        self._states = [self._rule.state(replicas.numel) for _ in replicas.tokens]
        self._given = torch.zeros_like(self._own)
        self._mean: Tensor | None = None
        self._marks = [0] * len(replicas)
        self._sent_at = 0
        self._rounds = 0

    @property
    def turns(self) -> int:
        return len(self._replicas)

    def advance(self, step: int, until: int) -> int:
        for replica in self._replicas.returning(step):
            self._welcome(replica)
        last = min(until, (step // self._steps + 1) * self._steps)
        there = self._replicas.train_all(step, last)
        if last % self._steps == 0:
            self._round(last, there)
        return last

    def finish(self, step: int) -> None:
        there = self._replicas.present(step - 1)
        self._receive(there)
        if self._sent_at < step:
            self._send(step, there)
            self._receive(there)

    def _round(self, step: int, there: list[int]) -> None:
        self._receive(there)
        fresh = self._send(step, there)
        self._rounds += 1
        if self._rounds % self._rule.resync == 0:
            self._receive(there)
            for replica in there:
                self._rule.resync_(self._own[replica], self._states[replica], self.anchor, self._momentum)
        else:
            for replica, delta in fresh.items():
                state = self._states[replica]
                estimate = self._rule.estimate(state, delta, 1 / len(there))
                self._rule.step_(self._own[replica], state, estimate)
        for replica in there:
            self._replicas.local[replica].copy_(self._own[replica])

    def _send(self, step: int, there: list[int]) -> dict[int, Tensor]:
        """Start the round's exchange; each replica's own pseudo-gradient, which it knows at once."""
        fresh: dict[int, Tensor] = {}
        trained = []
        for replica in there:
            weight = self._replicas.tokens[replica] - self._marks[replica]
            self._marks[replica] = self._replicas.tokens[replica]
            delta = difference(self._own[replica], self._replicas.local[replica].clone())
            if not weight or delta is None:
                continue
            fresh[replica] = delta
            if self._replicas.attendance.delivers(replica, step):
                trained.append(Trained(replica, weight, delta))
        residuals = [self._sending.residual() for _ in self._marks]
        self._mean = self._sending.exchange(trained, residuals, len(there), self._replicas.traffic)
        self._given.zero_()
        for each in trained:
            self._given[each.replica].copy_(each.delta)
        self._sent_at = step
        return fresh

    def _receive(self, there: list[int]) -> None:
        """The mean on its way arrives: the shared anchor takes it, and replicas know what it held of them."""
        mean, self._mean = self._mean, None
        if mean is None:
            return
        self._rule.shared.step_(self.anchor, (self._momentum,), mean)
        for replica in there:
            self._rule.received_(self._states[replica], mean, self._given[replica])

    def _welcome(self, replica: int) -> None:
        self._own[replica].copy_(self.anchor)
        self._replicas.local[replica].copy_(self.anchor)
        for tensor in self._states[replica]:
            tensor.zero_()
        self._states[replica][0].copy_(self._momentum)
        self._marks[replica] = self._replicas.tokens[replica]
        self._replicas.traffic.message(2 * FP32_BYTES * self._replicas.numel)

    # ---- on disk --------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        found = {"anchor": self.anchor, "momentum": self._momentum, "own": self._own, "given": self._given}
        for replica, state in enumerate(self._states):
            found |= {f"state.{replica}.{place}": tensor for place, tensor in enumerate(state)}
        return found if self._mean is None else {**found, "mean": self._mean}

    def counters(self) -> dict[str, Any]:
        return {"marks": self._marks, "sent_at": self._sent_at, "rounds": self._rounds}

    def restore(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        self._marks, self._sent_at = list(counters["marks"]), counters["sent_at"]
        self._rounds, self._mean = counters["rounds"], tensors.get("mean")
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
