"""FedAMD: a few peers measure the gradient at the anchor well, the others take steps corrected by it.

In a round each peer is an anchor peer with probability p, or a miner. An anchor peer uploads one gradient of
a large batch at the round's parameters; the newest of each is kept. A miner starts at the mean of those kept
and takes SARAH steps from it: each new direction is the last one, plus what its own gradient changed since.
Local drift, which a miner's own data causes, cancels in that difference. The outer update is the mean of the
miners. Two gradients for each step, and plain SGD inside: so it is no choice for an inner AdamW. (Wu et al.
2023)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass

import torch
from blake3 import blake3
from torch import Tensor

from atoll.optim.flat import all_finite, floats
from atoll.optim.mean import mean_of

Gradient = Callable[[Tensor, int], Tensor]
"""(parameters fp32 [numel], number of the batch) -> the loss's gradient there, fp32 [numel]."""
STEPS = 10
"""K of the paper."""


def anchor_peers(parent: str, peers: Collection[str], share: float = 0.2) -> list[str]:
    """Who uploads gradients this round: each with probability `share`, by hash of (parent commit, peer).

    In order of their names. May be nobody: then miners go on from the gradients that are kept.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share is from 0 to 1, not {share}")
    limit = int(share * 2**64)
    return [
        peer
        for peer in sorted(peers)
        if int.from_bytes(blake3(f"fedamd {parent} {peer}".encode()).digest()[:8], "big") < limit
    ]


class Anchors:
    """The newest large-batch gradient of each member: as many vectors as members."""

    def __init__(self, numel: int, members: Collection[Hashable]) -> None:
        self.numel = numel
        self._members = tuple(members)
        self._kept: dict[Hashable, Tensor] = {}

    def take(self, member: Hashable, gradient: Tensor) -> None:
        """Keep a gradient, fp32 [numel]. KeyError if no member's, ValueError if not finite."""
        if member not in self._members:
            raise KeyError(member)
        if not all_finite(floats("gradient", gradient, self.numel)):
            raise ValueError("a gradient is not finite")
        self._kept[member] = gradient.clone()

    def direction(self) -> Tensor | None:
        """The mean of those kept, in the members' order; None before the first."""
        return mean_of(self._all(), self.numel)

    def _all(self) -> Iterator[tuple[int, Tensor]]:
        return ((1, self._kept[member]) for member in self._members if member in self._kept)


@dataclass(frozen=True, slots=True)
class Mined:
    """What a miner found: start minus end, fp32 [numel], and the direction of its last step."""

    pseudo_gradient: Tensor
    direction: Tensor


def mine(start: Tensor, direction: Tensor, gradient: Gradient, lr: float, steps: int = STEPS) -> Mined:
    """`steps` SARAH steps of SGD from `start` along `direction` (of `Anchors`), fp32 [numel] each.

        x_1 = x_0 - lr v_0;   v_k = v_{k-1} - grad(x_{k-1}; b_k) + grad(x_k; b_k);   x_{k+1} = x_k - lr v_k

    for k from 1; batch numbers count from 1. With full batches and an exact v_0, each v_k is the gradient at
    x_k. Nothing given is changed. Raises ValueError for other shapes or no step.
    """
    numel = floats("start", start).size
    floats("direction", direction, numel)
    if steps < 1:
        raise ValueError(f"a miner takes a step at least, not {steps}")
    with torch.no_grad():
        before, here, v = start, start.sub(direction.mul(lr)), direction.clone()
        for batch in range(1, steps):
            v.sub_(_asked(gradient, before, batch)).add_(_asked(gradient, here, batch))
            before, here = here, here.sub(v.mul(lr))
        return Mined(start.sub(here), v)


def _asked(gradient: Gradient, at: Tensor, batch: int) -> Tensor:
    with torch.enable_grad():
        found = gradient(at, batch)
    floats("gradient", found, at.numel())
    return found.detach()


def merged(mined: Iterable[Mined], numel: int) -> Tensor | None:
    """The outer update: the plain mean of the miners' pseudo-gradients in this order; None of none."""
    return mean_of(((1, it.pseudo_gradient) for it in mined), numel)
