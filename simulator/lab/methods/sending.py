"""A replica's side of an exchange: pseudo-gradient, residual, codec, and what becomes of the residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from atoll.optim.feedback import Residual
from atoll.optim.flat import NonFinite
from atoll.optim.pseudo_gradient import pseudo_gradient
from atoll.simulator.lab.exchanges import Offer, dense, sparse
from atoll.simulator.lab.methods.base import codec_of
from atoll.simulator.lab.traffic import Traffic

EXCHANGES = {"dense": dense, "sparse": sparse}


@dataclass(frozen=True, slots=True)
class Trained:
    """What a replica trained: a pseudo-gradient, fp32 [numel], that weighs the tokens it read."""

    replica: int
    weight: int
    delta: Tensor


def difference(anchor: Tensor, local: Tensor) -> Tensor | None:
    """The pseudo-gradient, in place of `local`; None if training diverged: that replica sits out."""
    try:
        return pseudo_gradient(anchor, local, out=local)
    except NonFinite:
        return None


class Sending:
    """How a method packs what it sends: codec, exchange, and whether what the codec leaves out comes back."""

    def __init__(self, codec: str, exchange: str, error_feedback: bool, error_decay: float) -> None:
        self._codec, self._exchange = codec_of(codec, error_feedback), EXCHANGES[exchange]
        self._feedback, self._decay = error_feedback, error_decay

    def residual(self, numel: int) -> Residual:
        """A residual before the first round. Without error feedback it holds late contributions only."""
        return Residual(numel)

    def exchange(
        self, trained: Sequence[Trained], residuals: Sequence[Residual], receivers: int, traffic: Traffic
    ) -> Tensor | None:
        """The round's update, fp32 [numel], or None; `residuals` of those who contribute are settled."""
        offers = [
            Offer(each.replica, each.weight, residuals[each.replica].offer(each.delta)) for each in trained
        ]
        found = self._exchange(offers, self._codec, receivers, traffic)
        if found is None:
            return None
        for offer, decoded in zip(offers, found.decoded, strict=True):
            residuals[offer.replica].accepted(decoded if self._feedback else offer.vector)
        return found.update

    def missed(self, late: Sequence[Trained], residuals: Sequence[Residual], rule: str) -> None:
        """These contributions came too late: they wait for the next round, or are dropped."""
        for each in late:
            residuals[each.replica].offer(each.delta)
            if rule == "carry":
                residuals[each.replica].carried()
            else:
                residuals[each.replica].dropped()
