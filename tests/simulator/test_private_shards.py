"""Runs whose members bring their data: nothing of a shard is lost while one that holds it is there."""

from __future__ import annotations

import dataclasses

import pytest
from test_replicas import UPDATES, WORKERS, FrozenInTurn

from atoll.protocol.commits import Kind
from atoll.protocol.ids import Digest
from atoll.simulator.checkers import all_checkers
from atoll.simulator.run import trial
from atoll.simulator.setting import setting

SHARDS = 3


def updates(seed: int, freezes: bool, shards: int = SHARDS) -> dict[int, tuple[Digest, ...]]:
    """The blobs of each round's update; every one of them lacks no shard that has two holders."""
    seen = FrozenInTurn(freezes)
    chosen = dataclasses.replace(setting(WORKERS, UPDATES, "none"), private=shards)
    outcome = trial(seed, chosen, checkers=[*all_checkers(), seen])
    assert (outcome.violation, outcome.stuck) == (None, None), f"FAIL seed={seed}"
    rounds = {r: body for r, body in seen.bodies.items() if body.kind is Kind.UPDATE and r <= UPDATES}
    assert len(rounds) == UPDATES - 1
    for body in rounds.values():
        held = {m.peer: m.shard for m in body.before if m.shard}
        assert len(held) == WORKERS
        if shards == SHARDS:
            assert sorted(held[c.peer] for c in body.contributors) == [f"shard-{n}" for n in range(SHARDS)]
    if freezes:
        assert not any(seen.victims[r].id in body.counted for r, body in rounds.items())
    return {r: tuple(ref.digest for ref in body.blobs) for r, body in rounds.items()}


@pytest.mark.parametrize("seed", range(1))
def test_with_one_holder_frozen_in_each_round_the_updates_are_those_of_a_run_without(seed: int) -> None:
    assert updates(seed, freezes=True) == updates(seed, freezes=False)


def test_a_shard_that_one_alone_holds_is_lost_with_it() -> None:
    assert updates(0, freezes=True, shards=WORKERS) != updates(0, freezes=False, shards=WORKERS)


@pytest.mark.long
def test_heavy_faults_break_nothing() -> None:
    for seed in range(3):
        outcome = trial(seed, dataclasses.replace(setting(7, 4, "heavy"), private=SHARDS))
        assert (outcome.violation, outcome.stuck) == (None, None), f"FAIL seed={seed}"
        assert outcome.rejected == {}
