"""Audits in a run's rounds: whom a commit draws, what the scores of a later one make of its members.

A round's update names all contributions that were sent to it (`Body.sent`), and its digest draws who looks
at which. They fetch and measure while the next round trains, and what they signed stands in the commit
`AFTER` rounds later, whatever came of that round. So no round waits for an audit. Whoever has the two commits
computes the same reputations, and voters check them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from atoll.protocol import audit
from atoll.protocol.audit import AuditRules, Score
from atoll.protocol.commits import Body, Kind
from atoll.protocol.ids import PeerId
from atoll.protocol.ledger import Ledger
from atoll.protocol.proofs import Verify
from atoll.protocol.roster import Member, Reputation, Same
from atoll.protocol.weights import UNIT

if TYPE_CHECKING:
    from atoll.protocol.terms import Terms

AFTER = 2
"""The next round is for fetching and measuring; ledgers keep that many commits at least."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Who audits what a commit took, and whose of it. Nobody, where too few could be compared or outvoted."""

    auditors: tuple[PeerId, ...] = ()
    targets: tuple[PeerId, ...] = ()


def draw(subject: Body | None, rules: AuditRules) -> Draw:
    """What the digest of this commit draws, of those that go on as members."""
    return Draw() if subject is None or subject.round < rules.from_round else _draw(Same(subject), rules)


@lru_cache(maxsize=8)
def _draw(same: Same[Body], rules: AuditRules) -> Draw:
    subject = same.it
    members, known = {member.peer for member in subject.members}, reputations(subject.members)
    sent = [one.peer for one in subject.sent if one.peer in members]
    counted = [peer for peer in sent if peer in subject.counted]
    able = counted if len(counted) >= audit.AUDITORS_MIN else sent  # else no joiner could ever be tried
    auditors = audit.panel(subject.digest, able, known, rules)
    targets = audit.targets(subject.digest, sent, known, rules)
    fits = len(auditors) >= audit.AUDITORS_MIN and len(targets) >= audit.TARGETS_MIN
    return Draw(auditors, targets) if fits else Draw()


def reputations(members: Sequence[Member]) -> dict[PeerId, Reputation]:
    """Of those that have one: the others are founders that nobody judged yet."""
    return {member.peer: member.reputation for member in members if member.reputation is not None}


def subject_of(ledger: Ledger) -> Body | None:
    """The commit that the scores of the round in progress are about, if anything was sent to it."""
    round_ = ledger.height + 1 - AFTER
    body = ledger.commit(round_).body if round_ > ledger.begin else None
    return body if body is not None and body.sent else None


def factors(members: Sequence[Member], rules: AuditRules) -> dict[PeerId, int]:
    """What each member's weight is multiplied by, over UNIT.

    If that leaves nobody any weight, reputations do not count: a run without contributors would end.
    """
    found = {m.peer: audit.factor(m.reputation or audit.FOUNDER, rules) for m in members}
    return found if any(found.values()) else dict.fromkeys(found, UNIT)


# ---- bodies -------------------------------------------------------------------------------------


def settled(terms: Terms, body: Body) -> Body:
    """The same body with the reputations that follow from what it holds."""
    if terms.audit is None:
        return body
    following = _following(terms, body, terms.audit)
    members = [_with(member, following) for member in body.members]
    return dataclasses.replace(body, members=terms.listed(members))


def _with(member: Member, following: Mapping[PeerId, Reputation]) -> Member:
    reputation = following.get(member.peer)
    if member.reputation == reputation:
        return member
    return dataclasses.replace(member, reputation=reputation)


def _following(terms: Terms, body: Body, rules: AuditRules) -> dict[PeerId, Reputation]:
    """Reputations after this body. Its scores are judged, and who was missing may lose a little."""
    known, absent = reputations(terms.members), frozenset[PeerId]()
    if terms.subject is not None and body.scores:
        auditors = draw(terms.subject, rules).auditors
        said = audit.judgements(body.scores, auditors)
        known = audit.judged(known, said, terms.subject.round, rules)
        due = [auditor for auditor in auditors if auditor in terms.places]
        absent |= audit.missed(due, {score.auditor for score in body.scores})
    if body.kind is Kind.UPDATE:
        absent |= audit.missed(terms.eligible, body.counted)
    known = audit.after_missing(known, absent, rules)
    if terms.updates or body.kind is Kind.UPDATE:  # else they begin the run
        new = [member.peer for member in body.members if member.peer not in terms.places]
        known |= dict.fromkeys(new, audit.joiner(rules))
    return known


def objection(terms: Terms, body: Body, verify: Verify) -> str | None:
    """Why a member may not vote for what a body says of audits, or None."""
    if terms.audit is None:
        same = body.members is terms.members
        told = body.sent or body.scores or (not same and reputations(body.members))
        return "audits that this run does not ask for" if told else None
    return (
        _sent_objection(terms, body)
        or _scores_objection(terms, body, terms.audit, verify)
        or _reputations_objection(terms, body, terms.audit)
    )


def _sent_objection(terms: Terms, body: Body) -> str | None:
    peers = [one.peer for one in body.sent]
    if body.kind is not Kind.UPDATE:
        return "contributions to a round without update" if peers else None
    if peers != sorted(set(peers)):
        return "what members sent is not in their order"
    steps = {one.peer: one.steps for one in body.sent}
    if any(steps.get(c.peer) != c.steps for c in body.contributors):
        return "what a contributor sent is not named, or of other steps"
    if not terms.trying.issuperset(steps.keys() - body.counted) or min(steps.values(), default=1) < 1:
        return "something is named as sent that may be neither taken nor tried"
    return None


def _scores_objection(terms: Terms, body: Body, rules: AuditRules, verify: Verify) -> str | None:
    if not body.scores:
        return None
    if terms.subject is None:
        return "scores of a round of which this member has no commit"
    return scores_objection(terms, body.scores, rules, verify)


def scores_objection(terms: Terms, scores: Sequence[Score], rules: AuditRules, verify: Verify) -> str | None:
    """Why these may not stand in this round's commit, or None."""
    if terms.subject is None:
        return "there is nothing to score in this round"
    drawn = draw(terms.subject, rules)
    if any(score.auditor not in terms.places or score.target not in terms.places for score in scores):
        return "a score of somebody who is no member any more"
    return audit.objection(scores, terms.subject.place, drawn.auditors, drawn.targets, verify)


def _reputations_objection(terms: Terms, body: Body, rules: AuditRules) -> str | None:
    following = _following(terms, body, rules)
    wrong = next((m.peer for m in body.members if m.reputation != following.get(m.peer)), None)
    return None if wrong is None else f"the reputation of {wrong} does not follow from its scores"
