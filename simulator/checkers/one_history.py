"""No two peers ever take different commits into the same round of an epoch, and each follows the one before.

A recovery alone begins an epoch, and it may follow any earlier commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol.commits import Commit, Kind
from atoll.protocol.ids import Digest

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class OneHistory:
    world: World

    def __init__(self) -> None:
        self.digests: dict[tuple[int, int], Digest] = {}
        self.begun: dict[int, Digest] = {}

    def on_commit(self, host: Host, commit: Commit) -> None:
        body = commit.body
        first = self.digests.setdefault((body.epoch, body.round), body.digest)
        self.world.require(
            first == body.digest,
            f"two histories: {host.name} commits {body.digest[:8]} in round {body.round}, not {first[:8]}",
        )
        history = self.world.history
        before = history.before(commit)
        self.world.require(
            before is not None and len(before) == body.round - 1,
            f"commit {body.round} of {host.name} does not follow commit {body.round - 1}",
        )
        since = before[-1].body.epoch if before else 0
        if body.kind is Kind.RECOVERY:
            self._begin(host, commit, since)
        else:
            self.world.require(
                body.epoch == since,
                f"commit {body.round} of {host.name} is of epoch {body.epoch} and follows epoch {since}",
            )

    def _begin(self, host: Host, commit: Commit, since: int) -> None:
        body = commit.body
        first = self.begun.setdefault(body.epoch, body.digest)
        self.world.require(
            body.epoch > since and first == body.digest,
            f"two histories: recovery {body.round} of {host.name} begins epoch {body.epoch} after {since}",
        )
