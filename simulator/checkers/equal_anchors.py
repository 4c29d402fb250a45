"""Peers that hold the state of one round hold the same bits: those that the commits up to it lead to.

The states are worked out here again from the commits alone, so an update that nobody applies is seen too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol.commits import Commit, Kind
from atoll.protocol.events import StateLoaded
from atoll.simulator import content

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class EqualAnchors:
    """`states[t]` is what round t leaves behind; a skip leaves what was there before."""

    world: World

    def __init__(self) -> None:
        self.states: list[StateLoaded] = []

    def on_commit(self, host: Host, commit: Commit) -> None:
        body, manifest = commit.body, self.world.signed.manifest
        if not self.states:
            self.states.append(StateLoaded(0, manifest.anchor, manifest.anchor_blobs))
        if body.round != len(self.states):
            return
        before = self.states[-1]
        self.world.require(
            body.anchor == before.anchor,
            f"commit {body.round} starts from {body.anchor[:8]}, but what there is before it is "
            f"{before.anchor[:8]}",
        )
        self.states.append(
            content.stepped(before, body, manifest.rounds.fragments) if body.kind is Kind.UPDATE else before
        )

    def on_state(self, host: Host, state: StateLoaded) -> None:
        """Any state but the initial one follows a commit."""
        if state.round == 0:
            return
        right = self.states[state.round].anchor
        self.world.require(
            right == state.anchor,
            f"anchors differ: {host.name} has {state.anchor[:8]} after round {state.round}, not {right[:8]}",
        )
