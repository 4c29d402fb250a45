"""The researcher who looks at the run now and then, and begins a new epoch when it does not get on.

The authority's key is on the witness's machine. Who looks there sees one ledger only, and may be wrong: the
others can be well and out of sight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from atoll.protocol import events as e

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World

LOOK_MS = 2_000


@dataclass(slots=True)
class Operator:
    """Recovers the run when the witness's ledger has not grown for `patience_ms`.

    Once the faults are over, only if too many of those who vote can never come back.
    """

    world: World
    patience_ms: int
    seen: tuple[int, int, int] = (0, 0, 0)
    since_ms: int = 0
    calm: bool = False

    def look(self) -> None:
        world = self.world
        world.clock.later(LOOK_MS, self.look)
        witness = next(iter(world.hosts.values()))
        peer = witness.peer
        seen = (witness.life, peer.ledger.epoch, peer.ledger.height) if peer is not None else (0, 0, 0)
        if seen != self.seen:
            self.seen, self.since_ms = seen, world.clock.now_ms
        elif peer is not None and world.clock.now_ms - self.since_ms >= self.patience_ms:
            self.since_ms = world.clock.now_ms
            if not peer.terms.complete and (not self.calm or self._lost_for_good()):
                self._recover(witness)

    def _recover(self, witness: Host) -> None:
        self.world.note(witness.name, "is told to recover the run")
        witness.act(witness.life, witness.take, e.Recover())

    def _lost_for_good(self) -> bool:
        _, voters = self.world.in_progress()
        here = sum(not self.world.hosts[voter].finished for voter in voters)
        return here < self.world.signed.genesis.needed(len(voters))
