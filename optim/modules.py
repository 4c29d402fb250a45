"""Modules: fragments that only some peers train, so a run can hold a model larger than any of its peers.

A peer's path names the modules that it trains; paths that share a module average its pseudo-gradient, the
others never see it. Everything else (anchor, momentum, rounds) is that of a fragment. (DiPaCo, Douillard et
al. 2024)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from atoll.optim.flat import VALUE_MAX
from atoll.optim.mean import mean_of


@dataclass(frozen=True, slots=True)
class ModuleMap:
    """`peers[i]` are the peers that train module i, sorted: the order in which their shares are summed."""

    peers: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, paths: Mapping[str, Sequence[int]], modules: int) -> ModuleMap:
        """From each peer's path. Raises ValueError if one names a module twice or one that is not there."""
        for peer, path in paths.items():
            if len(set(path)) != len(path) or not all(0 <= module < modules for module in path):
                raise ValueError(
                    f"{peer} trains modules {list(path)[:8]}: each once, from 0 to {modules - 1}"
                )
        trained = (
            sorted(peer for peer, path in paths.items() if module in path) for module in range(modules)
        )
        return cls(tuple(tuple(peers) for peers in trained))

    def path(self, peer: str) -> tuple[int, ...]:
        """The modules that a peer trains, ascending."""
        return tuple(module for module, peers in enumerate(self.peers) if peer in peers)

    def mean(
        self, module: int, shares: Mapping[str, tuple[int, Tensor]], numel: int, rescale: bool = False
    ) -> Tensor | None:
        """The update of one module, fp32 [numel]: the mean over its peers' (weight, pseudo-gradient).

        None, "no update", if no peer of the module weighs anything. `rescale` multiplies by the square root
        of the number of peers that did: a mean of k independent directions is 1/sqrt(k) as long, so modules
        that many paths share would else learn more slowly than those of one. Equal arguments give equal bits
        everywhere. Raises ValueError if a share is from a peer that does not train the module.
        """
        strangers = sorted(shares.keys() - set(self.peers[module]))
        if strangers:
            raise ValueError(f"{strangers[0]} does not train module {module}")
        given = [shares[peer] for peer in self.peers[module] if peer in shares]
        update = mean_of(given, numel)
        if update is not None and rescale:
            with torch.no_grad():
                update.mul_(sqrt(sum(weight > 0 for weight, _ in given))).clamp_(-VALUE_MAX, VALUE_MAX)
        return update
