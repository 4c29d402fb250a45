"""Sees every change of phase: after whatever a peer takes, and where a view begins within that."""

from __future__ import annotations

from collections import Counter
from weakref import WeakKeyDictionary

import pytest

from atoll.protocol.duties import rounds
from atoll.protocol.peer import Peer
from atoll.protocol.phases import HAPPENINGS, phase_of

Sight = tuple[str, dict[str, object]]
Change = tuple[str, str, str]
"""Before, by what, after."""


class PhaseWatch:
    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.last: WeakKeyDictionary[Peer, Sight] = WeakKeyDictionary()
        self.seen: Counter[Change] = Counter()
        react, start_view = Peer.react, rounds.start_view

        def react_and_look(peer: Peer) -> None:
            react(peer)
            self.look(peer)

        def start_view_and_look(peer: Peer, view: int) -> None:
            start_view(peer, view)
            if peer in self.last and self.last[peer][1]["commit"] == (peer.ledger.epoch, peer.round):
                self.look(peer)  # a round that begins is looked at when it is known what to do in it

        patch.setattr(Peer, "react", react_and_look)
        patch.setattr(rounds, "start_view", start_view_and_look)

    def look(self, peer: Peer) -> None:
        now = (phase_of(peer), {what.word: what.sign(peer) for what in HAPPENINGS})
        last = self.last.get(peer)
        self.last[peer] = now
        if last is not None and last[0] != now[0]:
            by = next(word for word, sign in now[1].items() if sign != last[1][word])
            self.seen[last[0], by, now[0]] += 1
