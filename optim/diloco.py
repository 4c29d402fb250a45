"""DiLoCo and Streaming DiLoCo around a user's own model, inner optimizer and training loop.

    diloco = DiLoCo(model, optimizer, exchange, every=500)
    for batch in batches:
        model(batch).backward()
        optimizer.step()                    # every 500th of these ends with an outer step
        optimizer.zero_grad()

No daemon, no ledger, a fixed group of replicas: for one cluster, or for trying methods. `atoll join` is for
machines that come and go.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from atoll.optim import codecs
from atoll.optim.digest import state_digest, tensor_digest
from atoll.optim.exchanges import Exchange
from atoll.optim.fragments import PARTITIONS, Fragments
from atoll.optim.layout import Layout
from atoll.optim.rules import NesterovRule, OuterRule
from atoll.optim.schedule_free import averages_in_place
from atoll.optim.streaming import Schedule
from atoll.optim.synced import Coding, Method, Named, SyncedFragment
from atoll.protocol.errors import ConfigError

log = logging.getLogger(__name__)

REFUSED = {
    "eager": "its anchors differ from replica to replica",
    "co2": "it takes each mean one round late",
    "delayed-nesterov": "it takes single pushes, not means",
}
"""Outer rules that need another order of events than this one."""

Optimizers = Optimizer | Sequence[Optimizer]
Self = TypeVar("Self", bound="OuterLoop")

DILOCO_OUTER = NesterovRule(lr=0.7, momentum=0.9)
STREAMING_OUTER = NesterovRule(lr=0.4, momentum=0.9)
"""The papers' own values."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """Which part of the model is exchanged when. (Streaming DiLoCo, Douillard et al. 2025)

    Every fragment is exchanged once in `every` inner steps, at times evenly spread, and applied `overlap`
    steps after it was sent, with training going on meanwhile; then local parameters are (1 - mixing) of the
    anchor and `mixing` of what they were. `cut` is "balanced" (whole tensors, equal sizes), or by layers
    "strided" or "sequential".
    """

    every: int
    fragments: int = 4
    overlap: int = 1
    mixing: float = 0.5
    cut: str = "balanced"


class OuterLoop:
    """One replica's outer loop, driven by its inner optimizer's steps: a `DiLoCo` or a `StreamingDiLoCo`.

    What is synced are the model's trained parameters (`requires_grad`), a tied weight once. Buffers are not:
    a model that has some to save, such as BatchNorm's statistics, gets a warning that they stay local. All
    replicas must start from equal parameters and settings; the first inner step checks that they do.

    A replica whose parameters are not finite sits the round out: it contributes nothing, starts again from
    the anchor, and its optimizers' state is cleared. If everybody sits out, the anchor stays what it is.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers,
        streaming: Streaming,
        method: Method,
    ) -> None:
        self._optimizers = (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer)
        named = _trained(model, self._optimizers)
        layout = Layout.of((name, parameter.shape) for name, parameter in named)
        cut = _cut(layout, streaming)
        self._schedule, self._mixing, self._method = _schedule(streaming), streaming.mixing, method
        self._fragments = tuple(
            SyncedFragment(_inside(named, layout, cut, place), method, self._optimizers)
            for place in range(len(cut))
        )
        self._settings = f"{layout} {cut.slices} {self._schedule.offsets} {method.codec.name} "
        self._settings += f"{method.coding.tiled} {method.rule}"
        self._steps = 0
        self._agreed = False
        self._tokens: int | None = None
        self._sent = [(0, 0)] * len(self._fragments)  # (steps, tokens) when it was sent last
        self._synced = [(0, 0)] * len(self._fragments)  # the same, of what was applied last
        self._hook = self._optimizers[-1].register_step_post_hook(lambda *_: self._stepped())

    # ---- what a user calls ----------------------------------------------------------------------

    def count(self, tokens: int) -> None:
        """Weigh this replica's contributions by the tokens it counts; call it before each inner step.

        All replicas count, or none: otherwise they weigh the same. One that counted no token since its last
        exchange sits that one out.
        """
        self._tokens = (self._tokens or 0) + tokens

    def sync(self) -> None:
        """Exchange and apply everything now, whatever the schedule says: at the end of training, or before
        an evaluation. All replicas at the same step; then all models hold the same anchor.

        A fragment that was exchanged after the last inner step has nothing new, and takes no outer step.
        """
        self._agree()
        with averages_in_place(self._optimizers):
            for place, fragment in enumerate(self._fragments):
                self._apply(place, self._mixing)
                if self._synced[place][0] < self._steps:
                    self._send(place)
                    self._apply(place, 0.0)
                fragment.restart()

    def digest(self) -> str:
        """BLAKE3 of anchor and outer state: equal at all replicas after every exchange is applied."""
        vectors = [vector for each in self._fragments for vector in (each.anchor, *each.state)]
        return state_digest([tensor_digest(vector) for vector in vectors])

    def anchor(self) -> dict[str, Tensor]:
        """The agreed parameters by name, fp32 copies on the CPU: what to evaluate and to keep."""
        views = [fragment.layout.views(fragment.anchor) for fragment in self._fragments]
        return {name: view.clone() for found in views for name, view in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """What to save beside the model's and the optimizer's, so that training resumes to the bit: tensors,
        numbers, None. It waits for an exchange in flight. Each replica saves its own."""
        return {
            "steps": self._steps,
            "tokens": self._tokens,
            "sent": list(self._sent),
            "synced": list(self._synced),
            "fragments": [fragment.state_dict() for fragment in self._fragments],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; model and optimizer are loaded by their own.

        Raises ValueError, and changes nothing, if it is another model's or method's.
        """
        if len(state["fragments"]) != len(self._fragments):
            raise ValueError(
                f"the saved state has {len(state['fragments'])} fragments, here are {len(self._fragments)}"
            )
        pairs = list(zip(self._fragments, state["fragments"], strict=True))
        for fragment, saved in pairs:
            fragment.check(saved)
        for fragment, saved in pairs:
            fragment.load_state_dict(saved)
        self._steps, self._tokens = state["steps"], state["tokens"]
        self._sent, self._synced = list(state["sent"]), list(state["synced"])
        self._agreed = False

    def close(self) -> None:
        """Let go of the optimizer: its steps are plain steps again. So does leaving a `with` block."""
        self._hook.remove()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- after each inner step ------------------------------------------------------------------

    def _stepped(self) -> None:
        self._agree()
        self._steps += 1
        turn = self._schedule.at(self._steps)
        if not turn.send and not turn.apply:
            return
        with averages_in_place(self._optimizers):
            for place in turn.send:
                self._send(place)
            for place in turn.apply:
                self._apply(place, self._mixing)

    def _send(self, place: int) -> None:
        weight = 1 if self._tokens is None else self._tokens - self._synced[place][1]
        self._sent[place] = (self._steps, self._tokens or 0)
        if self._fragments[place].send(weight):
            return
        for fragment in self._fragments:  # what is not finite in one would be in all after a step
            fragment.restart()
        for optimizer in self._optimizers:
            optimizer.state.clear()
        log.warning("training diverged: this replica sits a round out and starts again from the anchor")

    def _apply(self, place: int, mixing: float) -> None:
        """Apply what is in flight. Nothing is if its exchange failed: all of it goes with the next one."""
        if self._fragments[place].in_flight:
            self._fragments[place].apply(mixing)
            self._synced[place] = self._sent[place]

    def _agree(self) -> None:
        """Compare settings, step and anchor with everybody before the first exchange of parameters."""
        if self._agreed:
            return
        mine = f"{self._settings} {self._steps} {self.digest()}".encode()
        greeting = b"atoll" + hashlib.sha256(mine).digest()
        others = [bytes(payload) for _, payload in self._method.exchange(greeting, 1)()]
        differing = [place for place, other in enumerate(others) if other != greeting]
        if differing:
            raise ConfigError(
                f"of {len(others)} replicas those at {differing} differ from this one",
                type(self).__name__,
                "the same model, settings, first parameters and step: seed alike, or load one checkpoint",
            )
        self._agreed = True


class DiLoCo(OuterLoop):
    """Exchange the whole model after every `every`-th inner step, and wait for it.

    `optimizer` may be several that train the model together; the one that steps last comes last. `exchange`
    is any callable of that kind: `LocalGroup(n).exchange(place)`, `ProcessGroupExchange()`, or your own.
    `codec` is a name of `atoll.optim.codecs`, or a `Coding` that says more; those that need error feedback
    get it. Weight decay, clipping and learning rates of the inner loop stay the user's. SparseLoCo is
    `outer=outer_rule("sgd", {}), codec=Coding("topk", error_decay=0.95)`. (DiLoCo, Douillard et al. 2023)

    Raises ConfigError for settings that cannot train.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers,
        exchange: Exchange,
        *,
        every: int,
        outer: OuterRule = DILOCO_OUTER,
        codec: str | Coding = "int8",
    ) -> None:
        streaming = Streaming(every, fragments=1, overlap=0, mixing=0.0)
        super().__init__(model, optimizer, streaming, _method(exchange, outer, codec))


class StreamingDiLoCo(OuterLoop):
    """Exchange one fragment at a time, while training goes on: 1/P of the peak traffic, and no waiting.

    Arguments are `DiLoCo`'s, with a `Streaming` in place of `every`.
    (Streaming DiLoCo, Douillard et al. 2025)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizers,
        exchange: Exchange,
        streaming: Streaming,
        *,
        outer: OuterRule = STREAMING_OUTER,
        codec: str | Coding = "int8",
    ) -> None:
        super().__init__(model, optimizer, streaming, _method(exchange, outer, codec))


def _method(exchange: Exchange, outer: OuterRule, codec: str | Coding) -> Method:
    if outer.name in REFUSED:
        raise ConfigError(f"the outer rule {outer.name!r} does not fit here", "outer", REFUSED[outer.name])
    coding = Coding(codec) if isinstance(codec, str) else codec
    chosen = codecs.codec(coding.codec) if isinstance(coding.codec, str) else coding.codec
    return Method(exchange, outer, chosen, coding)


def _schedule(streaming: Streaming) -> Schedule:
    if not 0 <= streaming.mixing <= 1:
        raise ConfigError(f"`mixing` is {streaming.mixing!r}", "Streaming", "a number from 0 to 1")
    try:
        return Schedule(streaming.every, streaming.fragments, streaming.overlap)
    except ValueError as error:
        raise ConfigError(str(error), "every, fragments, overlap") from None


def _cut(layout: Layout, streaming: Streaming) -> Fragments:
    if streaming.cut not in PARTITIONS:
        raise ConfigError(f"`cut` is {streaming.cut!r}", "Streaming", "one of " + ", ".join(PARTITIONS))
    try:
        return PARTITIONS[streaming.cut](layout, streaming.fragments)
    except ValueError as error:
        raise ConfigError(str(error), "Streaming") from None


def _trained(model: nn.Module, optimizers: Sequence[Optimizer]) -> Named:
    """The model's trained parameters. Raises ConfigError if the optimizers train something else."""
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    stepped = {id(p) for each in optimizers for group in each.param_groups for p in group["params"]}
    missed = [name for name, each in named if id(each) not in stepped]
    if missed or not named:
        what = f"the optimizer does not train {', '.join(missed[:3]) or 'anything of this model'}"
        raise ConfigError(
            what, "optimizer", "all optimizers, the last to step last; or requires_grad = False"
        )
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    local = [name for name, value in model.state_dict(keep_vars=True).items() if name not in names]
    if local:
        warnings.warn(
            f"buffers are not synced, each replica keeps its own: {', '.join(local[:5])}", stacklevel=4
        )
    return named


def _inside(named: Named, layout: Layout, cut: Fragments, place: int) -> Named:
    """The parameters of one fragment, in the layout's order."""
    return [
        pair for slot, pair in zip(layout.slots, named, strict=True) if cut.holds(place, slot) and slot.numel
    ]
