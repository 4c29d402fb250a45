"""A leader's part in one view of a round: gather offers, plan, fix the contributor set, propose, count votes.

Nothing here is trusted by anybody: a leader that errs, lies or dies costs its view. Methods return the
messages to send as (receivers, message) pairs; `Peer` turns them into actions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from atoll.protocol.commits import Body, Contributor, Kind, Rejection
from atoll.protocol.ids import BlobRef, Digest, PeerId
from atoll.protocol.manifest import TOKENS_MAX
from atoll.protocol.messages import Column, Cut, Held, Lock, Message, Offer, Plan, Promise, Propose, Reduced
from atoll.protocol.proofs import Justification
from atoll.protocol.reasons import NO_OFFER, NOT_EVERYWHERE
from atoll.protocol.replicas import name_of, picked, reason, torn, torn_reason
from atoll.protocol.roster import Presence, Role
from atoll.protocol.speeds import paced
from atoll.protocol.terms import Terms, next_members
from atoll.protocol.waiting import Watch
from atoll.protocol.weighing import attended, weight_of

Outbox = list[tuple[tuple[PeerId, ...], Message]]
REVISIONS_MAX = 64
PATIENT_VIEWS = 2
"""In later views an update may lack a unit that was offered: else one link that is down could stop a run."""


@dataclass(slots=True)
class Exchange:
    """A plan in execution. Parts move to other owners, and the cut shrinks, with a growing revision.

    `named` is the name of its plan, of replicas. `owners`, `held` and `reduced` are by place: place p is part
    p, and where each part has two owners, place parts + p is the second one's. `relays` give the blobs in
    the owners' place where uplinks are slow. `complaints` says which owners miss whose contribution, and
    `barred` who gave a sum of a part that another one contradicts.
    """

    participants: tuple[Contributor, ...]
    owners: list[PeerId]
    relays: tuple[PeerId, ...] = ()
    revision: int = 1
    named: bytes = b""
    held: dict[int, frozenset[PeerId]] = field(default_factory=dict)
    cut: tuple[Contributor, ...] | None = None
    reduced: dict[int, BlobRef] = field(default_factory=dict)
    gone: set[PeerId] = field(default_factory=set)
    complaints: dict[PeerId, set[PeerId]] = field(default_factory=dict)
    barred: dict[int, set[PeerId]] = field(default_factory=dict)

    def may_own(self, peer: PeerId, part: int) -> bool:
        return peer not in self.gone and peer not in self.barred.get(part, ())


@dataclass(slots=True)
class Leading:
    terms: Terms
    view: int
    since_ms: int
    offers: dict[PeerId, Offer] = field(default_factory=dict)
    rejected: dict[PeerId, str] = field(default_factory=dict)
    leaving: set[PeerId] = field(default_factory=set)
    aside: dict[PeerId, Offer] = field(default_factory=dict)
    promises: dict[PeerId, tuple[int, Body] | None] = field(default_factory=dict)
    judged: bool = False
    quorum_ms: int | None = None
    watch: Watch = field(default_factory=Watch)
    exchange: Exchange | None = None
    body: Body | None = None
    votes: dict[PeerId, bytes] = field(default_factory=dict)
    # where there are two stages, and promises are proven
    words: dict[PeerId, Promise] = field(default_factory=dict)
    prepares: dict[PeerId, bytes] = field(default_factory=dict)
    lock: Lock | None = None
    signature: bytes = b""
    justification: Justification | None = None
    # where replicas stand in for each other: what did not reach the owners, and the exchanges given up for it
    given_up: dict[PeerId, tuple[BlobRef, ...]] = field(default_factory=dict)
    gone: set[PeerId] = field(default_factory=set)
    revisions: int = 0

    @property
    def parts(self) -> int:
        return len(self.terms.part_bytes)

    @property
    def blobs(self) -> int:
        """How many blobs an update has: those of other places are the same again."""
        assert self.exchange is not None
        return len(self.exchange.owners) if self.terms.rules.exchange == "sparse" else self.parts

    # ---- before the plan ------------------------------------------------------------------------

    def offer(self, sender: PeerId, offer: Offer, now_ms: int) -> None:
        """Take an offer into account; the rejected ones stay on record with their reason.

        A plan names the blobs of the offers it was made from: one made again later would be another. Only
        replicas that the plan does without may still offer, to stand in for those that it names.
        """
        if offer.leaving:
            self.leaving.add(sender)
        if not self._may_offer(sender, offer):
            return
        if sender not in self.terms.eligible:
            self.rejected[sender] = self._set_aside(sender, offer)
        elif tuple(ref.size for ref in offer.parts) != self.terms.part_bytes:
            self.rejected[sender] = "its parts have other sizes than the codec gives"
        elif max(offer.tokens, offer.steps) > TOKENS_MAX:
            self.rejected[sender] = "claims more tokens or steps than there can be"
        elif min(offer.tokens, offer.steps) > 0 and not self.weigh(sender, offer).weight:
            self.rejected[sender] = "weighs nothing"
        elif min(offer.tokens, offer.steps) > 0:
            self.rejected.pop(sender, None)
            self.offers[sender] = offer
            self.watch.offer(sender, now_ms + offer.spare_ms)
        if self.quorum_ms is None and self._covered >= self.terms.quorum:
            self.quorum_ms = now_ms

    def _set_aside(self, sender: PeerId, offer: Offer) -> str:
        """What weighs nothing is kept where audits may find that it should; why it is not taken."""
        if sender not in self.terms.trying:
            return "weighs nothing yet (probation)"
        if tuple(ref.size for ref in offer.parts) == self.terms.part_bytes and 0 < offer.steps <= TOKENS_MAX:
            self.aside[sender] = offer
        return "weighs nothing by what audits found"

    def _may_offer(self, sender: PeerId, offer: Offer) -> bool:
        if not self.terms.replicated:
            return self.exchange is None
        named = self.exchange.participants if self.exchange is not None else ()
        return all(c.peer != sender for c in named) and self.given_up.get(sender) != offer.parts

    def strays(self, anchor: Digest) -> list[PeerId]:
        """Take back the offers that start from another anchor, now that it is known; whose they were."""
        if self.judged:
            return []
        self.judged = True
        found = [p for p, offer in self.offers.items() if not offer.staleness and offer.anchor != anchor]
        for peer in found:
            del self.offers[peer]
            self.rejected[peer] = "started from another anchor"
        return found

    @property
    def may_propose(self) -> bool:
        """View 0 needs no promises; later ones those of a majority."""
        return self.view == 0 or len(self.promises) >= self.terms.majority

    @property
    def bound_to(self) -> Body | None:
        """The body that must be proposed again: the accepted one of the highest view."""
        accepted = [promise for promise in self.promises.values() if promise is not None]
        return max(accepted, key=lambda pair: pair[0])[1] if accepted else None

    def weigh(self, sender: PeerId, offer: Offer) -> Contributor:
        """With the weight that the run's rule gives."""
        weight = weight_of(self.terms, sender, offer.tokens, offer.steps, offer.staleness)
        train_ms = offer.train_ms * self.terms.by_speed
        return Contributor(sender, offer.tokens, offer.steps, weight, train_ms, offer.staleness)

    def plan(self) -> Outbox:
        """Name the participants and send each owner its columns."""
        taken, revision = self._taken(), self.revisions + 1
        participants = tuple(self.weigh(peer, self.offers[peer]) for peer in taken)
        uplinks = {peer: self.offers[peer].uplink for peer in taken}
        able = [peer for peer in taken if peer not in self.gone] or taken
        owners = self.terms.owners(able, self.view, uplinks)
        named = name_of(participants) if self.terms.replicated else b""
        self.exchange = Exchange(participants, owners, revision=revision, named=named)
        return self._plans(set(self.exchange.owners))

    @property
    def _covered(self) -> int:
        """How much has been offered, in what a quorum counts: contributions or, of replicas, units."""
        return len(self._taken()) if self.terms.replicated else len(self.offers)

    def _taken(self) -> list[PeerId]:
        """Whose offers a plan takes: all of them or, of replicas, one of each unit."""
        if not self.terms.replicated:
            return sorted(self.offers)
        disputed = self.torn()
        return sorted(
            picked(offered, self.offers, self.terms.assigned(offered[0]).tokens)
            for offered in self._by_unit().values()
            if offered[0] not in disputed
        )

    def _by_unit(self) -> dict[int, list[PeerId]]:
        """Who offered each unit."""
        of: dict[int, list[PeerId]] = {}
        for peer in self.offers:
            of.setdefault(self.terms.unit(peer), []).append(peer)
        return of

    def torn(self) -> frozenset[PeerId]:
        """Whose units are left out, for now, as their replicas differ and none of them is outvoted."""
        if self.terms.rules.disputes != "drop":
            return frozenset()
        tokens = self.terms.assignment.tokens
        return frozenset(
            peer
            for offered in self._by_unit().values()
            if torn(offered, self.offers, tokens)
            for peer in offered
        )

    def unconfirmed(self, gone: Collection[PeerId]) -> int:
        """Units with one offer, which another worker may yet confirm or dispute, where that matters."""
        if self.terms.rules.disputes != "drop":
            return 0
        here = [(group, self.offers.keys() & set(group)) for group in self.terms.groups]
        return sum(len(offered) == 1 and not {*group} <= {*offered, *gone} for group, offered in here)

    def _give_up(self, lost: set[PeerId]) -> bool:
        """Go back to before the plan where a unit's contribution was lost: a replica may have it, or come.

        Its owners hold the other contributions by then, so a new plan costs little. Where nobody else offered
        the unit, an owner may yet get it: it may still ask a frozen replica for the same bytes. So it is
        waited for until the view ends, and only later views go on without. Whether no cut is to be made now.
        """
        exchange = self.exchange
        if exchange is None or not lost or not self.terms.replicated or exchange.revision >= REVISIONS_MAX:
            return False
        offered = Counter(self.terms.unit(peer) for peer in self.offers)
        replaced = {peer for peer in lost if offered[self.terms.unit(peer)] > 1}
        if not replaced and self.view < PATIENT_VIEWS:
            return True
        for peer in replaced or lost:
            self.given_up[peer] = self.offers.pop(peer).parts
            self.rejected[peer] = NOT_EVERYWHERE
        self.gone |= exchange.gone
        self.revisions, self.exchange = exchange.revision, None
        return True

    def _plans(self, receivers: Collection[PeerId], parts: Collection[int] | None = None) -> Outbox:
        exchange = self.exchange
        assert exchange is not None
        out: Outbox = []
        for owner in sorted(receivers):
            mine = sorted(
                {
                    place % self.parts
                    for place, who in enumerate(exchange.owners)
                    if who == owner and (parts is None or place in parts)
                }
            )
            columns = tuple(
                Column(part, tuple(self.offers[p.peer].parts[part] for p in exchange.participants))
                for part in mine
            )
            message = Plan(self.terms.round, self.view, exchange.revision, exchange.participants, columns)
            out.append(((owner,), message))
        return out

    # ---- the exchange ---------------------------------------------------------------------------

    def held(self, sender: PeerId, held: Held) -> Outbox:
        """An owner has settled what it holds of a part."""
        exchange = self.exchange
        places = self._places(sender, held.part)
        if exchange is None or not places or held.plan != exchange.named:
            return []
        exchange.held.update((place, frozenset(held.peers)) for place in places)
        return self._cut()

    def _places(self, owner: PeerId, part: int) -> list[int]:
        """Where this peer owns this part."""
        owners = self.exchange.owners if self.exchange is not None else []
        return [
            place
            for place in range(part, len(owners), self.parts)
            if owners[place] == owner and part < self.parts
        ]

    def _cut(self) -> Outbox:
        """Fix the contributors as soon as every part has reported; shrink them if a moved part lacks some."""
        exchange = self.exchange
        assert exchange is not None
        now = exchange.cut if exchange.cut is not None else exchange.participants
        missed = {c.peer for c in now for held in exchange.held.values() if c.peer not in held}
        if not self.terms.liars_max and self._give_up(missed):  # else a single owner's word may be a lie
            return []
        if len(exchange.held) < len(exchange.owners):
            return []
        complaining = self._complaints({c.peer for c in now}) if self.terms.liars_max else ()
        if complaining and (moved := self.move_parts(complaining)):
            return moved
        everywhere = frozenset.intersection(*exchange.held.values())
        kept = tuple(c for c in now if c.peer in everywhere and not self._blamed(c.peer))
        if self._give_up({c.peer for c in now} - {c.peer for c in kept}):
            return []
        if exchange.cut is None or kept != exchange.cut:
            exchange.revision += 1
            exchange.cut, exchange.reduced = kept, {}
        if len(kept) < self.terms.quorum:
            return []
        # who could not give its own part in time will not give a sum either
        outside = set(exchange.owners) - {contributor.peer for contributor in kept}
        if outside and (moved := self.move_parts(outside)):
            return moved
        message = Cut(self.terms.round, self.view, exchange.revision, kept)
        waited = {owner for part, owner in enumerate(exchange.owners) if part not in exchange.reduced}
        return [(tuple(sorted(waited)), message)] if waited else []

    def _blamed(self, peer: PeerId) -> bool:
        """Whether more owners miss what it offered than may lie; only counted where some may."""
        return len(self.exchange.complaints.get(peer, ())) > self.terms.liars_max if self.exchange else False

    def _complaints(self, now: set[PeerId]) -> set[PeerId]:
        """Owners that miss what, for all that is known, may be missing on their own word alone.

        One that few miss may have been slandered, one that more miss than may lie did not give its own.
        """
        exchange = self.exchange
        assert exchange is not None
        for place, held in exchange.held.items():
            for missing in now - held:
                exchange.complaints.setdefault(missing, set()).add(exchange.owners[place])
        return {
            exchange.owners[place]
            for place, held in exchange.held.items()
            if any(len(exchange.complaints[peer]) <= self.terms.liars_max for peer in now - held)
        }

    @property
    def cut_failed(self) -> bool:
        """Whether too few contributions reached every owner: the round can only be skipped."""
        cut = self.exchange.cut if self.exchange else None
        return cut is not None and len(cut) < self.terms.quorum

    def reduced(self, sender: PeerId, reduced: Reduced) -> None:
        exchange = self.exchange
        if exchange is None or exchange.cut is None or reduced.revision != exchange.revision:
            return
        places = self._places(sender, reduced.part)
        if places and reduced.blob.size == self.terms.part_bytes[reduced.part]:
            exchange.reduced.update((place, reduced.blob) for place in places)

    def disputed(self) -> list[int]:
        """Parts whose two owners gave different sums: both may not sum these again."""
        exchange = self.exchange
        if exchange is None or len(exchange.owners) == self.parts:
            return []
        differ = []
        for part in range(self.parts):
            sums = exchange.reduced.get(part), exchange.reduced.get(part + self.parts)
            if None not in sums and sums[0] != sums[1]:
                differ.append(part)
                exchange.barred.setdefault(part, set()).update(exchange.owners[part :: self.parts])
        return differ

    def silent_owners(self) -> set[PeerId]:
        """Owners that a stage of the exchange waits for."""
        exchange = self.exchange
        if exchange is None or self.body is not None:
            return set()
        done = exchange.held if exchange.cut is None else exchange.reduced
        return {owner for part, owner in enumerate(exchange.owners) if part not in done}

    def move_parts(self, gone: Collection[PeerId]) -> Outbox:
        """Give the parts of lost or silent owners to other participants, who fetch just these."""
        exchange = self.exchange
        if exchange is None or self.body is not None or exchange.revision >= REVISIONS_MAX:
            return []
        exchange.gone |= set(gone)
        moved = [
            place
            for place, owner in enumerate(exchange.owners)
            if not exchange.may_own(owner, place % self.parts)
        ]
        able = [c.peer for c in exchange.cut or exchange.participants]
        heirs = {place: [p for p in able if exchange.may_own(p, place % self.parts)] for place in moved}
        if not moved or not all(heirs.values()):
            return []
        exchange.revision += 1
        for place in moved:
            both = exchange.owners[place % self.parts :: self.parts]
            load = {peer: exchange.owners.count(peer) for peer in able}
            rank = {peer: (peer in both, load[peer], peer) for peer in heirs[place]}
            exchange.owners[place] = min(heirs[place], key=lambda peer: rank[peer])
            exchange.held.pop(place, None)
            exchange.reduced.pop(place, None)
        if exchange.cut is not None:
            exchange.reduced = {}
        receivers = {exchange.owners[part] for part in moved}
        return [*self._plans(receivers, set(moved)), *self._recut()]

    def _recut(self) -> Outbox:
        """After a move every owner must hear the new revision, or its sum would be of the old one."""
        exchange = self.exchange
        if exchange is None or exchange.cut is None or self.cut_failed:
            return []
        message = Cut(self.terms.round, self.view, exchange.revision, exchange.cut)
        return [(tuple(sorted(set(exchange.owners))), message)]

    def again(self) -> Outbox:
        """Messages may be lost: repeat what the stage in progress waits for."""
        exchange = self.exchange
        if self.body is not None:
            first_stage = self.terms.two_thirds and self.lock is None
            done = self.prepares if first_stage else self.votes
            silent_voters = tuple(v for v in self.terms.voters if v not in done)
            lock: Outbox = [(silent_voters, self.lock)] if self.lock is not None else []
            return self.propose(silent_voters) + lock
        if exchange is None:
            return []
        if exchange.cut is None:
            silent = {owner for part, owner in enumerate(exchange.owners) if part not in exchange.held}
            return self._plans(silent)
        unheld = {part for part in range(len(exchange.owners)) if part not in exchange.held}
        plans = self._plans({exchange.owners[part] for part in unheld}, unheld)
        return [*plans, *(self._cut() or self._recut())]

    # ---- the body -------------------------------------------------------------------------------

    def complete(self) -> bool:
        """Whether every part's sum is known."""
        exchange = self.exchange
        return (
            exchange is not None
            and exchange.cut is not None
            and len(exchange.reduced) == len(exchange.owners)
            and all(ref == exchange.reduced[place % self.blobs] for place, ref in exchange.reduced.items())
        )

    def make_body(self, kind: Kind, anchor: Digest, here: Presence, joiners: dict[PeerId, Role]) -> Body:
        """What this leader found, for the members to vote on."""
        terms, exchange = self.terms, self.exchange
        contributors: tuple[Contributor, ...] = ()
        blobs: tuple[BlobRef, ...] = ()
        if kind is Kind.UPDATE:
            assert exchange is not None
            assert exchange.cut is not None
            contributors = exchange.cut
            blobs = tuple(ref for _, ref in sorted(exchange.reduced.items())[: self.blobs])
        members = next_members(terms, here, self.leaving, joiners, kind)
        if not members:
            members = tuple(m for m in terms.members if m.peer in here.heard)
        members = attended(terms, paced(terms, members, kind, contributors), kind, contributors)
        rejected = self._rejections({c.peer for c in contributors}, kind)
        return Body(
            terms.run_id,
            terms.round,
            terms.parent,
            kind,
            anchor,
            terms.members,
            members,
            contributors,
            rejected,
            blobs,
            terms.fragment,
            terms.epoch,
        )

    def _rejections(self, included: Collection[PeerId], kind: Kind) -> tuple[Rejection, ...]:
        reasons = dict(self.rejected)
        units = {self.terms.unit(peer): peer for peer in included} if self.terms.replicated else {}
        disputed = self.torn()
        for peer in self.terms.eligible.difference(included):
            taken = units.get(self.terms.unit(peer)) if units else None
            if taken is None and peer in disputed:
                default = torn_reason(peer, self._by_unit()[self.terms.unit(peer)], self.offers)
            elif peer in self.offers and taken in self.offers:
                default = reason(peer, taken, self.offers)
            elif peer in self.offers:
                default = "too few offers for an update" if kind is Kind.SKIP else NOT_EVERYWHERE
            else:
                default = NO_OFFER
            reasons.setdefault(peer, default)
        return tuple(Rejection(peer, reason) for peer, reason in sorted(reasons.items()))

    def propose(self, receivers: Collection[PeerId]) -> Outbox:
        """The body, with who holds its blobs: the owners, or whoever accepted or contributed to it before."""
        body = self.body
        assert body is not None
        exchange = self.exchange
        if exchange is not None and body.kind is Kind.UPDATE:
            holders, by_part = (*exchange.relays, *exchange.owners), True
        else:
            accepted = sorted(p for p, promise in self.promises.items() if promise and promise[1] == body)
            agreed = self.justification.certificate if self.justification is not None else ()
            anybody = dict.fromkeys(
                (*accepted, *(p for p, _ in agreed), *(c.peer for c in body.contributors))
            )
            holders, by_part = tuple(anybody), False
        message = Propose(
            self.terms.round, self.view, body, holders, by_part, self.signature, self.justification
        )
        return [(tuple(sorted(receivers)), message)] if receivers else []
