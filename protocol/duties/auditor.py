"""Auditing, where a run asks for it: what a commit drew is got, measured, signed and told. No round waits."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from atoll.protocol import audited
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.audit import Score, score_message
from atoll.protocol.auditing import Job
from atoll.protocol.commits import Body, Kind
from atoll.protocol.ids import PeerId
from atoll.protocol.leading import Leading
from atoll.protocol.roster import Role
from atoll.protocol.scores import Sent, work_of

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer

TELL_EVERY = 2
"""Retries between two times that scores are told to the same leader."""


def react(peer: Peer) -> None:
    """Begin with what a new commit drew; go on with what it takes."""
    if peer.terms.audit is None or not peer.active:
        return
    state = peer.auditing
    if state.begun != peer.terms.parent:
        _begin(peer)
    if peer.mine is not None:
        state.mine[peer.round] = peer.mine.parts
    for job in state.jobs.values():
        if not job.ordered:
            _gather(peer, job)
        _tell(peer, job)


def _begin(peer: Peer) -> None:
    """Keep the jobs of this history; take the one that the last commit gives, if it drew this peer."""
    state, ledger, last = peer.auditing, peer.ledger, peer.ledger.height
    state.begin(peer.terms.parent, range(last + 1 - audited.AFTER, last + 2))
    for round_, job in list(state.jobs.items()):
        if round_ <= ledger.begin or ledger.commit(round_).body is not job.subject:
            del state.jobs[round_]
    rules, subject = peer.terms.audit, ledger.commit(last).body if last > ledger.begin else None
    if rules is None or subject is None or not subject.sent or peer.role is not Role.WORKER:
        return
    drawn = audited.draw(subject, rules)
    if peer.me in drawn.auditors:
        targets = tuple(target for target in drawn.targets if target != peer.me)
        state.jobs[subject.round] = Job(subject, targets)


def _gather(peer: Peer, job: Job) -> None:
    """Ask for what the job lacks, now and then; have measured what is here by the end of the next round."""
    if job.asked != peer.retries:
        job.asked, job.stirred = peer.retries, True
        for target in job.unnamed():
            peer.tell(target, m.AskParts(job.subject.round))
    if job.stirred:
        job.stirred = False
        for target, ref in job.lacking.values():
            peer.fetch(ref, (target,), "contribution")
    if job.complete or peer.round >= job.subject.round + audited.AFTER:
        assert peer.terms.audit is not None
        order = job.order(peer.me, peer.held, peer.terms.audit, peer.terms.assignment.steps)
        if order is not None:
            peer.out.append(order)


def _tell(peer: Peer, job: Job) -> None:
    """Scores are for the leader of one round, and for each that leads it."""
    told = (peer.view, peer.retries // TELL_EVERY)
    due = peer.round == job.subject.round + audited.AFTER and peer.proposal is None
    if job.scores and due and job.told != told:
        job.told = told
        scores = tuple(score for score in job.scores if score.target in peer.terms.places)
        if scores:
            peer.tell(peer.leader, m.Scores(peer.round, scores))


# ---- what hosts and others say ------------------------------------------------------------------


def on_scored(peer: Peer, event: e.Scored) -> None:
    """Sign what was measured."""
    job = peer.auditing.jobs.get(event.round)
    if job is None or job.scores:
        return
    signed = []
    for fall in sorted(event.falls, key=lambda fall: fall.target):
        if fall.target in job.targets:
            score = Score(peer.me, fall.target, fall.heldout, fall.assigned, fall.control)
            signature = peer.signer.sign(score_message(job.subject.place, score))
            signed.append(dataclasses.replace(score, signature=signature))
    job.scores = tuple(signed)


def on_ask_parts(peer: Peer, sender: PeerId, ask: m.AskParts) -> None:
    """Name what this peer sent to a recent round; the blobs are served to whoever knows their names."""
    parts = peer.auditing.mine.get(ask.round)
    if parts is not None and sender in peer.terms.places:
        peer.tell(sender, m.Parts(ask.round, parts))


def on_parts(peer: Peer, sender: PeerId, said: m.Parts) -> None:
    """Other blobs than those that its leader saw are no fault: a member that died may have trained again."""
    job = peer.auditing.jobs.get(said.round)
    if job is not None and not job.ordered:
        job.named(sender, said.parts, peer.held)


def on_scores(peer: Peer, sender: PeerId, message: m.Scores) -> None:
    """Keep them for the body that this peer may propose."""
    terms = peer.terms
    if terms.audit is None or terms.subject is None:
        return
    if any(score.auditor != sender for score in message.scores):
        peer.refuse(sender, "scores that you did not measure")
    elif reason := audited.scores_objection(terms, message.scores, terms.audit, peer.signer.verify):
        peer.refuse(sender, reason)
    else:
        peer.auditing.told[sender] = message.scores


# ---- a leader -----------------------------------------------------------------------------------


def untried(peer: Peer, lead: Leading) -> int:
    """How many of those that weigh nothing may yet send something to be looked at: they are waited for like
    others once there is a quorum, or the slow ones among them would never weigh anything again."""
    if len(lead.offers) < peer.terms.quorum:
        return 0
    return len(peer.terms.trying - lead.aside.keys() - peer.lost)


def settle(peer: Peer, lead: Leading, body: Body) -> Body:
    """The body with what was sent, the scores that came, and the reputations that follow."""
    if peer.terms.audit is None:
        return body
    sent = _sent(peer, lead, body) if body.kind is Kind.UPDATE else ()
    told = [score for scores in peer.auditing.told.values() for score in scores]
    scores = tuple(sorted(told, key=lambda score: (score.target, score.auditor)))
    return audited.settled(peer.terms, dataclasses.replace(body, sent=sent, scores=scores))


def _sent(peer: Peer, lead: Leading, body: Body) -> tuple[Sent, ...]:
    start = peer.catchup.start(peer.round)
    offers = {who: offer for who, offer in lead.aside.items() if offer.anchor == start}
    offers |= {c.peer: lead.offers[c.peer] for c in body.contributors}
    return tuple(Sent(who, offer.steps, work_of(offer.parts)) for who, offer in sorted(offers.items()))
