"""Once the faults stop, everybody goes on: two more updates at every peer, within some deadlines.

What is asked for: every peer that has not left has committed two further updates and holds the state of its
head, and is a member again, or knows that the run is complete. Who is gone for good is no member any more:
members that never answer would be a majority one day.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.simulator.setting import FURTHER_UPDATES

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World

DEADLINES = 24
DEADLINES_PER_LIAR = 12


class Liveness:
    """Begins to count at the moment when the faults stop."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wanted = world.updates + FURTHER_UPDATES
        rules = world.signed.manifest.rounds
        self.deadlines = DEADLINES + DEADLINES_PER_LIAR * world.setting.liars
        self.until_ms = world.clock.now_ms + self.deadlines * rules.deadline_ms

    def reached(self) -> bool:
        if self.world.updates < self.wanted or any(self.lagging(host) for host in self.world.alive):
            return False
        return not self.departed()

    def departed(self) -> list[str]:
        """Members that left or lost their disk, while rounds go on."""
        world = self.world
        if 0 < world.signed.manifest.rounds.rounds <= world.updates:
            return []
        members = (world.hosts[member.peer] for member in world.members(world.height + 1))
        return [host.name for host in members if host.finished]

    def lagging(self, host: Host) -> bool:
        peer = host.peer
        return peer is not None and not (
            peer.ledger.updates >= self.wanted and (peer.is_member or peer.ended is not None) and peer.ready
        )

    def complaint(self) -> str:
        """Who does not get on, and what it says itself."""
        behind = [host for host in self.world.alive if self.lagging(host)]
        texts = [
            f"{host.name} (height {peer.ledger.height}, {peer.ledger.updates} updates, state of round "
            f"{peer.catchup.round}, view {peer.view}, {peer.phase}: {peer.why})"
            for host in behind[:4]
            if (peer := host.peer) is not None
        ]
        if not behind and (departed := self.departed()):
            return f"{', '.join(departed)} lag behind as members, and are gone for good"
        return (
            f"{len(behind)} peers lag {self.deadlines} deadlines after the faults: "
            f"{self.wanted} updates wanted, " + "; ".join(texts)
        )
