"""Messages to bytes and back. Everything a peer may grow is bounded here, before anybody looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import DecodeError

from atoll.protocol import messages as m
from atoll.protocol.commits import (
    BODY_BYTES_MAX,
    COMMITS_BYTES_MAX,
    COMMITS_MAX,
    Commit,
    Contributor,
    Rosters,
    UnknownParent,
    body_from_bytes,
    commit_from_wire,
    commit_to_wire,
    ref_from_wire,
    ref_to_wire,
    snapshot_from_wire,
    snapshot_to_wire,
)
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_bytes, digest_from_bytes, readable
from atoll.protocol.proofs import (
    evidence_from_wire,
    evidence_to_wire,
    justification_from_wire,
    justification_to_wire,
    sighting_from_wire,
    sighting_to_wire,
    signatures_from_wire,
    signatures_to_wire,
    stage_from_wire,
)
from atoll.protocol.roster import MEMBERS_MAX, Role
from atoll.protocol.scores import scores_from_wire, scores_to_wire
from atoll.protocol.wire import messages_pb2 as wire

MESSAGE_BYTES_MAX = 1 << 20
ROUND_MAX = 1 << 48


def encode(message: m.Message, epoch: int = 0) -> bytes:
    """The bytes that an envelope carries; `epoch` is the sender's."""
    field, write = _WRITERS[type(message)]
    fields: dict[str, Any] = {field: write(message)}
    return wire.Message(round=message.round, epoch=epoch, **fields).SerializeToString()


def contributors_to_wire(contributors: Iterable[Contributor]) -> list[wire.Contributor]:
    return [
        wire.Contributor(
            peer=c.peer,
            tokens=c.tokens,
            steps=c.steps,
            weight=c.weight,
            train_ms=c.train_ms,
            staleness=c.staleness,
        )
        for c in contributors
    ]


def _offer(o: m.Offer) -> wire.Offer:
    return wire.Offer(
        view=o.view,
        anchor=digest_bytes(o.anchor),
        tokens=o.tokens,
        steps=o.steps,
        parts=[ref_to_wire(ref) for ref in o.parts],
        leaving=o.leaving,
        farewell=o.farewell,
        uplink=o.uplink,
        train_ms=o.train_ms,
        spare_ms=o.spare_ms,
        staleness=o.staleness,
    )


def _cut(c: m.Cut) -> wire.Cut:
    return wire.Cut(view=c.view, revision=c.revision, contributors=contributors_to_wire(c.contributors))


def _reduced(r: m.Reduced) -> wire.Reduced:
    return wire.Reduced(view=r.view, revision=r.revision, part=r.part, blob=ref_to_wire(r.blob))


def _propose(p: m.Propose) -> wire.Propose:
    return wire.Propose(
        view=p.view,
        body=p.body.encoded,
        holders=p.holders,
        by_part=p.by_part,
        signature=p.signature,
        justification=justification_to_wire(p.justification),
    )


def _vote(v: m.Vote) -> wire.Vote:
    stage = wire.Stage.Name(v.stage)
    return wire.Vote(view=v.view, body_digest=digest_bytes(v.body), signature=v.signature, stage=stage)


def _lock(lock: m.Lock) -> wire.Lock:
    votes = signatures_to_wire(lock.votes)
    return wire.Lock(view=lock.view, body_digest=digest_bytes(lock.body), votes=votes)


def _commits(c: m.Commits) -> wire.Commits:
    snapshot = snapshot_to_wire(c.snapshot) if c.snapshot else None
    commits = [commit_to_wire(commit) for commit in c.commits]
    return wire.Commits(commits=commits, height=c.height, snapshot=snapshot)


def _state(s: m.State) -> wire.State:
    return wire.State(anchor=digest_bytes(s.anchor), blobs=[ref_to_wire(ref) for ref in s.blobs])


def _plan(plan: m.Plan) -> wire.Plan:
    columns = [wire.Column(part=c.part, blobs=[ref_to_wire(ref) for ref in c.blobs]) for c in plan.columns]
    return wire.Plan(
        view=plan.view,
        revision=plan.revision,
        participants=contributors_to_wire(plan.participants),
        columns=columns,
    )


def _promise(promise: m.Promise) -> wire.Promise:
    message = wire.Promise(
        view=promise.view,
        signature=promise.signature,
        certificate=signatures_to_wire(promise.certificate),
        seen=sighting_to_wire(promise.seen),
    )
    if promise.accepted is not None:
        view, body = promise.accepted
        message.accepted, message.accepted_view, message.accepted_body = True, view, body.encoded
    return message


def nobody(parent: Digest) -> None:
    """The rosters of a reader that has no ledger."""


def decode(raw: bytes, rosters: Rosters = nobody) -> m.Message:
    """Read one message; RemoteProtocolError says what is wrong with it."""
    return decode_with_epoch(raw, rosters)[1]


