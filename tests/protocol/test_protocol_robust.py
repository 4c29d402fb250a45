"""Whatever well-formed messages come, in whatever moment, a peer answers with actions and breaks no promise.

A peer is brought into a moment of a round by the driver, copied, and sent random messages by members,
strangers and itself, made of what the moment knows (digests, sizes, views, names) and of any other values.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from protocol_samples import ASSIGNED, RULES, digest, key, peer, votes
from swarm_driver import Order, Swarm, reads_as_written
from transcript_story import Story
from transcripts import say
from wire_strategies import U32, Messages, Pool

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol import peer as peers
from atoll.protocol.commits import Body, Commit, Kind, Snapshot, vote_message
from atoll.protocol.duties import chain
from atoll.protocol.duties.chain import JOINERS_MAX
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest, PeerId, peer_id
from atoll.protocol.peer import Peer
from atoll.protocol.roster import Role
from atoll.protocol.wire.convert import decode_with_epoch, encode

ACTIONS_MAX = 150
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
"""To make a failing story shorter would take minutes, and it has eight letters at most."""
NAMES = ["coordinator", "w1", "w2", "w3"]
MOMENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "trains": ("w2", ()),
    "witnesses": ("coordinator", ()),
    "leads and waits": ("w1", ("w2 trains", "deliver")),
    "has offered": ("w2", ("w2 trains", "deliver")),
    "leads the exchange": ("w1", ("w1 w2 w3 train", "deliver until w1 plans")),
    "has cut": ("w1", ("w1 w2 w3 train", "deliver until w1 cuts")),
    "owns": ("w2", ("w1 w2 w3 train", "deliver until w2 reports")),
    "sums": ("w2", ("w1 w2 w3 train", "deliver until w2 sums")),
    "has proposed": ("w1", ("w1 w2 w3 train", "deliver until w1 proposes")),
    "has voted": ("w2", ("w1 w2 w3 train", "deliver until w2 accepts")),
    "leads a later view": ("w2", ("w1 dies", "w2 sees that w1 is gone", "w2 trains")),
    "follows a later view": ("w3", ("w1 dies", "w3 sees that w1 is gone", "w3 trains")),
    "applies": ("w2", ("w1 w2 w3 train", "deliver until w2 commits")),
    "is in round 2": ("w2", ("w1 w2 w3 train", "deliver")),
    "has no state": ("w4", ("w1 w2 w3 train", "deliver", "w4 starts")),
    "asks to join": ("w4", ("w1 w2 w3 train", "deliver", "w4 starts", "3000 ms pass")),
    "rests": ("w2", ("w2 is told to pause", "w1 w2 w3 train", "deliver")),
    "was recovered": ("w2", ("w1 w2 w3 train", "deliver", "the authority recovers", "deliver")),
    "finishes": ("w2", ("w2 finishes",)),
    "has left": ("w2", ("w2 leaves at once",)),
    "is ahead": ("w2", ("w1 w2 w3 train", "w2 trains", "deliver")),
    "collects": ("w1", ("w3 begins to give its blobs and never ends", "w1 w2 w3 train", "deliver")),
    "has proposed contributions": ("w1", ("w1 w2 w3 train", "deliver until w1 proposes")),
    "offered in a sparse exchange": ("w2", ("w1 w2 w3 train", "deliver until w1 proposes")),
}
SPARSE = replace(RULES, exchange="sparse")
RULES_OF = {
    "is ahead": replace(RULES, fragments=2, overlap=1),
    "collects": SPARSE,
    "has proposed contributions": SPARSE,
    "offered in a sparse exchange": SPARSE,
}


@cache
def moment(name: str) -> tuple[Swarm, Peer, Messages]:
    who, sentences = MOMENTS[name]
    swarm = Swarm(NAMES, ["w4"], RULES_OF.get(name, RULES), Order(("w1", "w2"), ("w2", "w3", "w1")))
    swarm.deliver()
    story = Story(swarm)
    for sentence in ("1000 ms pass", *sentences):
        say(story, sentence)
    found = story.peer(who)
    return swarm, found, Messages(pool_of(found))


def pool_of(p: Peer) -> Pool:
    """What a peer's moment is about."""
    anchor = p.catchup.anchor or digest("none")
    sound = Body(
        p.terms.run_id,
        p.round,
        p.terms.parent,
        Kind.SKIP,
        anchor,
        p.terms.members,
        p.terms.members,
        epoch=p.terms.epoch,
    )
    proposed = [lead.body for lead in [p.leading] if lead is not None and lead.body is not None]
    proposed += [p.proposal.body] if p.proposal is not None else []
    bodies = [sound, *proposed, *(commit.body for commit in p.ledger.commits)]
    parts = [ref.digest for ref in p.mine.parts] if p.mine is not None else []
    message = vote_message(p.terms.place, p.view, bodies[-1].digest)
    return Pool(
        run_id=p.terms.run_id,
        rounds=(p.round, p.round, p.round, p.round - 1, p.round + 1),
        views=(p.view, p.view, p.view + 1, 0, 1, 2, (1 << 31) + 1),
        peers=[*map(peer, NAMES), peer("w4"), peer("w9")],
        digests=[anchor, p.terms.parent, *(body.digest for body in bodies), *parts, digest("x")],
        sizes=p.terms.part_bytes,
        numbers=(1, 2, 3, 10, ASSIGNED.tokens, ASSIGNED.tokens + 1),
        bodies=bodies,
        signatures=[b"", bytes(64), key("w3").sign(message)],
        before=p.terms.members,
        commits=[recovered(body) for body in bodies],
        snapshots=[sealed(p, round_) for round_ in range(p.ledger.begin + 1, p.ledger.height + 1)],
    )


