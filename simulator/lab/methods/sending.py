"""A replica's side of an exchange: pseudo-gradient, residual, codec, and what becomes of the residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from atoll.optim.codecs import codec
from atoll.optim.feedback import Residual
from atoll.optim.flat import NonFinite
from atoll.optim.layout import Layout
from atoll.optim.pseudo_gradient import pseudo_gradient
from atoll.simulator.lab.exchanges import Offer, dense, sparse
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


@dataclass(frozen=True, slots=True)
class Packing:
    """How what is sent is packed, in the words of a RUN.toml. Of what the codec leaves out, `feedback` is the
    share that is offered again."""

    codec: str = "fp32"
    exchange: str = "dense"
    aggregation: str = "mean"
    feedback: float = 1.0


class Sending:
    """Makes a round's update of what replicas trained. `radial` is the layout, if means are to be radial."""

    def __init__(self, packing: Packing, layout: Layout) -> None:
        self._codec, self._exchange = codec(packing.codec), EXCHANGES[packing.exchange]
        self._radial = layout if packing.aggregation == "rda" else None
        self._feedback, self._numel = packing.feedback, layout.numel

    def residual(self) -> Residual:
        """A residual before the first round."""
        return Residual(self._numel, self._feedback)

    def exchange(
        self, trained: Sequence[Trained], residuals: Sequence[Residual], receivers: int, traffic: Traffic
    ) -> Tensor | None:
        """The round's update, fp32 [numel], or None; `residuals` of those who contribute are settled."""
        offers = [Offer(each.weight, residuals[each.replica].offer(each.delta)) for each in trained]
        found = self._exchange(offers, self._codec, receivers, traffic, self._radial)
        if found is None:
            return None
        for each, decoded in zip(trained, found.decoded, strict=True):
            residuals[each.replica].accepted(decoded)
        return found.update


def missed(late: Sequence[Trained], residuals: Sequence[Residual], rule: str, lost: float = 1.0) -> None:
    """These contributions came too late: they wait for the next round, or are dropped.

    `lost` is the share of them that local parameters do not hold any more: only that has to wait.
    """
    for each in late:
        residuals[each.replica].offer(each.delta)
        if rule == "carry" and lost:
            residuals[each.replica].carried(lost)
        else:
            residuals[each.replica].dropped()
