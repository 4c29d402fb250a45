"""Agreeing: a vote is given once the body is in order and each of its blobs is held, and never taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol import actions as a
from atoll.protocol import messages as m
from atoll.protocol.commits import vote_message
from atoll.protocol.duties import rounds, stages
from atoll.protocol.ids import PeerId

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer


def on_propose(peer: Peer, sender: PeerId, propose: m.Propose) -> None:
    if peer.terms.two_thirds and not stages.may_take(peer, sender, propose):
        return
    if not rounds.obey(peer, sender, propose.view) or not peer.votes:
        return
    accepted = peer.accepted
    if accepted and accepted[0] == propose.view and accepted[1] != propose.body:
        peer.refuse(sender, "you proposed another body in this view before")
        return
    if peer.proposal is None:
        rounds.bear(peer)
        peer.proposal = propose


def on_summed(peer: Peer, sender: PeerId, summed: m.Summed) -> None:
    """Get what will likely be proposed. One blob for each part and view: others wait for the proposal."""
    if not rounds.follow(peer, summed.view) or not peer.votes or peer.terms.two_thirds:
        return
    sizes, ref = peer.terms.part_bytes, summed.blob
    if peer.rules.exchange == "sparse" or summed.part >= len(sizes) or ref.size != sizes[summed.part]:
        peer.refuse(sender, "no part of this round is as long as your sum")
    elif summed.part not in peer.early and ref.digest not in peer.held:
        peer.early[summed.part] = ref.digest
        peer.fetch(ref, (sender,), "result")


def react(peer: Peer) -> None:
    """Judge the proposal, fetch what it needs, vote. The acceptance is on disk before the vote leaves."""
    proposal = peer.proposal
    if proposal is None or peer.voted is not None or not (peer.ready and peer.active):
        return
    if peer.lacking is None:
        _judge(peer, proposal)
    if peer.lacking is not None and not peer.lacking:
        stages.vote(peer, proposal) if peer.terms.two_thirds else _vote(peer, proposal)


def _judge(peer: Peer, proposal: m.Propose) -> None:
    """Refuse a body that is not in order; else note which of its blobs are lacking, and ask for them."""
    anchor = peer.catchup.anchor
    assert anchor is not None
    if reason := stages.objection(peer, proposal.body, anchor):
        peer.proposal = None
        peer.refuse(peer.leader, reason)
    else:
        peer.lacking = {ref.digest for ref in proposal.body.blobs if ref.digest not in peer.held}
        fetch(peer)


def fetch(peer: Peer) -> None:
    """Ask for what the proposal still lacks."""
    if peer.proposal is not None and peer.lacking:
        for part, ref in enumerate(peer.proposal.body.blobs):
            if ref.digest in peer.lacking:
                peer.fetch(ref, _holders(peer, peer.proposal, part), "result")


def withholding(peer: Peer) -> set[PeerId]:
    """Who was to give what the proposal still lacks: frozen, perhaps, and no good leader of the next view."""
    if peer.proposal is None or not peer.lacking:
        return set()
    lacking = [part for part, ref in enumerate(peer.proposal.body.blobs) if ref.digest in peer.lacking]
    return {holder for part in lacking for holder in _holders(peer, peer.proposal, part)} - {peer.me}


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
    message = vote_message(peer.terms.place, peer.view, body.digest)
    peer.voted = m.Vote(peer.round, peer.view, body.digest, peer.signer.sign(message))
    peer.tell(peer.leader, peer.voted)
