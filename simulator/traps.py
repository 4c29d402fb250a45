"""Faults at the worst moment: in the middle of a broadcast, or on either side of a write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atoll.protocol import actions as a
from atoll.protocol import messages as m
from atoll.protocol.roster import majority

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World

MOMENTS: dict[str, type] = {
    "plan": m.Plan,
    "held": m.Held,
    "cut": m.Cut,
    "reduced": m.Reduced,
    "prepare": m.Prepare,
    "propose": m.Propose,
    "vote": m.Vote,
    "promise": m.Promise,
    "commits": m.Commits,
    "write promised": a.Promised,
    "write accepted": a.Accepted,
    "write proposed": a.Proposed,
    "write committed": a.Committed,
}
TWO_STAGES: dict[str, type] = {"lock": m.Lock, "write prepared": a.Prepared, "write evidence": a.Accused}
"""Moments that only runs with two stages of agreement have."""


@dataclass(frozen=True, slots=True)
class Trap:
    """Strikes whoever does this first, and nobody after.

    `share` of the receivers still get the message; a write is completed if it is one half or more. What
    happens then, one of `EFFECTS`, is over after `for_ms`.
    """

    moment: str
    share: float
    for_ms: int
    effect: str = "crash"

    def waits_for(self, action: a.Action) -> bool:
        thing: Any = action.message if isinstance(action, a.Send) else getattr(action, "record", None)
        return isinstance(thing, (MOMENTS | TWO_STAGES)[self.moment])

    def spring(self, world: World, host: Host, action: a.Action) -> None:
        """The action is done in part, and its host is struck; the rest is up to the effect."""
        world.note(host.name, f"falls into the trap '{self.moment}' ({self.effect})")
        if isinstance(action, a.Send):
            count = round(self.share * len(action.to))
            host.send_to(action.to[:count], action)
            action = a.Send(action.to[count:], action.message, action.epoch)
        elif isinstance(action, a.Persist):
            world.decided(host, action.record)
        EFFECTS[self.effect](self, world, host, action)


def _crash(trap: Trap, world: World, host: Host, rest: a.Action) -> None:
    if isinstance(rest, a.Persist) and trap.share >= 0.5:
        host.write(rest.record)
    host.crash()
    world.clock.later(trap.for_ms, world.revive, host)


def _frost(trap: Trap, world: World, host: Host, rest: a.Action) -> None:
    """It goes on with the rest after that time."""
    host.freeze(trap.for_ms)
    host.go_on_with(rest)


def _cut(trap: Trap, world: World, host: Host, rest: a.Action) -> None:
    """Nothing that it sends from here on arrives; with a small share, nothing arrives at it either."""
    world.cut_off(frozenset({host.name}), trap.for_ms, out=True, into=trap.share < 0.5)
    host.queue.appendleft(rest)


def _late(trap: Trap, world: World, host: Host, rest: a.Action) -> None:
    """The others get it when it is an old story: it leaves now, and is on its way for so long.

    A write that takes so long holds up all that comes after it.
    """
    if isinstance(rest, a.Send):
        world.sent(host, rest)
        for receiver in rest.to:
            world.clock.later(trap.for_ms, host.bring, receiver, rest)
    else:
        host.freeze(trap.for_ms)
        host.go_on_with(rest)


def _doom(trap: Trap, world: World, host: Host, rest: a.Action) -> None:
    """It is lost, and with it as many members as make a majority; the witness is back first."""
    members, _ = world.in_progress()
    order = [host, *(world.hosts[member.peer] for member in members if member.peer != host.id)]
    _crash(trap, world, host, rest)
    for lost in order[1 : majority(len(members))]:
        if lost.alive:
            lost.crash()
            world.clock.later(trap.for_ms // (3 if lost.name == "w" else 1), world.revive, lost)


EFFECTS: dict[str, Callable[[Trap, World, Host, a.Action], None]] = {
    "crash": _crash,
    "frost": _frost,
    "cut": _cut,
    "late": _late,
    "doom": _doom,
}
