"""Agreement in two stages, and everything that must be proven, in runs where fewer than a third may lie.

A vote of the first stage says that a body may be this view's; n - f of them, shown by the leader in a `Lock`,
say that no other body can be. Only behind such a certificate does a member accept, and give its vote of the
second stage, which is what certifies a commit. Runs with `votes = "majority"` have the second stage alone.
(Castro and Liskov, Practical Byzantine Fault Tolerance, 1999)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from atoll.protocol import actions as a
from atoll.protocol import audited, justify, proven
from atoll.protocol import messages as m
from atoll.protocol.commits import Body
from atoll.protocol.duties import rounds
from atoll.protocol.evidence import message_of
from atoll.protocol.evidence import objection as evidence_objection
from atoll.protocol.ids import Digest, PeerId, short
from atoll.protocol.leading import Leading
from atoll.protocol.proofs import Equivocation, Sighting, Stage
from atoll.protocol.roster import Presence, Role
from atoll.protocol.terms import objection as terms_objection

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer


def objection(peer: Peer, body: Body, anchor: Digest) -> str | None:
    """Why this member may not vote for a body, or None: its content, and who comes and goes."""
    verify = peer.signer.verify
    if reason := terms_objection(peer.terms, body, anchor) or audited.objection(peer.terms, body, verify):
        return reason
    if not peer.terms.two_thirds:
        return None
    rules, banned = peer.config.manifest.membership, peer.ledger.banned
    return proven.objection(peer.terms, body, rules, banned, verify)


# ---- a member -----------------------------------------------------------------------------------


def may_take(peer: Peer, sender: PeerId, propose: m.Propose) -> bool:
    """Whether a proposal is its leader's, may be made in its view, and is the first that is seen there."""
    if sender != peer.terms.leader(propose.view):
        return True  # the caller refuses it
    if reason := justify.proposal_objection(peer.terms, propose, peer.signer.verify):
        peer.refuse(sender, reason)
        return False
    seen = peer.sighting
    if seen is not None:
        _note(peer, peer.terms.leader(seen.view), seen.view, Stage.PREPARE, seen.body, seen.signature)
        if seen.view == propose.view and seen.body != propose.body.digest:
            _note(peer, sender, propose.view, Stage.PREPARE, propose.body.digest, propose.signature)
            return False
    _note(peer, sender, propose.view, Stage.PREPARE, propose.body.digest, propose.signature)
    if peer.view < propose.view <= rounds.VIEW_MAX:
        rounds.enter_view(peer, propose.view)
    return True


def vote(peer: Peer, proposal: m.Propose) -> None:
    """The vote of the first stage, once; and of the second, behind its certificate. Each is on disk first."""
    body, view = proposal.body, peer.view
    if peer.prepared is None:
        seen = Sighting(view, body.digest, proposal.signature)
        peer.saved.prepared = (peer.terms.epoch, peer.round, seen)
        peer.out.append(a.Persist(a.Prepared(peer.terms.epoch, peer.round, seen)))
        peer.prepared = _vote(peer, Stage.PREPARE, body.digest)
        peer.tell(peer.leader, peer.prepared)
    if peer.lock is not None and peer.lock.body == body.digest:
        peer.saved.accepted, peer.saved.certificate = (peer.round, view, body), peer.lock.votes
        peer.out.append(a.Persist(a.Accepted(peer.round, view, body, peer.lock.votes)))
        peer.voted = _vote(peer, Stage.COMMIT, body.digest)
        peer.tell(peer.leader, peer.voted)


def _vote(peer: Peer, stage: Stage, body: Digest) -> m.Vote:
    message = message_of(peer.terms.place, peer.view, stage, body)
    return m.Vote(peer.round, peer.view, body, peer.signer.sign(message), stage)


def on_lock(peer: Peer, sender: PeerId, lock: m.Lock) -> None:
    if not peer.terms.two_thirds or not rounds.obey(peer, sender, lock.view) or peer.lock is not None:
        return
    verify = peer.signer.verify
    if reason := justify.certificate_objection(peer.terms, lock.view, lock.body, lock.votes, verify):
        peer.refuse(sender, reason)
        return
    for voter, signature in lock.votes:
        _note(peer, voter, lock.view, Stage.PREPARE, lock.body, signature)
    peer.lock = lock
    rounds.bear(peer)


# ---- evidence -----------------------------------------------------------------------------------


