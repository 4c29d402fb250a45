"""Lies about what is agreed: proposals, promises, votes and the evidence against them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from atoll.protocol import messages as m
from atoll.protocol.commits import Body, Commit, Contributor, Kind
from atoll.protocol.ids import Digest, PeerId, digest_of
from atoll.protocol.proofs import Equivocation, Justification, Place, Signatures, Stage, promise_message
from atoll.protocol.roster import Member
from atoll.simulator.lies.base import Lie, Said

if TYPE_CHECKING:
    from atoll.simulator.liars import Liar


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
