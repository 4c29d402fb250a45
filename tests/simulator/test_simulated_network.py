"""The protocol under faults: nothing forbidden happens, and everybody gets on once the faults stop."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from atoll.simulator.checkers.equal_anchors import EqualAnchors
from atoll.simulator.checkers.one_history import OneHistory
from atoll.simulator.run import run_network, trial
from atoll.simulator.setting import FAULTS, MODES, Setting, rules, setting
from atoll.simulator.world import World

SEEDS = 20
DIGEST_OF_TRACE = """\
import hashlib
from atoll.simulator.run import trial
from atoll.simulator.setting import setting
lines = trial(11, setting(5, 4, "heavy"), traced=True).trace
print(len(lines), hashlib.sha256("\\n".join(lines).encode()).hexdigest())
"""


def test_without_faults_no_leader_is_replaced_and_nobody_refused() -> None:
    for seed in range(5):
        outcome = trial(seed, setting(7, 8, "none"))
        assert (outcome.violation, outcome.stuck) == (None, None), f"FAIL seed={seed}"
        assert outcome.view_max == 0
        assert outcome.rejected == {}
        assert outcome.updates == 10
        assert outcome.commits == 11, "one more takes in the workers"


def test_one_worker_and_the_witness_get_on() -> None:
    outcome = trial(0, setting(1, 4, "none"))
    assert (outcome.violation, outcome.stuck, outcome.updates) == (None, None, 6)


@pytest.mark.parametrize("faults", [*FAULTS, "crash,loss,reorder"])
def test_a_kind_of_fault_breaks_nothing(faults: str) -> None:
    chosen = setting(7, 6, faults)
    for seed in range(SEEDS // 6):
        outcome = trial(seed, chosen)
        assert (outcome.violation, outcome.stuck) == (None, None), f"FAIL seed={seed}"
        assert outcome.rejected == {}, f"an honest peer is refused: seed={seed}"


@pytest.mark.parametrize(
    ("peers", "seeds"),
    [
        (7, range(60)),
        (10, range(12)),
        (16, range(4)),
        pytest.param(7, range(60, 260), marks=pytest.mark.long),
        pytest.param(10, range(12, 52), marks=pytest.mark.long),
        pytest.param(16, range(4, 20), marks=pytest.mark.long),
    ],
)
def test_all_faults_at_once_break_nothing(peers: int, seeds: range) -> None:
    report = run_network(peers, 3, seeds, "heavy")
    assert report["failures"] == []
    assert (report["seeds"], report["violations"], report["stuck"]) == (len(seeds), 0, 0)
    assert report["updates"] > 3 * len(seeds), "faults that stop all progress would show nothing"
    assert report["view_max"] > 1, "leaders must be replaced for take-overs to be tested"


def test_a_run_outlives_its_majority() -> None:
    """Lost at once, it comes back to a later epoch; ledgers are pruned, and small committees vote."""
    chosen = setting(5, 6, "doom,churn")
    outcomes = [trial(seed, chosen) for seed in range(3 * SEEDS)]
    bad = [(o.seed, o.violation or o.stuck) for o in outcomes if o.violation or o.stuck]
    assert bad == []
    assert sum(outcome.epoch > 0 for outcome in outcomes) > 1
    assert sum(outcome.pruned > 1 for outcome in outcomes) > 1


def test_a_run_goes_on_whose_last_update_is_more_commits_ago_than_are_kept() -> None:
    """Three recoveries and two skips since: all had to fetch a state, and nobody had a newer one."""
    report = run_network(11, 12, range(74, 75), "heavy", mode="dense")
    assert (report["violations"], report["stuck"]) == (0, 0)


def test_the_seed_chooses_how_many_vote_and_when_there_are_snapshots() -> None:
    chosen = [rules(seed, Setting(5, 4)) for seed in range(42)]
    assert {one.voters_max for one in chosen} == {3, 4, 5, 64}
    assert {one.snapshot_rounds for one in chosen} == {3, 4, 5, 256}
    fixed = rules(0, Setting(5, 4, voters=4, snapshots=7))
    assert (fixed.voters_max, fixed.snapshot_rounds) == (4, 7)


@pytest.mark.parametrize("mode", MODES)
def test_every_way_of_exchanging_bears_all_faults(mode: str) -> None:
    chosen = setting(6, 6, "heavy", mode)
    for seed in range(100, 105):
        outcome = trial(seed, chosen)
        assert (outcome.violation, outcome.stuck) == (None, None), f"FAIL seed={seed} mode={mode}"
        assert outcome.updates >= 6


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_without_faults_loses_no_round(mode: str) -> None:
    outcome = trial(1, setting(5, 8, "none", mode))
    assert (outcome.violation, outcome.stuck) == (None, None)
    assert (outcome.updates, outcome.commits, outcome.view_max, outcome.rejected) == (10, 11, 0, {})


def test_training_that_runs_ahead_saves_the_time_of_the_rounds() -> None:
    blocking, ahead = (trial(2, setting(7, 8, "none", mode)) for mode in ("fragments", "streaming"))
    assert blocking.updates == ahead.updates
    assert ahead.virtual_ms < 0.8 * blocking.virtual_ms


def test_the_seed_chooses_the_mode_and_whether_the_run_ends() -> None:
    chosen = Setting(5, 4)
    pairs = {(chosen.mode_of(seed), bool(rules(seed, chosen).rounds)) for seed in range(20)}
    assert pairs == {(mode, ends) for mode in MODES for ends in (True, False)}
    assert {rules(seed, Setting(5, 4, mode="streaming")).overlap for seed in range(20)} == {1, 2, 3}


@pytest.mark.parametrize("seed", [0, 2, 4, 6])
def test_a_worker_gets_into_a_run_whose_rounds_are_far_shorter_than_a_retry(seed: int) -> None:
    """Somebody joins a run of one worker whose step is 1 ms long, and who lives next to the witness."""
    chosen = Setting(1, 1_000, frozenset({"churn"}), mode="dense", retry_ms=3_000)
    world = World(seed, chosen, [OneHistory(), EqualAnchors()])
    witness, worker, late = world.hosts.values()
    world.links.close(witness.name, worker.name, 1)
    for host in world.hosts.values():
        host.step_ms = 1
    world.boot()
    world.clock.run(20_000, lambda: False)
    began, began_ms = world.height, world.clock.now_ms
    late.boot()
    assert world.clock.run(80_000, lambda: any(late.id in one.body.counted for one in world.history.chain))
    assert world.clock.now_ms - began_ms < 4 * chosen.retry_ms
    took_ms = (world.clock.now_ms - began_ms) / (world.height - began)
    assert took_ms * rules(seed, chosen).keep_rounds < chosen.retry_ms, "rounds were short all the while"


def test_one_seed_gives_one_trace() -> None:
    traces = [trial(3, setting(5, 4, "heavy"), traced=True).trace for _ in range(2)]
    assert len(traces[0]) > 1_000
    assert traces[0] == traces[1]
    assert traces[0] != trial(4, setting(5, 4, "heavy"), traced=True).trace


def test_a_trace_does_not_depend_on_the_process() -> None:
    """Not on the order of sets, which Python changes from process to process."""
    said = {
        subprocess.run(
            [sys.executable, "-c", DIGEST_OF_TRACE],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for salt in ("1", "2", "3")
    }
    assert len(said) == 1


def test_the_simulator_starts_without_torch() -> None:
    code = "import sys, atoll.simulator.run; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert not {"torch", "numpy", "matplotlib", "hivemind", "grpc"}.intersection(done.stdout.split())
