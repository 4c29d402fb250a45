"""Machines that lie: each runs the real `Peer`, and small lies stand between it and the network.

A liar signs with its own key and with those of its fellow liars, and with no other. It may say anything to
anybody, say it again later in another's name if that one said it once, keep silent, and withhold what it has.
It joins as all others do: a run of n members bears floor((n - 1) / 3) liars, so all n must be there first.
Its own peer believes what it did itself, so what a liar says is always near to what would be right.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.commits import Body, Commit, Contributor, Kind, Rejection, Snapshot, vote_message
from atoll.protocol.evidence import message_of
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_bytes, digest_of
from atoll.protocol.proofs import Equivocation, Justification, Place, Signatures, Stage, promise_message
from atoll.protocol.roster import Member, Role
from atoll.simulator.host import Host

if TYPE_CHECKING:
    from atoll.simulator.world import World

BEAT_MS = 700
KEPT = 64
FLOOD = 8
Said = list[tuple[tuple[PeerId, ...], Any]]


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


class Lie:
    """One way to lie; as it stands, none."""

    def __init__(self, liar: Liar) -> None:
        self.liar = liar

    def say(self, receivers: tuple[PeerId, ...], message: Any) -> Said:
        return [(receivers, message)]

    def hear(self, sender: PeerId, message: Any) -> None: ...

    def beat(self) -> None: ...

    def gives(self, digest: Digest) -> bool:
        return True


class TwoStories(Lie):
    """Proposes one body to some and another to the rest, and leads both to a certificate if it can.

    All liars vote for both, and what is decided is told to a single member.
    """

    def __init__(self, liar: Liar) -> None:
        super().__init__(liar)
        self.place = (0, 0)
        self.told: dict[Digest, tuple[Body, tuple[PeerId, ...]]] = {}
        self.votes: dict[tuple[Digest, Stage], dict[PeerId, bytes]] = {}
        self.locked: set[Digest] = set()

    def say(self, receivers: tuple[PeerId, ...], message: Any) -> Said:
        if isinstance(message, m.Commits) and message.commits and len(receivers) > 1:
            return [((self.liar.rng.choice(receivers),), message)]
        if isinstance(message, m.Lock):
            return []  # this lie makes its own, of all liars' votes
        if not isinstance(message, m.Propose) or not receivers:
            return [(receivers, message)]
        if (message.round, message.view) != self.place:
            self._begin(message)
        bodies = list(self.told.values())
        if self.liar.rng.random() < 0.2:  # to those who heard one story now the other
            (one, first), (other, second) = bodies
            bodies = [(one, second), (other, first)]
        return [
            (tuple(to for to in half if to in receivers), self.liar.signed(message, body))
            for body, half in bodies
        ]

    def _begin(self, propose: m.Propose) -> None:
        self.place = (propose.round, propose.view)
        self.told, self.votes, self.locked = {}, {}, set()
        honest = [peer for peer in self.liar.others if not self.liar.world.hosts[peer].lies]
        self.liar.rng.shuffle(honest)
        cut = self.liar.rng.randint(1, max(1, len(honest) - 1))
        stories = (propose.body, self.liar.another(propose.body))
        for body, half in zip(stories, (honest[:cut], honest[cut:]), strict=True):
            self.told[body.digest] = (body, tuple(half))
            for stage in Stage:
                self.votes[body.digest, stage] = self.liar.votes(stage, *self.place, body.digest)

    def hear(self, sender: PeerId, message: Any) -> None:
        if not isinstance(message, m.Vote) or (message.round, message.view) != self.place:
            return
        votes = self.votes.get((message.body, message.stage))
        if votes is None:
            return
        votes[sender] = message.signature
        members = len(self.liar.world.members(message.round))
        if len(votes) >= self.liar.world.signed.genesis.needed(members) - 1:
            self._certify(message, tuple(sorted(votes.items())))

    def _certify(self, vote: m.Vote, votes: Signatures) -> None:
        body, half = self.told[vote.body]
        if vote.stage is Stage.PREPARE:
            self.liar.send_as_it_is(half, m.Lock(vote.round, vote.view, vote.body, votes))
        elif half:
            commit = Commit(body, vote.view, votes)
            self.liar.send_as_it_is(half[:1], m.Commits(vote.round + 1, (commit,), vote.round))


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


class YesSayer(Lie):
    """Votes for whatever is proposed, in both stages, in each view, before it can know."""

    def hear(self, sender: PeerId, message: Any) -> None:
        if isinstance(message, m.Propose):
            for stage in Stage:
                votes = self.liar.votes(stage, message.round, message.view, message.body.digest)
                for peer, signature in votes.items():
                    vote = m.Vote(message.round, message.view, message.body.digest, signature, stage)
                    if peer == self.liar.id:
                        self.liar.send_as_it_is((sender,), vote)


class FalsePromises(Lie):
    """Claims to have accepted what nobody agreed on, with a certificate of liars."""

    def __init__(self, liar: Liar) -> None:
        super().__init__(liar)
        self.body: Body | None = None

    def hear(self, sender: PeerId, message: Any) -> None:
        if isinstance(message, m.Propose):
            self.body = message.body

    def say(self, receivers: tuple[PeerId, ...], message: Any) -> Said:
        body = self.body
        if not isinstance(message, m.Promise) or body is None or body.round != message.round:
            return [(receivers, message)]
        body, view = self.liar.another(body), message.view - 1
        votes = tuple(self.liar.votes(Stage.PREPARE, message.round, view, body.digest).items())
        place = Place(body.run_id, body.epoch, message.round)
        word = promise_message(place, message.view, (view, body.digest))
        lie = m.Promise(message.round, message.view, (view, body), self.liar.signer.sign(word), votes)
        return [(receivers, lie)]


class Unjustified(Lie):
    """In a later view proposes what it likes, with promises that do not say so."""

    def say(self, receivers: tuple[PeerId, ...], message: Any) -> Said:
        if not isinstance(message, m.Propose) or message.view == 0:
            return [(receivers, message)]
        lie = self.liar.leads_with(message, self.liar.another)
        shown = lie.justification
        if shown is not None:
            blank = [replace(promise, accepted=None) for promise in shown.promises]
            choice: list[Justification | None] = [None, shown, Justification(tuple(blank))]
            choice.append(Justification(shown.promises[:1] * len(shown.promises)))
            lie = replace(lie, justification=self.liar.rng.choice(choice))
        return [(receivers, lie)]


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


class Absurd(Lie):
    """Numbers beyond measure, for itself and for whom it leads."""

    def say(self, receivers: tuple[PeerId, ...], message: Any) -> Said:
        if isinstance(message, m.Offer):
            return [(receivers, replace(message, tokens=(1 << 63) - 1, steps=(1 << 31) - 1))]
        if isinstance(message, m.Cut) and self.liar.rng.random() < 0.3:
            return [(receivers, replace(message, contributors=self._heavy(message.contributors)))]
        if (
            isinstance(message, m.Propose)
            and message.body.kind is Kind.UPDATE
            and self.liar.rng.random() < 0.5
        ):
            return [(receivers, self.liar.leads_with(message, self._overweight))]
        return [(receivers, message)]

    def _overweight(self, body: Body) -> Body:
        return replace(body, contributors=self._heavy(body.contributors))

    def _heavy(self, contributors: tuple[Contributor, ...]) -> tuple[Contributor, ...]:
        return tuple(replace(c, tokens=1 << 60, weight=1 << 60) for c in contributors)


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


class Slanders(Lie):
    """Accuses with evidence that it made up, and as a leader drops members and brings friends."""

    def beat(self) -> None:
        peer, rng = self.liar.peer, self.liar.rng
        if peer is None:
            return
        victim, bodies = rng.choice(self.liar.others), (digest_of(b"one"), digest_of(b"two"))
        own = self.liar.votes(Stage.PREPARE, peer.round, 0, bodies[0])[self.liar.id]
        lie = Equivocation(victim, 0, peer.round, 0, Stage.PREPARE, bodies, (own, rng.randbytes(64)))
        self.liar.send_as_it_is(self.liar.others, m.Accuse(peer.round, (lie,)))

    def say(self, receivers: tuple[PeerId, ...], message: Any) -> Said:
        if not isinstance(message, m.Propose):
            return [(receivers, message)]
        return [(receivers, self.liar.leads_with(message, self._purged))]

    def _purged(self, body: Body) -> Body:
        rng, world = self.liar.rng, self.liar.world
        at = rng.randrange(len(body.members))
        kept = body.members[:at] + body.members[at + 1 :]
        late = tuple(replace(member, missed=member.missed + 1) for member in body.members)
        strangers = [peer for peer in world.hosts if all(peer != member.peer for member in body.members)]
        friends = tuple(Member(peer, weight_from=body.round + 1) for peer in strangers)
        more = tuple(sorted((*body.members, *friends), key=lambda member: member.peer))
        return replace(body, members=rng.choice([kept, late, more]))


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


LIES: dict[str, Callable[[Liar], Lie]] = {
    "two stories": TwoStories,
    "silent": Silent,
    "selective": Selective,
    "wrong sums": WrongSums,
    "yes-sayer": YesSayer,
    "false promises": FalsePromises,
    "unjustified": Unjustified,
    "replays": Replays,
    "absurd": Absurd,
    "flood": Flood,
    "bumps": Bumps,
    "false states": FalseStates,
    "withholds": Withholds,
    "slanders": Slanders,
    "usurps": Usurps,
}
LIES_EACH = 3


def kinds_of(lies: Sequence[str], chance: random.Random) -> list[str]:
    """What one liar does: these, or a few of all."""
    return list(lies) or chance.sample(list(LIES), chance.randint(1, LIES_EACH))
