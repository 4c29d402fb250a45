"""Goodput where machines fail: the leader's rule is the protocol's, and one machine has a closed form."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from atoll.protocol.deciding import Go, decide
from atoll.protocol.manifest import RoundRules
from atoll.simulator.timing.goodput import DataParallel, Rounds, Simulation, Swarm, goes_on_s
from atoll.simulator.timing.traces import Failures

RULES = RoundRules(grace_ms_min=500, grace_ms_max=4_000, train_ms_max=60_000)
OFFERS = st.lists(st.integers(1, 50_000), min_size=1, max_size=8)


@settings(max_examples=40)
@given(OFFERS, st.integers(0, 3), st.integers(1, 8))
def test_a_leader_goes_on_when_the_protocol_says_so(come_ms: list[int], lost: int, quorum: int) -> None:
    """`decide` asked at every moment at which something changes, against the closed form."""
    expected = len(come_ms) + lost
    terms = cast(Any, SimpleNamespace(rules=RULES, gathering=False, quorum=quorum))
    ordered = sorted(come_ms)
    quorum_ms = ordered[quorum - 1] if len(ordered) >= quorum else None
    moments = sorted({*ordered, *((quorum_ms + grace for grace in range(500, 4001)) if quorum_ms else ())})
    went = None
    for now_ms in moments:
        offers = sum(came <= now_ms for came in ordered)
        if offers >= quorum and isinstance(decide(now_ms, 0, quorum_ms, offers, expected, terms, 0), Go):
            went = now_ms
            break
    found = goes_on_s(np.array([*come_ms, *[math.inf] * lost]) / 1000, expected, quorum, RULES)
    assert (found is None) == (went is None)
    if went is not None:
        assert found == pytest.approx(went / 1000, abs=0.0011)


def test_nothing_fails_nothing_is_lost() -> None:
    swarm = Swarm(8, Failures(1e12, 0.0))
    ahead = Rounds(10.0, 2.0, RoundRules(fragments=4, overlap=2))
    assert Simulation(swarm, ahead, 0).until(4000).share == pytest.approx(1.0, abs=0.01)
    blocking = Simulation(swarm, Rounds(10.0, 2.0), 0).until(4000)
    assert blocking.share == pytest.approx(10 / 12)
    assert blocking.skipped == blocking.take_overs == 0


@pytest.mark.long
def test_one_machine() -> None:
    """From a failure to the next: a pause, and the rounds that were whole by then."""
    up_s, pause_s, train_s = 500.0, 40.0, 10.0
    swarm = Swarm(1, Failures(up_s, 0.0), stopped_s=30.0, load_s=10.0, join_s=10.0)
    rules = RoundRules(missed_max=1000, grace_ms_min=0, train_ms_max=12_000)
    rounds = Rounds(train_s, 0.0, rules, frozen_share=0.0, paced=False)
    shares = [Simulation(swarm, rounds, seed).until(40_000).share for seed in range(4)]
    rounds_whole_s = train_s / math.expm1(train_s / up_s)
    assert np.mean(shares) == pytest.approx(rounds_whole_s / (up_s + pause_s), rel=0.03)


def test_data_parallel_in_closed_form() -> None:
    """Decoupled DiLoCo publishes 58 % and 40 % for these; 19 s a failure gives both."""
    year_s = 365.25 * 86400
    elastic = DataParallel(restart_s=19.0, save_s=1e-6)
    assert elastic.goodput(year_s / 1.2e6) == pytest.approx(0.58, abs=0.005)
    assert elastic.goodput(year_s / 2.4e6) == pytest.approx(0.40, abs=0.01)
    assert DataParallel(0.0, 10.0).goodput(100.0) == pytest.approx(0.1 / math.expm1(0.1))
    assert DataParallel(0.0, 1e9).goodput(1.0) == 0.0


def test_more_failures_cost_more_and_a_swarm_bears_more() -> None:
    ahead = Rounds(300.0, 30.0, RoundRules(fragments=4, overlap=2))

    def share(peers: int, half_life_h: float) -> float:
        swarm = Swarm(peers, Failures.half_life(3600 * half_life_h, 1800.0), load_s=30.0, join_s=120.0)
        return Simulation(swarm, ahead, 1).until(86_400).share

    assert share(32, 24.0) > share(32, 8.0) > share(32, 1.0) > 0.85
    assert share(128, 1.0) == pytest.approx(share(16, 1.0), abs=0.03)


def test_who_is_away_for_long_weighs_nothing_at_first() -> None:
    """Left out after `missed_max` rounds, it joins anew: the longer a join takes, the more is lost."""
    rounds = Rounds(20.0, 2.0, RoundRules(fragments=4, overlap=2))

    def share(join_s: float) -> float:
        swarm = Swarm(16, Failures(2000.0, 500.0), load_s=2.0, join_s=join_s)
        return Simulation(swarm, rounds, 0).until(40_000).share

    assert share(2.0) > share(200.0) + 0.05
