"""Who takes part: members, who of them votes, and how one round's members become the next one's.

A commit does not repeat its members: it says what changes, by places in the list of the round it ends. In a
large swarm that is the difference between a few bytes and a third of a megabyte for every peer and round.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import Digest, PeerId, digest_of
from atoll.protocol.participation import Gaps
from atoll.protocol.weights import UNIT
from atoll.protocol.wire import messages_pb2 as wire

MEMBERS_MAX = 8192
VOTERS_MAX = 64
SHARD_MAX = 64
NO_GAPS = Gaps()
T = TypeVar("T")


class Role(enum.IntEnum):
    """A worker trains; a witness never does; a paused member was told by its volunteer to rest."""

    WORKER = 0
    WITNESS = 1
    PAUSED = 2


@dataclass(frozen=True, slots=True)
class Reputation:
    """`value` is an average of judgements, -UNIT..UNIT; `count` how many it is of, bounded by the memory.

    `audited` is the last round in which it was judged. `trials` says how many judgements are missing until
    it may weigh something. The rules are in audit.py.
    """

    value: int = UNIT
    count: int = 2
    audited: int = -1
    trials: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """One that takes part. Its contributions weigh nothing before round `weight_from`.

    `speed` is in inner steps per 1000 s, as far as commits told it, and `steps` are what it is assigned; both
    are 0 where all do the same. `shard` names the data that it holds, where members bring their own. `gaps`
    say how seldom it contributed, where weights are by participation. `reputation` is None where there are no
    audits, and of founders as long as they were not judged.
    """

    peer: PeerId
    role: Role = Role.WORKER
    weight_from: int = 1
    missed: int = 0
    speed: int = 0
    steps: int = 0
    shard: str = ""
    gaps: Gaps = NO_GAPS
    reputation: Reputation | None = None


def may_become(was: Role, role: Role) -> bool:
    """A worker may rest and go on again; a witness stays one."""
    return was is role or Role.WITNESS not in (was, role)


@dataclass(frozen=True, slots=True)
class Presence:
    """Whom a leader takes to be here, and of whom it cannot tell: it led too briefly to call that silence."""

    heard: Collection[PeerId]
    unsure: Collection[PeerId] = ()

    def missed(self, member: Member) -> int:
        """How many rounds this member was silent in by now. Nobody is cleared by one who cannot tell."""
        if member.peer in self.heard:
            return 0
        return member.missed if member.peer in self.unsure else member.missed + 1


def turned(was: Role, wanted: Role) -> Role:
    """The role of a member that asked for another."""
    return wanted if may_become(was, wanted) else was


def majority(voters: int) -> int:
    return voters // 2 + 1


def liars_max(voters: int) -> int:
    """How many of so many may lie where two thirds must agree. (Lamport, Shostak, Pease 1982)"""
    return max(0, voters - 1) // 3


def by_hash(parent: Digest, peers: Sequence[PeerId], purpose: str) -> list[PeerId]:
    """Peers in an order that nobody chose."""
    salt = parent.encode() + purpose.encode()
    return sorted(peers, key=lambda peer: digest_of(salt, peer.encode()))


class Same(Generic[T]):
    """A thing by its identity, for caches: to hash a list of thousands costs more than what is looked up."""

    __slots__ = ("it",)

    def __init__(self, it: T) -> None:
        self.it = it

    def __hash__(self) -> int:
        return id(self.it)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.it is other.it


def committee(members: tuple[Member, ...], parent: Digest, voters_max: int) -> tuple[PeerId, ...]:
    """Who votes: a bounded number, so that agreement costs no more in a large swarm than in a small one.

    Those heard last come first, then witnesses, then whom the parent commit's hash picks: nobody chose them,
    and each commit draws others.
    """
    return _committee(Same(members), parent, voters_max)


@lru_cache(maxsize=64)
def _committee(same: Same[tuple[Member, ...]], parent: Digest, voters_max: int) -> tuple[PeerId, ...]:
    members = same.it
    if len(members) <= voters_max:
        return tuple(member.peer for member in members)
    order = {peer: place for place, peer in enumerate(by_hash(parent, [m.peer for m in members], "voter"))}
    ranked = sorted(members, key=lambda m: (m.missed, m.role is not Role.WITNESS, order[m.peer]))
    return tuple(sorted(member.peer for member in ranked[:voters_max]))


# ---- bytes --------------------------------------------------------------------------------------


def member_to_wire(member: Member) -> wire.Member:
    role = wire.Role.Name(member.role)
    return wire.Member(
        peer=member.peer,
        role=role,
        weight_from=member.weight_from,
        missed=member.missed,
        speed=member.speed,
        steps=member.steps,
        shard=member.shard,
        gap_total=member.gaps.total,
        gap_count=member.gaps.count,
        gap_since=member.gaps.since,
        reputation=_reputation_to_wire(member.reputation),
    )


def _reputation_to_wire(said: Reputation | None) -> wire.Reputation | None:
    if said is None:
        return None
    return wire.Reputation(value=said.value, count=said.count, audited=said.audited, trials=said.trials)


def member_from_wire(member: wire.Member) -> Member:
    try:
        role = Role(member.role)
    except ValueError:
        raise RemoteProtocolError(f"role {member.role} is unknown") from None
    if len(member.shard) > SHARD_MAX:
        raise RemoteProtocolError(f"a shard's name has at most {SHARD_MAX} letters, not {len(member.shard)}")
    figures = (member.weight_from, member.missed, member.speed, member.steps)
    gaps = Gaps(member.gap_total, member.gap_count, member.gap_since)
    gaps.check()
    reputation = None
    if member.HasField("reputation"):
        said = member.reputation
        reputation = Reputation(said.value, said.count, said.audited, said.trials)
    return Member(PeerId(member.peer), role, *figures, member.shard, gaps, reputation)


def members_digest(members: tuple[Member, ...]) -> Digest:
    """What a snapshot signs for its members."""
    return _members_digest(Same(members))


@lru_cache(maxsize=16)
def _members_digest(members: Same[tuple[Member, ...]]) -> Digest:
    listed = wire.Changes(changed=[member_to_wire(member) for member in members.it])
    return digest_of(listed.SerializeToString(deterministic=True))


def changes(before: Sequence[Member], after: Sequence[Member]) -> wire.Changes:
    """What makes `after` of `before`; both are in the order of their peers."""
    if before is after:
        return wire.Changes()
    places, following = {m.peer: place for place, m in enumerate(before)}, {m.peer for m in after}
    changed = []
    for member in after:
        place = places.get(member.peer)
        if place is None or before[place] != member:
            changed.append(member_to_wire(member))
    left = [place for place, member in enumerate(before) if member.peer not in following]
    return wire.Changes(changed=changed, left=left)


def changed(before: tuple[Member, ...], said: wire.Changes) -> tuple[Member, ...]:
    """The inverse of `changes`; RemoteProtocolError if it does not fit these members."""
    if not said.changed and not said.left:
        return before
    if len(said.changed) > MEMBERS_MAX or len(said.left) > len(before):
        raise RemoteProtocolError("more changes than there may be members")
    after = {member.peer: member for member in before}
    for place in said.left:
        after.pop(before[checked(place, before)].peer, None)
    for raw in said.changed:
        member = member_from_wire(raw)
        after[member.peer] = member
    return tuple(after[peer] for peer in sorted(after))


def checked(place: int, members: Sequence[object]) -> int:
    """A place among these members, or RemoteProtocolError."""
    if place >= len(members):
        raise RemoteProtocolError(f"place {place} of {len(members)} members")
    return place
