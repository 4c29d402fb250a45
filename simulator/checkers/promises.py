"""A peer votes for one body in a view, never below a view that it promised, and a leader proposes one body.

This looks at what leaves a machine, over all its lives: what a peer forgot in a crash still binds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol import messages as m
from atoll.protocol.actions import Send
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.proofs import Stage

if TYPE_CHECKING:
    from atoll.simulator.host import Host
    from atoll.simulator.world import World

Seat = tuple[PeerId, int, int]
"""Who, in which epoch and round: what a peer said in an older epoch binds it there only."""


class PromisesKept:
    world: World

    def __init__(self) -> None:
        self.promised: dict[Seat, int] = {}
        self.voted: dict[Seat, set[int]] = {}
        self.said: dict[tuple[str, Seat, int], Digest] = {}

    def on_send(self, host: Host, action: Send) -> None:
        message = action.message
        seat = (host.id, action.epoch, message.round)
        if isinstance(message, m.Promise):
            self._promise(host, seat, message)
        elif isinstance(message, m.Vote):
            first_stage = message.stage is Stage.PREPARE
            what = "gives its first vote to" if first_stage else "votes for"
            if not first_stage:
                self.voted.setdefault(seat, set()).add(message.view)
            self._once(what, host, seat, message.view, message.body)
            below = self.promised.get(seat, 0)
            self.world.require(
                message.view >= below,
                f"{host.name} votes in view {message.view} of round {message.round} after promising {below}",
            )
        elif isinstance(message, m.Propose):
            self._once("proposes", host, seat, message.view, message.body.digest)

    def _promise(self, host: Host, seat: Seat, promise: m.Promise) -> None:
        before = self.promised.get(seat, 0)
        self.world.require(
            promise.view >= before,
            f"{host.name} promises view {promise.view} of round {promise.round} after promising {before}",
        )
        self.promised[seat] = promise.view
        voted = [view for view in self.voted.get(seat, ()) if view < promise.view]
        known = promise.accepted[0] if promise.accepted is not None else -1
        self.world.require(
            not voted or max(voted) <= known,
            f"{host.name} promises view {promise.view} of round {promise.round} and hides what it accepted "
            f"in view {max(voted, default=0)}",
        )

    def _once(self, what: str, host: Host, seat: Seat, view: int, body: Digest) -> None:
        first = self.said.setdefault((what, seat, view), body)
        self.world.require(first == body, f"{host.name} {what} two bodies in view {view} of round {seat[2]}")
