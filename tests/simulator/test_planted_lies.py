"""Two-thirds runs with one rule broken at a time: liars must get through, and the checkers must say so.

The liars of these trials tell the lies that the broken rule is there for; the other tests draw from all.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from atoll.protocol import justify, ledger, proven, terms
from atoll.protocol.duties import rounds
from atoll.protocol.ids import PeerId
from atoll.protocol.leading import Leading
from atoll.protocol.peer import Peer
from atoll.simulator.host import Host
from atoll.simulator.run import trial
from atoll.simulator.setting import setting

SEEDS = 36
WRITE = ("write committed",)


def findings(
    *what: str,
    lies: tuple[str, ...],
    peers: int = 3,
    liars: int = 1,
    faults: str = "none",
    moments: tuple[str, ...] = WRITE,
    rounds: int = 3,
) -> None:
    """The first seed that fails must say one of `what`, and one of them must fail."""
    chosen = setting(peers, rounds, faults, "dense", liars, "two-thirds")
    chosen = dataclasses.replace(chosen, lies=lies, moments=moments)
    for seed in range(SEEDS):
        outcome = trial(seed, chosen)
        found = outcome.violation or outcome.stuck
        if found is not None:
            assert any(words in found for words in what), f"seed {seed} finds something else: {found}"
            return
    raise AssertionError(f"none of {SEEDS} seeds found it")


def test_a_proposal_that_no_promises_justify(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lying leader of a later view undoes what its predecessor committed and could not tell."""
    monkeypatch.setattr(justify, "proposal_objection", lambda *given: None)
    findings("two histories", lies=("unjustified",), faults="crash", moments=WRITE, rounds=10)


def test_a_claim_without_a_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(justify, "certificate_objection", lambda *given: None)
    findings("two histories", lies=("false promises",), faults="partition,lag", rounds=10)


def test_one_vote_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ledger, terms):
        monkeypatch.setattr(module, "liars_max", lambda members: max(0, members - 1) // 3 + 1)
    findings("are no majority", "two histories", lies=("two stories", "yes-sayer"), peers=6, liars=2)


def test_a_first_vote_that_a_restart_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    boot = Host.boot

    def forgetful(machine: Host) -> None:
        machine.disk.prepared = None
        boot(machine)

    monkeypatch.setattr(Host, "boot", forgetful)
    found = ("gives its first vote to two", "and is honest")
    findings(*found, lies=("two stories",), faults="crash", moments=("vote",), peers=6, liars=2)


def test_a_view_that_one_word_enters(monkeypatch: pytest.MonkeyPatch) -> None:
    def follow(one: Peer, sender: PeerId, message: Any) -> None:
        if one.view < getattr(message, "view", 0) <= rounds.VIEW_MAX:
            rounds.enter_view(one, message.view)

    monkeypatch.setattr(rounds, "hear_view", follow)
    findings("timers", "lag", lies=("bumps",))


def test_members_without_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proven, "objection", lambda *given: None)
    findings("is pushed out", "never asked", "and is honest", lies=("slanders",))


def test_one_owner_that_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(lead: Leading) -> bool:
        exchange = lead.exchange
        return exchange is not None and len(exchange.reduced) == len(exchange.owners)

    monkeypatch.setattr(Leading, "disputed", lambda lead: [])
    monkeypatch.setattr(Leading, "complete", complete)
    findings("is not the mean", lies=("wrong sums",), peers=4)


def test_a_weight_beyond_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "contributors_objection", lambda *given: None)
    findings("is not its due", lies=("absurd",))
