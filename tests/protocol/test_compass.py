"""Arrival groups: who is given how many steps, and what is merged when."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import peer

from atoll.protocol.compass import (
    Compass,
    CompassRules,
    Work,
    arrive,
    due,
    ms_for,
    place,
    place_all,
    steps_within,
)
from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import PeerId

A, B, C, D = map(peer, "abcd")
RULES = CompassRules(steps_min=20, steps_max=100)


@given(st.integers(1, 10**9), st.integers(1, 32), st.integers(1, 10**4), st.integers(0, 10**9))
def test_equal_speeds_are_one_group(speed: int, peers: int, most: int, now_ms: int) -> None:
    rules = CompassRules(1, most)
    compass, work = place_all(Compass(), {PeerId(str(n)): speed for n in range(peers)}, now_ms, rules)
    assert len(compass.groups) == 1
    assert {it.steps for it in work.values()} == {most}
    assert compass.groups[0].waiting == set(work)
    for who in work:
        compass, number = arrive(compass, who)
        assert number == 0
    left, ready = due(compass, compass.groups[0].expected_ms)
    assert left.groups == ()
    assert set(ready[0].arrived) == set(work)


def test_slower_ones_do_less_and_arrive_together() -> None:
    """4, 2 and 1 steps per second: 100, 50 and 25 steps, all after 25 s."""
    compass, work = place_all(Compass(), {A: 1000, B: 2000, C: 4000}, 7_000, RULES)
    assert {who: it.steps for who, it in work.items()} == {C: 100, B: 50, A: 25}
    (group,) = compass.groups
    assert (group.expected_ms, group.latest_ms) == (32_000, 7_000 + 37_500)
    assert compass.wake_ms == 44_500


def test_who_is_too_slow_for_every_group_opens_one_that_the_fastest_can_join_later() -> None:
    compass, work = place_all(Compass(), {A: 500, C: 4000}, 0, RULES)
    assert work[C].steps == 100
    # C's group is merged at 37.5 s at the latest, and C could be back 25 s later: A does what fits before
    assert work[A].steps == steps_within(500, 37_500 + 25_000) == 31
    assert work[A].expected_ms == 62_000
    compass, number = arrive(compass, C)
    compass, ready = due(compass, 25_000)
    assert number == 0
    assert [group.arrived for group in ready] == [(C,)]
    compass, again = place(compass, C, 4000, 25_000, RULES)
    assert again.group == 1 == work[A].group or again.steps == 100
    assert again.group == 2  # A's group is 37 s away: 148 steps are too many, a group of its own
    compass, _ = arrive(compass, C)
    compass, ready = due(compass, 50_000)
    compass, third = place(compass, C, 4000, 50_000, RULES)
    assert (third.group, third.steps) == (1, 48)  # now it is 12 s away


def test_the_fastest_of_a_group_decides_when_a_new_one_should_arrive() -> None:
    """B joins C's group; A, too slow for it, expects C back 25 s after it is late, not B after 50 s."""
    _, work = place_all(Compass(), {A: 500, B: 2000, C: 4000}, 0, RULES)
    assert (work[B].group, work[B].steps) == (0, 50)
    assert work[A].steps == steps_within(500, 37_500 + 25_000)


def test_a_group_is_merged_when_it_is_late_and_who_comes_after_finds_none() -> None:
    compass, _ = place_all(Compass(), {A: 1000, B: 1000}, 0, RULES)
    compass, _ = arrive(compass, A)
    assert due(compass, 149_999)[1] == ()
    compass, ready = due(compass, 150_000)
    assert ready[0].arrived == (A,)
    assert ready[0].waiting == {B}
    compass, number = arrive(compass, B)
    assert number is None
    assert compass.groups == ()
    assert compass.wake_ms is None


def test_who_asks_again_leaves_the_group_it_was_in() -> None:
    compass, _ = place_all(Compass(), {A: 1000, B: 1000}, 0, RULES)
    compass, work = place(compass, A, 1000, 50_000, RULES)
    assert [sorted(group.waiting) for group in compass.groups] == [sorted((A, B))]
    assert work.steps == 50
    compass, _ = place_all(Compass(), {A: 1000}, 0, RULES)
    compass, work = place(compass, A, 1000, 50_000, RULES)
    assert len(compass.groups) == 1
    assert (work.group, work.steps) == (1, 100)


