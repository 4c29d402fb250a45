"""A ledger begins after a snapshot only if the authority signed it, and it says what the commits came to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol.commits import Snapshot

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class Snapshots:
    world: World

    def on_rebase(self, host: Host, snapshot: Snapshot) -> None:
        world, at = self.world, f"the snapshot of round {snapshot.round} at {host.name}"
        message = snapshot.message(world.signed.run_id)
        signed = world.ring.verify(world.authority.peer, message, snapshot.signature)
        world.require(signed, f"{at} is not signed by the authority")
        chain = world.history.chains.get(snapshot.epoch, [])
        world.require(0 < snapshot.round <= len(chain), f"{at} is of rounds that nobody has")
        body = chain[snapshot.round - 1].body
        world.require(
            (snapshot.head, snapshot.members) == (body.digest, body.members),
            f"{at} is not what its commits came to",
        )
        updates = sum(bool(commit.body.contributors) for commit in chain[: snapshot.round])
        world.require(updates == snapshot.updates, f"{at} counts {snapshot.updates} updates, not {updates}")
