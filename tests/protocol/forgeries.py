"""Messages that a peer should not send, made to fit the moment of the one that receives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from protocol_samples import contributor, digest, peer, votes

from atoll.protocol import messages as m
from atoll.protocol.commits import Body, Commit, Kind, Snapshot
from atoll.protocol.ids import BlobRef, Digest, PeerId
from atoll.protocol.peer import Peer
from atoll.protocol.roster import Member, Role


def body(p: Peer, **changes: Any) -> Body:
    """A skip that nothing is wrong with, but for `changes`."""
    assert p.catchup.anchor is not None
    sound = Body(
        p.terms.run_id,
        p.round,
        p.terms.parent,
        Kind.SKIP,
        p.catchup.anchor,
        p.terms.members,
        p.terms.members,
        epoch=p.terms.epoch,
        fragment=p.terms.fragment,
    )
    return dataclasses.replace(sound, **changes)


def proposed(p: Peer) -> Body:
    """What this leader proposed."""
    assert p.leading is not None
    assert p.leading.body is not None
    return p.leading.body


def cut(p: Peer, *contributors: Any) -> m.Cut:
    return m.Cut(p.round, p.view, 9, contributors)


def plan(p: Peer, *columns: m.Column) -> m.Plan:
    return m.Plan(p.round, p.view, 1, (contributor("w1"), contributor("w2")), columns)


def commits(p: Peer, *names: str) -> m.Commits:
    decided = body(p)
    return m.Commits(p.round + 1, (Commit(decided, 0, votes(decided, names)),), p.round)


def signed_by_others(p: Peer) -> m.Commits:
    """Strangers' signatures in the names of members: whom a commit names is a member, or it is not read."""
    decided = body(p)
    strangers = [signature for _, signature in votes(decided, ("w7", "w8", "w9"))]
    named = tuple(zip(p.terms.peers, strangers, strict=False))
    return m.Commits(p.round + 1, (Commit(decided, 0, named),), p.round)


def recovery(p: Peer, authority: str, signature: bytes = bytes(64)) -> m.Commits:
    decided = body(p, kind=Kind.RECOVERY, epoch=p.terms.epoch + 1)
    return m.Commits(p.round + 1, (Commit(decided, 0, ((PeerId(authority), signature),)),), p.round)


def snapshot(p: Peer, **changes: Any) -> m.Commits:
    """Of a round to come, signed by somebody."""
    made = Snapshot(p.round + 3, p.ledger.epoch, X, 1, p.terms.members, bytes(64))
    return m.Commits(p.round, (), p.round - 1, dataclasses.replace(made, **changes))


def unsigned_members(p: Peer) -> m.Commits:
    """A genuine commit, beside a snapshot that says its parent had other members."""
    assert p.catchup.anchor is not None
    decided = body(p)
    by_all = ("coordinator", "w1", "w2", "w3")
    commit = Commit(decided, 0, tuple(sorted(votes(decided, by_all))))
    others = tuple(dataclasses.replace(who, weight_from=99) for who in p.terms.members)
    forged = Snapshot(1, p.ledger.epoch, p.terms.parent, 0, others)
    return m.Commits(p.round + 1, (commit,), p.round, forged)


def offered(p: Peer) -> tuple[BlobRef, ...]:
    return tuple(BlobRef(digest(f"part {part}"), size) for part, size in enumerate(p.terms.part_bytes))


def whole(p: Peer) -> Digest:
    assert p.catchup.anchor is not None
    return p.catchup.anchor


