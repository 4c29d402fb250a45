"""Messages may be lost and all are idempotent: now and then, say again what somebody waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol import messages as m
from atoll.protocol.duties import chain, rounds, voter

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer

OFFER_EVERY_MS = 2_000
"""An offer names the digest of every part: it is repeated less often than small messages."""

LEADERS_ASKED = 3
ASK_EVERY = 4
"""A member asks around for commits it may have missed only every so many retries."""


def on_retry(peer: Peer) -> None:
    peer.retries += 1
    peer.timer("retry", peer.rules.retry_ms)
    peer.fetching.clear()
    peer.owning.asking = True
    peer.catchup.ask_again()
    if peer.lacking:
        voter.fetch(peer)
    if peer.catchup.needs_state(peer.ledger):
        chain.ask_state(peer)
    if not peer.is_member or peer.retries % ASK_EVERY == 0:
        _ask_around(peer)
    ask_for_role(peer)
    if peer.active:
        rounds.announce(peer)
        _to_leader(peer)
        _as_leader(peer)


def _ask_around(peer: Peer) -> None:
    others = peer.others()
    if not others:
        return
    peer.tell(others[peer.retries % len(others)], m.AskCommits(peer.round))


def ask_for_role(peer: Peer) -> None:
    """Ask those who lead next to be a member, or to be one in another role."""
    if not peer.ready or peer.finishing or peer.terms.complete:
        return
    if peer.terms.role_of(peer.me) is not peer.role:
        join = m.Join(peer.round, peer.role, peer.config.token, chain.joining(peer), peer.config.shard)
        asked = max(LEADERS_ASKED, peer.terms.liars_max + 1)
        leaders = dict.fromkeys(peer.terms.leader(peer.view + more) for more in range(asked))
        peer.post([(tuple(leaders), join)])


def _to_leader(peer: Peer) -> None:
    """Whatever this member owes its leader; a sign of life at least."""
    if peer.leader == peer.me:
        return
    if peer.evidence:
        peer.tell(peer.leader, m.Accuse(peer.round, tuple(peer.evidence.values())))
    if peer.prepared is not None:
        peer.tell(peer.leader, peer.prepared)
    if peer.voted is not None:
        peer.tell(peer.leader, peer.voted)
    elif peer.owning.parts:
        for report in peer.owning.reports():
            peer.tell(peer.leader, report)
        for result in peer.owning.results():
            peer.tell(peer.leader, result)
    else:
        if peer.view:
            rounds.promise(peer)
        if rounds.due(peer, OFFER_EVERY_MS):
            rounds.offer(peer)
    if peer.mine is None and peer.voted is None and rounds.due(peer, peer.rules.lease_ms // 3):
        peer.tell(peer.leader, m.Alive(peer.round, peer.view, peer.progress))
    if peer.finishing and peer.mine is None:
        peer.tell(peer.leader, m.Leave(peer.round, "finish", rounds.farewell(peer)))


def _as_leader(peer: Peer) -> None:
    """Repeat the stage in progress; while there is none, say what is waited for."""
    lead = peer.leading
    if lead is None or not peer.ready:
        return
    if not lead.may_propose:
        rounds.prepare(peer)
    elif lead.exchange is None and lead.body is None:
        if rounds.due(peer, peer.terms.deadline_ms // 3):
            others = tuple(other for other in peer.terms.peers if other != peer.me)
            peer.post([(others, m.Waiting(peer.round, peer.view, peer.why))])
    else:
        peer.post(lead.again())
