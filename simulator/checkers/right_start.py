"""Each contribution that counts started from the anchor of its round's fragment as the last update left it.

With training that runs ahead of the ledger, a contribution may be older than the commits before its round; it
must not be older than the last one to its own fragment. Where runs merge what is late, it may be older by as
many updates as the commit says, and by no other number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol.commits import Commit, Kind
from atoll.protocol.fragments import start_digest
from atoll.protocol.ids import Digest
from atoll.simulator import content
from atoll.simulator.checkers.counted_once import pieces

if TYPE_CHECKING:
    from atoll.protocol.events import StateLoaded
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class RightStart:
    """Follows each chain with states of its own."""

    world: World

    def __init__(self) -> None:
        self.states: dict[Digest, StateLoaded] = {}
        self.starts: dict[Digest, tuple[Digest, ...]] = {}

    def on_commit(self, host: Host, commit: Commit) -> None:
        body, manifest = commit.body, self.world.signed.manifest
        if body.digest in self.states:
            return
        state = self.states.get(body.parent) or content.initial(manifest)
        self.states[body.digest] = state
        earlier = self.starts[body.digest] = self.starts.get(body.parent, ())
        if body.kind is Kind.RECOVERY:
            return
        right = body.round % manifest.rounds.fragments
        self.world.require(
            body.fragment == right,
            f"commit {body.round} is for fragment {body.fragment}, not {right}",
        )
        if body.kind is not Kind.UPDATE:
            return
        start = start_digest(state.blobs, body.round, manifest.rounds.fragments)
        starts = (start, *earlier[: manifest.rounds.staleness_max])
        self.starts[body.digest] = starts
        right_starts = {c.peer: starts[c.staleness] for c in body.contributors}
        honest = not self.world.setting.liars  # who owns a part can make up what it is a mean of
        for peer, used in pieces(self.world, body).items() if honest else ():
            found = {
                done.anchor
                for done in self.world.contributions[peer, body.round]
                if [ref.digest for ref in done.parts] == used
            }
            self.world.require(
                found == {right_starts[peer]},
                f"the contribution of {peer[-8:]} to update {body.round} started from an older fragment",
            )
        self.states[body.digest] = content.stepped(state, body, manifest.rounds)
