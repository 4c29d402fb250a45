"""Lies about bytes: sums, states, and what is given to whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.commits import Body, Commit, Kind
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_bytes, digest_of
from atoll.protocol.proofs import Stage
from atoll.simulator.lies.base import Lie, Said


class WrongSums(Lie):
    """As an owner gives another sum, alone or the same one as its fellows, or holds nothing of anybody."""

    def say(self, receivers: tuple[PeerId, ...], message: Any) -> Said:
        chance = self.liar.rng.random()
        if isinstance(message, m.Reduced):
            whose = b"all" if chance < 0.5 else self.liar.id.encode()
            wrong = digest_of(whose, str((message.round, message.part)).encode())
            self.liar.memory[wrong] = message.round  # and it gives it to who asks
            return [(receivers, replace(message, blob=BlobRef(wrong, message.blob.size)))]
        if isinstance(message, m.Held) and chance < 0.5:
            return [(receivers, replace(message, peers=message.peers[: int(4 * chance)]))]
        return [(receivers, message)]


class FalseStates(Lie):
    """Gives joiners a state that no round led to, and commits without votes."""

    def hear(self, sender: PeerId, message: Any) -> None:
        peer = self.liar.peer
        if peer is None or peer.catchup.state is None:
            return
        if isinstance(message, m.AskState):
            self.liar.send_as_it_is((sender,), self._state(peer.ledger.height, peer.catchup.state))
        elif isinstance(message, m.AskCommits):
            body = Body(
                peer.terms.run_id,
                message.round,
                peer.ledger.head,
                Kind.SKIP,
                peer.catchup.state.anchor,
                peer.terms.members,
                peer.terms.members,
            )
            votes = tuple(self.liar.votes(Stage.COMMIT, message.round, 0, body.digest).items())
            self.liar.send_as_it_is(
                (sender,), m.Commits(message.round + 1, (Commit(body, 0, votes),), 1 << 30)
            )

    def say(self, receivers: tuple[PeerId, ...], message: Any) -> Said:
        return [] if isinstance(message, (m.State, m.Commits)) else [(receivers, message)]

    def _state(self, height: int, state: e.StateLoaded) -> m.State:
        blobs = tuple(BlobRef(digest_of(b"false", digest_bytes(ref.digest)), ref.size) for ref in state.blobs)
        anchor = digest_of(*(digest_bytes(ref.digest) for ref in blobs))
        self.liar.disk.keep(e.StateLoaded(height, anchor, blobs))
        return m.State(height, anchor, blobs)


class Withholds(Lie):
    """Offers and sums like everybody, and gives nobody a byte."""

    def gives(self, digest: Digest) -> bool:
        return False