def recovered(body: Body) -> Commit:
    """What the authority could sign in the place of a body."""
    instead = replace(body, kind=Kind.RECOVERY, contributors=(), blobs=(), epoch=body.epoch + 1)
    return Commit(instead, 0, votes(instead, ("authority",)))


def sealed(p: Peer, round_: int) -> Snapshot:
    """What the authority could sign of a ledger."""
    snapshot = p.ledger.snapshot(round_)
    return replace(snapshot, signature=key("authority").sign(snapshot.message(p.terms.run_id)))


def letter(p: Peer, sender: PeerId, message: m.Message, epoch: int) -> e.Received | None:
    """As this peer reads it off the wire, if it does not refuse it there."""
    try:
        epoch, message = decode_with_epoch(encode(message, epoch), p.ledger.members_after)
    except RemoteProtocolError:
        return None
    return e.Received(sender, message, epoch)


def copied(p: Peer) -> Peer:
    """A peer of its own; what never changes is shared."""
    members = p.ledger._members.values()
    shared = (p.signer, p.config, p.terms, p.ledger.genesis, p.ledger.base, *p.ledger.commits, *members)
    return copy.deepcopy(p, {id(thing): thing for thing in shared})


class Watch:
    """Performs nothing, and looks at everything that a peer wants."""

    def __init__(self, p: Peer, now_ms: int) -> None:
        self.peer, self.now_ms = p, now_ms
        self.wanted: list[e.Event] = []
        self.accepted: dict[tuple[int, int], Digest] = {}
        self.promised = p.saved.promised
        self.height = p.ledger.height
        if p.saved.accepted is not None:
            round_, view, body = p.saved.accepted
            self.accepted[round_, view] = body.digest

    def take(self, event: e.Event) -> None:
        actions = self.peer.handle(event, self.now_ms)
        assert len(actions) <= ACTIONS_MAX
        assert not self.peer.inbox
        assert not self.peer.out
        for action in actions:
            self.look(action)

    def look(self, action: a.Action) -> None:
        match action:
            case a.Send(to, message, epoch):
                assert to
                assert self.peer.me not in to
                assert reads_as_written(message, epoch)
            case a.SetTimer(timer, after_ms):
                assert after_ms > 0
                self.wanted.append(e.TimerFired(timer))
            case a.Fetch(ref, holders):
                assert holders
                self.wanted += [e.BlobArrived(ref.digest), e.BlobFailed(ref.digest)]
            case a.Aggregate():
                self.aggregate(action)
            case a.Apply(body):
                self.wanted.append(e.StateLoaded(body.round, digest("applied"), ()))
            case a.LoadState(round_):
                self.wanted.append(e.StateFailed(round_))
            case a.Persist(record):
                self.persist(record)
            case _:
                pass

    def aggregate(self, order: a.Aggregate) -> None:
        """What is to be summed is a mean of something, by weights that were assigned, of right sizes."""
        assert len(order.inputs) >= self.peer.terms.quorum
        assert len({who for who, _, _ in order.inputs}) == len(order.inputs)
        for _, weight, ref in order.inputs:
            assert 0 < weight <= ASSIGNED.tokens
            assert ref.size == self.peer.terms.part_bytes[order.part]
        blob = BlobRef(digest("a mean"), self.peer.terms.part_bytes[order.part])
        self.wanted.append(e.Aggregated(order.round, order.view, order.sum, order.part, blob))

    def persist(self, record: a.Record) -> None:
        """One body in a view, no vote below a promise, promises only grow, commits only follow.

        Only the authority takes anything back.
        """
        match record:
            case a.Promised(round_, view):
                assert (round_, view) > self.promised
                self.promised = (round_, view)
            case a.Accepted(round_, view, body):
                assert (round_, view) >= self.promised
                assert self.accepted.setdefault((round_, view), body.digest) == body.digest
            case a.Committed(commit):
                assert commit.body.round == self.height + 1
                assert (commit.body.kind is Kind.RECOVERY) == (commit.votes[0][0] == peer("authority"))
                self.height += 1
            case a.Rewound(round_):
                assert round_ <= self.height + 1
                self.height, self.promised = round_ - 1, min(self.promised, (round_, 0))
                self.accepted = {at: body for at, body in self.accepted.items() if at[0] < round_}
            case a.Rebased(snapshot, kept):
                assert key("w1").verify(
                    peer("authority"), snapshot.message(self.peer.terms.run_id), snapshot.signature
                )
                assert [commit.body.round for commit in kept] == [
                    snapshot.round + 1 + place for place in range(len(kept))
                ]
                self.height = snapshot.round + len(kept)


