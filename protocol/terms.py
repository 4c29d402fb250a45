"""The terms of one round: everything that each member derives alone from the parent commit and the manifest.

Whoever has the same ledger has the same terms, so nothing here is ever sent. Choices that must agree come
from hashes of (parent commit, peer).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from atoll.protocol.ids import Digest, PeerId, digest_of
from atoll.protocol.ledger import Body, Kind, Ledger, Member, Role, majority
from atoll.protocol.manifest import Assignment, RoundRules


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
        return by_hash(self.parent, self.voters, "leader")

    def leader(self, view: int) -> PeerId:
        return self._order[view % len(self._order)]

    @property
    def majority(self) -> int:
        return majority(len(self.members))

    @property
    def quorum(self) -> int:
        """Offers that make an update possible."""
        return max(1, math.ceil(self.rules.quorum * len(self.eligible)))

    @property
    def gathering(self) -> bool:
        """Whether the run waits for workers instead of training."""
        return len(self.eligible) < (1 if self.updates else self.rules.start_workers)

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

    def owners(self, participants: Collection[PeerId]) -> list[PeerId]:
        """Who owns each part, spread evenly over the participants."""
        order = by_hash(self.parent, participants, "owner")
        return [order[part % len(order)] for part in range(len(self.part_bytes))]


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

    A joiner's weight starts after its probation, except before the first update, when nobody is ahead.
    """
    rules, kept = terms.rules, []
    for member in terms.members:
        missed = 0 if member.peer in heard else member.missed + 1
        if member.peer not in leaving and missed <= rules.missed_max:
            kept.append(Member(member.peer, member.role, member.weight_from, missed))
    started = terms.updates > 0 or kind is Kind.UPDATE
    since = terms.round + 1 + (rules.probation_rounds if started else 0)
    known = set(terms.voters)
    kept += [Member(peer, role, since) for peer, role in joiners.items() if peer not in known]
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
    if not peers or peers != sorted(set(peers)):
        return "the next members are empty, unordered or repeated"
    now = {member.peer: member for member in terms.members}
    for member in body.members:
        was = now.get(member.peer)
        if was is None:
            if member.weight_from <= terms.round or member.missed:
                return f"{member.peer} joins with a past"
        elif (member.role, member.weight_from) != (was.role, was.weight_from):
            return f"{member.peer} changed its role or weight"
        elif member.missed not in (0, was.missed + 1):
            return f"{member.peer} missed {was.missed} rounds, not {member.missed}"
    return None


def _update_objection(terms: Terms, body: Body) -> str | None:
    peers = [contributor.peer for contributor in body.contributors]
    if body.kind is not Kind.UPDATE:
        return "a skip with contributions" if peers or body.blobs else None
    if len(set(peers)) != len(peers) or not terms.eligible.issuperset(peers):
        return "a contributor is repeated or may not contribute"
    if len(peers) < terms.quorum:
        return f"{len(peers)} contributions, {terms.quorum} are the quorum"
    if any(not 0 < c.weight <= min(c.tokens, terms.assignment.tokens) for c in body.contributors):
        return "a weight is not within what was assigned"
    if tuple(ref.size for ref in body.blobs) != terms.part_bytes:
        return "the update's parts have other sizes than the codec gives"
    return None


def terms_of(ledger: Ledger, rules: RoundRules, assignment: Assignment, part_bytes: Sequence[int]) -> Terms:
    """The terms of the round after the ledger's last commit."""
    return Terms(
        run_id=ledger.genesis.run_id,
        round=ledger.height + 1,
        parent=ledger.head,
        members=ledger.members,
        updates=ledger.updates,
        rules=rules,
        assignment=assignment,
        part_bytes=tuple(part_bytes),
    )
