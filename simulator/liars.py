"""Machines that lie: each runs the real `Peer`, and small lies stand between it and the network.

A liar signs with its own key and with those of its fellow liars, and with no other. It may say anything to
anybody, say it again later in another's name if that one said it once, keep silent, and withhold what it has.
It joins as all others do: a run of n members bears floor((n - 1) / 3) liars, so all n must be there first.
Its own peer believes what it did itself, so what a liar says is always near to what would be right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.commits import Body, Rejection
from atoll.protocol.evidence import message_of
from atoll.protocol.ids import Digest, PeerId
from atoll.protocol.proofs import Place, Stage
from atoll.protocol.roster import Role
from atoll.simulator.host import Host
from atoll.simulator.lies import LIES
from atoll.simulator.lies.base import BEAT_MS, Lie, Said

if TYPE_CHECKING:
    from atoll.simulator.world import World


class Liar(Host):
    lies = True

    def __init__(
        self, world: World, name: str, peer: PeerId, kinds: Sequence[str], rng: random.Random
    ) -> None:
        super().__init__(world, name, peer, Role.WORKER)
        self.rng = rng
        self.kinds = [LIES[kind](self) for kind in kinds]
        self.led: tuple[int, int, Body] | None = None
        world.note(name, f"lies: {', '.join(kinds)}")

    def boot(self) -> None:
        super().boot()
        self._beat()

    def _beat(self) -> None:
        for kind in self.lying:
            kind.beat()
        self.world.clock.later(BEAT_MS, self.act, self.life, self._beat)

    def take(self, event: e.Event) -> None:
        if isinstance(event, e.Received):
            for kind in self.kinds:
                kind.hear(event.sender, event.message)
        super().take(event)

    def send_to(self, receivers: tuple[PeerId, ...], action: a.Send) -> None:
        said: Said = [(receivers, action.message)]
        for kind in self.lying:
            said = [lie for to, what in said for lie in kind.say(to, what)]
        for to, what in said:
            self.send_as_it_is(to, what, action.epoch)

    def send_as_it_is(self, receivers: tuple[PeerId, ...], message: Any, epoch: int = 0) -> None:
        others = tuple(to for to in receivers if to != self.id)
        super().send_to(others, a.Send(others, message, epoch))

    def gives(self, digest: Digest) -> bool:
        return super().gives(digest) and all(kind.gives(digest) for kind in self.kinds)

    @property
    def lying(self) -> list[Lie]:
        return self.kinds if self.peer is not None and self.peer.is_member else []

    # ---- what liars can do ----------------------------------------------------------------------

    @property
    def others(self) -> tuple[PeerId, ...]:
        return tuple(peer for peer in self.world.hosts if peer != self.id)

    def votes(self, stage: Stage, round_: int, view: int, body: Digest) -> dict[PeerId, bytes]:
        """The votes of all liars for anything."""
        message = message_of(Place(self.world.signed.run_id, 0, round_), view, stage, body)
        return {liar.id: liar.signer.sign(message) for liar in self.world.liars}

    def signed(self, propose: m.Propose, body: Body) -> m.Propose:
        """The same proposal of another body, in this liar's own name."""
        votes = self.votes(Stage.PREPARE, propose.round, propose.view, body.digest)
        return replace(propose, body=body, signature=votes[self.id])

    def leads_with(self, propose: m.Propose, alter: Callable[[Body], Body]) -> m.Propose:
        """Propose an altered body, the same one throughout a view, and count the votes for it."""
        if self.led is None or self.led[:2] != (propose.round, propose.view):
            self.led = (propose.round, propose.view, alter(propose.body))
            lead, digest = self.peer.leading if self.peer is not None else None, self.led[2].digest
            if lead is not None and (lead.terms.round, lead.view) == self.led[:2]:
                lead.body = self.led[2]
                lead.prepares = self.votes(Stage.PREPARE, *self.led[:2], digest)
                lead.votes = self.votes(Stage.COMMIT, *self.led[:2], digest)
        return self.signed(propose, self.led[2])

    def another(self, body: Body) -> Body:
        """Just as good as the first, and not the first."""
        others = tuple(rejection for rejection in body.rejected if rejection.peer != self.id)
        told = Rejection(self.id, "another story")
        story = told if told not in body.rejected else Rejection(self.id, "yet another story")
        return replace(body, rejected=(*others, story))
