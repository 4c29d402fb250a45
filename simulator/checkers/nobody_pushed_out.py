"""Where leaders may lie: no honest member is banned, or left out but for long silence or by its own wish.

And nobody becomes a member that did not boot, or against whom a commit holds evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol.commits import Commit, Kind
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.roster import liars_max

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class NobodyPushedOut:
    world: World

    def __init__(self) -> None:
        self.banned: dict[Digest, frozenset[PeerId]] = {}

    def on_commit(self, host: Host, commit: Commit) -> None:
        body, world = commit.body, self.world
        if world.setting.votes == "majority" or body.digest in self.banned:
            return
        for culprit in (world.hosts[peer] for peer in body.convicted):
            world.require(culprit.lies, f"{culprit.name} is banned by commit {body.round}, and is honest")
        banned = self.banned[body.digest] = self.banned.get(body.parent, frozenset()) | body.convicted
        if body.kind is Kind.RECOVERY:
            return
        next_peers = {member.peer for member in body.members}
        leaving = {farewell.peer for farewell in body.farewells}
        members = body.before
        for member in members:
            silent = member.missed > liars_max(len(members))
            world.require(
                member.peer in next_peers | leaving | banned or silent,
                f"{world.hosts[member.peer].name} is pushed out by commit {body.round}",
            )
        for peer in next_peers.difference(member.peer for member in members):
            here = world.hosts[peer].life > 0 and peer not in banned
            world.require(here, f"{world.hosts[peer].name} never asked for commit {body.round} to let it in")
