"""Getting blobs: one holder after another, each failure at its price, until one gives all bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atoll.protocol.ids import PeerId

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World

REFUSED_MS, SILENT_MS = 50, 1_000


@dataclass(frozen=True, slots=True)
class Transfer:
    """Something that `receiver` wants. `has` tells whether a holder can give it."""

    receiver: Host
    size: int
    holders: tuple[PeerId, ...]
    has: Callable[[Host], bool]
    arrived: Callable[[], None]
    failed: Callable[[], None]


def start(world: World, transfer: Transfer) -> None:
    """Get it for the life in which the receiver wants it."""
    _ask(world, transfer, transfer.receiver.life, 0)


def _ask(world: World, transfer: Transfer, life: int, index: int) -> None:
    receiver = transfer.receiver
    if receiver.life != life:
        return
    if index == len(transfer.holders):
        receiver.act(life, transfer.failed)
        return
    holder = world.hosts.get(transfer.holders[index])
    clock, links = world.clock, world.links
    if holder is None or not holder.alive:
        clock.later(REFUSED_MS, _ask, world, transfer, life, index + 1)
    elif holder.frozen or not links.both_ways(holder.name, receiver.name):
        clock.later(SILENT_MS, _ask, world, transfer, life, index + 1)
    elif not transfer.has(holder):
        clock.later(2 * links.base_ms(holder.name, receiver.name), _ask, world, transfer, life, index + 1)
    else:
        needed_ms = links.transfer_ms(holder.name, receiver.name, transfer.size)
        clock.later(needed_ms, _end, world, transfer, life, index, holder, holder.life)


def _end(world: World, transfer: Transfer, life: int, index: int, holder: Host, holder_life: int) -> None:
    """The last byte, unless the holder died or was cut off meanwhile: then the next one is asked."""
    if holder.life != holder_life or not world.links.both_ways(holder.name, transfer.receiver.name):
        _ask(world, transfer, life, index + 1)
    else:
        transfer.receiver.act(life, transfer.arrived)
