"""Error feedback: what compression or a missed round left out is offered again next time."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.optim.flat import floats


class Residual:
    """The part of this peer's pseudo-gradients that no committed update holds yet, fp32 [numel].

    Each round is one `offer` and then exactly one of `accepted`, `carried` or `dropped`; anything else
    is a bug and trips an assert. Nothing is ever lost: what was decoded by others plus the new residual is
    what was offered, to one rounding. (1-bit SGD, Seide et al. 2014; EF-SGD, Karimireddy et al. 2019)
    """

    def __init__(self, numel: int) -> None:
        self._residual = torch.zeros(numel, dtype=torch.float32)
        self._offered = torch.zeros(numel, dtype=torch.float32)
        self._pending = False

    @property
    def pending(self) -> bool:
        """Whether an offer waits for its outcome."""
        return self._pending

    @property
    def buffer(self) -> Tensor:
        """The residual itself, fp32 [numel], to be saved. Before the outcome of an offer is known this is
        the residual before that offer, so a peer that restarts from it behaves as if `dropped`."""
        return self._residual

    def load(self, saved: Tensor) -> None:
        """Take over a saved residual (copied). Raises ValueError if it is not fp32 [numel]."""
        assert not self._pending, "load between an offer and its outcome"
        floats("saved residual", saved, self._residual.numel())
        self._residual.copy_(saved)

    def offer(self, delta: Tensor) -> Tensor:
        """residual + delta, fp32 [numel]: what this round encodes. Valid until the outcome; do not write.

        If a codec then refuses it as not finite, the outcome is `dropped`.

        Raises ValueError, and leaves no offer pending, if `delta` is not fp32 [numel].
        """
        assert not self._pending, "a second offer before the outcome of the first"
        floats("delta", delta, self._residual.numel())
        with torch.no_grad():
            torch.add(self._residual, delta, out=self._offered)
        self._pending = True
        return self._offered

    def accepted(self, decoded: Tensor) -> None:
        """The round took the contribution, which decodes to `decoded`, fp32 [numel]: keep the difference.

        Raises ValueError, with the offer still pending, if `decoded` is not fp32 [numel].
        """
        floats("decoded", decoded, self._residual.numel())
        self._settle()
        with torch.no_grad():
            torch.sub(self._offered, decoded, out=self._residual)

    def carried(self, share: float = 1.0) -> None:
        """The round went on without the contribution: keep this share of its delta for the next, in (0, 1]."""
        self._settle()
        if share < 1:
            with torch.no_grad():
                self._offered.sub_(self._residual).mul_(share).add_(self._residual)
        self._residual, self._offered = self._offered, self._residual

    def dropped(self) -> None:
        """Forget this offer's delta: the residual is what it was before."""
        self._settle()

    def _settle(self) -> None:
        assert self._pending, "an outcome without an offer"
        self._pending = False