def whole(left_ms: int, speed: int) -> int:
    """Steps in the time left; what is above 100 by the last millisecond alone is 100."""
    steps = int(Fraction(left_ms * speed, 10**6))
    return min(steps, 100) if Fraction((left_ms - 1) * speed, 10**6) < 100 else steps


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.integers(100, 10_000), st.integers(0, 20_000)), max_size=60
    )
)
def test_every_piece_of_work_is_within_bounds_and_done_in_time(
    asked: list[tuple[str, int, int]],
) -> None:
    compass, now_ms, given_out = Compass(), 0, {}
    for name, speed, later_ms in asked:
        now_ms += later_ms
        compass, _ = due(compass, now_ms)
        if name in given_out and given_out[name] % 2:
            compass, _ = arrive(compass, peer(name))
            compass, _ = due(compass, now_ms)
        if any(peer(name) in group.arrived for group in compass.groups):
            with pytest.raises(ValueError, match="not merged"):
                place(compass, peer(name), speed, now_ms, RULES)
            continue
        open_ = [g for g in compass.groups if g.arrived or g.waiting != {peer(name)}]
        compass, work = place(compass, peer(name), speed, now_ms, RULES)
        given_out[name] = given_out.get(name, 0) + 1
        assert RULES.steps_min <= work.steps <= RULES.steps_max
        assert now_ms + ms_for(work.steps, speed) <= work.expected_ms
        fits = {
            g.number: steps for g in open_ if 20 <= (steps := whole(g.expected_ms - now_ms, speed)) <= 100
        }
        if fits:
            assert work.steps == max(fits.values()) == fits[work.group]
        else:
            assert work.group not in {g.number for g in open_}
        assert len(compass.groups) <= 6
        waiting = [who for group in compass.groups for who in group.waiting]
        assert len(waiting) == len(set(waiting))


def test_rules_and_speeds_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="steps_min"):
        CompassRules(5, 4)
    with pytest.raises(ConfigError, match="latest_percent"):
        CompassRules(1, 4, 99)
    with pytest.raises(ValueError, match="above 0"):
        place(Compass(), A, 0, 0, RULES)


def idle_share(speeds: dict[PeerId, int], seed: int, until_ms: int = 2_000_000) -> tuple[float, float]:
    """The share of their time that peers wait for their group, and that of arrivals that found it merged."""
    draw, now_ms, idle_ms, late = random.Random(seed), 0, 0, 0
    compass, work = place_all(Compass(), speeds, 0, RULES)
    done_ms = {who: took(it, speeds[who], 0, draw) for who, it in work.items()}
    arrived_ms: dict[PeerId, int] = {}
    arrivals = 0
    while now_ms < until_ms:
        now_ms = min([*done_ms.values(), compass.wake_ms or until_ms])
        for who in sorted(who for who, at in done_ms.items() if at <= now_ms):
            compass, group = arrive(compass, who)
            arrived_ms[who] = done_ms.pop(who)
            arrivals, late = arrivals + 1, late + (group is None)
        compass, ready = due(compass, now_ms)
        waiting = {who for group in compass.groups for who in group.arrived}
        free = [who for who in arrived_ms if who not in waiting]
        idle_ms += sum(now_ms - arrived_ms.pop(who) for who in free)
        compass, work = place_all(compass, {who: speeds[who] for who in free}, now_ms, RULES)
        done_ms |= {who: took(it, speeds[who], now_ms, draw) for who, it in work.items()}
        assert ready or not free or late
    return idle_ms / (now_ms * len(speeds)), late / arrivals


def took(work: Work, speed: int, now_ms: int, draw: random.Random) -> int:
    return now_ms + round(ms_for(work.steps, speed) * draw.uniform(0.98, 1.02))


@pytest.mark.parametrize("seed", range(3))
def test_peers_of_mixed_speeds_hardly_wait(seed: int) -> None:
    """With times that vary by 2 %: that is what a group of equals waits for, too."""
    idle, late = idle_share({A: 1000, B: 2000, C: 4000}, seed)
    assert idle < 0.02
    assert late == 0
    idle, late = idle_share({A: 390, B: 1700, C: 4000, D: 2300}, seed)  # A is too slow for C's group
    assert idle < 0.02
    assert late == 0
