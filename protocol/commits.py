"""What is agreed on, as data and as bytes: bodies, commits, snapshots. ledger.py says which follows which.

Everything that names members names their places in the list of the round, which the reader knows from the
parent commit. So a commit costs a few bytes for each contributor, and none for those who change nothing.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from google.protobuf.message import DecodeError

from atoll.protocol.audit import Score
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import BlobRef, Digest, PeerId, digest_bytes, digest_from_bytes, digest_of
from atoll.protocol.proofs import (
    Equivocation,
    Farewell,
    Joining,
    Place,
    evidence_from_wire,
    evidence_to_wire,
    farewells_from_wire,
    farewells_to_wire,
    joining_from_wire,
    joining_to_wire,
)
from atoll.protocol.roster import (
    MEMBERS_MAX,
    Member,
    changed,
    changes,
    checked,
    member_from_wire,
    member_to_wire,
    members_digest,
)
from atoll.protocol.scores import Sent, scores_from_wire, scores_to_wire, sent_from_wire, sent_to_wire
from atoll.protocol.wire import messages_pb2 as wire

BODY_BYTES_MAX = 768 << 10
BANNED_MAX = 2 * MEMBERS_MAX
"""Nobody joins any more once as many are banned as a run may have members (proven.py)."""
COMMITS_MAX, COMMITS_BYTES_MAX = 256, 256 << 10
"""Of one message: an honest one stops before the second, but for its first commit."""
Rosters = Callable[[Digest], "tuple[Member, ...] | None"]
"""The members of the round that follows a commit, if the reader knows it: `Ledger.members_after`."""

_VOTE = b"atoll vote 1"
_SNAPSHOT = b"atoll snapshot 1"


class UnknownParent(Exception):
    """The bytes follow a commit that the reader does not have: whether they are right it cannot say."""


class Kind(enum.IntEnum):
    UPDATE = 0
    SKIP = 1
    SETTINGS = 2
    RECOVERY = 3


@dataclass(frozen=True, slots=True)
class Contributor:
    """Who took part, with the tokens and inner steps it processed and the weight that it was given.

    `train_ms` is how long its steps took, where a run assigns steps by speed, and else 0. `staleness` counts
    the updates between the anchor that it started from and this one, where runs merge what is late.
    """

    peer: PeerId
    tokens: int
    steps: int
    weight: int
    train_ms: int = 0
    staleness: int = 0


@dataclass(frozen=True, slots=True)
class Rejection:
    peer: PeerId
    reason: str


@dataclass(frozen=True)
class Body:
    """What a round decided. `anchor` is what the contributors started from.

    `before` are the members of the round, which the parent determines; `members` those of the next one.
    `evidence`, `joining` and `farewells` prove who comes and goes, where a run asks for proofs. Where there
    are audits, `sent` names what the members sent to this round, and `scores` are of what they sent to an
    earlier one (audited.py).
    """

    run_id: Digest
    round: int
    parent: Digest
    kind: Kind
    anchor: Digest
    before: tuple[Member, ...] = field(repr=False, compare=False)
    members: tuple[Member, ...] = field(repr=False)
    contributors: tuple[Contributor, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    blobs: tuple[BlobRef, ...] = ()
    fragment: int = 0
    epoch: int = 0
    evidence: tuple[Equivocation, ...] = ()
    joining: tuple[Joining, ...] = ()
    farewells: tuple[Farewell, ...] = ()
    sent: tuple[Sent, ...] = ()
    scores: tuple[Score, ...] = ()

    @property
    def convicted(self) -> frozenset[PeerId]:
        """Whom its evidence bans."""
        return frozenset(evidence.peer for evidence in self.evidence)

    @property
    def place(self) -> Place:
        """Where in the run's history it is; part of every vote for it."""
        return Place(self.run_id, self.epoch, self.round)

    @cached_property
    def encoded(self) -> bytes:
        return body_to_bytes(self)

    @cached_property
    def counted(self) -> frozenset[PeerId]:
        """Whose contributions are part of the update."""
        return frozenset(contributor.peer for contributor in self.contributors)

    @cached_property
    def digest(self) -> Digest:
        return digest_of(self.encoded)


