"""Who holds the state of one round of an epoch holds the same bits: those that the commits up to it lead to.

The states are worked out here again from the commits alone, so an update that nobody applies is seen too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol.commits import Commit, Kind
from atoll.protocol.events import StateLoaded
from atoll.protocol.ids import Digest
from atoll.simulator import content

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class EqualAnchors:
    """`states` has what each commit leaves behind; a skip leaves what was there before."""

    world: World

    def __init__(self) -> None:
        self.states: dict[Digest, StateLoaded] = {}

    def on_commit(self, host: Host, commit: Commit) -> None:
        body, manifest = commit.body, self.world.signed.manifest
        if not self.states:
            self.states[body.run_id] = StateLoaded(0, manifest.anchor, manifest.anchor_blobs)
        if body.digest in self.states:
            return
        before = self.states[body.parent]
        self.world.require(
            body.anchor == before.anchor,
            f"commit {body.round} starts from {body.anchor[:8]}, but what there is before it is "
            f"{before.anchor[:8]}",
        )
        self.states[body.digest] = (
            content.stepped(before, body, manifest.rounds) if body.kind is Kind.UPDATE else before
        )

    def on_state(self, host: Host, state: StateLoaded) -> None:
        """Any state but the initial one follows a commit, of the epoch that its host has on disk."""
        if state.round == 0:
            return
        right = self.states[self.world.history.chains[host.disk.epoch][state.round - 1].body.digest]
        self.world.require(
            right.anchor == state.anchor,
            f"anchors differ: {host.name} has {state.anchor[:8]} after round {state.round}, not "
            f"{right.anchor[:8]}",
        )
