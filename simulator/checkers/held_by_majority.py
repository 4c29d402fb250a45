"""When an update is committed for the first time anywhere, a majority of its round's voters hold it.

Held means on a disk, or in the memory of a living process. So whoever dies next, the update is not lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol.commits import Commit

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class HeldByMajority:
    world: World

    def on_commit(self, host: Host, commit: Commit) -> None:
        body, world = commit.body, self.world
        if not body.blobs or world.history.knows(commit):
            return
        members = [world.hosts[voter] for voter in world.voters(body.round, body.epoch)]
        for ref in body.blobs:
            holders = sum(member.has(ref.digest) for member in members if not member.lies)
            liars = sum(member.lies for member in members)
            world.require(
                world.setting.certifies(holders + liars, len(members)),
                f"update {body.round} is committed at {host.name}, but held by {holders} of {len(members)}",
            )
