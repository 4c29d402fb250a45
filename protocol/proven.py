"""Who may be a member next where leaders may lie: nobody goes or comes without a proof.

The leader of a two-thirds run and its voters follow these same rules, so a leader that wants to be rid of
somebody, or to bring friends, gets no votes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from atoll.protocol.admission import refusal
from atoll.protocol.commits import Body
from atoll.protocol.evidence import objection as evidence_objection
from atoll.protocol.ids import PeerId
from atoll.protocol.manifest import MembershipRules
from atoll.protocol.proofs import (
    Equivocation,
    Farewell,
    Joining,
    Place,
    Verify,
    farewell_message,
    joining_message,
)
from atoll.protocol.roster import MEMBERS_MAX, Member, Presence, Role, turned
from atoll.protocol.speeds import paced
from atoll.protocol.terms import Terms


@dataclass(frozen=True, slots=True)
class Claims:
    """What a leader has been told and can prove about who comes and goes."""

    joining: Mapping[PeerId, tuple[Role, Joining]]
    farewells: Mapping[PeerId, Farewell]
    evidence: Mapping[PeerId, Equivocation]


def silence_max(terms: Terms) -> int:
    """Rounds that a member may miss: more than liars that lead one after the other could make up."""
    return max(terms.rules.missed_max, terms.liars_max + 1)


def joiners_max(terms: Terms) -> int:
    """How many may join in one round, so that newcomers never outnumber those whom the run knows.

    The manifest's witnesses, before there is any worker, let in all who begin the run together.
    """
    return max(1, terms.liars_max) if terms.workers else MEMBERS_MAX


def leavers_max(terms: Terms) -> int:
    """How many may leave in one round: enough stay who hold the state and can agree."""
    return min(max(1, terms.liars_max), len(terms.voters) - 1)


def settle(body: Body, terms: Terms, here: Presence, claims: Claims) -> Body:
    """The same body with the members that these claims give, and the claims themselves."""
    evidence = tuple(claims.evidence[p] for p in terms.voters if p in claims.evidence)
    culprits = {e.peer for e in evidence}
    going = sorted(p for p in claims.farewells if p in terms.places and p not in culprits)
    farewells = tuple(claims.farewells[p] for p in going[: leavers_max(terms)])
    gone = culprits | {f.peer for f in farewells}
    kept = []
    for member in terms.members:
        missed = here.missed(member)
        if member.peer not in gone and missed <= silence_max(terms):
            role, _ = claims.joining.get(member.peer, (member.role, None))
            role = turned(member.role, role)
            kept.append(dataclasses.replace(member, role=role, missed=missed))
    since = terms.joiner_weight_from(body.kind)
    turning = [m.peer for m in kept if m.role is not terms.role_of(m.peer)]
    coming = sorted(p for p in claims.joining if p not in terms.places)
    coming = coming[: min(joiners_max(terms), MEMBERS_MAX - len(kept))]
    kept += [Member(p, claims.joining[p][0], since) for p in coming]
    return dataclasses.replace(
        body,
        members=paced(terms, terms.listed(kept), body.kind, body.contributors),
        evidence=evidence,
        joining=tuple(claims.joining[p][1] for p in sorted((*coming, *turning))),
        farewells=farewells,
    )


def objection(
    terms: Terms, body: Body, rules: MembershipRules, banned: Collection[PeerId], verify: Verify
) -> str | None:
    """Why the members of this body do not follow from its proofs, or None."""
    return (
        _evidence_objection(terms, body, verify)
        or _going_objection(terms, body, verify)
        or _coming_objection(terms, body, rules, banned, verify)
    )


def _evidence_objection(terms: Terms, body: Body, verify: Verify) -> str | None:
    peers = [e.peer for e in body.evidence]
    if len(set(peers)) != len(peers) or not terms.places.keys() >= {*peers}:
        return "evidence against no member, or twice against one"
    return next((why for e in body.evidence if (why := evidence_objection(terms.run_id, e, verify))), None)


def farewell_objection(terms: Terms, farewell: Farewell, verify: Verify) -> str | None:
    if abs(farewell.round - terms.round) > 1:
        return f"{farewell.peer[:60]} said farewell in round {farewell.round}"
    place = Place(terms.run_id, terms.epoch, farewell.round)
    if not verify(farewell.peer, farewell_message(place), farewell.signature):
        return f"a farewell that {farewell.peer[:60]} did not sign"
    return None


def _going_objection(terms: Terms, body: Body, verify: Verify) -> str | None:
    next_peers = {member.peer for member in body.members}
    culprits = {e.peer for e in body.evidence}
    leaving = [farewell.peer for farewell in body.farewells]
    if len(leaving) > leavers_max(terms) or len(set(leaving)) != len(leaving):
        return f"{len(leaving)} members leave at once"
    if not terms.places.keys() >= {*leaving} or next_peers & {*leaving, *culprits}:
        return "one that leaves is no member, or stays one"
    for farewell in body.farewells:
        if reason := farewell_objection(terms, farewell, verify):
            return reason
    for member in terms.members:
        silent = member.missed >= silence_max(terms)
        if member.peer not in next_peers | culprits | {*leaving} and not silent:
            return f"{member.peer} is left out without proof"
    return None


def joining_objection(
    terms: Terms,
    joining: Joining,
    role: Role,
    rules: MembershipRules,
    banned: Collection[PeerId],
    verify: Verify,
) -> str | None:
    """Why this peer may not become a member, or None."""
    if joining.peer in banned:
        return f"{joining.peer} signed two votes in one view, and is banned"
    if len(banned) >= MEMBERS_MAX:
        return "so many are banned that nobody joins any more"
    rounds = 1 if joining.peer in terms.places else terms.rules.keep_rounds  # it may turn back soon
    if not 0 <= terms.round - joining.round <= rounds:
        return f"{joining.peer[:60]} asked to join in round {joining.round}"
    place = Place(terms.run_id, terms.epoch, joining.round)
    if not verify(joining.peer, joining_message(place, role), joining.signature):
        return f"a wish to join that {joining.peer[:60]} did not sign"
    return refusal(rules, terms.run_id, joining.peer, role, joining.token)


def _coming_objection(
    terms: Terms, body: Body, rules: MembershipRules, banned: Collection[PeerId], verify: Verify
) -> str | None:
    new = {
        member.peer: member.role for member in body.members if member.role is not terms.role_of(member.peer)
    }
    if [joining.peer for joining in body.joining] != sorted(new):
        return "the new members and roles are not those that were asked for"
    coming = len(new.keys() - terms.places.keys())
    if coming > joiners_max(terms):
        return f"{coming} join at once, {joiners_max(terms)} may"
    checks = (joining_objection(terms, j, new[j.peer], rules, banned, verify) for j in body.joining)
    return next((reason for reason in checks if reason), None)
