"""The terms of one round: everything that each member derives alone from the parent commit and the manifest.

Whoever has the same ledger has the same terms, so nothing here is ever sent. Choices that must agree come
from hashes of (parent commit, peer).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType

from atoll.protocol.audit import AuditRules
from atoll.protocol.audited import factors, subject_of
from atoll.protocol.commits import Body, Contributor, Kind
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.fragments import fragment_of
from atoll.protocol.ids import Digest, PeerId, public_key_of, readable
from atoll.protocol.ledger import Ledger
from atoll.protocol.manifest import Assignment, Manifest, RoundRules
from atoll.protocol.pace import lower_median, tokens_of
from atoll.protocol.participation import Gaps
from atoll.protocol.private import PRIVATE, groups_by_shard, holders_of, shards_objection, unit_by_shard
from atoll.protocol.proofs import Place
from atoll.protocol.replicas import Groups, groups_of, unit_of
from atoll.protocol.roster import (
    MEMBERS_MAX,
    NO_GAPS,
    Member,
    Presence,
    Role,
    Same,
    by_hash,
    committee,
    liars_max,
    majority,
    may_become,
    turned,
)
from atoll.protocol.shares import shared_out
from atoll.protocol.speeds import pace_objection
from atoll.protocol.weighing import attendance_objection, weights_objection


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
    epoch: int = 0
    witnesses: frozenset[str] = frozenset()
    banned: int = 0
    audit: AuditRules | None = None
    subject: Body | None = None

    @property
    def place(self) -> Place:
        """Where in the run's history this round is; part of whatever is signed in it."""
        return Place(self.run_id, self.epoch, self.round)

    @cached_property
    def peers(self) -> tuple[PeerId, ...]:
        """All members, in the order of their peer ids."""
        return tuple(member.peer for member in self.members)

    @cached_property
    def places(self) -> dict[PeerId, int]:
        """Each member's place among them."""
        return {peer: place for place, peer in enumerate(self.peers)}

    def role_of(self, peer: PeerId) -> Role | None:
        place = self.places.get(peer)
        return None if place is None else self.members[place].role

    @cached_property
    def voters(self) -> tuple[PeerId, ...]:
        """Who votes and leads this round: all members, or a committee of `voters_max` of them."""
        return committee(self.members, self.parent, self.rules.committee_max)

    @cached_property
    def voting(self) -> frozenset[PeerId]:
        return frozenset(self.voters)

    @cached_property
    def others(self) -> tuple[PeerId, ...]:
        """Members that do not vote this round; none in swarms of usual size."""
        return tuple(peer for peer in self.peers if peer not in self.voting)

    @cached_property
    def others_places(self) -> dict[PeerId, int]:
        return {peer: place for place, peer in enumerate(self.others)}

    def voters_but(self, peer: PeerId) -> tuple[PeerId, ...]:
        return tuple(voter for voter in self.voters if voter != peer)

    @cached_property
    def workers(self) -> tuple[PeerId, ...]:
        """Who trains, in the order that gives each its shard of the data."""
        return tuple(sorted(member.peer for member in self.members if member.role is Role.WORKER))

    @cached_property
    def shards(self) -> dict[PeerId, int]:
        """Which shard of the data each worker takes."""
        return {peer: place for place, peer in enumerate(self.workers)}

    @property
    def replicated(self) -> bool:
        """Whether several workers train each unit."""
        return self.rules.replicated

    @cached_property
    def groups(self) -> Groups:
        """The workers of each unit, of those that weigh something."""
        return groups_in(self.members, self.round, self.rules)

    @cached_property
    def _shard_names(self) -> tuple[str, ...]:
        return tuple(holders_of([m for m in self.members if m.peer in self.eligible]))

    def unit(self, peer: PeerId) -> int:
        """Which unit a member trains, where several may train the same."""
        if self.rules.shards == PRIVATE:
            return unit_by_shard(self.members[self.places[peer]].shard, self._shard_names)
        return unit_of(peer, self.groups)

    def in_sum(self, contributors: Sequence[Contributor]) -> Sequence[Contributor]:
        """Contributors in the order of a sum: of their units, or whoever is away would change its bits.

        They stand by peer id; consecutive groups make that the order of units as well.
        """
        if self.rules.shards != PRIVATE:
            return contributors
        return sorted(contributors, key=lambda contributor: self.unit(contributor.peer))

    def shard(self, peer: PeerId) -> tuple[int, int]:
        """(index, count) of what a worker trains on: a shard of the data, its unit, or all that it holds."""
        if self.rules.shards == PRIVATE:
            return 0, 1
        if self.replicated:
            return self.unit(peer), len(self.groups)
        return self.shards[peer], len(self.workers)

    @property
    def by_speed(self) -> bool:
        """Whether each worker is assigned steps by its speed."""
        return self.rules.work == "by-speed"

    def gaps(self, peer: PeerId) -> Gaps:
        """How seldom a member contributed up to this round."""
        return self.members[self.places[peer]].gaps if peer in self.places else NO_GAPS

    def assigned(self, peer: PeerId) -> Assignment:
        """The inner steps that a worker is to do, and the tokens that they are, which bound its weight.

        Who has no steps of its own yet does as many as the middle one of the others.
        """
        if not self.by_speed or peer not in self.places:
            return self.assignment
        steps = self.members[self.places[peer]].steps or self._usual_steps
        return Assignment(steps, tokens_of(steps, self.assignment))

    @cached_property
    def _usual_steps(self) -> int:
        known = sorted(member.steps for member in self.members if member.steps)
        return lower_median(known) if known else self.assignment.steps

    @cached_property
    def eligible(self) -> frozenset[PeerId]:
        """Workers whose contributions weigh something this round."""
        if self.audit is None:
            return frozenset(eligible(self.members, self.round))
        return frozenset(peer for peer, factor in self.factors.items() if factor)

    @cached_property
    def factors(self) -> dict[PeerId, int]:
        """What audits leave of the weight of each worker that is past its probation, over UNIT."""
        if self.audit is None:
            return {}
        past = frozenset(eligible(self.members, self.round))
        return factors([member for member in self.members if member.peer in past], self.audit)

    @cached_property
    def trying(self) -> frozenset[PeerId]:
        """Workers of whose weight audits leave nothing: what they send is looked at, and taken no more."""
        return frozenset(peer for peer, factor in self.factors.items() if not factor)

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

    @cached_property
    def liars_max(self) -> int:
        """How many members may lie; none where a majority of votes is enough."""
        return liars_max(len(self.voters)) if self.two_thirds else 0

    @cached_property
    def majority(self) -> int:
        """Votes that certify, and promises that let a later leader propose."""
        return len(self.voters) - self.liars_max if self.two_thirds else majority(len(self.voters))

    @cached_property
    def quorum(self) -> int:
        """Contributions that make an update possible; of replicas, each to another unit."""
        full = len(self.groups) if self.replicated else len(self.eligible)
        return max(1, math.ceil(self.rules.quorum * full))

    @cached_property
    def gathering(self) -> bool:
        """Whether the run waits for workers instead of training."""
        return len(self.eligible) < self.wanted

    @property
    def wanted(self) -> int:
        """How many workers there must be to go on; those that were banned will not come again."""
        return 1 if self.updates else max(1, self.rules.start_workers - self.banned)

    @cached_property
    def complete(self) -> bool:
        """Whether the run has had all its updates."""
        return 0 < self.rules.rounds <= self.updates

    @property
    def fragment(self) -> int:
        """What of the model this round is for."""
        return fragment_of(self.round, self.rules.fragments)

    def update_bytes(self, contributors: int) -> tuple[int, ...]:
        """Sizes of the blobs of an update: the parts of the mean or, if sparse, the contributions."""
        return self.part_bytes * contributors if self.rules.exchange == "sparse" else self.part_bytes

    @cached_property
    def deadline_ms(self) -> int:
        moved = sum(self.update_bytes(len(self.eligible)))
        return self.rules.deadline_ms + moved * 1000 // self.rules.bytes_per_s_min

    def patience_ms(self, view: int) -> int:
        """How long a silent leader is borne; longer in later views, so that slow networks agree too."""
        return self.deadline_ms * min(4, 1 + view // 2)

    def joiner_weight_from(self, kind: Kind) -> int:
        """From which round on a joiner's contributions weigh something, if this round ends in this way."""
        started = self.updates > 0 or kind is Kind.UPDATE
        return self.round + 1 + (self.rules.probation_rounds if started else 0)

    def listed(self, members: Collection[Member]) -> tuple[Member, ...]:
        """Members in their order; the very list of this round if nothing is different."""
        ordered = tuple(sorted(members, key=lambda member: member.peer))
        return self.members if ordered == self.members else ordered

    def owners(
        self,
        participants: Collection[PeerId],
        view: int = 0,
        uplinks: Mapping[PeerId, int] = MappingProxyType({}),
    ) -> list[PeerId]:
        """Who owns each part, spread over the participants by what their uplinks carry.

        Where some may lie each part has two owners, the second ones behind all the first, and other views
        have others: else two liars that own a part together could withhold it in every view. They
        are spread evenly then, as anybody may claim any uplink.
        """
        if not self.liars_max or len(participants) < 2:
            order = by_hash(self.parent, tuple(participants), "owner")
            return shared_out(len(self.part_bytes), order, uplinks)
        order = by_hash(self.parent, tuple(participants), f"owner {view}")
        parts = range(len(self.part_bytes))
        return [order[(part + copy) % len(order)] for copy in range(2) for part in parts]


def eligible(members: Sequence[Member], round_: int) -> list[PeerId]:
    return [m.peer for m in members if m.role is Role.WORKER and m.weight_from <= round_]


def groups_in(members: Sequence[Member], round_: int, rules: RoundRules) -> Groups:
    """The workers of each unit of a round: consecutive ones, or those that hold the same shard."""
    if rules.shards == PRIVATE:
        counted = frozenset(eligible(members, round_))
        return groups_by_shard([member for member in members if member.peer in counted])
    return groups_of(sorted(eligible(members, round_)), rules.replicas)


PIECES_MAX = 4
"""How many parts each owner has at most: while one is summed, the next one's contributions travel."""


def parts_of(members: tuple[Member, ...], round_: int, rules: RoundRules, encoded_bytes: int) -> int:
    """Into how many parts a fragment of so many bytes is cut: as many for each that may contribute."""
    owners = max(1, min(rules.owners_max, _eligible(Same(members), round_)))
    pieces = min(PIECES_MAX, rules.owners_max // owners, encoded_bytes // (owners * rules.part_bytes_min))
    return owners * max(1, pieces)


def part_bytes_of(
    members: tuple[Member, ...], round_: int, rules: RoundRules, sizes: Callable[[int, int], tuple[int, ...]]
) -> tuple[int, ...]:
    """The encoded size of each part of a round among these members; `sizes(fragment, parts)` tells them."""
    fragment = fragment_of(round_, rules.fragments)
    whole = sizes(fragment, 1)
    if rules.exchange != "dense":
        return whole
    return sizes(fragment, parts_of(members, round_, rules, whole[0]))


@lru_cache(maxsize=16)
def _eligible(members: Same[tuple[Member, ...]], round_: int) -> int:
    return len(eligible(members.it, round_))


def next_members(
    terms: Terms,
    here: Presence,
    leaving: Collection[PeerId],
    joiners: dict[PeerId, Role],
    kind: Kind,
) -> tuple[Member, ...]:
    """The members of the next round: those that were not silent for too long, and who asked to join.

    Those that are here are always a majority of the next members: else the silent ones go at once, the
    longest silent first, because the round after could not be agreed on. A joiner's weight starts after its
    probation, except before the first update, when nobody is ahead. A member may ask for another role.
    """
    rules, kept = terms.rules, []
    for member in terms.members:
        missed = here.missed(member)
        if member.peer not in leaving and missed <= rules.missed_max:
            role = turned(member.role, joiners.get(member.peer, member.role))
            same = (role, missed) == (member.role, member.missed)
            kept.append(member if same else dataclasses.replace(member, role=role, missed=missed))
    if joiners.keys() - terms.places.keys() and not any(member.missed == 0 for member in kept):
        # joiners hold nothing of this round yet: who leaves stays until one of them has it
        kept += [m for m in terms.members if m.peer in leaving and m.peer in here.heard]
    kept.sort(key=lambda member: (member.missed, member.peer))
    count = sum(member.missed == 0 for member in kept)
    del kept[max(count, 2 * count - 1) :]
    since = terms.joiner_weight_from(kind)
    new = sorted(joiners.keys() - terms.places.keys())
    kept += [Member(peer, joiners[peer], since) for peer in new[: max(0, MEMBERS_MAX - len(kept))]]
    return terms.listed(kept)


def objection(terms: Terms, body: Body, anchor: Digest) -> str | None:
    """Why a member may not vote for this body, or None."""
    place = (body.run_id, body.epoch, body.round, body.parent)
    if place != (terms.run_id, terms.epoch, terms.round, terms.parent):
        return f"the body is of another place in the ledger than round {terms.round}"
    if body.anchor != anchor:
        return "the body starts from another anchor than mine"
    if body.fragment != terms.fragment:
        return f"round {terms.round} is for fragment {terms.fragment}, not {body.fragment}"
    return (
        _membership_objection(terms, body)
        or shards_objection(terms.members, body.members, terms.rules)
        or _update_objection(terms, body)
        or pace_objection(terms, body)
        or attendance_objection(terms, body)
    )


def _membership_objection(terms: Terms, body: Body) -> str | None:
    if not terms.two_thirds and (body.evidence or body.joining or body.farewells):
        return "proofs that this run does not ask for"
    if body.members is terms.members:
        return None
    peers = [member.peer for member in body.members]
    if not peers or peers != sorted(set(peers)) or len(peers) > MEMBERS_MAX:
        return "the next members are empty, unordered, repeated or too many"
    for member in body.members:
        place = terms.places.get(member.peer)
        was = None if place is None else terms.members[place]
        if was is member:
            continue
        if was is None:
            if reason := _joiner_objection(terms, member):
                return reason
        elif member.weight_from != was.weight_from or not may_become(was.role, member.role):
            return f"{member.peer} changed its role or weight"
        elif member.missed not in (0, was.missed, was.missed + 1):
            return f"{member.peer} missed {was.missed} rounds, not {member.missed}"
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
    return _contributors_objection(Same(terms), Same(contributors))


@lru_cache(maxsize=64)
def _contributors_objection(of: Same[Terms], said: Same[Sequence[Contributor]]) -> str | None:
    terms, contributors = of.it, said.it
    peers = [contributor.peer for contributor in contributors]
    if len(set(peers)) != len(peers) or not terms.eligible.issuperset(peers):
        return "a contributor is repeated or may not contribute"
    if terms.replicated and len({terms.unit(peer) for peer in peers}) < len(peers):
        return "two contributors trained the same unit"
    if len(peers) < terms.quorum:
        return f"{len(peers)} contributions, {terms.quorum} are the quorum"
    return weights_objection(terms, contributors)


def _update_objection(terms: Terms, body: Body) -> str | None:
    if any(readable(rejection.reason) != rejection.reason for rejection in body.rejected):
        return "a reason of a rejection is no short line of text"
    if body.kind is Kind.SKIP:
        return "a skip with contributions" if body.contributors or body.blobs else None
    if body.kind is not Kind.UPDATE:
        return f"nobody may propose a commit of kind {body.kind.name.lower()} yet"
    if reason := contributors_objection(terms, body.contributors):
        return reason
    if tuple(ref.size for ref in body.blobs) != terms.update_bytes(len(body.contributors)):
        return "the update's parts have other sizes than the codec gives"
    if terms.rules.exchange == "sparse" and len({ref.digest for ref in body.blobs}) < len(body.blobs):
        return "a contribution is in the update twice"
    return None


def terms_of(ledger: Ledger, manifest: Manifest, part_bytes: Sequence[int]) -> Terms:
    """The terms of the round after the ledger's last commit."""
    place = (ledger.genesis.run_id, ledger.height + 1, ledger.head, ledger.epoch, ledger.updates)
    whole = Same(ledger.members), Same(manifest), tuple(part_bytes)
    return _terms(*place, len(ledger.banned), *whole, Same(subject_of(ledger) if manifest.audit else None))


def terms_after(
    ledger: Ledger, body: Body, manifest: Manifest, sizes: Callable[[int, int], tuple[int, ...]]
) -> Terms:
    """What the terms of the round after this body's will be, if it is what the ledger's next commit holds."""
    part_bytes = part_bytes_of(body.members, body.round + 1, manifest.rounds, sizes)
    updates = ledger.updates + (body.kind is Kind.UPDATE)
    place = (ledger.genesis.run_id, body.round + 1, body.digest, ledger.epoch, updates)
    return _terms(*place, len(ledger.banned), Same(body.members), Same(manifest), part_bytes)


NOTHING: Same[Body | None] = Same(None)


@lru_cache(maxsize=8)
def _terms(
    run_id: Digest,
    round_: int,
    parent: Digest,
    epoch: int,
    updates: int,
    banned: int,
    members: Same[tuple[Member, ...]],
    manifest: Same[Manifest],
    part_bytes: tuple[int, ...],
    subject: Same[Body | None] = NOTHING,
) -> Terms:
    """Peers of one process (a simulation) share what each of them would derive alone."""
    return Terms(
        run_id=run_id,
        round=round_,
        parent=parent,
        members=members.it,
        updates=updates,
        rules=manifest.it.rounds,
        assignment=manifest.it.assignment,
        part_bytes=part_bytes,
        witnesses=frozenset(manifest.it.membership.witnesses),
        epoch=epoch,
        banned=banned,
        audit=manifest.it.audit.rules if manifest.it.audit is not None else None,
        subject=subject.it,
    )
