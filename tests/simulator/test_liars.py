"""Fewer than a third lie, in every way there is: one history, and it goes on."""

from __future__ import annotations

import dataclasses

import pytest

from atoll.protocol.errors import ConfigError
from atoll.simulator.lies import LIES
from atoll.simulator.run import replay, run_network, trial
from atoll.simulator.setting import setting

SEEDS = 12


@pytest.mark.parametrize(
    ("peers", "liars", "seeds"),
    [
        (3, 1, range(60)),
        (6, 2, range(40)),
        pytest.param(3, 1, range(60, 200), marks=pytest.mark.long),
        pytest.param(6, 2, range(40, 120), marks=pytest.mark.long),
    ],
)
def test_liars_of_all_kinds_neither_split_nor_stop_a_run(peers: int, liars: int, seeds: range) -> None:
    report = run_network(peers, 2, seeds, "loss,reorder,slow", liars=liars, votes="two-thirds")
    assert report["failures"] == []
    assert (report["violations"], report["stuck"]) == (0, 0)
    assert report["updates"] > 3 * len(seeds)


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_alone_breaks_nothing(lie: str) -> None:
    chosen = dataclasses.replace(setting(3, 3, "none", "", 1, "two-thirds"), lies=(lie,))
    for seed in range(4):
        outcome = trial(seed, chosen)
        assert (outcome.violation, outcome.stuck) == (None, None), f"FAIL seed={seed}"
        assert outcome.updates >= 5


@pytest.mark.parametrize("lie", ["two stories", "yes-sayer"])
def test_who_signs_two_things_is_banned(lie: str) -> None:
    """A yes-sayer alone signs nothing twice: it takes a leader with two stories."""
    chosen = dataclasses.replace(setting(6, 6, "none", "", 2, "two-thirds"), lies=(lie,))
    refused = sum(
        count
        for seed in range(4)
        for reason, count in trial(seed, chosen).rejected.items()
        if "signed two votes in one view, and is banned" in reason
    )
    assert (refused > 0) == (lie == "two stories")


def test_two_stages_survive_all_faults_without_liars() -> None:
    report = run_network(7, 6, range(SEEDS // 3), "heavy", votes="two-thirds")
    assert report["failures"] == []
    assert report["view_max"] > 0


def test_without_faults_two_stages_refuse_nobody() -> None:
    outcome = trial(0, setting(7, 6, "none", votes="two-thirds"))
    assert (outcome.violation, outcome.stuck, outcome.rejected, outcome.view_max) == (None, None, {}, 0)


def test_a_replay_names_the_liars() -> None:
    told = replay(3, setting(6, 4, "none", "dense", 2, "two-thirds"))
    assert told.endswith("--seeds 3:4 --faults none --mode dense --liars 2 --votes two-thirds --trace")


@pytest.mark.parametrize(
    ("liars", "votes", "right"),
    [
        (3, "two-thirds", "at most 2 of 7"),
        (1, "majority", "--votes two-thirds"),
        (-1, "two-thirds", "2 of 7"),
    ],
)
def test_more_liars_than_can_be_borne_are_refused(liars: int, votes: str, right: str) -> None:
    with pytest.raises(ConfigError, match=right):
        setting(6, 4, "none", "", liars, votes)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="three-quarters"):
        setting(6, 4, "none", "", 0, "three-quarters")
