"""Who has heard of a recovery takes no commit of an older epoch any more, over all its lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol.commits import Commit
from atoll.protocol.ids import PeerId

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class NewestEpoch:
    world: World

    def __init__(self) -> None:
        self.epochs: dict[PeerId, int] = {}

    def on_commit(self, host: Host, commit: Commit) -> None:
        epoch, known = commit.body.epoch, self.epochs.get(host.id, 0)
        self.world.require(
            epoch >= known,
            f"{host.name} takes commit {commit.body.round} of epoch {epoch} into its ledger of epoch {known}",
        )
        self.epochs[host.id] = epoch
