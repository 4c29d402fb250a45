"""Leading a round to its commit: decide, plan, cut, propose, count. What it decides is in leading.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol import private, waiting
from atoll.protocol.commits import Body, Commit, Kind, vote_message
from atoll.protocol.covering import decide_units
from atoll.protocol.deciding import Wait, decide
from atoll.protocol.duties import auditor, chain, collector, rounds, stages
from atoll.protocol.ids import Digest, PeerId, short
from atoll.protocol.leading import Leading
from atoll.protocol.manifest import STALENESS_MAX
from atoll.protocol.proofs import Farewell
from atoll.protocol.roster import Presence, Role
from atoll.protocol.terms import objection

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer

STRAY = "your offer starts from another anchor than the ledger's"


def react(peer: Peer) -> None:
    """The next step of the view that this peer leads, if it may take one."""
    lead = peer.leading
    if lead is None or lead.body is not None or not (peer.ready and peer.active and lead.may_propose):
        return
    here = len(_heard(peer, peer.terms.voters))
    if here < peer.terms.majority:
        peer.why = f"hears {here} of {len(peer.terms.voters)} members"
        return
    proposed = peer.proposed
    if proposed and proposed[0] == peer.view:
        _propose(peer, lead, proposed[1], "the body proposed before a restart")
    elif lead.bound_to is not None:
        _propose(peer, lead, lead.bound_to, "a body that may have been committed")
    elif lead.exchange is None:
        _decide(peer, lead)
    if lead.exchange is not None and lead.body is None:
        _conclude(peer, lead)


def _conclude(peer: Peer, lead: Leading) -> None:
    """Propose what came of the exchange, once it is over."""
    if peer.collecting is not None:
        peer.collecting.cut(peer.held, peer.terms.quorum)
    if lead.cut_failed:
        _propose_new(peer, lead, Kind.SKIP, "too few contributions arrived")
    elif lead.complete():
        _propose_new(peer, lead, Kind.UPDATE, "every part is there")


def _decide(peer: Peer, lead: Leading) -> None:
    present = len(peer.terms.workers) + len(peer.joiners)
    if peer.terms.gathering and present < peer.terms.wanted:  # whoever of them is still here
        peer.why = f"{present} of {peer.terms.wanted} workers"
        rounds.bear(peer)
        return
    start = peer.catchup.start(peer.round)
    for who in lead.strays(start) if start is not None else ():
        peer.refuse(who, STRAY)
    joining = _joiners(peer)
    resting = {who for who, role in joining.items() if role is Role.PAUSED}
    absent = ((peer.lost | resting) & peer.terms.eligible) - lead.offers.keys()
    expected = len(peer.terms.eligible) - len(absent) + auditor.untried(peer, lead)
    joiners = sum(role is Role.WORKER for role in joining.values())
    offers = len(lead.offers)
    times = (peer.now_ms, peer.since_ms, lead.quorum_ms)
    if peer.terms.replicated:
        gone = _gone(peer, lead) | resting
        torn = lead.torn()
        offered = lead.offers.keys() - torn
        away, alone = (gone | torn) - offered, lead.unconfirmed(gone)
        decision = decide_units(*times, offered, away, peer.terms, joiners, alone)
    else:
        decision = decide(*times, offers, expected, peer.terms, joiners, _end_ms(peer, lead, absent))
    peer.why = decision.reason
    if isinstance(decision, Wait):
        if rounds.may_wait(peer):
            rounds.bear(peer)
        if decision.until_ms is not None and decision.until_ms != peer.plan_ms:
            peer.plan_ms = decision.until_ms
            peer.timer("plan", decision.until_ms - peer.now_ms)
    elif decision.kind is Kind.SKIP:
        _propose_new(peer, lead, Kind.SKIP, decision.reason)
    else:
        _stage(peer)
        peer.syncs.begin(peer.now_ms)
        _EXCHANGES[peer.rules.exchange](peer, lead)


def _end_ms(peer: Peer, lead: Leading, absent: Collection[PeerId]) -> int | None:
    """Until when this leader waits for more than a quorum; None for the usual grace."""
    if lead.quorum_ms is None:
        return None
    times = (peer.now_ms, peer.since_ms, lead.quorum_ms, peer.syncs.usual_ms)
    away = peer.terms.eligible.difference(lead.offers, absent)
    missing = {who: peer.terms.assigned(who).steps for who in sorted(away)}
    return waiting.end_ms(waiting.Moment(*times, peer.rules), lead.watch, lead.offers, missing)


def _gone(peer: Peer, lead: Leading) -> frozenset[PeerId]:
    """Workers of whom no offer comes any more: silent for a lease, or what they had did not arrive."""
    return peer.terms.eligible - _heard(peer, peer.terms.eligible) | lead.given_up.keys()


def _plan(peer: Peer, lead: Leading) -> None:
    peer.post(lead.plan())
    peer.timer("exchange", peer.terms.deadline_ms // 2)


_EXCHANGES: dict[str, Callable[[Peer, Leading], None]] = {"dense": _plan, "sparse": collector.begin}


def _stage(peer: Peer) -> None:
    """A stage of the exchange begins: its owners get their time, and this leader its."""
    peer.stage_ms = peer.now_ms
    rounds.bear(peer)


def _joiners(peer: Peer) -> dict[PeerId, Role]:
    since_ms = peer.now_ms - peer.rules.lease_ms
    return {who: role for who, (role, at_ms, _) in peer.joiners.items() if at_ms >= since_ms}


def _propose_new(peer: Peer, lead: Leading, kind: Kind, reason: str) -> None:
    assert peer.catchup.anchor is not None
    lead.leaving |= peer.leavers
    here, joiners = _presence(peer), _joiners(peer)
    body = lead.make_body(kind, peer.catchup.anchor, here, joiners)
    if peer.rules.shards == private.PRIVATE:
        claims = {who: shard for who, (_, _, shard) in peer.joiners.items()}
        members = private.declared(body.before, body.members, claims)
        body = dataclasses.replace(body, members=members)
    if peer.terms.two_thirds:
        body = stages.settle(peer, body, here, joiners)
    _propose(peer, lead, auditor.settle(peer, lead, body), reason)


def _heard(peer: Peer, members: Collection[PeerId]) -> set[PeerId]:
    """This peer and those of the members whose lease holds, while it leads.

    Who has not led for a whole lease cannot tell silence from calm.
    """
    since_ms = peer.now_ms - peer.rules.lease_ms
    if peer.view_ms > since_ms:
        return {*members} - peer.lost | {peer.me}
    heard = {who for who in members if peer.heard.get(who, since_ms - 1) >= since_ms}
    return heard - peer.lost | {peer.me}


def _presence(peer: Peer) -> Presence:
    """Who of the members is here. Of those who were silent before, only who was heard in this view."""
    heard = _heard(peer, peer.terms.peers)
    if peer.view_ms <= peer.now_ms - peer.rules.lease_ms:
        return Presence(heard)
    quiet = [member.peer for member in peer.terms.members if member.missed]
    unsure = {who for who in quiet if who in heard and peer.heard.get(who, 0) < peer.view_ms} - {peer.me}
    return Presence(heard - unsure, unsure)


def _propose(peer: Peer, lead: Leading, body: Body, reason: str) -> None:
    """One body in a view, whatever happens: on disk before anybody hears of it."""
    if peer.terms.two_thirds and not stages.sign(peer, lead, body):
        return
    peer.why = f"proposed {body.kind.name.lower()} {body.round}: {reason}"
    lead.body = body
    peer.saved.proposed = (peer.round, peer.view, body)
    peer.out.append(a.Persist(a.Proposed(peer.round, peer.view, body)))
    _stage(peer)
    peer.post(lead.propose(peer.terms.voters))


# ---- what members tell their leader -------------------------------------------------------------


def on_offer(peer: Peer, sender: PeerId, offer: m.Offer) -> None:
    if not rounds.follow(peer, offer.view) or peer.leading is None:
        return
    start = _start(peer, offer)
    if start is None and offer.staleness:
        peer.leading.rejected[sender] = "started before its leader's ledger begins"
        return
    if start is not None and offer.anchor != start:
        peer.leading.rejected[sender] = "started from another anchor"
        peer.refuse(sender, STRAY)
        return
    if offer.leaving and peer.terms.two_thirds:
        chain.take_farewell(peer, Farewell(sender, offer.round, offer.farewell))
    peer.leading.offer(sender, offer, peer.now_ms)


def _start(peer: Peer, offer: m.Offer) -> Digest | None:
    """What a contribution to this round has to start from, as far as this leader knows."""
    if not offer.staleness:
        return peer.catchup.start(peer.round)
    return peer.ledger.start_of(min(offer.staleness, STALENESS_MAX))


def on_promise(peer: Peer, sender: PeerId, promise: m.Promise) -> None:
    if not rounds.follow(peer, promise.view) or peer.leading is None:
        return
    if peer.terms.two_thirds:
        stages.on_promise(peer, peer.leading, sender, promise)
        return
    accepted, anchor = promise.accepted, peer.catchup.anchor
    if accepted is not None:
        if not peer.ready or anchor is None:
            return  # cannot be judged yet; it is repeated
        if accepted[0] > promise.view or objection(peer.terms, accepted[1], anchor):
            peer.refuse(sender, "a promise that accepted what it could not have")
            return
    if sender in peer.terms.voting:
        peer.leading.promises[sender] = accepted


def on_held(peer: Peer, sender: PeerId, held: m.Held) -> None:
    if rounds.follow(peer, held.view) and peer.leading is not None and peer.collecting is None:
        outbox = peer.leading.held(sender, held)
        if outbox:
            _stage(peer)
        peer.post(outbox)


def on_reduced(peer: Peer, sender: PeerId, reduced: m.Reduced) -> None:
    if rounds.follow(peer, reduced.view) and peer.leading is not None and peer.collecting is None:
        peer.leading.reduced(sender, reduced)
        if differ := peer.leading.disputed():
            _move_parts(peer, peer.leading, ())
            peer.why = f"sums of part {', '.join(map(str, differ))} differ: others sum again"


def on_vote(peer: Peer, sender: PeerId, vote: m.Vote) -> None:
    lead = peer.leading
    if not rounds.follow(peer, vote.view) or lead is None or lead.body is None:
        return
    if peer.terms.two_thirds:
        if stages.count(peer, lead, sender, vote):
            _commit(peer, lead, lead.body)
        return
    if sender in lead.votes:
        return
    message = vote_message(peer.terms.place, peer.view, lead.body.digest)
    if vote.body != lead.body.digest or not peer.signer.verify(sender, message, vote.signature):
        peer.refuse(sender, "your vote is not for the body that was proposed")
        return
    if sender not in peer.terms.voting:
        peer.refuse(sender, "you do not vote this round")
        return
    lead.votes[sender] = vote.signature
    if len(lead.votes) >= peer.terms.majority:
        _commit(peer, lead, lead.body)


def _commit(peer: Peer, lead: Leading, body: Body) -> None:
    commit = Commit(body, peer.view, tuple(sorted(lead.votes.items())))
    chain.adopt(peer, (commit,), chain.audience(peer, commit))


# ---- owners that keep a stage waiting -----------------------------------------------------------


def on_exchange(peer: Peer) -> None:
    """An owner kept a stage waiting for half a deadline: its parts move."""
    lead, limit_ms = peer.leading, peer.terms.deadline_ms // 2
    if lead is None or lead.exchange is None or lead.body is not None:
        return
    if peer.now_ms - peer.stage_ms >= limit_ms and (silent := lead.silent_owners()):
        _move_parts(peer, lead, silent)
    peer.timer("exchange", max(peer.stage_ms + limit_ms - peer.now_ms, limit_ms // 4))


def _move_parts(peer: Peer, lead: Leading, gone: Collection[PeerId]) -> None:
    if outbox := lead.move_parts({*gone, *peer.lost}):
        peer.why = f"parts of {', '.join(sorted(short(who) for who in gone))} move"
        _stage(peer)
        peer.post(outbox)


def on_peer_lost(peer: Peer, event: e.PeerLost) -> None:
    """The transport says that somebody is gone: do not wait for it, and do not follow it."""
    peer.joiners.pop(event.peer, None)
    if event.peer not in peer.terms.places or event.peer == peer.me:
        return
    peer.lost.add(event.peer)
    if peer.leading is not None:
        _move_parts(peer, peer.leading, {event.peer})
    elif event.peer == peer.leader:
        peer.why = f"{short(event.peer)} led, and is gone"
        rounds.hop(peer)
