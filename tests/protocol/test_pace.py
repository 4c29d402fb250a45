"""Steps by speed: what each member is assigned, and that neither jitter nor absurd words move it."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import peer

from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import PeerId
from atoll.protocol.manifest import Assignment
from atoll.protocol.pace import (
    FACTOR_MAX,
    SPEED_MAX,
    Pace,
    PaceRules,
    Report,
    assign,
    next_paces,
    speed_after,
    tokens_of,
    toward,
)

RULES = PaceRules(steps=480)
SPEEDS = st.lists(st.integers(1, SPEED_MAX), min_size=1, max_size=12)
NEAR = st.lists(st.integers(1000, 8000), min_size=1, max_size=12)


def assigned_slowly(speeds: list[int], rules: PaceRules) -> list[int]:
    """In fractions: the share of the fastest, to the nearest 16th of the way between two powers of two."""
    known = sorted(speed for speed in speeds if speed)
    if not known:
        return [rules.steps] * len(speeds)
    usual = known[(len(known) - 1) // 2]
    first = min(known[-1], rules.lead_max * usual)
    found = []
    for speed in speeds:
        share, scale = min(Fraction(speed or usual, first), Fraction(1)), Fraction(1)
        while share <= Fraction(1, 2):
            share, scale = 2 * share, scale / 2
        level = Fraction(int(share * 32 + Fraction(1, 2)), 32) * scale
        found.append(max(rules.steps_min, int(rules.steps * level)))
    return found


# ---- assigning ------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, SPEED_MAX), max_size=12), st.integers(1, 10**6), st.integers(1, 64), st.data())
def test_it_agrees_with_the_oracle(speeds: list[int], steps: int, lead: int, data: st.DataObject) -> None:
    rules = PaceRules(steps, data.draw(st.integers(1, steps)), lead)
    assert list(assign(speeds, rules)) == assigned_slowly(speeds, rules)


def test_one_two_four() -> None:
    assert assign([100, 200, 400], RULES) == (120, 240, 480)
    assert assign([400, 100, 100, 200], RULES) == (480, 120, 120, 240)


@given(SPEEDS)
def test_the_fastest_does_all_and_who_is_faster_never_less(speeds: list[int]) -> None:
    steps = assign(speeds, RULES)
    assert steps[speeds.index(max(speeds))] == RULES.steps
    assert all(RULES.steps_min <= it <= RULES.steps for it in steps)
    for one, its in zip(speeds, steps, strict=True):
        for other, theirs in zip(speeds, steps, strict=True):
            assert one < other or its >= theirs


@given(st.lists(st.integers(1000, 16_000), min_size=1, max_size=12))
def test_all_are_done_within_a_thirty_second_of_the_fastest(speeds: list[int]) -> None:
    """Nobody makes the others wait for longer, and nobody idles longer than that and one step's time."""
    rules = PaceRules(10**6, lead_max=100)
    longest = Fraction(rules.steps, max(speeds))
    for speed, steps in zip(speeds, assign(speeds, rules), strict=True):
        took = Fraction(steps, speed)
        assert took <= longest * Fraction(33, 32)
        assert took >= longest * Fraction(31, 32) - Fraction(1, speed)


@given(SPEEDS, st.integers(1, 1000))
def test_only_ratios_count(speeds: list[int], factor: int) -> None:
    assert assign(speeds, RULES) == assign([speed * factor for speed in speeds], RULES)


def test_nobody_known_means_all_of_it_and_a_new_one_counts_as_the_median() -> None:
    assert assign([], RULES) == ()
    assert assign([0, 0], RULES) == (480, 480)
    assert assign([0, 100, 200, 400], RULES) == (240, 120, 240, 480)
    assert assign([0, 100, 400], RULES) == (120, 120, 480)  # of two, the lower one
    assert assign([0, 100, 100, 100], RULES, (480,) * 4) == (480,) * 4


