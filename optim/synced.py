"""Parameters of a user's model that replicas keep in step: their anchor, outer state and residual.

What happens to one fragment between two of its syncs stands here, in the order of a round: `send`, `collect`,
`apply`. Which fragment's turn it is, and what a user sees, is `diloco`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from atoll.optim.codecs.base import Codec
from atoll.optim.exchanges import Exchange, Finish
from atoll.optim.feedback import Residual
from atoll.optim.flat import NonFinite
from atoll.optim.layout import Layout
from atoll.optim.mean import weighted_mean
from atoll.optim.pseudo_gradient import pseudo_gradient
from atoll.optim.rules import OuterRule
from atoll.optim.schedule_free import averages, move_z
from atoll.optim.streaming import merge_

Named = Sequence[tuple[str, nn.Parameter]]


@dataclass(frozen=True, slots=True)
class Method:
    """How pseudo-gradients travel and what becomes of their mean; the same at every replica."""

    exchange: Exchange
    rule: OuterRule
    codec: Codec


class SyncedFragment:
    """One fragment at one replica. All its vectors are fp32 [numel] on the CPU, whatever the model's are.

    A model in bf16 holds the anchor rounded. What the rounding left out is kept and added again before the
    next pseudo-gradient, so that this is what training changed and nothing else.
    """

    def __init__(self, named: Named, method: Method, optimizers: Sequence[Optimizer]) -> None:
        self._named, self._method = tuple(named), method
        self._averaging = [each for each in optimizers if averages(each)]
        self.layout = Layout.of((name, parameter.shape) for name, parameter in named)
        self.anchor = self.layout.gather(named)
        self.state = method.rule.state(self.layout.numel)
        self._scratch = torch.empty(self.layout.numel)
        exact = all(parameter.dtype == torch.float32 for _, parameter in named)
        self._lost = None if exact else torch.zeros(self.layout.numel)
        self._residual = Residual(self.layout.numel) if method.codec.feedback else None
        self._finish: Finish | None = None
        self._sent: bytes | None = None

    @property
    def in_flight(self) -> bool:
        """Whether something was sent and its answer not yet applied."""
        return self._finish is not None

    def send(self, weight: int) -> bool:
        """Start the exchange of what was trained; False if that is not finite: it goes out with weight 0."""
        assert self._finish is None, "a second send before the first was applied"
        local, codec = self.layout.gather(self._named, self._scratch), self._method.codec
        if self._lost is not None:
            local.add_(self._lost)
        payload, finite = bytes(codec.payload_bytes(self.layout.numel)), True
        try:
            delta = pseudo_gradient(self.anchor, local, local)
            if weight:
                payload = self._encoded(delta)
        except NonFinite:
            weight, finite = 0, False
        self._sent = payload if weight else None
        try:
            self._finish = self._method.exchange(payload, weight)
        except BaseException:
            self._forget_offer()
            raise
        return finite

    def _encoded(self, delta: Tensor) -> bytes:
        if self._residual is None:
            return self._method.codec.encode(delta)
        try:
            return self._method.codec.encode(self._residual.offer(delta))
        except NonFinite:
            self._residual.dropped()
            raise

    def collect(self) -> None:
        """Wait until everybody's contribution is here. What they are worth is `apply`'s business.

        If the exchange raises, so does this, and nothing is in flight any more: the model has kept what it
        trained, which is part of its next pseudo-gradient.
        """
        finish, self._finish = self._finish, None
        assert finish is not None, "nothing is in flight"
        try:
            received = finish()
        except BaseException:
            self._forget_offer()
            raise
        self._finish = lambda: received
        if self._residual is not None and self._residual.pending:
            assert self._sent is not None
            self._residual.accepted(self._method.codec.decode(self._sent, self.layout.numel, self._scratch))
        self._sent = None

    def apply(self, mixing: float) -> None:
        """Take the outer step, and train on from (1 - mixing) * anchor + mixing * what was trained."""
        self.collect()
        finish, self._finish = self._finish, None
        assert finish is not None
        update = weighted_mean(finish(), self._method.codec, self.layout.numel, self._scratch)
        if update is not None:
            self._method.rule.step_(self.anchor, self.state, update)
        local = self.layout.gather(self._named, self._scratch)
        merge_(local, self.anchor, mixing)
        self._write(local)

    def restart(self) -> None:
        """Train on from the anchor, whatever the parameters hold."""
        self._write(self._scratch.copy_(self.anchor))

    def _write(self, wanted: Tensor) -> None:
        """Put `wanted` into the model, and keep what its parameters' dtype cannot hold of it."""
        with torch.no_grad():
            for (_, parameter), value in zip(self._named, self.layout.views(wanted).values(), strict=True):
                before = parameter.clone() if self._averaging else None
                parameter.copy_(value)
                if before is not None:
                    move_z(self._averaging, parameter, parameter - before)
        if self._lost is not None:
            torch.sub(wanted, self.layout.gather(self._named), out=self._lost)

    def _forget_offer(self) -> None:
        self._sent = None
        if self._residual is not None and self._residual.pending:
            self._residual.dropped()

    # ---- saving ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and None. Waits for what is in flight, for that is part of it."""
        received = None
        if self._finish is not None:
            self.collect()
            received = [(weight, _tensor(payload)) for weight, payload in self._finish()]
        vectors = {"anchor": self.anchor, "lost": self._lost}
        if self._residual is not None:
            vectors["residual"] = self._residual.buffer
        saved = {name: None if vector is None else vector.clone() for name, vector in vectors.items()}
        return {**saved, "outer": tuple(vector.clone() for vector in self.state), "received": received}

    def check(self, saved: dict[str, Any]) -> None:
        """Raise ValueError unless `saved` is the state of such a fragment."""
        own: dict[str, Tensor | None] = {
            "anchor": self.anchor,
            "lost": self._lost,
            "residual": None if self._residual is None else self._residual.buffer,
        }
        for name, vector in own.items():
            _check_vector(name, saved.get(name), vector)
        if len(saved["outer"]) != len(self.state):
            raise ValueError("the saved outer state is another rule's")
        for theirs, mine in zip(saved["outer"], self.state, strict=True):
            _check_vector("outer", theirs, mine)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from there; the model's parameters are left alone. Raises ValueError if it does not fit."""
        assert self._finish is None, "load while an exchange is in flight"
        self.check(saved)
        self.anchor.copy_(saved["anchor"])
        for mine, theirs in zip(self.state, saved["outer"], strict=True):
            mine.copy_(theirs)
        if self._lost is not None:
            self._lost.copy_(saved["lost"])
        if self._residual is not None:
            self._residual.load(saved["residual"])
        if saved["received"] is not None:
            received = [(weight, payload.numpy().data) for weight, payload in saved["received"]]
            self._finish = lambda: received


def _tensor(payload: bytes | bytearray | memoryview) -> Tensor:
    return torch.frombuffer(bytearray(payload), dtype=torch.uint8)


def _check_vector(name: str, saved: Tensor | None, mine: Tensor | None) -> None:
    shapes = [None if vector is None else tuple(vector.shape) for vector in (saved, mine)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"saved {name} is {shapes[0]}, here it is {shapes[1]}: another model or method")
