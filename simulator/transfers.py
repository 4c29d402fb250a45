"""Getting blobs: one holder after another, each failure at its price, until one gives all bytes.

Bytes that a holder's disk spoilt are noticed by their digest when they have all come, and the next one is
asked for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atoll.protocol.ids import Digest, PeerId

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World

REFUSED_MS, SILENT_MS = 50, 1_000


@dataclass(slots=True, eq=False)
class Transfer:
    """Something that `receiver` wants. `has(holder, digest)` tells whether a holder can give it.

    `asked` holders were asked so far; `arrived` and `failed` are called with `what`.
    """

    receiver: Host
    holders: tuple[PeerId, ...]
    size: int
    digest: Digest
    has: Callable[[Host, Digest], bool]
    arrived: Callable[..., None]
    failed: Callable[..., None]
    what: tuple[Any, ...]
    life: int = 0
    asked: int = 0


def start(world: World, transfer: Transfer) -> None:
    """Get it for the life in which the receiver wants it."""
    transfer.life = transfer.receiver.life
    _ask(world, transfer)


def _ask(world: World, transfer: Transfer) -> None:
    receiver, at = transfer.receiver, transfer.asked
    if receiver.life != transfer.life:
        return
    if at == len(transfer.holders):
        receiver.act(transfer.life, transfer.failed, *transfer.what)
        return
    transfer.asked += 1
    holder = world.hosts.get(transfer.holders[at])
    clock, links = world.clock, world.links
    if holder is None or holder.peer is None:
        clock.later(REFUSED_MS, _ask, world, transfer)
    elif (holder.thaw_ms and holder.frozen) or not links.both_ways(holder.name, receiver.name):
        clock.later(SILENT_MS, _ask, world, transfer)
    elif not transfer.has(holder, transfer.digest):
        clock.later(2 * links.base_ms(holder.name, receiver.name), _ask, world, transfer)
    else:
        needed_ms = links.transfer_ms(holder.name, receiver.name, transfer.size, clock.now_ms)
        patience_ms = links.patience_ms(transfer.size)
        if needed_ms > patience_ms:
            clock.later(patience_ms, _ask, world, transfer)
        else:
            clock.later(needed_ms, _end, world, transfer, holder, holder.life)


def _end(world: World, transfer: Transfer, holder: Host, holder_life: int) -> None:
    """The last byte, unless the holder died or was cut off meanwhile, or the bytes are bad: then the next."""
    receiver = transfer.receiver
    if holder.life != holder_life or not world.links.both_ways(holder.name, receiver.name):
        _ask(world, transfer)
    elif transfer.digest in holder.disk.rotten:
        world.note(receiver.name, f"gets bad bytes of {transfer.digest[:8]} from {holder.name}")
        _ask(world, transfer)
    else:
        receiver.act(transfer.life, transfer.arrived, *transfer.what)
