"""The rests of a trainer that was told to take only a share of the machine."""

from __future__ import annotations

import pytest

from atoll.node.effort import LATELY, LONGER_MAX, Effort


class Time:
    """A clock that only sleeping and working move."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def pass_by(self, seconds: float) -> None:
        self.now_s += seconds


def rest_after(effort: Effort, time: Time, step_s: float) -> float:
    effort.begin()
    time.pass_by(step_s)
    effort.end()
    before_s = time.now_s
    effort.rest(lambda: False)
    return time.now_s - before_s


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 1.0])
def test_a_share_of_the_time_is_trained(share: float) -> None:
    time = Time()
    effort = Effort(share, lambda: time.now_s, time.pass_by)
    rests_s = sum(rest_after(effort, time, 0.5) for _ in range(10))
    assert 5.0 / (5.0 + rests_s) == pytest.approx(share)


def test_a_step_in_which_the_machine_slept_calls_for_no_rest_of_hours() -> None:
    time = Time()
    effort = Effort(0.2, lambda: time.now_s, time.pass_by)
    rest_after(effort, time, 0.5)
    assert rest_after(effort, time, 8 * 3600.0) == pytest.approx(0.5 * LONGER_MAX * 4)


def test_steps_that_became_longer_are_soon_rested_for_in_full() -> None:
    time = Time()
    effort = Effort(0.2, lambda: time.now_s, time.pass_by)
    rest_after(effort, time, 0.5)
    assert [rest_after(effort, time, 5.0) for _ in range(LATELY)][-1] == pytest.approx(20.0)


def test_a_rest_ends_with_the_round() -> None:
    time = Time()
    effort = Effort(0.05, lambda: time.now_s, time.pass_by)
    effort.begin()
    time.pass_by(10.0)
    effort.end()
    before_s = time.now_s
    effort.rest(lambda: time.now_s >= before_s + 1.0)
    assert time.now_s == pytest.approx(before_s + 1.0, abs=0.1)


def test_nothing_is_rested_for_before_the_first_step() -> None:
    time = Time()
    effort = Effort(0.05, lambda: time.now_s, time.pass_by)
    effort.end()
    effort.rest(lambda: False)
    assert time.now_s == 0.0
