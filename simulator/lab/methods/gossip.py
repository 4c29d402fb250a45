"""NoLoCo: replicas meet in pairs, and there is no common anchor at all.

What is evaluated is the mean of all anchors, which nobody holds: in a swarm it is made once, at the end.
(NoLoCo, Kolehmainen et al. 2025)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atoll.optim.codecs import codec
from atoll.optim.gossip import NoLoCoRule, mean_of_pair, pairs
from atoll.optim.layout import Layout
from atoll.optim.mean import mean_of
from atoll.protocol.errors import ConfigError
from atoll.simulator.lab.attendance import run_seed
from atoll.simulator.lab.methods.base import codec_name, one_of, only
from atoll.simulator.lab.methods.sending import difference
from atoll.simulator.lab.traffic import FP32_BYTES
from atoll.workload.fields import parse, real, whole

if TYPE_CHECKING:
    from atoll.simulator.lab.replicas import Replicas

KEYS = ("steps", "codec", "lr", "momentum")


@dataclass(frozen=True, slots=True)
class GossipRecipe:
    """Pseudo-gradients travel by `codec`, anchors in fp32."""

    algorithm: str = one_of("noloco")
    steps: int = whole(50, 1, 1_000_000)
    codec: str = codec_name("fp32")
    lr: float = real(0.7, 1e-9, 100.0)
    momentum: float = real(0.5, 0.0, 0.999999)

    def check(self, layout: Layout, where: str) -> None:
        return None

    def build(self, replicas: Replicas) -> Gossip:
        return Gossip(self, replicas)


def recipe(section: Mapping[str, Any], where: str) -> GossipRecipe:
    only(section, KEYS, "noloco", where)
    made = parse(GossipRecipe, {"algorithm": "noloco", **section}, where)
    if codec(made.codec).feedback:
        raise ConfigError(f"codec {made.codec!r}", where, "one that needs no error feedback: pairs change")
    return made


class Gossip:
    def __init__(self, recipe: GossipRecipe, replicas: Replicas) -> None:
        self._steps, self._replicas = recipe.steps, replicas
        self._codec = codec(recipe.codec)
        self._rule = NoLoCoRule(recipe.lr, recipe.momentum)
        self._anchors = replicas.local.clone()
        self._momenta = torch.zeros_like(self._anchors)
        self._met_at = 0

    @property
    def anchor(self) -> Tensor:
        mean = mean_of([(1, anchor) for anchor in self._anchors], self._replicas.numel)
        assert mean is not None
        return mean

    @property
    def turns(self) -> int:
        return len(self._replicas)

    def advance(self, step: int, until: int) -> int:
        for replica in self._replicas.returning(step):
            self._welcome(replica, self._replicas.present(step))
        last = min(until, (step // self._steps + 1) * self._steps)
        there = self._replicas.train_all(step, last)
        if last % self._steps == 0:
            self._meet(last, there)
        return last

    def finish(self, step: int) -> None:
        if self._met_at < step:
            self._meet(step, self._replicas.present(step - 1))

    def _meet(self, step: int, there: list[int]) -> None:
        """Each pair exchanges pseudo-gradients and anchors; who misses a round steps alone."""
        self._met_at = step
        reached = [m for m in there if self._replicas.attendance.delivers(m, step)]
        alone = [(m,) for m in there if m not in reached]
        seed = run_seed(self._replicas.attendance.seed)
        met = [tuple(map(int, pair)) for pair in pairs(seed, step, [str(m) for m in reached])]
        for group in (*met, *alone):
            self._agree(group)
        for replica in there:
            self._replicas.local[replica].copy_(self._anchors[replica])

    def _agree(self, group: tuple[int, ...]) -> None:
        deltas = [self._seen(replica, len(group) > 1) for replica in group]
        anchors = [self._anchors[replica].clone() for replica in group]
        update, mean = mean_of_pair(deltas[0], deltas[-1]), mean_of_pair(anchors[0], anchors[-1])
        for replica in group:
            self._rule.step_(self._anchors[replica], self._momenta[replica], update, mean)

    def _seen(self, replica: int, sent: bool) -> Tensor:
        """A replica's pseudo-gradient as its partner decodes it; zeros if training diverged."""
        delta = difference(self._anchors[replica], self._replicas.local[replica].clone())
        if delta is None:
            return torch.zeros(self._replicas.numel)
        if not sent:
            return delta
        payload = self._codec.encode(delta)
        self._replicas.traffic.message(len(payload) + FP32_BYTES * self._replicas.numel)
        return self._codec.decode(payload, delta.numel())

    def _welcome(self, replica: int, there: list[int]) -> None:
        """Who comes back takes the anchor of the first that was there all the time."""
        source = there[0]
        self._anchors[replica].copy_(self._anchors[source])
        self._momenta[replica].zero_()
        self._replicas.local[replica].copy_(self._anchors[source])
        self._replicas.traffic.message(FP32_BYTES * self._replicas.numel)

    # ---- on disk --------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        return {"anchors": self._anchors, "momenta": self._momenta}

    def counters(self) -> dict[str, Any]:
        return {"met_at": self._met_at}

    def restore(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        self._met_at = counters["met_at"]
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