def _note(peer: Peer, voter: PeerId, view: int, stage: Stage, body: Digest, signature: bytes) -> None:
    """Take note of a vote whose signature has been checked."""
    found = peer.notebook.note(voter, view, stage, body, signature)
    if found is not None:
        _keep(peer, found)


def _keep(peer: Peer, evidence: Equivocation) -> None:
    """One piece for each member is enough."""
    if evidence.peer in peer.terms.voting and evidence.peer not in peer.evidence:
        peer.evidence[evidence.peer] = evidence
        peer.saved.evidence = tuple(peer.evidence.values())
        peer.out.append(a.Persist(a.Accused(peer.round, evidence)))
        peer.why = f"{short(evidence.peer)} signed two bodies in view {evidence.view} of {evidence.round}"


def on_accuse(peer: Peer, sender: PeerId, accuse: m.Accuse) -> None:
    if not peer.terms.two_thirds or sender not in peer.terms.voting:
        return
    for evidence in accuse.evidence[: len(peer.terms.voters)]:
        if evidence.peer in peer.terms.voting and evidence.peer not in peer.evidence:
            if reason := evidence_objection(peer.terms.run_id, evidence, peer.signer.verify):
                peer.refuse(sender, reason)
                return
            _keep(peer, evidence)


# ---- a leader -----------------------------------------------------------------------------------


def settle(peer: Peer, body: Body, here: Presence, joiners: Mapping[PeerId, Role]) -> Body:
    """The body with the members that this leader can prove."""
    terms, rules, verify = peer.terms, peer.config.manifest.membership, peer.signer.verify
    joining = {
        who: (role, wish)
        for who, role in joiners.items()
        if (wish := peer.joinings.get(who)) is not None
        and proven.joining_objection(terms, wish, role, rules, peer.ledger.banned, verify) is None
    }
    farewells = {
        who: farewell
        for who, farewell in peer.farewells.items()
        if proven.farewell_objection(terms, farewell, verify) is None
    }
    return proven.settle(body, terms, here, proven.Claims(joining, farewells, peer.evidence))


def sign(peer: Peer, lead: Leading, body: Body) -> bool:
    """Sign a proposal as this leader's own first vote, and show why it may be made; False if it may not."""
    if peer.view > 0:
        lead.justification = justify.justification(lead.words, peer.terms, body)
        if lead.justification is None:
            peer.why = "its proposal does not follow from the promises that it has"
            return False
    lead.signature = _vote(peer, Stage.PREPARE, body.digest).signature
    return True


def on_promise(peer: Peer, lead: Leading, sender: PeerId, promise: m.Promise) -> None:
    """Count a promise that is proven, and look at what its member was told by leaders before."""
    verify, accepted, anchor = peer.signer.verify, promise.accepted, peer.catchup.anchor
    if reason := justify.promise_objection(peer.terms, sender, promise, verify):
        peer.refuse(sender, reason)
        return
    if accepted is not None and (not peer.ready or anchor is None):
        return  # cannot be judged yet; it is repeated
    if accepted is not None and anchor is not None and (reason := objection(peer, accepted[1], anchor)):
        peer.refuse(sender, reason)
        return
    lead.promises[sender], lead.words[sender] = accepted, promise
    seen = promise.seen
    if seen is not None and 0 <= seen.view < promise.view:
        led = peer.terms.leader(seen.view)
        message = message_of(peer.terms.place, seen.view, Stage.PREPARE, seen.body)
        if verify(led, message, seen.signature):
            _note(peer, led, seen.view, Stage.PREPARE, seen.body, seen.signature)


def count(peer: Peer, lead: Leading, sender: PeerId, vote: m.Vote) -> bool:
    """Count a vote; whether the second stage is complete. The end of the first is told to everybody."""
    message = message_of(peer.terms.place, peer.view, vote.stage, vote.body)
    if not peer.signer.verify(sender, message, vote.signature):
        peer.refuse(sender, "a vote that you did not sign")
        return False
    _note(peer, sender, peer.view, vote.stage, vote.body, vote.signature)
    if lead.body is None or vote.body != lead.body.digest:
        return False
    if vote.stage is Stage.COMMIT:
        lead.votes.setdefault(sender, vote.signature)
        return len(lead.votes) >= peer.terms.majority
    lead.prepares.setdefault(sender, vote.signature)
    if lead.lock is None and len(lead.prepares) >= peer.terms.majority:
        votes = tuple(sorted(lead.prepares.items()))
        lead.lock = m.Lock(peer.round, peer.view, vote.body, votes)
        rounds.bear(peer)
        peer.post([(peer.terms.voters, lead.lock)])
    return False
