"""How many contributions to wait for."""

from __future__ import annotations

import random
from math import inf

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from atoll.optim.backup_workers import (
    Spread,
    arrival_times,
    averaged,
    choose,
    curvature,
    gain,
    isotonic,
    spread,
)
from atoll.optim.norms import sum_of_squares
from atoll.optim.reference_federated import isotonic as isotonic_slowly

TIMES = st.lists(st.floats(1, 1e6), min_size=1, max_size=12).map(sorted)


def gains(count: int, lr: float, curve: float, found: Spread) -> list[float]:
    return [gain(k, lr, curve, found) for k in range(1, count + 1)]


# ---- the checks of the method ---------------------------------------------------------------------


@given(TIMES, st.floats(0.01, 100), st.floats(0.001, 1))
def test_without_variance_the_time_alone_counts(times: list[float], square: float, lr: float) -> None:
    found = choose(times, gains(len(times), lr, 0.5 / lr, Spread(square, 0.0)))
    assert times[found.count - 1] == times[0]
    assert found.count == len([time for time in times if time == times[0]])


@given(st.integers(1, 12), st.floats(1, 1e6), st.floats(0.01, 100), st.floats(0.0, 10))
def test_where_all_come_at_once_all_are_waited_for(
    count: int, time: float, square: float, variance: float
) -> None:
    assert choose([time] * count, gains(count, 0.1, 5.0, Spread(square, variance))).count == count


def test_noise_is_worth_waiting_for_and_stragglers_are_not() -> None:
    times = [1000.0, 1050.0, 1100.0, 1150.0, 1200.0, 1250.0, 5000.0, 60_000.0]
    small = choose(times, gains(8, 0.7, 0.5, Spread(1.0, 0.5)))
    large = choose(times, gains(8, 0.7, 0.5, Spread(1.0, 20.0)))
    assert small.count < large.count == 6
    assert large.reason == "6 of 8 gain most in 1250 ms"


def test_noise_alone_waits_for_all_and_a_rising_loss_for_one_more() -> None:
    times = [1.0, 2.0, 3.0]
    assert choose(times, gains(3, 0.7, 1.0, Spread(0.0, 1.0))).count == 3
    assert choose(times, [1.0, 1.0, 1.0], 2, 1.02).count == 3
    assert choose(times, [1.0, 1.0, 1.0], 3, 1.02).count == 3
    assert choose(times, [1.0, 1.0, 1.0], 1, 1.009).count == 1
    assert choose(times, [1.0, 1.0, 1.0], 0, 2.0).count == 1
    for wrong in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="gains"):
            choose(*wrong)


@given(TIMES, st.data())
def test_the_choice_is_the_best_quotient(times: list[float], data: st.DataObject) -> None:
    given_ = [data.draw(st.floats(-10, 10)) for _ in times]
    found = choose(times, given_).count
    best = max(g / t for g, t in zip(given_, times, strict=True))
    if best > 0:
        assert given_[found - 1] / times[found - 1] == best
    else:
        assert found == len(times)


def test_what_never_came_is_not_waited_for() -> None:
    times = arrival_times([[100.0, 110.0], [100.0, 130.0]], 4)
    assert times == [100.0, 120.0, inf, inf]
    assert choose(times, gains(4, 0.7, 0.5, Spread(1.0, 99.0))).count in (2, 4)
    assert choose(times, gains(4, 0.7, 0.5, Spread(1.0, 3.0))).count == 2


# ---- estimates ------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0.1, 100)), max_size=12),
)
def test_the_isotonic_fit_agrees_with_the_oracle(points: list[tuple[float, float]]) -> None:
    values, weights = [value for value, _ in points], [weight for _, weight in points]
    found = isotonic(values, weights)
    assert found == pytest.approx(isotonic_slowly(values, weights), rel=1e-9, abs=1e-6)
    assert found == sorted(found)


def test_arrival_times_are_made_to_rise() -> None:
    """The third arrival was seen once, in a quick round: its mean alone is below the second's."""
    rounds = [[10.0, 20.0, 25.0], [10.0, 40.0], [10.0, 60.0]]
    assert arrival_times(rounds, 3) == [10.0, 36.25, 36.25]
    assert arrival_times([], 2) == [inf, inf]