X = digest("something else")
FORGERIES: dict[str, Callable[[Peer], m.Message]] = {
    "a plan": plan,
    "a plan of a part that does not exist": lambda p: plan(p, m.Column(99, (BlobRef(X, 1),) * 2)),
    "a plan with a column too short": lambda p: plan(p, m.Column(0, (BlobRef(X, p.terms.part_bytes[0]),))),
    "a plan of blobs of another size": lambda p: plan(p, m.Column(0, (BlobRef(X, 1),) * 2)),
    "a cut": lambda p: cut(p, contributor("w1"), contributor("w2")),
    "a cut of nobody": cut,
    "a cut with a stranger": lambda p: cut(p, contributor("w1"), contributor("w9")),
    "a cut that names one twice": lambda p: cut(p, contributor("w1"), contributor("w1")),
    "a cut of weights of nothing": lambda p: cut(p, *(contributor(n, weight=0) for n in ("w1", "w2"))),
    "a cut of weights beyond measure": lambda p: cut(
        p, *(contributor(n, (1 << 64) - 1, (1 << 64) - 1) for n in ("w1", "w2"))
    ),
    "a plan of the first view": lambda p: m.Plan(p.round, 0, 1, (), ()),
    "a proposal": lambda p: m.Propose(p.round, p.view, body(p)),
    "a proposal that starts from another anchor": lambda p: m.Propose(p.round, p.view, body(p, anchor=X)),
    "a proposal that follows another commit": lambda p: m.Propose(p.round, p.view, body(p, parent=X)),
    "a second proposal": lambda p: m.Propose(p.round, p.view, body(p, members=p.terms.members[:1])),
    "a call for promises": lambda p: m.Prepare(p.round, p.view),
    "a promise of a body that follows another commit": lambda p: m.Promise(
        p.round, p.view, (p.view - 1, body(p, parent=X))
    ),
    "a promise that accepted a later view": lambda p: m.Promise(p.round, p.view, (p.view + 1, body(p))),
    "a promise that accepted another anchor": lambda p: m.Promise(p.round, p.view, (0, body(p, anchor=X))),
    "an offer": lambda p: m.Offer(p.round, p.view, p.terms.parent, 1, 1, ()),
    "an offer that starts from the whole state": lambda p: m.Offer(
        p.round, p.view, whole(p), 1, 1, offered(p)
    ),
    "an offer that starts from the fragment of the next round": lambda p: m.Offer(
        p.round, p.view, p.catchup.start(p.round + 1) or X, 1, 1, offered(p)
    ),
    "a proposal for another fragment": lambda p: m.Propose(
        p.round, p.view, body(p, fragment=p.terms.fragment - 1)
    ),
    "a sum of the third part": lambda p: m.Reduced(p.round, p.view, 1, 2, BlobRef(X, p.terms.part_bytes[0])),
    "an offer from another anchor": lambda p: m.Offer(p.round, p.view, X, 1, 1, ()),
    "a report of a part that is not its own": lambda p: m.Held(p.round, p.view, 99, (peer("w1"),)),
    "a sum that nobody asked for": lambda p: m.Reduced(p.round, p.view, 9, 0, BlobRef(X, 1)),
    "a sum longer than its part": lambda p: m.Summed(p.round, p.view, 0, BlobRef(X, 1)),
    "a vote for something else": lambda p: m.Vote(p.round, p.view, X, bytes(64)),
    "a vote that it did not sign": lambda p: m.Vote(p.round, p.view, proposed(p).digest, bytes(64)),
    "a commit without votes": commits,
    "a commit of strangers": signed_by_others,
    "a seal of its own": lambda p: m.Seal(p.round, p.ledger.height, bytes(64)),
    "a seal of a round to come": lambda p: m.Seal(p.round, p.round, bytes(64)),
    "a snapshot of its own": snapshot,
    "a snapshot of long ago": lambda p: snapshot(p, round=1),
    "a commit beside a snapshot of its own": unsigned_members,
    "a snapshot of nobody": lambda p: snapshot(p, members=()),
    "a recovery by a name that is none": lambda p: recovery(p, "\x1b[2J\n" * 1000),
    "a recovery in the authority's name": lambda p: recovery(p, p.config.manifest.authority),
    "a recovery of its own": lambda p: recovery(p, peer("w2"), votes(body(p), ["w2"])[0][1]),
    "a proposal with a member of a name that is none": lambda p: m.Propose(
        p.round, p.view, body(p, members=(Member(PeerId("\x1b[2J\n" * 1000), weight_from=9),))
    ),
    "a commit of too few": lambda p: commits(p, "w1"),
    "a state of another size": lambda p: m.State(p.round - 1, X, ()),
    "a state that nobody asked for": lambda p: m.State(
        p.round - 1, X, tuple(BlobRef(X, ref.size) for ref in p.config.manifest.anchor_blobs)
    ),
    "a request to join": lambda p: m.Join(p.round, Role.WORKER),
    "a request to join a round late": lambda p: m.Join(p.round - 1, Role.WORKER),
    "a request to join of long ago": lambda p: m.Join(1, Role.WORKER),
    "a request to witness": lambda p: m.Join(p.round, Role.WITNESS),
    "a sign of life of long ago": lambda p: m.Alive(0, 0, 1),
    "a farewell of long ago": lambda p: m.Leave(max(0, p.round - 5), "left"),
    "a refusal": lambda p: m.Refuse(p.round, "no"),
}