@pytest.mark.parametrize("name", sorted(MOMENTS))
def test_no_message_trips_a_peer(name: str) -> None:
    swarm, original, messages = moment(name)
    senders = st.sampled_from([*map(peer, NAMES), peer("w4"), peer("w9")])
    here = original.ledger.epoch
    epochs = st.sampled_from([here, here, here, 0, here + 1, U32])

    @settings(max_examples=20, phases=UNSHRUNK)
    @given(
        st.lists(st.tuples(senders, messages.any, epochs, st.integers(0, 3000)), min_size=1, max_size=8),
        st.data(),
    )
    def survives(letters: list[Any], data: st.DataObject) -> None:
        watch = Watch(copied(original), swarm.now_ms)
        for sender, message, epoch, after_ms in letters:
            watch.now_ms += after_ms
            event = letter(watch.peer, sender, message, epoch)
            if event is not None:
                watch.take(event)
            if watch.wanted and data.draw(st.booleans()):
                watch.take(watch.wanted.pop(data.draw(st.integers(0, len(watch.wanted) - 1))))

    survives()


@pytest.mark.parametrize("name", sorted(MOMENTS))
def test_the_same_messages_have_the_same_effect(name: str) -> None:
    """Deterministic: two copies of a peer want the same, and repeating a message is harmless."""
    swarm, original, messages = moment(name)
    senders = st.sampled_from([*map(peer, NAMES)])

    @settings(max_examples=6, phases=UNSHRUNK)
    @given(st.lists(st.tuples(senders, messages.any), min_size=1, max_size=5))
    def same(letters: list[Any]) -> None:
        one, other = copied(original), copied(original)
        for sender, message in letters:
            event = letter(one, sender, message, one.ledger.epoch)
            if event is not None:
                assert one.handle(event, swarm.now_ms) == other.handle(event, swarm.now_ms)
        for sender, message in letters:
            event = letter(one, sender, message, one.ledger.epoch)
            if event is not None:
                Watch(one, swarm.now_ms).take(event)

    same()


# ---- what a peer can grow -----------------------------------------------------------------------


def flood(name: str, make: Callable[[int], Any], count: int = 1500) -> Peer:
    swarm, original, _ = moment(name)
    grown = copied(original)
    for number in range(count):
        sender, message = make(number)
        grown.handle(e.Received(sender, message), swarm.now_ms)
    return grown


def size(p: Peer) -> int:
    """Entries in everything that a peer keeps of others."""
    kept = (p.held, p.fetching, p.heard, p.lost, p.joiners, p.leavers, p.answered, p.found, p.out, p.inbox)
    return sum(len(things) for things in kept)


@pytest.mark.parametrize("name", ["leads and waits", "asks to join"])
def test_a_crowd_of_strangers_fills_no_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PEERS_MAX", 400)
    monkeypatch.setattr(chain, "JOINERS_MAX", 100)

    def stranger(number: int) -> Any:
        who = peer_id(number.to_bytes(32, "big"))
        round_ = moment(name)[1].round
        kinds = (m.Join(round_, Role.WORKER), m.AskCommits(0), m.Alive(0, 0, 1), m.Leave(round_))
        return who, kinds[number % 4 if number % 8 < 4 else 0]

    assert 400 < size(flood(name, stranger)) < 400 + 2 * 100 + 100


def test_a_crowd_of_discoveries_fills_no_memory() -> None:
    swarm, original, _ = moment("trains")
    grown = copied(original)
    grown.handle(e.Found((peer("w1"),) * (JOINERS_MAX + 1)), swarm.now_ms)
    assert len(grown.found) == JOINERS_MAX
