"""The phases of a peer: one word for a person who looks, and which word may follow which.

A phase is not kept anywhere: it is read off the state, so it cannot be wrong about it. The transitions are
what the rules in duties/ amount to. tests/protocol/test_protocol_phases.py watches every change of phase in
stories and simulated runs, and fails on one that is not in the table, and on a row that nothing shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atoll.protocol.roster import Role

if TYPE_CHECKING:
    from atoll.protocol.peer import Peer


@dataclass(frozen=True, slots=True)
class Phase:
    """A word, when it holds (of several, the first), and what it means to an operator."""

    word: str
    holds: Callable[[Peer], bool]
    means: str


def _exchanges(peer: Peer) -> bool:
    return bool(peer.owning.parts) or (peer.leading is not None and peer.leading.exchange is not None)


def _trains(peer: Peer) -> bool:
    return peer.round in peer.working.work


def _place(peer: Peer) -> tuple[int, int]:
    return peer.ledger.epoch, peer.round


def _paused(peer: Peer) -> bool:
    return peer.paused


PHASES = (
    Phase(
        "finished",
        lambda p: p.ended is not None or p.terms.complete,
        "it left, or the run has had all its updates",
    ),
    Phase(
        "catching up",
        lambda p: not p.ready,
        "its ledger is ahead of its state: it applies an update, or fetches what it lacks",
    ),
    Phase("joining", lambda p: not p.is_member, "it has the state, and waits for a commit that lists it"),
    Phase(
        "voting",
        lambda p: p.proposal is not None,
        "an update is proposed: it fetches its blobs, votes, and waits for the commit",
    ),
    Phase("exchanging", _exchanges, "it owns parts and sums them, or leads and collects"),
    Phase("gathering", lambda p: p.terms.gathering, "the run waits for more workers"),
    Phase("offered", lambda p: p.mine is not None, "its contribution is offered, and waits to be planned in"),
    Phase(
        "paused",
        lambda p: p.role is Role.PAUSED,
        "its volunteer told it to rest: it votes, and does not train",
    ),
    Phase("training", _trains, "it trains for this round, or encodes what it did"),
    Phase("witnessing", lambda p: True, "it holds and votes, and has nothing to train"),
)


def phase_of(peer: Peer) -> str:
    return next(phase.word for phase in PHASES if phase.holds(peer))


@dataclass(frozen=True, slots=True)
class Happening:
    """What makes a phase end. It has happened when `sign` has changed; of several, the first counts."""

    word: str
    sign: Callable[[Peer], object]
    means: str


HAPPENINGS = (
    Happening("commit", _place, "a round is decided, or several at once"),
    Happening("view", lambda p: p.view, "another leads: by deadline, by loss, or because others say so"),
    Happening("end", lambda p: p.ended is not None, "the volunteer said finish"),
    Happening("state", lambda p: p.ready, "an update is applied, or a whole state is here"),
    Happening(
        "offer", lambda p: p.mine is not None, "the contribution is encoded, and its leader hears of it"
    ),
    Happening("plan", _exchanges, "the leader names the participants"),
    Happening("proposal", lambda p: p.proposal is not None, "the leader proposes what is to be decided"),
    Happening("pause", _paused, "the volunteer says pause, or go on"),
)


@dataclass(frozen=True, slots=True)
class Transitions:
    """By this, any of `before` may become any of `after`: which one, the state says and not the past."""

    by: str
    before: tuple[str, ...]
    after: tuple[str, ...]


TAKING_PART = tuple(phase.word for phase in PHASES if phase.word != "finished")
"""A peer that has finished only hears: a recovery may undo the last updates of a run that was complete."""

TRANSITIONS = (
    Transitions(
        "commit",
        (*TAKING_PART, "finished"),
        (
            "catching up",
            "joining",
            "exchanging",
            "gathering",
            "offered",
            "paused",
            "training",
            "witnessing",
            "finished",
        ),
    ),
    Transitions(
        "view", ("voting", "exchanging"), ("gathering", "offered", "paused", "training", "witnessing")
    ),
    Transitions("end", TAKING_PART, ("finished",)),
    Transitions("state", ("catching up",), tuple(word for word in TAKING_PART if word != "catching up")),
    Transitions("offer", ("training", "paused"), ("offered",)),
    Transitions("plan", ("offered", "training", "paused", "witnessing"), ("exchanging",)),
    Transitions(
        "proposal",
        ("exchanging", "offered", "gathering", "training", "paused", "witnessing"),
        ("voting",),
    ),
    Transitions("pause", ("training", "witnessing"), ("paused",)),
    Transitions("pause", ("paused",), ("training", "witnessing")),
)


def row_of(before: str, by: str, after: str) -> Transitions | None:
    """The row of the table that allows this change of phase."""
    rows = (row for row in TRANSITIONS if row.by == by and before in row.before and after in row.after)
    return next(rows, None)
