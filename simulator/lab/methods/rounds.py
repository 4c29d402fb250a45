"""DiLoCo and its kin: H inner steps, then an exchange of pseudo-gradients and an outer step for all.

One class covers them, because they differ in when, what and how it is packed: fragments one after another
(streaming), an update applied tau steps after it was sent, or a whole round after (CO2), a dense or sparse
exchange, with or without error feedback.
(DiLoCo, Douillard et al. 2023; Streaming DiLoCo, Douillard et al. 2025; SparseLoCo, Sarfi et al. 2025)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atoll.optim.fragments import PARTITIONS, Fragments
from atoll.optim.layout import Layout
from atoll.optim.streaming import Schedule, merge_
from atoll.protocol.errors import ConfigError
from atoll.simulator.lab.methods.base import OUTER, Outer, codec_name, one_of, only, together
from atoll.simulator.lab.methods.sending import EXCHANGES, Packing, Sending, Trained, difference, missed
from atoll.simulator.lab.traffic import FP32_BYTES
from atoll.workload.fields import parse, real, whole

if TYPE_CHECKING:
    from atoll.simulator.lab.replicas import Replicas

ROUND_KEYS = ("steps", "codec", "exchange", "aggregation", "feedback", "outer")
STREAM_KEYS = (*ROUND_KEYS, "fragments", "partition", "overlap", "mixing")


@dataclass(frozen=True, slots=True)
class RoundsRecipe:
    """`steps` is H, `overlap` tau, `mixing` alpha, `feedback` beta. A `late` update waits a round."""

    algorithm: str = one_of("diloco", "streaming", "sparseloco", "co2")
    steps: int = whole(50, 1, 1_000_000)
    codec: str = codec_name("fp32")
    exchange: str = one_of(*EXCHANGES)
    aggregation: str = one_of("mean", "rda")
    feedback: float = real(1.0, 0.0, 1.0)
    outer: Outer = field(default=Outer("nesterov", {"lr": 0.7, "momentum": 0.9}), metadata=OUTER)
    fragments: int = whole(1, 1, 256)
    partition: str = one_of(*sorted(PARTITIONS))
    overlap: int = whole(0, 0, 1_000_000)
    mixing: float = real(0.0, 0.0, 1.0)
    late: int = whole(0, 0, 1)

    @property
    def packing(self) -> Packing:
        return Packing(self.codec, self.exchange, self.aggregation, self.feedback)

    def check(self, layout: Layout, where: str) -> None:
        try:
            self.cut(layout)
        except ValueError as error:
            raise ConfigError(str(error), where, "fewer `fragments`, or another `partition`") from None

    def cut(self, layout: Layout) -> Fragments:
        """The fragments. Raises ValueError if the model has too few layers or tensors."""
        return PARTITIONS[self.partition](layout, self.fragments)

    def build(self, replicas: Replicas) -> Rounds:
        return Rounds(self, replicas)


def _recipe(
    keys: tuple[str, ...], defaults: Mapping[str, Any], section: Mapping[str, Any], where: str
) -> RoundsRecipe:
    only(section, keys, str(defaults["algorithm"]), where)
    made = parse(RoundsRecipe, {**defaults, **section}, where)
    together(made.outer, made.packing, where)
    try:
        Schedule(made.steps, made.fragments, made.overlap)
    except ValueError as error:
        raise ConfigError(str(error), where, "fewer fragments, less overlap, or more steps") from None
    return made


diloco = partial(_recipe, ROUND_KEYS, {"algorithm": "diloco"})
streaming = partial(
    _recipe,
    STREAM_KEYS,
    {
        "algorithm": "streaming",
        "codec": "e3m0",
        "fragments": 2,
        "overlap": 1,
        "mixing": 0.5,
        "outer": {"rule": "nesterov", "lr": 0.4, "momentum": 0.9},
    },
)
sparseloco = partial(
    _recipe,
    ROUND_KEYS,
    {
        "algorithm": "sparseloco",
        "codec": "topk",
        "exchange": "sparse",
        "feedback": 0.95,
        "outer": {"rule": "sgd", "lr": 1.0},
    },
)
co2 = partial(_recipe, ROUND_KEYS, {"algorithm": "co2", "late": 1, "outer": {"rule": "co2"}})


class Rounds:
    """Every H steps each fragment is sent once, and applied by all at once when its time has come.

    `_queues[p]` are the updates of fragment p that were sent and not applied yet; None is an update that
    nobody contributed to.
    """

    def __init__(self, recipe: RoundsRecipe, replicas: Replicas) -> None:
        self._recipe, self._replicas = recipe, replicas
        self.anchor = replicas.local[0].clone()
        self._cuts = recipe.cut(replicas.layout)
        self._schedule = Schedule(recipe.steps, recipe.fragments, recipe.overlap)
        self._rule = recipe.outer.build()
        layouts = [self._layout_of(fragment) for fragment in range(len(self._cuts))]
        self._sending = [Sending(recipe.packing, layout) for layout in layouts]
        self._states = [self._rule.state(layout.numel) for layout in layouts]
        self._residuals = [[sending.residual() for sending in self._sending] for _ in replicas.tokens]
        self._queues: list[list[Tensor | None]] = [[] for _ in layouts]
        self._sent_at = [0] * len(layouts)
        self._marks = [[0] * len(layouts) for _ in replicas.tokens]

    @property
    def turns(self) -> int:
        return len(self._replicas)

    def advance(self, step: int, until: int) -> int:
        self._welcome(self._replicas.returning(step))
        last, turn = step + 1, self._schedule.at(step + 1)
        while last < until and not (turn.send or turn.apply):
            last, turn = last + 1, self._schedule.at(last + 1)
        there = self._replicas.train_all(step, last)
        for fragment in turn.send:
            self._send(fragment, last, there)
        for fragment in turn.apply:
            self._land(fragment, there)
        return last

    def finish(self, step: int) -> None:
        """What is on its way lands; what was trained since is exchanged once more, and counted."""
        there = self._replicas.present(step - 1)
        for fragment in range(len(self._cuts)):
            while self._queues[fragment]:
                self._apply(fragment)
            if self._sent_at[fragment] < step:
                self._send(fragment, step, there)
                self._apply(fragment)

    def _send(self, fragment: int, step: int, there: list[int]) -> None:
        anchor = self._cuts.gather(self.anchor, fragment)
        offers, late = [], []
        for replica in there:
            weight = self._replicas.tokens[replica] - self._marks[replica][fragment]
            self._marks[replica][fragment] = self._replicas.tokens[replica]
            delta = difference(anchor, self._cuts.gather(self._replicas.local[replica], fragment))
            if weight and delta is not None:
                arrives = self._replicas.attendance.delivers(replica, step)
                (offers if arrives else late).append(Trained(replica, weight, delta))
        residuals = [residuals[fragment] for residuals in self._residuals]
        update = self._sending[fragment].exchange(offers, residuals, len(there), self._replicas.traffic)
        missed(late, residuals, self._replicas.attendance.churn.late, 1 - self._recipe.mixing)
        self._queues[fragment].append(update)
        self._sent_at[fragment] = step

    def _land(self, fragment: int, there: list[int]) -> None:
        """Apply the oldest update (in CO2 only if there is a newer one), and go on from the anchor."""
        if len(self._queues[fragment]) > self._recipe.late:
            self._apply(fragment)
        anchor = self._cuts.gather(self.anchor, fragment)
        for replica in there:
            local = self._cuts.gather(self._replicas.local[replica], fragment)
            merge_(local, anchor, self._recipe.mixing)
            self._cuts.scatter(local, self._replicas.local[replica], fragment)

    def _apply(self, fragment: int) -> None:
        update = self._queues[fragment].pop(0)
        if update is not None:
            anchor = self._cuts.gather(self.anchor, fragment)
            self._rule.step_(anchor, self._states[fragment], update)
            self._cuts.scatter(anchor, self.anchor, fragment)

    def _layout_of(self, fragment: int) -> Layout:
        """The tensors of a fragment, as its vector holds them."""
        places = self._cuts.slices[fragment]
        slots = self._replicas.layout.slots
        return Layout.of(
            (slot.name, slot.shape) for slot in slots if any(p.start <= slot.offset < p.stop for p in places)
        )

    def _welcome(self, returning: list[int]) -> None:
        """Who comes back fetches anchor and outer state, and has no residual."""
        for replica in returning:
            self._replicas.local[replica].copy_(self.anchor)
            for fragment, residual in enumerate(self._residuals[replica]):
                residual.load(torch.zeros_like(residual.buffer))
                self._marks[replica][fragment] = self._replicas.tokens[replica]
                self._replicas.traffic.message(FP32_BYTES * sum(s.numel() for s in self._states[fragment]))
            self._replicas.traffic.message(FP32_BYTES * self._replicas.numel)

    # ---- on disk --------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        found = {"anchor": self.anchor}
        for fragment, state in enumerate(self._states):
            found |= {f"state.{fragment}.{place}": tensor for place, tensor in enumerate(state)}
            found |= {
                f"update.{fragment}.{place}": u
                for place, u in enumerate(self._queues[fragment])
                if u is not None
            }
            found |= {
                f"residual.{fragment}.{m}": each[fragment].buffer for m, each in enumerate(self._residuals)
            }
        return found

    def counters(self) -> dict[str, Any]:
        queued = [len(queue) for queue in self._queues]
        return {"queued": queued, "sent_at": self._sent_at, "marks": self._marks}

    def restore(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        self._sent_at, self._marks = list(counters["sent_at"]), [list(marks) for marks in counters["marks"]]
        for fragment, queued in enumerate(counters["queued"]):
            self._queues[fragment] = [tensors.get(f"update.{fragment}.{place}") for place in range(queued)]
            for replica, residuals in enumerate(self._residuals):
                residuals[fragment].load(tensors[f"residual.{fragment}.{replica}"])
        for name, tensor in self.tensors().items():
            if not name.startswith(("update.", "residual.")):
                tensor.copy_(tensors[name])
