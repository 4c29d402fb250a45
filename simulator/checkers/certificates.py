"""Every commit carries valid votes of a majority of its round's voters; a recovery, the authority's alone.

Voters, majority and votes are worked out here again, from the chain that all peers were seen to take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol.commits import Commit, Kind, vote_message

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class Certificates:
    world: World

    def __init__(self) -> None:
        self.checked: dict[int, Commit] = {}

    def on_commit(self, host: Host, commit: Commit) -> None:
        """One commit object reaches many peers; it is checked once."""
        if id(commit) in self.checked:
            return
        self.checked[id(commit)] = commit
        body, world = commit.body, self.world
        message = vote_message(body.place, commit.view, body.digest)
        valid = {peer for peer, signature in commit.votes if world.ring.verify(peer, message, signature)}
        world.require(
            len(valid) == len(commit.votes), f"a vote of commit {body.round} is invalid or repeated"
        )
        if body.kind is Kind.RECOVERY:
            world.require(
                valid == {world.authority.peer},
                f"recovery {body.round} at {host.name} is not the authority's",
            )
            return
        members = set(world.voters(body.round, body.epoch))
        world.require(valid <= members, f"a vote of commit {body.round} is of no voter")
        world.require(
            world.setting.certifies(len(valid), len(members)),
            f"{len(valid)} votes for commit {body.round} at {host.name} are no majority of {len(members)}",
        )
