"""Leading a sparse exchange: fetch every contribution offered. What it decides is in collecting.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.protocol.collecting import collecting
from atoll.protocol.leading import Leading

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer


def begin(peer: Peer, lead: Leading) -> None:
    """Collect instead of planning; who gives nothing for a quarter of a deadline is left out."""
    peer.collecting = collecting(peer.me, lead)
    peer.timer("collect", peer.terms.deadline_ms // 4)
    react(peer)


def react(peer: Peer) -> None:
    """Fetch what is missing: to disk, as a contribution that counts is part of the update."""
    if peer.collecting is not None:
        for contributor, ref in peer.collecting.missing(peer.held):
            peer.fetch(ref, (contributor,), "result")


def on_collect(peer: Peer) -> None:
    """The time is over: what has not arrived by now is left out."""
    if peer.collecting is not None:
        peer.collecting.impatient = True
