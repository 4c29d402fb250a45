"""Traces: the work they allow is exact, and they have the statistics that they are said to have."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from atoll.simulator.timing import traces
from atoll.simulator.timing.traces import Failures, Trace

SLOTS = 20_000
SPEEDS = st.lists(st.floats(0.05, 1.0), min_size=1, max_size=6)


@settings(max_examples=40)
@given(SPEEDS, st.floats(0.0, 50.0), st.floats(0.0, 50.0))
def test_work_and_time_are_each_others_inverse(speeds: list[float], start_s: float, work: float) -> None:
    trace = Trace("any", np.array([speeds]), 2.0)
    done_s = trace.done_s(0, start_s, work)
    assert done_s >= start_s - 1e-9
    assert trace.work(0, done_s) - trace.work(0, start_s) == pytest.approx(work, abs=1e-6)


def test_work_is_the_sum_over_slots() -> None:
    trace = Trace("by hand", np.array([[1.0, 0.5, 0.25]]), 4.0)
    assert trace.work(0, 6.0) == 4.0 + 1.0
    assert trace.work(0, 12.0 + 6.0) == 7.0 + 5.0, "the trace begins again"
    assert trace.done_s(0, 2.0, 3.0) == 6.0


def test_random_slowdowns_are_exponential() -> None:
    slowdown = 1 / traces.random(4, SLOTS, 1.0, seed=1, mean=0.5).speeds - 1
    assert slowdown.mean() == pytest.approx(0.5, rel=0.02)
    assert slowdown.std() == pytest.approx(0.5, rel=0.03)
    assert (slowdown > 1.0).mean() == pytest.approx(np.exp(-2.0), rel=0.05)


def test_bursts_are_as_frequent_and_as_long_as_said() -> None:
    bad = traces.bursty(4, SLOTS, 1.0, seed=1, falls=0.05, recovers=0.4, slower=5.0).speeds < 1
    starts = (bad[:, 1:] & ~bad[:, :-1]).sum() + bad[:, 0].sum()
    assert bad.mean() == pytest.approx(0.05 / 0.45, rel=0.05)
    assert bad.sum() / starts == pytest.approx(1 / 0.4, rel=0.05)


def test_persistent_ones_are_always_the_same() -> None:
    trace = traces.persistent(12, seed=3, share=0.25, slower=5.0)
    assert sorted(trace.speeds[:, 0].tolist()) == [0.2] * 3 + [1.0] * 9
    assert trace.work(int(trace.speeds[:, 0].argmin()), 100.0) == pytest.approx(20.0)


def test_a_mix_takes_its_kinds_in_turn() -> None:
    assert traces.mix(6).speeds[:, 0].tolist() == [1.0, 0.5, 0.25] * 2


def test_a_seed_is_a_trace() -> None:
    for make in (traces.random, traces.bursty):
        first, again, other = (make(3, 50, 1.0, seed) for seed in (1, 1, 2))
        assert (first.speeds == again.speeds).all()
        assert (first.speeds != other.speeds).any()


def test_a_half_life_is_memoryless() -> None:
    failures = Failures.half_life(3600.0, 1800.0)
    assert np.exp(-3600.0 / failures.up_s) == pytest.approx(0.5)
    assert failures.share_up == pytest.approx(failures.up_s / (failures.up_s + 1800))
