"""Gossip in pairs: outer steps for swarms that have no rounds in common, and so no common anchor.

Every peer keeps its own anchor and agrees with one other at a time. Nothing waits for more than two peers;
anchors differ, and `consensus_distance` says by how much. (NoLoCo, Kolehmainen et al. 2025)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.optim.flat import floats
from atoll.optim.norms import sum_of_squares
from atoll.optim.rules.base import below_one, positive


def pairs(seed: bytes, round_: int, peers: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Who meets whom in a round: peers sorted by SHA-256 of (seed, round, peer), cut into pairs.

    An odd one is alone, last. The order in which `peers` are given is of no account, so whoever knows the
    members knows the pairs; each permutation is as likely as another. Raises ValueError for a peer twice.
    """
    if len(set(peers)) != len(peers):
        raise ValueError("a peer is named twice")
    prefix = hashlib.sha256(seed).digest() + round_.to_bytes(8, "little")
    order = sorted(peers, key=lambda peer: hashlib.sha256(prefix + peer.encode()).digest())
    return tuple(tuple(order[place : place + 2]) for place in range(0, len(order), 2))


@dataclass(frozen=True, slots=True)
class NoLoCoRule:
    """The gossip step. Raises ValueError outside lr > 0 and 0 <= momentum < 1."""

    lr: float = 0.7
    momentum: float = 0.5

    def __post_init__(self) -> None:
        positive("gossip lr", self.lr)
        below_one("gossip momentum", self.momentum)

    def step_(self, anchor: Tensor, momentum: Tensor, update: Tensor, mean_anchor: Tensor) -> None:
        """One peer's step, in place on its `anchor` and `momentum`; all are fp32 [n].

            momentum <- mu * momentum - lr * update + lr * (mean_anchor - anchor)
            anchor   <- anchor + momentum

        `update` is the mean of the group's pseudo-gradients (anchor - local, hence the minus), `mean_anchor`
        that of its anchors before either moved; a peer alone gives its own. The second term pulls the pair
        together. Raises ValueError for vectors of another shape.
        """
        numel = floats("anchor", anchor).size
        named = {"momentum": momentum, "update": update, "mean anchor": mean_anchor}
        for name, vector in named.items():
            floats(name, vector, numel)
        with torch.no_grad():
            momentum.mul_(self.momentum).sub_(update.mul(self.lr))
            momentum.add_(mean_anchor.sub(anchor).mul_(self.lr))
            anchor.add_(momentum)


def mean_of_pair(one: Tensor, other: Tensor) -> Tensor:
    """(one + other) / 2, fp32 [n]: the same bits on both sides, whichever comes first."""
    floats("other", other, floats("one", one).size)
    with torch.no_grad():
        return one.add(other).div_(2.0)


def consensus_distance(anchors: Sequence[Tensor]) -> float:
    """The mean over peers of |anchor - mean anchor|^2, in fp64: 0 when all agree.

    `anchors` are fp32 [n], at least one. Raises ValueError otherwise.
    """
    if not anchors:
        raise ValueError("a distance between no anchors")
    numel = floats("anchor", anchors[0]).size
    mean = torch.zeros(numel)
    with torch.no_grad():
        for anchor in anchors:
            floats("anchor", anchor, numel)
            mean.add_(anchor)
        mean.div_(float(len(anchors)))
        return sum(sum_of_squares(anchor.sub(mean)) for anchor in anchors) / len(anchors)
