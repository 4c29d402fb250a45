"""When an update is committed for the first time anywhere, a majority of its round's voters hold it.

Held means on a disk, or in the memory of a living process. So whoever dies next, the update is not lost. It
counts who holds it when the first peer has the votes: once that peer has written the commit down, which may
be long after, the disk of one that voted may be gone or damaged, and no protocol can help that. Nor does a
decision count that a recovery has overtaken: voters of an epoch that is over drop what they held for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol.commits import Commit
from atoll.protocol.ids import Digest

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class HeldByMajority:
    world: World

    def __init__(self) -> None:
        self._seen: set[tuple[Digest, int]] = set()

    def on_decided(self, host: Host, commit: Commit) -> None:
        body, world = commit.body, self.world
        certificate = (body.digest, commit.view)
        if not body.blobs or certificate in self._seen or world.history.knows(commit):
            return
        if world.history.overtaken(commit):
            return
        self._seen.add(certificate)
        members = [world.hosts[voter] for voter in world.voters(body.round, body.epoch)]
        for ref in body.blobs:
            holders = sum(member.has(ref.digest) for member in members if not member.lies)
            liars = sum(member.lies for member in members)
            world.require(
                world.setting.certifies(holders + liars, len(members)),
                f"update {body.round} is committed at {host.name}, but held by {holders} of {len(members)}",
            )