@given(st.integers(2, 8), st.integers(0, 10**6))
def test_spread_is_the_sample_variance(count: int, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((count, 20)).astype(np.float32)
    squares = [sum_of_squares(torch.from_numpy(row)) for row in rows]
    mean = rows.astype(np.float64).mean(axis=0)
    found = spread(squares, float(mean @ mean))
    assert found.variance == pytest.approx(float(rows.astype(np.float64).var(axis=0, ddof=1).sum()), rel=1e-9)
    assert found.square == pytest.approx(max(0.0, float(mean @ mean) - found.variance / count), abs=1e-9)


def test_spread_finds_what_the_contributions_were_drawn_from() -> None:
    draw = np.random.default_rng(5)
    truth, noise = draw.standard_normal(1000), 0.5
    found = []
    for _ in range(200):
        rows = truth + noise * draw.standard_normal((6, 1000))
        mean = rows.mean(axis=0)
        found.append(spread([float(row @ row) for row in rows], float(mean @ mean)))
    assert np.mean([it.square for it in found]) == pytest.approx(float(truth @ truth), rel=0.02)
    assert np.mean([it.variance for it in found]) == pytest.approx(1000 * noise**2, rel=0.02)
    with pytest.raises(ValueError, match="variance"):
        spread([1.0], 1.0)


def test_curvature_is_what_bent_the_fall() -> None:
    """On a quadratic of curvature L the estimate is L, and the gain is how far the loss fell."""
    for curve in (0.1, 1.0, 3.0):
        found, lr = Spread(2.0, 0.8), 0.3
        for count in (1, 4):
            fell = gain(count, lr, curve, found)
            assert curvature(lr, found, count, fell) == pytest.approx(curve)
    assert curvature(0.3, Spread(2.0, 0.8), 4, 1e9) == 0.0
    assert curvature(0.3, Spread(0.0, 0.0), 4, -1.0) == 0.0


def test_averages_pass_over_what_is_no_number() -> None:
    assert averaged(None, 4.0) == 4.0
    assert averaged(4.0, 8.0) == 5.0
    assert averaged(4.0, inf) == 4.0
    assert averaged(None, inf) == 0.0


# ---- all of it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "goal"), [(0.4, 0.5), (1.0, 1.0), (2.0, 1.0)])
def test_on_a_noisy_quadratic_it_takes_much_less_time_than_waiting_for_all(size: float, goal: float) -> None:
    """Milliseconds until |x|^2 / 2 is `goal`, with noisy gradients and exponential arrivals, in six runs.

    It comes near the best fixed number, which is another one for each noise and known only afterwards.
    """
    fixed = {k: sum(descend(seed, k, size, goal) for seed in range(6)) for k in (1, 2, 4, 6, 8)}
    chosen = sum(descend(seed, None, size, goal) for seed in range(6))
    assert chosen < 0.75 * fixed[8], (chosen, fixed)
    assert chosen < 1.75 * min(fixed.values()), (chosen, fixed)


def test_no_fixed_number_is_right_for_every_noise() -> None:
    calm = {k: sum(descend(seed, k, 0.4, 0.5) for seed in range(6)) for k in (1, 6)}
    loud = {k: sum(descend(seed, k, 2.0, 1.0) for seed in range(6)) for k in (1, 6)}
    assert calm[1] < calm[6]
    assert loud[1] == inf > loud[6]


def descend(seed: int, fixed: int | None, size: float, goal: float) -> float:
    """One run, with `fixed` of 8 or as many as are chosen each round; infinite if it takes 600 rounds."""
    workers, lr = 8, 0.1
    noise, draw = np.random.default_rng(seed), random.Random(seed)
    x, time, curve = np.full(50, 1.0), 0.0, None
    rounds: list[list[float]] = []
    last: tuple[Spread, int, float] | None = None
    count, before = fixed or workers, 0
    for _ in range(600):
        loss = float(x @ x) / 2
        if loss < goal:
            return time
        arrivals = sorted(500 + draw.expovariate(1 / 700) for _ in range(workers))
        if fixed is None and last is not None and len(rounds) > 1:
            curve = averaged(curve, curvature(lr, last[0], last[1], last[2] - loss))
            count = choose(
                arrival_times(rounds[-10:], workers),
                gains(workers, lr, curve, last[0]),
                before,
                loss / last[2],
            ).count
        rows = x + size * noise.standard_normal((count, 50))
        mean = rows.mean(axis=0)
        rounds.append(arrivals)
        if count > 1:
            last = (spread([float(row @ row) for row in rows], float(mean @ mean)), count, loss)
        elif last is not None:
            last = (last[0], count, loss)
        x, time, before = x - lr * mean, time + arrivals[count - 1], count
    return inf
