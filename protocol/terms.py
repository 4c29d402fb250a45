"""The terms of one round: everything that each member derives alone from the parent commit and the manifest.

Whoever has the same ledger has the same terms, so nothing here is ever sent. Choices that must agree come
from hashes of (parent commit, peer).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import Digest, PeerId, digest_of, public_key_of
from atoll.protocol.ledger import (
    MEMBERS_MAX,
    Body,
    Contributor,
    Kind,
    Ledger,
    Member,
    Role,
    liars_max,
    majority,
)
from atoll.protocol.manifest import Assignment, Manifest, RoundRules


def by_hash(parent: Digest, peers: Collection[PeerId], purpose: str) -> list[PeerId]:
    """Peers in an order that nobody chose."""
    return sorted(peers, key=lambda peer: digest_of(parent.encode(), purpose.encode(), peer.encode()))


@dataclass(frozen=True)
class Terms:
    run_id: Digest
    round: int
    parent: Digest
    members: tuple[Member, ...]
    updates: int
    rules: RoundRules
    assignment: Assignment
    part_bytes: tuple[int, ...]
    witnesses: frozenset[str] = frozenset()
    banned: int = 0

    @cached_property
    def voters(self) -> tuple[PeerId, ...]:
        return tuple(member.peer for member in self.members)

    @cached_property
    def workers(self) -> tuple[PeerId, ...]:
        """Who trains, in the order that gives each its shard of the data."""
        return tuple(sorted(member.peer for member in self.members if member.role is Role.WORKER))

    @cached_property
    def eligible(self) -> frozenset[PeerId]:
        """Workers whose contributions weigh something this round."""
        return frozenset(eligible(self.members, self.round))

    @cached_property
    def _order(self) -> list[PeerId]:
        """In two-thirds runs a rotation that lasts: a leader could choose a parent that lets friends lead."""
        if not self.two_thirds:
            return by_hash(self.parent, self.voters, "leader")
        order = by_hash(self.run_id, self.voters, "leader")
        first = self.round % len(order)
        return order[first:] + order[:first]

    def leader(self, view: int) -> PeerId:
        return self._order[view % len(self._order)]

    @property
    def two_thirds(self) -> bool:
        """Whether some members may lie: every claim needs its proof then."""
        return self.rules.votes == "two-thirds"

    @property
    def liars_max(self) -> int:
        """How many members may lie; none where a majority of votes is enough."""
        return liars_max(len(self.members)) if self.two_thirds else 0

    @property
    def majority(self) -> int:
        """Votes that certify, and promises that let a later leader propose."""
        return len(self.members) - self.liars_max if self.two_thirds else majority(len(self.members))

    @property
    def quorum(self) -> int:
        """Offers that make an update possible."""
        return max(1, math.ceil(self.rules.quorum * len(self.eligible)))

    @property
    def gathering(self) -> bool:
        """Whether the run waits for workers instead of training."""
        return len(self.eligible) < self.workers_min

    @property
    def workers_min(self) -> int:
        """Workers that the run waits for; those that it banned will not come again."""
        return 1 if self.updates else max(1, self.rules.start_workers - self.banned)

    @property
    def complete(self) -> bool:
        """Whether the run has had all its updates."""
        return 0 < self.rules.rounds <= self.updates

    @cached_property
    def deadline_ms(self) -> int:
        return self.rules.deadline_ms + sum(self.part_bytes) * 1000 // self.rules.bytes_per_s_min

    def patience_ms(self, view: int) -> int:
        """How long a silent leader is borne; longer in later views, so that slow networks agree too."""
        return self.deadline_ms * min(4, 1 + view // 2)

    def owners(self, participants: Collection[PeerId], view: int = 0) -> list[PeerId]:
        """Who owns each part, spread evenly over the participants.

        Where some may lie each part has two owners, the second ones behind all the first, and other views
        have others: else two liars that own a part together could withhold it in every view.
        """
        if not self.liars_max or len(participants) < 2:
            order = by_hash(self.parent, participants, "owner")
            return [order[part % len(order)] for part in range(len(self.part_bytes))]
        order = by_hash(self.parent, participants, f"owner {view}")
        parts = range(len(self.part_bytes))
        return [order[(part + copy) % len(order)] for copy in range(2) for part in parts]


def eligible(members: Sequence[Member], round_: int) -> list[PeerId]:
    return [m.peer for m in members if m.role is Role.WORKER and m.weight_from <= round_]


def parts_of(members: Sequence[Member], round_: int, owners_max: int) -> int:
    """Into how many parts the vector is cut: one for each that may contribute."""
    return max(1, min(owners_max, len(eligible(members, round_))))


def next_members(
    terms: Terms,
    heard: Collection[PeerId],
    leaving: Collection[PeerId],
    joiners: dict[PeerId, Role],
    kind: Kind,
) -> tuple[Member, ...]:
    """The members of the next round: those that were not silent for too long, and who asked to join.

    Those that are here are always a majority of the next members: else the silent ones go at once, the
    longest silent first, because the round after could not be agreed on. A joiner's weight starts after its
    probation, except before the first update, when nobody is ahead.
    """
    rules, kept = terms.rules, []
    for member in terms.members:
        missed = 0 if member.peer in heard else member.missed + 1
        if member.peer not in leaving and missed <= rules.missed_max:
            kept.append(Member(member.peer, member.role, member.weight_from, missed))
    if joiners and not any(member.missed == 0 for member in kept):
        # joiners hold nothing of this round yet: who leaves stays until one of them has it
        kept += [m for m in terms.members if m.peer in leaving and m.peer in heard]
    kept.sort(key=lambda member: (member.missed, member.peer))
    here = sum(member.missed == 0 for member in kept)
    del kept[max(here, 2 * here - 1) :]
    started = terms.updates > 0 or kind is Kind.UPDATE
    since = terms.round + 1 + (rules.probation_rounds if started else 0)
    known = set(terms.voters)
    joining = [Member(peer, role, since) for peer, role in sorted(joiners.items()) if peer not in known]
    kept += joining[: max(0, MEMBERS_MAX - len(kept))]
    return tuple(sorted(kept, key=lambda member: member.peer))


def objection(terms: Terms, body: Body, anchor: Digest) -> str | None:
    """Why a member may not vote for this body, or None."""
    if (body.run_id, body.round, body.parent) != (terms.run_id, terms.round, terms.parent):
        return f"the body is of another place in the ledger than round {terms.round}"
    if body.anchor != anchor:
        return "the body starts from another anchor than mine"
    return _membership_objection(terms, body) or _update_objection(terms, body)


def _membership_objection(terms: Terms, body: Body) -> str | None:
    peers = [member.peer for member in body.members]
    if not peers or peers != sorted(set(peers)) or len(peers) > MEMBERS_MAX:
        return "the next members are empty, unordered, repeated or too many"
    now = {member.peer: member for member in terms.members}
    for member in body.members:
        was = now.get(member.peer)
        if was is None:
            if reason := _joiner_objection(terms, member):
                return reason
        elif (member.role, member.weight_from) != (was.role, was.weight_from):
            return f"{member.peer} changed its role or weight"
        elif member.missed not in (0, was.missed + 1):
            return f"{member.peer} missed {was.missed} rounds, not {member.missed}"
    if not terms.two_thirds and (body.evidence or body.joining or body.farewells):
        return "proofs that this run does not ask for"
    return None


def _joiner_objection(terms: Terms, member: Member) -> str | None:
    try:
        public_key_of(member.peer)
    except RemoteProtocolError as error:
        return str(error)
    if member.weight_from <= terms.round or member.missed:
        return f"{member.peer} joins with a past"
    if member.role is Role.WITNESS and member.peer not in terms.witnesses:
        return f"{member.peer} is no witness of the manifest"
    return None


def contributors_objection(terms: Terms, contributors: Sequence[Contributor]) -> str | None:
    """Why these may not be the contributors of an update of this round, or None."""
    peers = [contributor.peer for contributor in contributors]
    if len(set(peers)) != len(peers) or not terms.eligible.issuperset(peers):
        return "a contributor is repeated or may not contribute"
    if len(peers) < terms.quorum:
        return f"{len(peers)} contributions, {terms.quorum} are the quorum"
    if any(not 0 < c.weight <= min(c.tokens, terms.assignment.tokens) for c in contributors):
        return "a weight is not within what was assigned"
    return None


def _update_objection(terms: Terms, body: Body) -> str | None:
    if body.kind is Kind.SKIP:
        return "a skip with contributions" if body.contributors or body.blobs else None
    if body.kind is not Kind.UPDATE:
        return f"nobody may propose a commit of kind {body.kind.name.lower()} yet"
    if reason := contributors_objection(terms, body.contributors):
        return reason
    if tuple(ref.size for ref in body.blobs) != terms.part_bytes:
        return "the update's parts have other sizes than the codec gives"
    return None


def terms_of(ledger: Ledger, manifest: Manifest, part_bytes: Sequence[int]) -> Terms:
    """The terms of the round after the ledger's last commit."""
    return Terms(
        run_id=ledger.genesis.run_id,
        round=ledger.height + 1,
        parent=ledger.head,
        members=ledger.members,
        updates=ledger.updates,
        rules=manifest.rounds,
        assignment=manifest.assignment,
        part_bytes=tuple(part_bytes),
        witnesses=frozenset(manifest.membership.witnesses),
        banned=len(ledger.banned),
    )