def decode_with_epoch(raw: bytes, rosters: Rosters) -> tuple[int, m.Message]:
    """Read one message and the epoch of its sender's ledger; RemoteProtocolError says what is wrong."""
    if len(raw) > MESSAGE_BYTES_MAX:
        raise RemoteProtocolError(f"a message has at most {MESSAGE_BYTES_MAX} bytes, not {len(raw)}")
    try:
        message = wire.Message.FromString(raw)
    except DecodeError:
        raise RemoteProtocolError("not a message of this protocol") from None
    kind = message.WhichOneof("kind")
    if kind is None:
        raise RemoteProtocolError("a message of no kind that this version knows")
    if message.round > ROUND_MAX:
        raise RemoteProtocolError(f"round {message.round} is absurd")
    content, read = getattr(message, kind), _READERS.get(kind)
    if read is not None:
        return message.epoch, read(message.round, content)
    try:
        return message.epoch, _BODY_READERS[kind](message.round, content, rosters)
    except UnknownParent:
        return message.epoch, m.Elsewhere(message.round)


def _peers(peers: Any) -> tuple[PeerId, ...]:
    if len(peers) > MEMBERS_MAX:
        raise RemoteProtocolError(f"{len(peers)} peers in one message, at most {MEMBERS_MAX}")
    return tuple(PeerId(peer) for peer in peers)


def _refs(refs: Any) -> tuple[BlobRef, ...]:
    if len(refs) > MEMBERS_MAX:
        raise RemoteProtocolError(f"{len(refs)} blobs in one message, at most {MEMBERS_MAX}")
    return tuple(ref_from_wire(ref) for ref in refs)


def _contributors(contributors: Any) -> tuple[Contributor, ...]:
    if len(contributors) > MEMBERS_MAX:
        raise RemoteProtocolError(f"{len(contributors)} contributors, at most {MEMBERS_MAX}")
    return tuple(
        Contributor(PeerId(c.peer), c.tokens, c.steps, c.weight, c.train_ms, c.staleness)
        for c in contributors
    )


def _read_offer(round_: int, o: wire.Offer) -> m.Offer:
    work = (digest_from_bytes(o.anchor), o.tokens, o.steps, _refs(o.parts))
    times = (o.uplink, o.train_ms, o.spare_ms)
    return m.Offer(round_, o.view, *work, o.leaving, o.farewell, *times, o.staleness)


def _read_plan(round_: int, p: wire.Plan) -> m.Plan:
    if len(p.columns) > MEMBERS_MAX:
        raise RemoteProtocolError(f"a plan of {len(p.columns)} columns, at most {MEMBERS_MAX}")
    columns = tuple(m.Column(c.part, _refs(c.blobs)) for c in p.columns)
    return m.Plan(round_, p.view, p.revision, _contributors(p.participants), columns)


def _read_propose(round_: int, p: wire.Propose, rosters: Rosters) -> m.Propose:
    why = justification_from_wire(p.justification) if p.HasField("justification") else None
    body, holders = body_from_bytes(p.body, rosters), _peers(p.holders)
    return m.Propose(round_, p.view, body, holders, p.by_part, p.signature, why)


def _read_vote(round_: int, v: wire.Vote) -> m.Vote:
    return m.Vote(round_, v.view, digest_from_bytes(v.body_digest), v.signature, stage_from_wire(v.stage))


def _read_lock(round_: int, lock: wire.Lock) -> m.Lock:
    return m.Lock(round_, lock.view, digest_from_bytes(lock.body_digest), signatures_from_wire(lock.votes))


def _read_promise(round_: int, p: wire.Promise, rosters: Rosters) -> m.Promise:
    accepted = (p.accepted_view, body_from_bytes(p.accepted_body, rosters)) if p.accepted else None
    seen = sighting_from_wire(p.seen) if p.HasField("seen") else None
    return m.Promise(round_, p.view, accepted, p.signature, signatures_from_wire(p.certificate), seen)


def _read_commits(round_: int, c: wire.Commits, rosters: Rosters) -> m.Commits:
    """Each commit gives the members by which the next one is read; what cannot be read is left out."""
    if len(c.commits) > COMMITS_MAX:
        raise RemoteProtocolError(f"{len(c.commits)} commits in one message, at most {COMMITS_MAX}")
    snapshot = snapshot_from_wire(c.snapshot) if c.HasField("snapshot") else None
    known = {snapshot.head: snapshot.members} if snapshot else {}
    commits: list[Commit] = []
    unpacked = 0
    for raw in c.commits:
        if unpacked > COMMITS_BYTES_MAX + BODY_BYTES_MAX:
            raise RemoteProtocolError("the commits of one message unpack to more than they may")
        try:
            commit = commit_from_wire(raw, lambda parent: rosters(parent) or known.get(parent))
        except UnknownParent:
            break
        commits.append(commit)
        unpacked += len(commit.body.encoded)
        known[commit.body.digest] = commit.body.members
    return m.Commits(round_, tuple(commits), c.height, snapshot)


