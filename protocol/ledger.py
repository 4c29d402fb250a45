"""The ledger: a hash chain of commits, each signed by a majority of the members of its round.

Commit 0 is the signed run manifest; its digest is the run id and the parent of commit 1. A commit's body
is hashed and signed as the exact bytes that travel. Votes are over (run, round, view, body digest): the
view is not in the body, so a body proposed again in a later view is still the same commit.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from google.protobuf.message import DecodeError

from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_bytes, digest_from_bytes, digest_of
from atoll.protocol.keys import Signer
from atoll.protocol.proofs import (
    Equivocation,
    Farewell,
    Joining,
    evidence_from_wire,
    evidence_to_wire,
    farewells_from_wire,
    farewells_to_wire,
    joining_from_wire,
    joining_to_wire,
)
from atoll.protocol.wire import messages_pb2 as wire

MEMBERS_MAX = 4096
BODY_BYTES_MAX = 768 << 10
_VOTE = b"atoll vote 1"


class Role(enum.IntEnum):
    WORKER = 0
    WITNESS = 1


class Kind(enum.IntEnum):
    UPDATE = 0
    SKIP = 1
    SETTINGS = 2
    RECOVERY = 3


@dataclass(frozen=True, slots=True)
class Member:
    """One that votes. Its contributions weigh nothing before round `weight_from`."""

    peer: PeerId
    role: Role = Role.WORKER
    weight_from: int = 1
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Contributor:
    """Who took part, with the tokens and inner steps it processed and the weight that it was given."""

    peer: PeerId
    tokens: int
    steps: int
    weight: int


@dataclass(frozen=True, slots=True)
class Rejection:
    peer: PeerId
    reason: str


@dataclass(frozen=True)
class Body:
    """What a round decided. `anchor` is what the contributors started from; `members` are of round + 1.

    `evidence`, `joining` and `farewells` prove who comes and goes, where a run asks for proofs.
    """

    run_id: Digest
    round: int
    parent: Digest
    kind: Kind
    anchor: Digest
    members: tuple[Member, ...]
    contributors: tuple[Contributor, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    blobs: tuple[BlobRef, ...] = ()
    fragment: int = 0
    evidence: tuple[Equivocation, ...] = ()
    joining: tuple[Joining, ...] = ()
    farewells: tuple[Farewell, ...] = ()

    @cached_property
    def encoded(self) -> bytes:
        return _body_to_wire(self).SerializeToString(deterministic=True)

    @cached_property
    def digest(self) -> Digest:
        return digest_of(self.encoded)


@dataclass(frozen=True, slots=True)
class Commit:
    """A body and the votes that certify it."""

    body: Body
    view: int
    votes: tuple[tuple[PeerId, bytes], ...]


def vote_message(run_id: Digest, round_: int, view: int, body: Digest) -> bytes:
    """What a member signs when it votes."""
    return (
        _VOTE
        + digest_bytes(run_id)
        + round_.to_bytes(8, "big")
        + view.to_bytes(4, "big")
        + digest_bytes(body)
    )


def majority(members: int) -> int:
    return members // 2 + 1


def liars_max(members: int) -> int:
    """How many of so many members may lie where two thirds must agree. (Lamport, Shostak, Pease 1982)"""
    return max(0, members - 1) // 3


@dataclass(frozen=True, slots=True)
class Genesis:
    """Commit 0: what the manifest says about the start."""

    run_id: Digest
    anchor: Digest
    members: tuple[Member, ...]
    votes: str = "majority"

    def needed(self, members: int) -> int:
        """Votes that certify a commit of a round of so many members."""
        return majority(members) if self.votes == "majority" else members - liars_max(members)


@dataclass(slots=True)
class Ledger:
    """The chain that this peer has verified. `height` is the round of its last commit.

    `banned` are those against whom a commit holds evidence: they never become members again.
    """

    genesis: Genesis
    commits: list[Commit] = field(default_factory=list)
    updates: int = 0
    banned: set[PeerId] = field(default_factory=set)

    @property
    def height(self) -> int:
        return len(self.commits)

    @property
    def head(self) -> Digest:
        return self.commits[-1].body.digest if self.commits else self.genesis.run_id

    @property
    def members(self) -> tuple[Member, ...]:
        """The members of the round in progress."""
        return self.commits[-1].body.members if self.commits else self.genesis.members

    def members_of(self, round_: int) -> tuple[Member, ...]:
        return self.genesis.members if round_ == 1 else self.commits[round_ - 2].body.members

    def commit(self, round_: int) -> Commit:
        return self.commits[round_ - 1]

    def since(self, round_: int, bytes_max: int) -> tuple[Commit, ...]:
        """Commits from `round_` on, as many as fit in one message (at least one)."""
        taken: list[Commit] = []
        size = 0
        for commit in self.commits[max(round_, 1) - 1 :]:
            size += len(commit.body.encoded) + 128 * len(commit.votes)
            if taken and size > bytes_max:
                break
            taken.append(commit)
        return tuple(taken)

    def append(self, commit: Commit, signer: Signer) -> None:
        """Verify the next commit and take it in; RemoteProtocolError says why it is not the next one."""
        self.check(commit, signer)
        self.commits.append(commit)
        self.updates += commit.body.kind is Kind.UPDATE
        self.banned.update(evidence.peer for evidence in commit.body.evidence)

    def check(self, commit: Commit, signer: Signer) -> None:
        body = commit.body
        if body.run_id != self.genesis.run_id:
            raise RemoteProtocolError("a commit of another run")
        if body.round != self.height + 1:
            raise RemoteProtocolError(f"commit {body.round} does not follow {self.height}")
        if body.parent != self.head:
            raise RemoteProtocolError(f"commit {body.round} has another parent")
        if not body.members or len(body.members) > MEMBERS_MAX:
            raise RemoteProtocolError(f"commit {body.round} names {len(body.members)} members")
        self._check_votes(commit, signer)

    def _check_votes(self, commit: Commit, signer: Signer) -> None:
        body = commit.body
        message = vote_message(body.run_id, body.round, commit.view, body.digest)
        voters = {member.peer for member in self.members}
        need, valid = self.genesis.needed(len(voters)), 0
        if len(commit.votes) > len(voters):
            raise RemoteProtocolError(f"commit {body.round} has more votes than members")
        for peer, signature in commit.votes:
            if peer not in voters:
                raise RemoteProtocolError(f"commit {body.round}: {peer[:60]!r} is no member, or voted twice")
            if not signer.verify(peer, message, signature):
                raise RemoteProtocolError(f"commit {body.round}: the vote of {peer} is not signed by it")
            voters.discard(peer)
            valid += 1
        if valid < need:
            enough = "a majority" if self.genesis.votes == "majority" else "two thirds"
            raise RemoteProtocolError(f"commit {body.round}: {valid} votes, {need} are {enough}")


# ---- bytes --------------------------------------------------------------------------------------


def ref_to_wire(ref: BlobRef) -> wire.BlobRef:
    return wire.BlobRef(digest=digest_bytes(ref.digest), size=ref.size)


def ref_from_wire(ref: wire.BlobRef) -> BlobRef:
    return BlobRef(digest_from_bytes(ref.digest), ref.size)


def contributors_to_wire(contributors: Iterable[Contributor]) -> list[wire.Contributor]:
    return [
        wire.Contributor(peer=c.peer, tokens=c.tokens, steps=c.steps, weight=c.weight) for c in contributors
    ]


def contributors_from_wire(contributors: Iterable[wire.Contributor]) -> tuple[Contributor, ...]:
    return tuple(Contributor(PeerId(c.peer), c.tokens, c.steps, c.weight) for c in contributors)


def _body_to_wire(body: Body) -> wire.Body:
    return wire.Body(
        run_id=digest_bytes(body.run_id),
        round=body.round,
        parent=digest_bytes(body.parent),
        fragment=body.fragment,
        kind=wire.Kind.Name(body.kind),
        contributors=contributors_to_wire(body.contributors),
        rejected=[wire.Rejection(peer=r.peer, reason=r.reason) for r in body.rejected],
        blobs=[ref_to_wire(ref) for ref in body.blobs],
        anchor=digest_bytes(body.anchor),
        members=[
            wire.Member(peer=m.peer, role=wire.Role.Name(m.role), weight_from=m.weight_from, missed=m.missed)
            for m in body.members
        ],
        evidence=evidence_to_wire(body.evidence),
        joining=joining_to_wire(body.joining),
        farewells=farewells_to_wire(body.farewells),
    )


def body_from_bytes(raw: bytes) -> Body:
    """Read a body; RemoteProtocolError unless `raw` is exactly what its content encodes to."""
    if len(raw) > BODY_BYTES_MAX:
        raise RemoteProtocolError(f"a body has at most {BODY_BYTES_MAX} bytes, not {len(raw)}")
    try:
        message = wire.Body.FromString(raw)
        kind = Kind(message.kind)
        members = tuple(
            Member(PeerId(m.peer), Role(m.role), m.weight_from, m.missed) for m in message.members
        )
    except (DecodeError, ValueError):
        raise RemoteProtocolError("not a commit body") from None
    body = Body(
        run_id=digest_from_bytes(message.run_id),
        round=message.round,
        parent=digest_from_bytes(message.parent),
        kind=kind,
        anchor=digest_from_bytes(message.anchor),
        members=members,
        contributors=contributors_from_wire(message.contributors),
        rejected=tuple(Rejection(PeerId(r.peer), r.reason) for r in message.rejected),
        blobs=tuple(ref_from_wire(ref) for ref in message.blobs),
        fragment=message.fragment,
        evidence=evidence_from_wire(message.evidence),
        joining=joining_from_wire(message.joining),
        farewells=farewells_from_wire(message.farewells),
    )
    if body.encoded != raw:
        raise RemoteProtocolError("a commit body in another encoding than ours")
    return body


def commit_to_wire(commit: Commit) -> wire.Commit:
    votes = [wire.VoteSignature(peer=peer, signature=signature) for peer, signature in commit.votes]
    return wire.Commit(body=commit.body.encoded, view=commit.view, votes=votes)


def commit_from_wire(message: wire.Commit) -> Commit:
    votes = tuple((PeerId(vote.peer), vote.signature) for vote in message.votes)
    return Commit(body_from_bytes(message.body), message.view, votes)


def commit_from_bytes(raw: bytes) -> Commit:
    """Read a commit as `commit_to_wire(...).SerializeToString()` wrote it."""
    try:
        return commit_from_wire(wire.Commit.FromString(raw))
    except DecodeError:
        raise RemoteProtocolError("not a commit") from None
