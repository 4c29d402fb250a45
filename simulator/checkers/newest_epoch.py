"""Who took a recovery takes no commit of an older epoch any more, nor that recovery again, in any life."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol.commits import Commit, Kind
from atoll.protocol.ids import PeerId

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class NewestEpoch:
    world: World

    def __init__(self) -> None:
        self.epochs: dict[PeerId, int] = {}

    def on_commit(self, host: Host, commit: Commit) -> None:
        epoch, kind, known = commit.body.epoch, commit.body.kind, self.epochs.get(host.id, 0)
        self.world.require(
            epoch > known or (epoch == known and kind is not Kind.RECOVERY),
            f"{host.name} takes {kind.name.lower()} {commit.body.round} of epoch {epoch} into its ledger of "
            f"epoch {known}",
        )
        self.epochs[host.id] = epoch
