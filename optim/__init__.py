"""The numbers: what happens to tensors between two commits of the ledger.

Lives here: the layout of a model as one flat fp32 vector, pseudo-gradients, the payload codecs, the
error-feedback residual, the weighted mean in contributor order, outer Nesterov, digests of tensors.
Does not live here: sockets, files, clocks, asyncio, randomness, models. Imports numpy and torch only.
Everything that must agree on every peer is elementwise fp32 on the CPU with one rounding per
operation: no fused multiply-add, and no reduction whose order depends on threads or hardware.
Start at `layout` (what a flat vector is), then follow a round: `pseudo_gradient`, `feedback`, `codecs`,
`mean`, `nesterov`, `digest`. `reference` says the same in slow plain Python; the tests compare the two.
`diloco` is all of it around a user's own training loop: `from atoll.optim import DiLoCo`.
The names below are looked up when first used, so that commands which need none start without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atoll.optim.diloco import DiLoCo, Streaming, StreamingDiLoCo
    from atoll.optim.exchanges import Exchange, LocalGroup
    from atoll.optim.process_group import ProcessGroupExchange
    from atoll.optim.rules import NesterovRule, outer_rule

__all__ = [
    "DiLoCo",
    "Exchange",
    "LocalGroup",
    "NesterovRule",
    "ProcessGroupExchange",
    "Streaming",
    "StreamingDiLoCo",
    "outer_rule",
]

_HOME = {
    "DiLoCo": "diloco",
    "Exchange": "exchanges",
    "LocalGroup": "exchanges",
    "NesterovRule": "rules",
    "ProcessGroupExchange": "process_group",
    "Streaming": "diloco",
    "StreamingDiLoCo": "diloco",
    "outer_rule": "rules",
}


if not TYPE_CHECKING:  # a type checker would else believe that every name is here

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
