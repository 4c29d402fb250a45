"""Crashes and frosts at the worst moment: in the middle of a broadcast, or on either side of a write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atoll.protocol import actions as a
from atoll.protocol import messages as m

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World

MOMENTS: dict[str, type] = {
    "plan": m.Plan,
    "held": m.Held,
    "cut": m.Cut,
    "reduced": m.Reduced,
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

    `share` of the receivers still get the message; a write is completed if it is one half or more. A crash
    keeps the victim down for `for_ms`; a `frost` lets it go on with the rest after that time.
    """

    moment: str
    share: float
    for_ms: int
    frost: bool = False

    def springs(self, world: World, host: Host, action: a.Action) -> bool:
        """Whether this is the moment; then the action is done in part and its host is struck."""
        kind, rest = (MOMENTS | TWO_STAGES)[self.moment], action
        if isinstance(action, a.Send) and isinstance(action.message, kind):
            count = round(self.share * len(action.to))
            host.send_to(action.to[:count], action.message)
            rest = a.Send(action.to[count:], action.message)
        elif not (isinstance(action, a.Persist) and isinstance(action.record, kind)):
            return False
        world.note(host.name, f"falls into the trap '{self.moment}'")
        if self.frost:
            host.freeze(self.for_ms)
            host.go_on_with(rest)
        else:
            if isinstance(action, a.Persist) and self.share >= 0.5:
                host.write(action.record)
            host.crash()
            world.clock.later(self.for_ms, world.revive, host)
        return True
