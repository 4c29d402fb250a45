"""In a view after the first, nobody proposes before a majority of the voters promised that view.

Two leaders that had both enough promises share a member that told the later one what the earlier one did;
with fewer, a committed body can be passed over. What is counted is what left the promisers' machines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol import messages as m
from atoll.protocol.actions import Send
from atoll.protocol.ids import PeerId

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World


class MajorityPromised:
    world: World

    def __init__(self) -> None:
        self.promised: dict[tuple[int, int, int], set[PeerId]] = {}
        self.justified: set[tuple[int, int, int]] = set()

    def on_send(self, host: Host, action: Send) -> None:
        message = action.message
        if isinstance(message, m.Promise):
            at = (action.epoch, message.round, message.view)
            self.promised.setdefault(at, set()).add(host.id)
        elif isinstance(message, m.Propose) and message.view:
            self._propose(host, (action.epoch, message.round, message.view))

    def _propose(self, host: Host, at: tuple[int, int, int]) -> None:
        if at in self.justified:
            return
        epoch, round_, view = at
        members = set(self.world.voters(round_, epoch))
        liars = {liar.id for liar in self.world.liars}  # what they say is not seen here
        promised = (self.promised.get(at, set()) | {host.id} | liars) & members
        self.world.require(
            self.world.setting.certifies(len(promised), len(members)),
            f"{host.name} proposes in view {view} of round {round_} with promises of {len(promised)} of "
            f"{len(members)}",
        )
        self.justified.add(at)
