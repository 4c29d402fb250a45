"""P replicas of one model in one process: one at a time, each with its own parameters and inner optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atoll.optim.layout import Layout
from atoll.simulator.lab.attendance import Attendance, run_seed
from atoll.simulator.lab.disk import load_tensors, save_tensors
from atoll.simulator.lab.shards import Shard, Union
from atoll.simulator.lab.traffic import Traffic
from atoll.workload import vector
from atoll.workload.config import InnerConfig
from atoll.workload.data import Corpus
from atoll.workload.inner import InnerLoop

OnSteps = Callable[[int], None]


class Replicas:
    """`local[m]` are the parameters of replica m, fp32 [numel]; `tokens[m]` is what it has trained on.

    All share one model object. A replica's parameters are put into it for each stretch of inner steps, which
    costs a copy and saves P - 1 models.
    """

    def __init__(
        self,
        model: Any,
        corpora: Sequence[Corpus | Shard],
        inner: InnerConfig,
        attendance: Attendance,
    ) -> None:
        self.model, self.attendance, self.traffic = model, attendance, Traffic()
        self.layout = self.layout_of(model)
        first = torch.empty(self.layout.numel)
        vector.write(model, first)
        self.local = first.repeat(len(corpora), 1)
        self.tokens = [0] * len(corpora)
        self.on_steps: OnSteps = lambda steps: None
        self._corpora, self._inner = corpora, inner
        self._seed = run_seed(attendance.seed)
        self._loops = [self._loop(replica) for replica in range(len(corpora))]
        self._away = [False] * len(corpora)

    @staticmethod
    def layout_of(model: Any) -> Layout:
        """Where each parameter lies in a replica's vector."""
        return Layout.of((slot.name, slot.shape) for slot in vector.slots(model))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def numel(self) -> int:
        return self.layout.numel

    def present(self, step: int) -> list[int]:
        """Who is there at that step."""
        return [replica for replica in range(len(self)) if self.attendance.present(replica, step)]

    def returning(self, step: int) -> list[int]:
        """Who is back since the last stretch of steps; their inner optimizers start anew."""
        back = [replica for replica in self.present(step) if self._away[replica]]
        for replica in back:
            self._loops[replica] = self._loop(replica)
            self._away[replica] = False
        return back

    def train(self, replica: int, first: int, last: int) -> None:
        """Let it train while the run goes from global step `first` to `last`."""
        steps = self.attendance.steps(replica, first, last)
        vector.load(self.model, self.local[replica])
        result = self._loops[replica].train(
            first, steps, replica, len(self), first, lambda: False, lambda step, loss: self.on_steps(1)
        )
        vector.write(self.model, self.local[replica])
        self.tokens[replica] += result.tokens

    def train_all(self, first: int, last: int) -> list[int]:
        """Let everybody train who is there at step `first`; give them."""
        there = self.present(first)
        self._away = [replica not in there for replica in range(len(self))]
        for replica in there:
            self.train(replica, first, last)
        return there

    def together(self) -> None:
        """From now on all take each step as one, on the mean of their gradients: one loop, a large batch."""
        self._union = Union(self._corpora)
        batch = self._inner.batch_sequences * len(self)
        inner = dataclasses.replace(self._inner, batch_sequences=batch)
        self.local = self.local[:1]
        self._loops = [InnerLoop(self.model, self._union, inner, self._seed)]  # type: ignore[arg-type]

    def train_together(self, first: int, last: int) -> list[int]:
        """As `train_all`, once they train together."""
        there = self.present(first)
        self._union.present = [replica in there for replica in range(len(self))]
        vector.load(self.model, self.local[0])
        result = self._loops[0].train(
            first, last - first, 0, 1, first, lambda: False, lambda step, loss: self.on_steps(1)
        )
        vector.write(self.model, self.local[0])
        for replica in there:
            self.tokens[replica] += result.tokens // len(self)
        return there

    def _loop(self, replica: int) -> InnerLoop:
        corpus = self._corpora[replica]
        return InnerLoop(self.model, corpus, self._inner, self._seed)  # type: ignore[arg-type]

    # ---- on disk --------------------------------------------------------------------------------

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the inner optimizers into `folder`; what else is to be remembered."""
        for replica, loop in enumerate(self._loops):
            loop.save(folder / f"inner-{replica}.safetensors")
        save_tensors({"local": self.local}, folder / "local.safetensors")
        return {"tokens": self.tokens, "away": self._away, "bytes": self.traffic.total}

    def load(self, folder: Path, remembered: dict[str, Any]) -> None:
        """Go on from what `save` wrote and gave. Raises ConfigError if a file is damaged."""
        self.local.copy_(load_tensors(folder / "local.safetensors")["local"])
        for replica, loop in enumerate(self._loops):
            loop.load(folder / f"inner-{replica}.safetensors")
        self.tokens, self._away = list(remembered["tokens"]), list(remembered["away"])
        self.traffic.total = remembered["bytes"]


def load_into(model: Any, flat: Tensor) -> Any:
    """The model with these parameters, to be evaluated."""
    vector.load(model, flat)
    return model
