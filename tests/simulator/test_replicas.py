"""Runs in which several workers train each unit: with one of them frozen in every round, under all faults."""

from __future__ import annotations

import dataclasses

import pytest

from atoll.protocol.commits import Body, Commit, Kind
from atoll.protocol.ids import Digest
from atoll.simulator.checkers import all_checkers
from atoll.simulator.host import Host
from atoll.simulator.run import trial
from atoll.simulator.setting import setting
from atoll.simulator.world import World

LONG_MS = 60_000
WORKERS, UPDATES = 6, 12


class FrozenInTurn:
    """As soon as anybody commits a round, thaw the worker that was frozen in it and freeze another one.

    `offset_ms` is how long the next round goes on before; with none the victim does nothing in it at all.
    """

    world: World

    def __init__(self, freezes: bool, offset_ms: int = 0) -> None:
        self.freezes, self.offset_ms = freezes, offset_ms
        self.bodies: dict[int, Body] = {}
        self.victims: dict[int, Host] = {}

    def on_commit(self, host: Host, commit: Commit) -> None:
        body = commit.body
        if body.round in self.bodies:
            return
        self.bodies[body.round] = body
        if self.freezes:
            if before := self.victims.get(body.round):
                before.recover()
            self.world.clock.later(self.offset_ms, self.freeze, body.round + 1)

    def freeze(self, round_: int) -> None:
        if round_ not in self.bodies:
            workers = sorted(
                (one for one in self.world.hosts.values() if one.name != "w"), key=lambda h: h.id
            )
            self.victims[round_] = workers[round_ % WORKERS]
            self.victims[round_].freeze(LONG_MS)


def updates(replicas: int, seed: int, freezes: bool, offset_ms: int = 0) -> dict[int, tuple[Digest, ...]]:
    """The blobs of each round's update."""
    seen = FrozenInTurn(freezes, offset_ms)
    chosen = dataclasses.replace(setting(WORKERS, UPDATES, "none", "dense"), replicas=replicas)
    outcome = trial(seed, chosen, checkers=[*all_checkers(), seen])
    assert (outcome.violation, outcome.stuck) == (None, None), f"FAIL seed={seed}"
    rounds = {r: body for r, body in seen.bodies.items() if body.kind is Kind.UPDATE and r <= UPDATES}
    assert len(rounds) == UPDATES - 1, "the workers join in the first round, and no other is skipped"
    if freezes and not offset_ms:
        assert not any(seen.victims[r].id in body.counted for r, body in rounds.items())
    return {r: tuple(ref.digest for ref in body.blobs) for r, body in rounds.items()}


@pytest.mark.parametrize("seed", range(3))
def test_with_one_frozen_in_each_round_the_updates_are_those_of_a_run_without(seed: int) -> None:
    calm = updates(2, seed, freezes=False)
    assert updates(2, seed, freezes=True) == calm
    assert updates(1, seed, freezes=True) != updates(1, seed, freezes=False)


@pytest.mark.parametrize("offset_ms", [1_000, 1_200, 1_350, 1_500])
def test_whenever_in_its_round_the_one_is_frozen(offset_ms: int) -> None:
    for seed in range(2):
        assert updates(2, seed, freezes=True, offset_ms=offset_ms) == updates(2, seed, freezes=False)


@pytest.mark.parametrize("replicas", [2, 3])
def test_heavy_faults_break_nothing(replicas: int) -> None:
    for seed in range(7):
        outcome = trial(seed, dataclasses.replace(setting(7, 4, "heavy"), replicas=replicas))
        assert (outcome.violation, outcome.stuck) == (None, None), f"FAIL seed={seed}"
        assert outcome.rejected == {}


def test_liars_break_nothing() -> None:
    for seed in range(4):
        chosen = setting(6, 3, "heavy", liars=2, votes="two-thirds")
        disputes = ("take", "drop")[seed % 2]
        outcome = trial(seed, dataclasses.replace(chosen, replicas=2, disputes=disputes))
        assert (outcome.violation, outcome.stuck) == (None, None), f"FAIL seed={seed}"