def _join(j: m.Join) -> wire.Join:
    return wire.Join(role=wire.Role.Name(j.role), token=j.token, signature=j.signature, shard=j.shard)


def _read_join(round_: int, j: wire.Join) -> m.Join:
    try:
        role = Role(j.role)
    except ValueError:
        raise RemoteProtocolError(f"role {j.role} is unknown") from None
    return m.Join(round_, role, j.token, j.signature, readable(j.shard))


_WRITERS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    m.Offer: ("offer", _offer),
    m.Ahead: ("ahead", lambda a: wire.Ahead(offer=_offer(a.offer))),
    m.Alive: ("alive", lambda a: wire.Alive(view=a.view, steps=a.steps)),
    m.Waiting: ("waiting", lambda w: wire.Waiting(view=w.view, reason=w.reason)),
    m.Plan: ("plan", _plan),
    m.Held: ("held", lambda h: wire.Held(view=h.view, part=h.part, peers=h.peers, plan=h.plan)),
    m.Cut: ("cut", _cut),
    m.Reduced: ("reduced", _reduced),
    m.Summed: ("summed", lambda s: wire.Summed(view=s.view, part=s.part, blob=ref_to_wire(s.blob))),
    m.Propose: ("propose", _propose),
    m.Vote: ("vote", _vote),
    m.Prepare: ("prepare", lambda p: wire.Prepare(view=p.view)),
    m.Promise: ("promise", _promise),
    m.Commits: ("commits", _commits),
    m.AskCommits: ("ask_commits", lambda a: wire.AskCommits()),
    m.Join: ("join", _join),
    m.Leave: ("leave", lambda v: wire.Leave(reason=v.reason, signature=v.signature)),
    m.AskState: ("ask_state", lambda a: wire.AskState()),
    m.State: ("state", _state),
    m.Seal: ("seal", lambda s: wire.Seal(at=s.at, signature=s.signature)),
    m.Refuse: ("refuse", lambda r: wire.Refuse(reason=r.reason)),
    m.Lock: ("lock", _lock),
    m.Accuse: ("accuse", lambda a: wire.Accuse(evidence=evidence_to_wire(a.evidence))),
    m.AskParts: ("ask_parts", lambda a: wire.AskParts()),
    m.Parts: ("parts", lambda p: wire.Parts(parts=[ref_to_wire(ref) for ref in p.parts])),
    m.Scores: ("scores", lambda s: wire.Scores(scores=scores_to_wire(s.scores))),
}

_READERS: dict[str, Callable[[int, Any], m.Message]] = {
    "offer": _read_offer,
    "ahead": lambda r, a: m.Ahead(r, _read_offer(r + 1, a.offer)),
    "alive": lambda r, a: m.Alive(r, a.view, a.steps),
    "waiting": lambda r, w: m.Waiting(r, w.view, readable(w.reason)),
    "plan": _read_plan,
    "held": lambda r, h: m.Held(r, h.view, h.part, _peers(h.peers), h.plan),
    "cut": lambda r, c: m.Cut(r, c.view, c.revision, _contributors(c.contributors)),
    "reduced": lambda r, d: m.Reduced(r, d.view, d.revision, d.part, ref_from_wire(d.blob)),
    "summed": lambda r, s: m.Summed(r, s.view, s.part, ref_from_wire(s.blob)),
    "vote": _read_vote,
    "prepare": lambda r, p: m.Prepare(r, p.view),
    "ask_commits": lambda r, a: m.AskCommits(r),
    "join": _read_join,
    "leave": lambda r, v: m.Leave(r, readable(v.reason), v.signature),
    "ask_state": lambda r, a: m.AskState(r),
    "state": lambda r, s: m.State(r, digest_from_bytes(s.anchor), _refs(s.blobs)),
    "refuse": lambda r, x: m.Refuse(r, readable(x.reason)),
    "seal": lambda r, s: m.Seal(r, s.at, s.signature),
    "lock": _read_lock,
    "accuse": lambda r, a: m.Accuse(r, evidence_from_wire(a.evidence)),
    "ask_parts": lambda r, a: m.AskParts(r),
    "parts": lambda r, p: m.Parts(r, _refs(p.parts)),
    "scores": lambda r, s: m.Scores(r, scores_from_wire(s.scores)),
}

_BODY_READERS: dict[str, Callable[[int, Any, Rosters], m.Message]] = {
    "propose": _read_propose,
    "promise": _read_promise,
    "commits": _read_commits,
}