@given(NEAR, st.integers(SPEED_MAX // 2, SPEED_MAX))
def test_one_that_claims_to_be_absurdly_fast_does_not_stop_the_others(speeds: list[int], lie: int) -> None:
    """It counts as `lead_max` times the median, so who is as fast as that still does a part of its work."""
    rules = PaceRules(480, lead_max=4)
    steps = assign([*speeds, *speeds, lie], rules)
    usual = sorted(speeds)[len(speeds) // 2]
    for speed, its in zip(speeds, steps, strict=False):
        assert its >= 480 // 4 or speed < usual
    assert steps[-1] == 480


@given(NEAR, st.data())
def test_five_percent_of_jitter_changes_nothing(speeds: list[int], data: st.DataObject) -> None:
    """Whatever each speed does within 5 % of what it was when the steps were assigned."""
    fine = [speed * 1000 for speed in speeds]
    before = assign(fine, RULES)
    for _ in range(3):
        now = [data.draw(st.integers(-(-95 * speed // 100), 105 * speed // 100)) for speed in fine]
        assert assign(now, RULES, before) == before


def test_a_real_change_is_followed() -> None:
    before = assign([400, 400, 400], RULES)
    assert before == (480, 480, 480)
    assert assign([400, 360, 400], RULES, before) == before
    assert assign([400, 300, 400], RULES, before) == (480, 360, 480)
    assert assign([400, 200, 400], RULES, before) == (480, 240, 480)
    assert assign([800, 400, 400], RULES, before) == (480, 240, 240)


@given(NEAR, st.lists(st.integers(0, 480), min_size=12, max_size=12))
def test_what_was_assigned_before_costs_an_eighth_at_most(speeds: list[int], was: list[int]) -> None:
    steps = assign(speeds, RULES, was[: len(speeds)])
    for speed, its in zip(speeds, steps, strict=True):
        exact = Fraction(480 * speed, max(speeds))
        assert exact * Fraction(7 * 31, 8 * 32) - 1 <= its <= exact * Fraction(9 * 33, 8 * 32)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": 5, "steps_min": 6}, "steps_min"),
        ({"steps": 0}, "steps_min"),
        ({"steps": 5, "lead_max": 0}, "lead_max"),
        ({"steps": 5, "settle_rounds": 0}, "settle_rounds"),
    ],
)
def test_rules_that_make_no_sense(values: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PaceRules(**values)


# ---- speeds ---------------------------------------------------------------------------------------


@given(st.integers(0, SPEED_MAX), st.integers(-5, 1 << 70), st.integers(-5, 1 << 70))
def test_no_report_moves_a_speed_far(speed: int, steps: int, train_ms: int) -> None:
    after = speed_after(speed, Report(steps, train_ms))
    assert 0 <= after <= SPEED_MAX
    if speed:
        assert after >= 1
        assert speed // FACTOR_MAX <= after <= speed * FACTOR_MAX
        assert abs(after - speed) <= max(speed * (FACTOR_MAX - 1), 2) // 2 + 1
    if steps <= 0 or train_ms <= 0:
        assert after == speed


@given(st.integers(1, SPEED_MAX), st.integers(1, SPEED_MAX))
def test_a_constant_speed_is_reached_exactly(old: int, sample: int) -> None:
    for _ in range(64):
        new = toward(old, sample)
        assert abs(new - sample) == abs(old - sample) // 2
        old = new
    assert old == sample


def test_a_speed_that_doubles_is_known_in_a_few_rounds() -> None:
    speed = speed_after(0, Report(100, 10_000))
    assert speed == 10_000
    for _ in range(5):
        speed = speed_after(speed, Report(100, 5_000))
    assert 19_000 <= speed <= 20_000


def test_a_thousand_fold_lie_needs_many_rounds() -> None:
    speed = speed_after(0, Report(100, 10_000))
    for _ in range(5):
        speed = speed_after(speed, Report(10**9, 1))
    assert speed <= 10_000 * 1.5**5 + 5


# ---- rounds ---------------------------------------------------------------------------------------

A, B, C, D = map(peer, "abcd")


def train(
    truth: dict[PeerId, float], rounds: int, jitter: float, seed: int, rules: PaceRules = RULES
) -> list[dict[PeerId, Pace]]:
    """Rounds in which everybody trains what it is assigned, and reports it."""
    draw = random.Random(seed)
    members, history = sorted(truth), []
    paces = {member: Pace(0, rules.steps) for member in members}
    for round_ in range(1, rounds + 1):
        reports = {
            member: Report(
                paces[member].steps,
                round(paces[member].steps * 1000 / truth[member] / draw.uniform(1 - jitter, 1 + jitter)),
            )
            for member in members
        }
        paces = next_paces(paces, reports, members, round_, rules)
        history.append(paces)
    return history


def waiting_share(truth: dict[PeerId, float], steps: dict[PeerId, int]) -> float:
    """Of the steps that all could do until the last one is done, the share that is waited away."""
    took = max(steps[member] / speed for member, speed in truth.items())
    return 1 - sum(steps.values()) / sum(took * speed for speed in truth.values())


@pytest.mark.parametrize("seed", range(5))
def test_one_two_four_wait_for_less_than_a_twentieth(seed: int) -> None:
    truth = {A: 1.0, B: 2.0, C: 4.0}
    history = train(truth, 40, 0.05, seed)
    assert waiting_share(truth, dict.fromkeys(truth, 480)) > 0.4
    shares = [waiting_share(truth, {m: p.steps for m, p in paces.items()}) for paces in history]
    assert sum(shares[1:]) / len(shares[1:]) < 0.05, f"seed {seed}: {shares}"


@pytest.mark.parametrize("seed", range(5))
def test_jitter_of_measurements_leaves_an_assignment_alone_until_it_is_settled_anew(seed: int) -> None:
    history = train({A: 1.0, B: 2.0, C: 3.0, D: 4.0}, 60, 0.05, seed)
    steps = [[pace.steps for pace in paces.values()] for paces in history]
    for round_, (before, after) in enumerate(pairwise(steps), start=2):
        assert before == after or round_ % RULES.settle_rounds == 0 or round_ < 4, f"seed {seed} {round_}"


def test_equals_do_the_same() -> None:
    history = train(dict.fromkeys([A, B, C, D], 3.0), 50, 0.02, 1)
    assert all(pace.steps == 480 for paces in history for pace in paces.values())


def test_one_that_is_never_in_time_gets_less_until_it_is() -> None:
    """D is known as fast as the others, and is four times slower; in time is who takes 1.2 of the usual."""
    truth = {A: 4.0, B: 4.0, C: 4.0, D: 1.0}
    paces = {member: Pace(4000, 480) for member in truth}
    in_time = []
    for round_ in range(1, 30):
        took = {m: round(paces[m].steps * 1000 / speed) for m, speed in truth.items()}
        reports = {m: Report(paces[m].steps, took[m]) for m in truth if took[m] <= 1.2 * took[A]}
        in_time.append(D in reports)
        paces = next_paces(paces, reports, sorted(truth), round_, RULES)
    assert in_time.index(True) <= 8
    assert sum(in_time) >= 18
    assert paces[A] == paces[B] == paces[C] == Pace(4000, 480)
    assert paces[D].steps <= 150


def test_one_that_never_reported_gets_less_too() -> None:
    paces = {m: Pace(4000, 480) for m in (A, B, C)} | {D: Pace(0, 480)}
    reports = {m: Report(480, 120_000) for m in (A, B, C)}
    after = next_paces(paces, reports, [A, B, C, D], 1, RULES)
    assert after[D] == Pace(3000, 360)


def test_a_round_that_failed_slows_nobody() -> None:
    paces = {m: Pace(4000, 480) for m in (A, B, C, D)}
    assert next_paces(paces, {}, [A, B, C, D], 1, RULES) == paces
    assert next_paces(paces, {A: Report(480, 120_000)}, [A, B, C, D], 1, RULES) == paces
    half = {A: Report(480, 120_000), B: Report(480, 120_000)}
    assert next_paces(paces, half, [A, B, C, D], 1, RULES)[D].speed == 3000


def test_who_leaves_is_forgotten_and_who_comes_is_the_median() -> None:
    paces = {A: Pace(1000, 120), B: Pace(2000, 240), C: Pace(4000, 480)}
    reports = {m: Report(p.steps, 120_000) for m, p in paces.items()}
    after = next_paces(paces, reports, [B, C, D], 1, RULES)
    assert after == {B: Pace(2000, 240), C: Pace(4000, 480), D: Pace(0, 240)}


def test_tokens_of_steps() -> None:
    assignment = Assignment(steps=480, tokens=480 * 512)
    assert tokens_of(120, assignment) == 120 * 512
    assert tokens_of(10**9, assignment) == assignment.tokens
    assert tokens_of(1, Assignment(3, 10)) == 3
