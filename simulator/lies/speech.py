"""Lies about who speaks, when, and how much."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.commits import Body, Commit, Contributor, Kind, Snapshot, vote_message
from atoll.protocol.ids import BlobRef, PeerId, digest_of
from atoll.protocol.proofs import Stage
from atoll.protocol.roster import Role
from atoll.simulator.lies.base import BEAT_MS, Lie, Said

if TYPE_CHECKING:
    from atoll.simulator.liars import Liar

KEPT = 64
FLOOD = 8


class Silent(Lie):
    """Leads without a word, or with reasons to wait and nothing else."""

    def __init__(self, liar: Liar) -> None:
        super().__init__(liar)
        self.talks = liar.rng.random() < 0.5

    def say(self, receivers: tuple[PeerId, ...], message: Any) -> Said:
        mute: tuple[type, ...] = (m.Propose, m.Lock, m.Plan, m.Cut, m.Prepare, m.Commits)
        if isinstance(message, mute if self.talks else (*mute, m.Waiting)):
            return []
        return [(receivers, message)]

    def beat(self) -> None:
        peer = self.liar.peer
        if self.talks and peer is not None and peer.is_member and peer.leader == self.liar.id:
            self.liar.send_as_it_is(peer.terms.voters, m.Waiting(peer.round, peer.view, "one moment"))


class Selective(Lie):
    """Half of the others never hear what it says as a leader, or get its blobs."""

    def say(self, receivers: tuple[PeerId, ...], message: Any) -> Said:
        some = tuple(to for to in receivers if digest_of(self.liar.id.encode(), to.encode())[0] in "01234567")
        return [(some, message)]


class Replays(Lie):
    """Says again, in the name of who said it, what it once heard."""

    def __init__(self, liar: Liar) -> None:
        super().__init__(liar)
        self.heard: deque[tuple[PeerId, Any]] = deque(maxlen=KEPT)

    def hear(self, sender: PeerId, message: Any) -> None:
        if self.liar.rng.random() < 0.2:
            self.heard.append((sender, message))

    def beat(self) -> None:
        world, rng = self.liar.world, self.liar.rng
        for sender, message in rng.sample(list(self.heard), min(FLOOD, len(self.heard))):
            other = world.hosts[rng.choice(self.liar.others)]
            if other.id != sender:
                world.clock.later(
                    rng.randint(1, 200), other.act, other.life, other.take, e.Received(sender, message)
                )


class Flood(Lie):
    """Much of everything, in this round and view and in others."""

    def beat(self) -> None:
        peer, rng = self.liar.peer, self.liar.rng
        if peer is None:
            return
        for _ in range(FLOOD):
            round_, view = peer.round + rng.randint(-1, 2), rng.randint(0, 9)
            digest = digest_of(rng.randbytes(8))
            ref = BlobRef(digest, rng.randint(0, 1 << 40))
            someone = Contributor(rng.choice(self.liar.others), 1 << 50, 1, 1 << 50)
            what = rng.choice(
                [
                    m.Vote(round_, view, digest, rng.randbytes(64), rng.choice(list(Stage))),
                    m.Lock(round_, view, digest, ((self.liar.id, rng.randbytes(64)),)),
                    m.Held(round_, view, rng.randint(0, 99), (someone.peer,)),
                    m.Plan(round_, view, rng.randint(0, 99), (someone,), (m.Column(0, (ref,)),)),
                    m.Cut(round_, view, rng.randint(0, 99), (someone, someone)),
                    m.Reduced(round_, view, 1, rng.randint(0, 99), ref),
                    m.Summed(round_, view, rng.randint(0, 99), ref),
                    m.Offer(round_, view, digest, 1, 1, (ref,) * 9),
                    m.Join(round_, Role.WITNESS),
                    m.Leave(round_, "go", rng.randbytes(64)),
                    m.AskCommits(round_),
                    m.AskState(round_),
                    m.Refuse(round_, "no"),
                    m.Waiting(round_, view, "no"),
                    m.Promise(round_, view, None, rng.randbytes(64)),
                    m.Alive(round_ + (1 << 40), view, 1),
                ]
            )
            self.liar.send_as_it_is(self.liar.others, what)


class Bumps(Lie):
    """Is always in a view ahead of everybody, by a step that looks fair or by one that does not."""

    def beat(self) -> None:
        for after_ms in (1, BEAT_MS // 3, 2 * BEAT_MS // 3):
            self.liar.world.clock.later(after_ms, self.liar.act, self.liar.life, self._bump)

    def _bump(self) -> None:
        peer, rng = self.liar.peer, self.liar.rng
        if peer is not None:
            view = peer.view + (
                rng.randint(1, 3) if rng.random() < 0.95 else rng.choice([1000, (1 << 31) - 1])
            )
            self.liar.send_as_it_is(self.liar.others, m.Alive(peer.round, view, 1))
            self.liar.send_as_it_is(self.liar.others, m.Prepare(peer.round, view))


class Usurps(Lie):
    """Speaks for the run authority: recoveries, snapshots and seals of its own, and epochs yet to come."""

    def beat(self) -> None:
        peer, rng = self.liar.peer, self.liar.rng
        if peer is None or not peer.ready or peer.catchup.anchor is None:
            return
        terms, epoch = peer.terms, rng.choice([0, 1, 1 << 20])
        friends = tuple(m for m in terms.members if self.liar.world.hosts[m.peer].lies)
        body = Body(
            terms.run_id,
            terms.round,
            terms.parent,
            Kind.RECOVERY,
            peer.catchup.anchor,
            terms.members,
            friends or terms.members,
            epoch=epoch,
        )
        word = self.liar.signer.sign(vote_message(body.place, 0, body.digest))
        name = rng.choice([self.liar.id, peer.ledger.genesis.authority])
        blank = Snapshot(peer.round + 3, epoch, body.digest, 9, body.members)
        snapshot = replace(blank, signature=self.liar.signer.sign(blank.message(terms.run_id)))
        commits = (Commit(body, 0, ((name, word),)),)
        for what in (
            m.Commits(peer.round + 1, commits, peer.round),
            m.Commits(peer.round + 1, (), peer.round + 3, snapshot),
            m.Seal(peer.round, max(1, peer.ledger.height), word),
            m.Alive(peer.round, peer.view, 1),
        ):
            self.liar.send_as_it_is(self.liar.others, what, epoch)
