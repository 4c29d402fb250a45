"""When a majority is lost at once: the run authority alone begins a new epoch, with those that are here."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.commits import Body, Commit, Kind, Snapshot, vote_message
from atoll.protocol.duties import chain
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.ids import PeerId
from atoll.protocol.roster import Member

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer

LEASES = 3
"""Whom the authority heard within so many leases is here."""


def on_recover(peer: Peer, event: e.Recover) -> None:
    """Sign a recovery that goes on from the last commit known here; it changes nothing but the members."""
    authority, anchor, terms = peer.config.authority, peer.catchup.anchor, peer.terms
    if authority is None or anchor is None or not peer.ready:
        peer.why = "cannot recover the run: no authority's key here, or no state"
        return
    members = present(peer, event.keep)
    body = Body(
        terms.run_id,
        terms.round,
        terms.parent,
        Kind.RECOVERY,
        anchor,
        terms.members,
        members,
        epoch=terms.epoch + 1,
    )
    message = vote_message(body.place, 0, body.digest)
    commit = Commit(body, 0, ((authority.peer, authority.sign(message)),))
    everybody = dict.fromkeys((*terms.peers, *peer.found))
    everybody.pop(peer.me, None)
    if fault := chain.adopt(peer, (commit,), tuple(everybody)):
        peer.why = f"cannot recover the run: {fault}"


def present(peer: Peer, keep: tuple[PeerId, ...]) -> tuple[Member, ...]:
    """The members that were named, or else those heard lately; this peer among them if it is one."""
    since_ms = peer.now_ms - LEASES * peer.rules.lease_ms
    heard = {who for who, at_ms in peer.heard.items() if at_ms >= since_ms} - peer.lost
    here = {*(keep or heard), peer.me}
    kept = tuple(dataclasses.replace(mem, missed=0) for mem in peer.terms.members if mem.peer in here)
    return kept or peer.terms.members


# ---- snapshots ----------------------------------------------------------------------------------


def seal(peer: Peer, height_before: int) -> None:
    """The authority signs what the ledger has come to, every so many rounds; the others check and prune."""
    authority, every = peer.config.authority, peer.rules.snapshot_rounds
    if authority is None:
        if peer.early_seal is not None and peer.early_seal[1].at <= peer.ledger.height:
            (sender, said), peer.early_seal = peer.early_seal, None
            on_seal(peer, sender, said)
        return _prune(peer)
    at = peer.ledger.height // every * every if every else 0
    if at > max(height_before, peer.ledger.begin):
        snapshot = peer.ledger.snapshot(at)
        signature = authority.sign(snapshot.message(peer.ledger.genesis.run_id))
        others = tuple(who for who in peer.terms.peers if who != peer.me)
        peer.post([(others, m.Seal(peer.round, at, signature))])
    return None


def on_seal(peer: Peer, sender: PeerId, said: m.Seal) -> None:
    """The authority's signature under a snapshot that this peer can make itself.

    One at a time: where snapshots come faster than they may be used, the next would else take the place of
    each before it is.
    """
    ahead = said.at - peer.ledger.height
    if 0 < ahead <= peer.rules.keep_rounds and peer.early_seal is None:
        peer.early_seal = (sender, said)  # of a commit that is on its way here
    if not peer.ledger.begin < said.at <= peer.ledger.height or peer.config.authority is not None:
        return
    if peer.sealed is not None:
        return
    snapshot = dataclasses.replace(peer.ledger.snapshot(said.at), signature=said.signature)
    try:
        peer.ledger.check_snapshot(snapshot, peer.signer)
    except RemoteProtocolError as error:
        peer.refuse(sender, str(error))
        return
    peer.sealed = snapshot
    _prune(peer)


def _prune(peer: Peer) -> None:
    """Forget the commits before the last snapshot, once whoever lags had time to replay them."""
    sealed: Snapshot | None = peer.sealed
    if sealed is not None and peer.ledger.height >= sealed.round + peer.rules.keep_rounds:
        peer.sealed = None
        if sealed.round > peer.ledger.begin:
            chain.rebase(peer, sealed)
