"""No two peers ever take different commits into the same round, and every commit follows the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol.commits import Commit
from atoll.protocol.ids import Digest

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class OneHistory:
    world: World

    def __init__(self) -> None:
        self.digests: dict[int, Digest] = {}

    def on_commit(self, host: Host, commit: Commit) -> None:
        round_, digest = commit.body.round, commit.body.digest
        first = self.digests.setdefault(round_, digest)
        self.world.require(
            first == digest,
            f"two histories: {host.name} commits {digest[:8]} in round {round_}, not {first[:8]}",
        )
        parent = self.digests.get(round_ - 1) if round_ > 1 else self.world.signed.run_id
        self.world.require(
            commit.body.parent == parent,
            f"commit {round_} of {host.name} does not follow commit {round_ - 1}",
        )