@dataclass(frozen=True, slots=True)
class Commit:
    """A body and the votes that certify it."""

    body: Body
    view: int
    votes: tuple[tuple[PeerId, bytes], ...]


def vote_message(place: Place, view: int, body: Digest) -> bytes:
    """What a member signs when it votes.

    It names the epoch, though the body does too: two votes in one view are evidence only if of one epoch.
    """
    return _VOTE + place.encoded + view.to_bytes(4, "big") + digest_bytes(body)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the ledger had come to after `round`: enough to go on from, without any commit before it."""

    round: int
    epoch: int
    head: Digest
    updates: int
    members: tuple[Member, ...]
    signature: bytes = b""
    banned: tuple[PeerId, ...] = ()

    def message(self, run_id: Digest) -> bytes:
        """What the authority signs."""
        numbers = b"".join(number.to_bytes(8, "big") for number in (self.round, self.epoch, self.updates))
        members = digest_bytes(members_digest(self.members))
        banned = digest_bytes(digest_of("\n".join(self.banned).encode()))
        return _SNAPSHOT + digest_bytes(run_id) + digest_bytes(self.head) + numbers + members + banned


# ---- bytes --------------------------------------------------------------------------------------


def ref_to_wire(ref: BlobRef) -> wire.BlobRef:
    return wire.BlobRef(digest=digest_bytes(ref.digest), size=ref.size)


def ref_from_wire(ref: wire.BlobRef) -> BlobRef:
    return BlobRef(digest_from_bytes(ref.digest), ref.size)


# ---- places -------------------------------------------------------------------------------------


def _places(members: Sequence[Member]) -> dict[PeerId, int]:
    return {member.peer: place for place, member in enumerate(members)}


def _steps(places: Sequence[int]) -> list[int]:
    """Ascending places as the steps from each to the next."""
    return [place - before - 1 for before, place in zip((-1, *places), places, strict=False)]


def _peers(steps: Sequence[int], members: Sequence[Member]) -> list[PeerId]:
    if len(steps) > len(members):
        raise RemoteProtocolError(f"{len(steps)} of {len(members)} members")
    return [members[checked(at - 1, members)].peer for at in accumulate(step + 1 for step in steps)]


def _runs(places: Sequence[int]) -> list[int]:
    """Ascending places as lengths: of a gap, of the run that follows, of the next gap, and so on."""
    runs: list[int] = []
    end = 0
    for place in places:
        if runs and place == end:
            runs[-1] += 1
        else:
            runs += [place - end, 1]
        end = place + 1
    return runs


def _in_runs(runs: Sequence[int], members: Sequence[Member]) -> list[PeerId]:
    if len(runs) > 2 * len(members) or sum(runs) > len(members):
        raise RemoteProtocolError(f"runs beyond {len(members)} members")
    ends = (0, *accumulate(runs))
    return [member.peer for at in range(1, len(runs), 2) for member in members[ends[at] : ends[at + 1]]]


# ---- bodies -------------------------------------------------------------------------------------


def body_to_bytes(body: Body) -> bytes:
    """The canonical bytes. Whoever is named is a member of the round, in the order of the peer ids."""
    places = _places(body.before)
    return wire.Body(
        run_id=digest_bytes(body.run_id),
        round=body.round,
        parent=digest_bytes(body.parent),
        fragment=body.fragment,
        kind=wire.Kind.Name(body.kind),
        contributors=_contributions(body.contributors, places),
        rejected=_rejections(body.rejected, places),
        blobs=[ref_to_wire(ref) for ref in body.blobs],
        anchor=digest_bytes(body.anchor),
        members=changes(body.before, body.members),
        epoch=body.epoch,
        evidence=evidence_to_wire(body.evidence, places),
        joining=joining_to_wire(body.joining),
        farewells=farewells_to_wire(body.farewells, places),
        sent=sent_to_wire(body.sent, places),
        scores=scores_to_wire(body.scores, places),
    ).SerializeToString(deterministic=True)


def _contributions(contributors: Sequence[Contributor], places: dict[PeerId, int]) -> wire.Contributions:
    return wire.Contributions(
        runs=_runs([places[c.peer] for c in contributors]),
        tokens=_column([c.tokens for c in contributors]),
        steps=_column([c.steps for c in contributors]),
        weights=[]
        if all(c.weight == c.tokens for c in contributors)
        else _column([c.weight for c in contributors]),
        train_ms=_column([c.train_ms for c in contributors]) if any(c.train_ms for c in contributors) else [],
        staleness=_column([c.staleness for c in contributors])
        if any(c.staleness for c in contributors)
        else [],
    )


def _column(values: list[int]) -> list[int]:
    """One value where all are the same: most members did just what they were assigned."""
    return values[:1] if len(set(values)) == 1 else values


def _rejections(rejected: Sequence[Rejection], places: dict[PeerId, int]) -> list[wire.Rejections]:
    by_reason: dict[str, list[int]] = {}
    for rejection in rejected:
        by_reason.setdefault(rejection.reason, []).append(places[rejection.peer])
    return [wire.Rejections(reason=why, places=at) for why, at in sorted(by_reason.items())]


def body_from_bytes(raw: bytes, rosters: Rosters) -> Body:
    """Read a body; RemoteProtocolError unless `raw` is exactly what its content encodes to."""
    if len(raw) > BODY_BYTES_MAX:
        raise RemoteProtocolError(f"a body has at most {BODY_BYTES_MAX} bytes, not {len(raw)}")
    try:
        message = wire.Body.FromString(raw)
        kind = Kind(message.kind)
    except (DecodeError, ValueError):
        raise RemoteProtocolError("not a commit body") from None
    parent = digest_from_bytes(message.parent)
    before = rosters(parent)
    if before is None:
        raise UnknownParent(parent)
    before_peers = [member.peer for member in before]
    body = Body(
        run_id=digest_from_bytes(message.run_id),
        round=message.round,
        parent=parent,
        kind=kind,
        anchor=digest_from_bytes(message.anchor),
        before=before,
        members=changed(before, message.members),
        contributors=_read_contributions(message.contributors, before),
        rejected=_read_rejections(message.rejected, before),
        blobs=tuple(ref_from_wire(ref) for ref in message.blobs),
        fragment=message.fragment,
        epoch=message.epoch,
        evidence=evidence_from_wire(message.evidence, before_peers),
        joining=joining_from_wire(message.joining),
        farewells=farewells_from_wire(message.farewells, before_peers),
        sent=sent_from_wire(message.sent, before_peers),
        scores=scores_from_wire(message.scores, before_peers),
    )
    if body.encoded != raw:
        raise RemoteProtocolError("a commit body in another encoding than ours")
    return body


def _read_contributions(said: wire.Contributions, before: Sequence[Member]) -> tuple[Contributor, ...]:
    peers = _in_runs(said.runs, before)
    weights = said.weights or said.tokens
    none = [0] * min(len(peers), 1)
    said_of = (said.tokens, said.steps, weights, said.train_ms or none, said.staleness or none)
    columns = [_full(column, len(peers)) for column in said_of]
    return tuple(Contributor(*row) for row in zip(peers, *columns, strict=True))


def _full(column: Sequence[int], count: int) -> Sequence[int]:
    if len(column) not in (min(count, 1), count):
        raise RemoteProtocolError(f"a column of {len(column)} values for {count} contributors")
    return column if len(column) == count else [column[0]] * count


def _read_rejections(said: Sequence[wire.Rejections], before: Sequence[Member]) -> tuple[Rejection, ...]:
    if sum(len(group.places) for group in said) > len(before):
        raise RemoteProtocolError("more rejections than members")
    by_place = {checked(place, before): group.reason for group in said for place in group.places}
    return tuple(Rejection(before[place].peer, by_place[place]) for place in sorted(by_place))


# ---- commits and snapshots ----------------------------------------------------------------------


def commit_to_wire(commit: Commit) -> wire.Commit:
    places = _places(commit.body.before)
    body, packed = _packed(commit.body)
    if commit.body.kind is Kind.RECOVERY:
        (authority, signature), *_ = commit.votes
        return wire.Commit(body=body, packed=packed, authority=authority, signatures=[signature])
    votes = sorted((places[peer], vote) for peer, vote in commit.votes)
    return wire.Commit(
        body=body,
        packed=packed,
        view=commit.view,
        voters=_steps([place for place, _ in votes]),
        signatures=[vote for _, vote in votes],
    )


def _packed(body: Body) -> tuple[bytes, bytes]:
    """The body as it travels, plain or packed: the columns of many contributors repeat themselves."""
    packed = zlib.compress(body.encoded)
    return (b"", packed) if len(packed) < len(body.encoded) else (body.encoded, b"")


def _unpacked(message: wire.Commit) -> bytes:
    """Never more than a body may have, whatever was packed."""
    if not message.packed:
        return message.body
    try:
        return zlib.decompressobj().decompress(message.packed, BODY_BYTES_MAX + 1)
    except zlib.error:
        raise RemoteProtocolError("a packed body that cannot be unpacked") from None


def commit_from_wire(message: wire.Commit, rosters: Rosters) -> Commit:
    body = body_from_bytes(_unpacked(message), rosters)
    if body.kind is Kind.RECOVERY:
        voters = [PeerId(message.authority)]
    else:
        voters = _peers(message.voters, body.before)
    if len(voters) != len(message.signatures):
        raise RemoteProtocolError("votes and signatures of different numbers")
    return Commit(body, message.view, tuple(zip(voters, message.signatures, strict=True)))


def commit_from_bytes(raw: bytes, rosters: Rosters) -> Commit:
    """Read a commit as `commit_to_wire(...).SerializeToString()` wrote it."""
    try:
        return commit_from_wire(wire.Commit.FromString(raw), rosters)
    except DecodeError:
        raise RemoteProtocolError("not a commit") from None


def round_of(raw: bytes) -> int:
    """The round of a commit that was written before, without reading the rest."""
    return wire.Body.FromString(_unpacked(wire.Commit.FromString(raw))).round


def snapshot_to_wire(snapshot: Snapshot) -> wire.Snapshot:
    return wire.Snapshot(
        round=snapshot.round,
        epoch=snapshot.epoch,
        head=digest_bytes(snapshot.head),
        updates=snapshot.updates,
        members=[member_to_wire(member) for member in snapshot.members],
        banned=snapshot.banned,
        signature=snapshot.signature,
    )


def snapshot_from_wire(message: wire.Snapshot) -> Snapshot:
    if len(message.members) > MEMBERS_MAX:
        raise RemoteProtocolError(f"a snapshot of {len(message.members)} members")
    if len(message.banned) > BANNED_MAX:
        raise RemoteProtocolError(f"a snapshot with {len(message.banned)} that are banned")
    return Snapshot(
        message.round,
        message.epoch,
        digest_from_bytes(message.head),
        message.updates,
        tuple(member_from_wire(member) for member in message.members),
        message.signature,
        tuple(PeerId(peer) for peer in message.banned),
    )


def snapshot_from_bytes(raw: bytes) -> Snapshot:
    """Read a snapshot as `snapshot_to_wire(...).SerializeToString()` wrote it."""
    try:
        return snapshot_from_wire(wire.Snapshot.FromString(raw))
    except DecodeError:
        raise RemoteProtocolError("not a snapshot") from None
