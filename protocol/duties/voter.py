"""Agreeing: a vote is given once the body is in order and each of its blobs is held, and never taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol import actions as a
from atoll.protocol import messages as m
from atoll.protocol.duties import rounds, stages
from atoll.protocol.ids import PeerId
from atoll.protocol.ledger import vote_message

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer


def on_propose(peer: Peer, sender: PeerId, propose: m.Propose) -> None:
    if peer.terms.two_thirds and not stages.may_take(peer, sender, propose):
        return
    if not rounds.obey(peer, sender, propose.view):
        return
    accepted = peer.saved.accepted
    if accepted and accepted[:2] == (peer.round, propose.view) and accepted[2] != propose.body:
        peer.refuse(sender, "you proposed another body in this view before")
        return
    if peer.proposal is None:
        rounds.bear(peer)
        peer.proposal = propose


def react(peer: Peer) -> None:
    """Fetch what the proposal needs, then vote. The acceptance is on disk before the vote leaves."""
    proposal, anchor = peer.proposal, peer.catchup.anchor
    if proposal is None or peer.voted is not None or anchor is None or not (peer.ready and peer.active):
        return
    if peer.prepared is not None and peer.lock is None:
        return  # the first stage goes on
    if reason := stages.objection(peer, proposal.body, anchor):
        peer.proposal = None
        peer.refuse(peer.leader, reason)
        return
    missing = [(part, ref) for part, ref in enumerate(proposal.body.blobs) if ref.digest not in peer.held]
    for part, ref in missing:
        peer.fetch(ref, _holders(peer, proposal, part), "result")
    if not missing:
        _vote(peer, proposal) if not peer.terms.two_thirds else stages.vote(peer, proposal)


def _holders(peer: Peer, proposal: m.Propose, part: int) -> tuple[PeerId, ...]:
    """Whom to ask for a part: its owner, or whoever accepted the body before; at last the leader."""
    holders = proposal.holders
    if proposal.by_part:
        holders = holders[part :: len(proposal.body.blobs)]
    return tuple(holder for holder in dict.fromkeys((*holders, peer.leader)) if holder != peer.me)


def _vote(peer: Peer, proposal: m.Propose) -> None:
    body = proposal.body
    peer.saved.accepted = (peer.round, peer.view, body)
    peer.out.append(a.Persist(a.Accepted(peer.round, peer.view, body)))
    message = vote_message(peer.terms.run_id, peer.round, peer.view, body.digest)
    peer.voted = m.Vote(peer.round, peer.view, body.digest, peer.signer.sign(message))
    peer.tell(peer.leader, peer.voted)
