"""Training and offering, and what arrives: blobs, progress, the volunteer's wish to go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.duties import ahead, repeat, rounds, voter
from atoll.protocol.ids import short
from atoll.protocol.roster import Role

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer


def react(peer: Peer) -> None:
    """Train for this round as soon as its anchor is here, then ahead; encode what this one waits for."""
    if not peer.working.stirred and peer.working.asked >= peer.round + peer.rules.overlap:
        return
    if peer.role is not Role.WORKER or not peer.active:
        return
    peer.working.stirred = False
    if peer.ready and not peer.terms.gathering and peer.me in peer.terms.shards and not _other_shard(peer):
        _train(peer)
    if peer.working.to_encode(peer.round):
        lasting = peer.rules.exchange == "sparse"
        begun = peer.working.work[peer.round].begun
        peer.out.append(a.Encode(peer.round, len(peer.terms.part_bytes), lasting, begun))
    ahead.encode(peer)


def _other_shard(peer: Peer) -> bool:
    """Whether this peer is a member for data that it does not hold any more; it trains nothing then."""
    listed = peer.terms.members[peer.terms.places[peer.me]].shard
    if listed == peer.config.shard:
        return False
    peer.why = f"is a member that holds {listed!r}, and holds {peer.config.shard!r}: leave, and join again"
    return True


def _train(peer: Peer) -> None:
    round_ = peer.working.next_round(peer.round, _ahead(peer))
    if round_ is None:
        return
    start = peer.catchup.start(round_)
    assert start is not None
    peer.working.begin(round_, start, peer.now_ms)
    if round_ == peer.round:
        peer.why = "trains"
    steps, shard = peer.terms.assigned(peer.me).steps, peer.terms.shard(peer.me)
    peer.out.append(a.Train(round_, steps, shard))


def _ahead(peer: Peer) -> int:
    """How many rounds training may run ahead: none for one that goes, nor for rounds that will not be."""
    if peer.finishing:
        return 0
    left = peer.rules.rounds - peer.terms.updates - 1 if peer.rules.rounds else peer.rules.overlap
    return min(peer.rules.overlap, left)


def on_trained(peer: Peer, event: e.Trained) -> None:
    peer.working.trained(event.round, event.tokens, event.steps, event.train_ms)


def on_encoded(peer: Peer, event: e.Encoded) -> None:
    early = event.round == peer.round + 1
    if event.round != peer.round + early or not peer.working.encoded(event.round, event.parts):
        return
    for ref in event.parts:
        peer.has(ref.digest)
    if early:
        ahead.on_encoded(peer)
    elif (
        peer.working.fits(event.round, peer.terms.part_bytes)
        and peer.active
        and (mine := peer.mine) is not None
    ):
        peer.why = f"offered {mine.tokens} tokens to {short(peer.leader)}"
        rounds.offer(peer)


def on_progress(peer: Peer, event: e.Progress) -> None:
    if peer.working.aim(event.round) == peer.round:
        peer.progress = event.steps


def on_blob_arrived(peer: Peer, event: e.BlobArrived) -> None:
    peer.has(event.digest)
    peer.fetching.discard(event.digest)
    peer.owning.arrived(event.digest)


def on_blob_failed(peer: Peer, event: e.BlobFailed) -> None:
    """Nobody gave it. Left out of a sum; a proposal that cannot be had twice costs its leader the view.

    What was asked for before the proposal is asked for again: the proposal may name other holders.
    """
    peer.owning.failed(event.digest)
    if peer.collecting is not None:
        peer.collecting.fail(event.digest)
    peer.catchup.failed(event.digest)
    if event.digest in peer.early.values():
        peer.fetching.discard(event.digest)
        peer.early = {part: digest for part, digest in peer.early.items() if digest != event.digest}
        voter.fetch(peer)
        return
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
            left = m.Leave(peer.round, "left", rounds.farewell(peer))
            peer.post([(peer.terms.voters_but(peer.me), left)])
        rounds.end(peer, "left")
    else:
        rounds.offer(peer)


def on_pause(peer: Peer, event: e.Pause) -> None:
    """Rest from the next round on, or train again: a commit says so, as for joiners."""
    peer.paused = event.on
    repeat.ask_for_role(peer)
