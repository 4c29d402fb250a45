"""Training and offering, and what arrives: blobs, progress, the volunteer's wish to go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.duties import rounds
from atoll.protocol.ids import short
from atoll.protocol.ledger import Role

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer


def react(peer: Peer) -> None:
    """Train from the anchor of this round, once, as soon as it is here."""
    if peer.config.role is not Role.WORKER or peer.training >= peer.round:
        return
    if peer.active and peer.ready and not peer.terms.gathering:
        peer.training = peer.round
        peer.why = "trains"
        shard = (peer.terms.workers.index(peer.me), len(peer.terms.workers))
        parts = len(peer.terms.part_bytes)
        peer.out.append(a.Train(peer.round, peer.terms.assignment.steps, shard, parts))


def on_trained(peer: Peer, event: e.Trained) -> None:
    if event.round != peer.round or not peer.active:
        return
    assert len(event.parts) == len(peer.terms.part_bytes)
    peer.mine = event
    peer.held.update((ref.digest, peer.round) for ref in event.parts)
    peer.why = f"offered {event.tokens} tokens to {short(peer.leader)}"
    rounds.offer(peer)


def on_progress(peer: Peer, event: e.Progress) -> None:
    if event.round == peer.round:
        peer.progress = event.steps


def on_blob_arrived(peer: Peer, event: e.BlobArrived) -> None:
    peer.held[event.digest] = peer.round
    peer.fetching.discard(event.digest)
    peer.owning.arrived(event.digest)


def on_blob_failed(peer: Peer, event: e.BlobFailed) -> None:
    """Nobody gave it. Left out of a sum; a proposal that cannot be had twice costs its leader the view."""
    peer.owning.failed(event.digest)
    peer.catchup.failed(event.digest)
    if peer.proposal and any(ref.digest == event.digest for ref in peer.proposal.body.blobs):
        peer.fetch_failures += 1
        if peer.fetch_failures > 1:
            peer.why = "nobody gives the proposed update"
            rounds.hop(peer)


def on_finish(peer: Peer, event: e.Finish) -> None:
    """Go: at once, or after contributing to the round in progress."""
    peer.finishing = True
    if event.now or not peer.active or peer.config.role is Role.WITNESS:
        if peer.is_member:
            receivers = tuple(voter for voter in peer.terms.voters if voter != peer.me)
            peer.post([(receivers, m.Leave(peer.round, "left", rounds.farewell(peer)))])
        rounds.end(peer, "left")
    else:
        rounds.offer(peer)
