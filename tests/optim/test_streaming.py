"""The streaming schedule against a table derived by hand, and against plain DiLoCo.

The table. One parameter per fragment, both start at 0. Every inner step has a gradient of 2, at learning rate
1: local <- local - 2. The outer rule is SGD at learning rate 2: anchor <- anchor - 2 * delta, where delta is
anchor - local when it is sent. H = 6 and two fragments, so every 3 steps one is sent: fragment 1 after steps
3 and 9, fragment 0 after steps 6 and 12. It is applied tau steps later, and then
local <- (1 - alpha) * anchor + alpha * local. All numbers are multiples of a half: exact.

Fragment 1, locals after steps 1..12 ("|" where it is sent; the value after an apply stands at its step).

tau = 0, alpha = 0:   -2  -4  [at 3: local -6, delta 6, anchor -12, local -12]
                      -14 -16 -18 -20 -22 [at 9: local -24, delta 12, anchor -36, local -36]  -38 -40 -42
tau = 0, alpha = 1/2: -2  -4  [3: -6, delta 6, anchor -12, local (-12 - 6) / 2 = -9]
                      -11 -13 -15 -17 -19 [9: -21, delta 9, anchor -30, local -25.5]  -27.5 -29.5 -31.5
tau = 0, alpha = 1:   -2  -4  -6 -8 ... -24 : never touched; anchor -12 after step 3 (delta 6);
                      at 9 local is -18, delta -12 + 18 = 6, anchor -24
tau = 1, alpha = 0:   -2 -4 -6 | sent with delta 6 [4: local -8 is overwritten by anchor -12]
                      -14 -16 -18 -20 -22 | sent with delta 10 [10: anchor -32, local -32]  -34 -36
tau = 1, alpha = 1/2: -2 -4 -6 | delta 6 [4: local -8, anchor -12, local -10]
                      -12 -14 -16 -18 -20 | delta 8 [10: local -22, anchor -28, local -25]  -27 -29
tau = 1, alpha = 1:   -2 -4 ... -24; anchor -12 after step 4; at 9 local is -18: delta 6, anchor -24 after 10

Fragment 0, the same with its times 6 and 12.

tau = 0, alpha = 0:   -2 -4 -6 -8 -10 [6: -12, delta 12, anchor -24, local -24]
                      -26 -28 -30 -32 -34 [12: -36, delta 12, anchor -48, local -48]
tau = 0, alpha = 1/2: -2 .. -10 [6: -12, delta 12, anchor -24, local -18]
                      -20 -22 -24 -26 -28 [12: -30, delta 6, anchor -36, local -33]
tau = 0, alpha = 1:   -2 .. -24; anchor -24 after 6; at 12 local is -24: delta 0, anchor -24
tau = 1, alpha = 0:   -2 .. -12 | delta 12 [7: -14 is overwritten by anchor -24]
                      -26 -28 -30 -32 -34 | sent after 12 with delta 10, not applied yet
tau = 1, alpha = 1/2: -2 .. -12 | delta 12 [7: local -14, anchor -24, local -19]
                      -21 -23 -25 -27 -29 | sent after 12 with delta 5, not applied yet
tau = 1, alpha = 1:   -2 .. -24; anchor -24 after 7
"""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from optim_vectors import USUAL, integers_to_floats, tensor
from torch import Tensor

from atoll.optim import reference_rules
from atoll.optim.fragments import Fragments, balanced
from atoll.optim.layout import Layout
from atoll.optim.mean import mean_of
from atoll.optim.pseudo_gradient import pseudo_gradient
from atoll.optim.rules import NesterovRule, OuterRule, SgdRule
from atoll.optim.streaming import Schedule, Turn, merge_

TABLE = {
    (0, 0.0): (
        [-2, -4, -6, -8, -10, -24, -26, -28, -30, -32, -34, -48],
        [-2, -4, -12, -14, -16, -18, -20, -22, -36, -38, -40, -42],
        {6: -24, 12: -48},
        {3: -12, 9: -36},
    ),
    (0, 0.5): (
        [-2, -4, -6, -8, -10, -18, -20, -22, -24, -26, -28, -33],
        [-2, -4, -9, -11, -13, -15, -17, -19, -25.5, -27.5, -29.5, -31.5],
        {6: -24, 12: -36},
        {3: -12, 9: -30},
    ),
    (0, 1.0): (
        [-2, -4, -6, -8, -10, -12, -14, -16, -18, -20, -22, -24],
        [-2, -4, -6, -8, -10, -12, -14, -16, -18, -20, -22, -24],
        {6: -24, 12: -24},
        {3: -12, 9: -24},
    ),
    (1, 0.0): (
        [-2, -4, -6, -8, -10, -12, -24, -26, -28, -30, -32, -34],
        [-2, -4, -6, -12, -14, -16, -18, -20, -22, -32, -34, -36],
        {7: -24},
        {4: -12, 10: -32},
    ),
    (1, 0.5): (
        [-2, -4, -6, -8, -10, -12, -19, -21, -23, -25, -27, -29],
        [-2, -4, -6, -10, -12, -14, -16, -18, -20, -25, -27, -29],
        {7: -24},
        {4: -12, 10: -28},
    ),
    (1, 1.0): (
        [-2, -4, -6, -8, -10, -12, -14, -16, -18, -20, -22, -24],
        [-2, -4, -6, -8, -10, -12, -14, -16, -18, -20, -22, -24],
        {7: -24},
        {4: -12, 10: -24},
    ),
}
"""(tau, alpha): locals of fragments 0 and 1 after each step, then their anchors by the step of a change."""


class Streamed:
    """Workers that stream. The caller takes the inner steps; all else is the pure parts under test."""

    def __init__(self, start: Tensor, workers: int, fragments: Fragments, rule: OuterRule) -> None:
        self.fragments, self.rule = fragments, rule
        self.anchor = start.clone()
        self.locals = [start.clone() for _ in range(workers)]
        self.states = [rule.state(fragments.numel_of(each)) for each in range(len(fragments))]
        self.sent: dict[int, Tensor] = {}
        self.anchors: dict[int, dict[int, list[float]]] = {each: {} for each in range(len(fragments))}

    def due(self, step: int, schedule: Schedule, alpha: float) -> None:
        turn = schedule.at(step)
        for fragment in turn.send:
            assert fragment not in self.sent
            anchor = self.fragments.gather(self.anchor, fragment)
            deltas = [
                pseudo_gradient(anchor, self.fragments.gather(local, fragment)) for local in self.locals
            ]
            mean = mean_of([(1, delta) for delta in deltas], anchor.numel())
            assert mean is not None
            self.sent[fragment] = mean
        for fragment in turn.apply:
            anchor = self.fragments.gather(self.anchor, fragment)
            self.rule.step_(anchor, self.states[fragment], self.sent.pop(fragment))
            self.fragments.scatter(anchor, self.anchor, fragment)
            self.anchors[fragment][step] = anchor.tolist()
            for local in self.locals:
                mixed = self.fragments.gather(local, fragment)
                merge_(mixed, anchor, alpha)
                self.fragments.scatter(mixed, local, fragment)


TWO = Fragments(2, ((slice(0, 1),), (slice(1, 2),)))


@pytest.mark.parametrize(("tau", "alpha"), TABLE)
def test_histories_match_the_table_derived_by_hand(tau: int, alpha: float) -> None:
    streamed = Streamed(torch.zeros(2), 2, TWO, SgdRule(2.0))
    schedule = Schedule(steps=6, fragments=2, overlap=tau)
    histories: list[list[float]] = [[], []]
    for step in range(1, 13):
        for local in streamed.locals:
            local.sub_(2.0)
        streamed.due(step, schedule, alpha)
        assert torch.equal(streamed.locals[0], streamed.locals[1])
        for history, value in zip(histories, streamed.locals[0].tolist(), strict=True):
            history.append(value)
    first, second, first_anchors, second_anchors = TABLE[tau, alpha]
    assert histories == [first, second]
    assert streamed.anchors[0] == {step: [value] for step, value in first_anchors.items()}
    assert streamed.anchors[1] == {step: [value] for step, value in second_anchors.items()}


def noisy(step: int, worker: int, local: Tensor) -> Tensor:
    """An inner step that depends on where one is, so that a wrong start shows."""
    gradient = integers_to_floats(local.numel(), 100 * worker + step, exponent=-30)
    return local - (0.01 * local + gradient)


@pytest.mark.parametrize("rule", [NesterovRule(0.7, 0.9), SgdRule(1.0)])
def test_one_fragment_without_overlap_is_plain_diloco_to_the_bit(rule: OuterRule) -> None:
    numel, workers, steps, rounds = 500, 3, 5, 4
    start = integers_to_floats(numel, 7)
    anchor, state = start.clone(), rule.state(numel)
    for round_ in range(rounds):
        deltas = []
        for worker in range(workers):
            local = anchor.clone()
            for step in range(1, steps + 1):
                local = noisy(round_ * steps + step, worker, local)
            deltas.append((1, pseudo_gradient(anchor, local)))
        mean = mean_of(deltas, numel)
        assert mean is not None
        rule.step_(anchor, state, mean)

    whole = balanced(Layout.of([("w", (numel,))]), 1)
    streamed = Streamed(start, workers, whole, rule)
    for step in range(1, rounds * steps + 1):
        streamed.locals = [noisy(step, worker, local) for worker, local in enumerate(streamed.locals)]
        streamed.due(step, Schedule(steps), 0.0)
    assert torch.equal(streamed.anchor, anchor)
    assert all(torch.equal(local, anchor) for local in streamed.locals)


# ---- the schedule alone ---------------------------------------------------------------------------


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    fragments, spread = draw(st.integers(1, 8)), draw(st.integers(1, 9))
    return Schedule(fragments * spread, fragments, draw(st.integers(0, spread - 1)))


@st.composite
def free_schedules(draw: st.DrawFn) -> Schedule:
    steps = draw(st.integers(1, 30))
    offsets = tuple(draw(st.lists(st.integers(0, steps - 1), min_size=1, max_size=6)))
    return Schedule(steps, len(offsets), 0, offsets)


@given(schedules())
def test_it_sends_what_the_published_formula_says(schedule: Schedule) -> None:
    for step in range(1, 3 * schedule.steps + 1):
        expected = reference_rules.sent_at(step, schedule.steps, schedule.fragments)
        assert schedule.at(step).send == (() if expected is None else (expected,))


@given(st.one_of(schedules(), free_schedules()), st.integers(0, 50))
def test_every_fragment_is_sent_and_applied_once_in_h_steps(schedule: Schedule, start: int) -> None:
    first = schedule.overlap + 1 + start
    turns = [schedule.at(step) for step in range(first, first + schedule.steps)]
    every = list(range(schedule.fragments))
    assert sorted(each for turn in turns for each in turn.send) == every
    assert sorted(each for turn in turns for each in turn.apply) == every


@given(schedules())
def test_what_is_sent_is_applied_overlap_steps_later_and_alone_in_flight(schedule: Schedule) -> None:
    flying: list[tuple[int, int]] = []
    for step in range(1, 3 * schedule.steps + 1):
        turn = schedule.at(step)
        flying += [(fragment, step) for fragment in turn.send]
        assert len(flying) <= 1
        for fragment in turn.apply:
            assert flying.pop(0) == (fragment, step - schedule.overlap)


def test_offsets_may_be_given() -> None:
    schedule = Schedule(10, 3, 2, (1, 4, 4))
    assert schedule.at(1) == Turn(send=(0,))
    assert schedule.at(3) == Turn(apply=(0,))
    assert schedule.at(14) == Turn(send=(1, 2))
    assert schedule.at(16) == Turn(apply=(1, 2))
    assert Schedule(12, 3).offsets == (0, 4, 8)


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ((6, 4), "no multiple"),
        ((6, 0), "at least 1"),
        ((0, 1), "at least 1"),
        ((6, 2, 3), "overlap must be from 0 to 2"),
        ((6, 2, -1), "overlap must be"),
        ((6, 1, 6), "overlap must be from 0 to 5"),
        ((6, 2, 0, (1, 6)), "from 0 to 5"),
        ((6, 2, 0, (1,)), "2 of them"),
        ((6, 2, 2, (1, 3)), "overlap must be from 0 to 1"),
        ((6, 2, 1, (5, 0)), "overlap must be from 0 to 0"),
    ],
)
def test_a_schedule_that_cannot_be_kept_is_refused(given_: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Schedule(*given_)


def test_steps_are_counted_from_one() -> None:
    assert [Schedule(6, 2).at(step).send for step in (1, 2, 3, 6)] == [(), (), (1,), (0,)]
    with pytest.raises(ValueError, match="from 1"):
        Schedule(6).at(0)


# ---- mixing ---------------------------------------------------------------------------------------


@given(st.lists(st.tuples(USUAL, USUAL), min_size=1, max_size=8), st.floats(0, 1))
def test_merging_lies_between_the_two(pairs: list[tuple[float, float]], alpha: float) -> None:
    local, anchor = (tensor(list(column)) for column in zip(*pairs, strict=True))
    mixed, kept = local.clone(), anchor.clone()
    merge_(mixed, anchor, alpha)
    assert torch.equal(anchor, kept)
    exact = (1 - alpha) * anchor.double() + alpha * local.double()
    size = torch.maximum(anchor.abs(), local.abs()).double()
    assert bool(((mixed.double() - exact).abs() <= 3 * 2.0**-23 * size + 1e-44).all())
    if alpha in (0, 1):
        ends = (anchor, local)
        assert torch.equal(mixed.view(torch.int32), ends[int(alpha)].view(torch.int32))


def test_alpha_zero_forgets_even_what_is_not_finite() -> None:
    local, anchor = tensor([float("inf"), float("nan"), 3.0]), tensor([1.0, 2.0, -0.0])
    merge_(local, anchor, 0.0)
    assert torch.equal(local.view(torch.int32), anchor.view(torch.int32))


def test_alphas_in_order_move_from_the_anchor_to_the_local() -> None:
    values = []
    for alpha in (0.0, 0.25, 0.5, 1.0):
        local = tensor([8.0])
        merge_(local, tensor([4.0]), alpha)
        values.append(local.item())
    assert values == [4.0, 5.0, 6.0, 8.0]
    assert all(one < other for one, other in pairwise(values))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_outside_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        merge_(torch.ones(2), torch.ones(2), alpha)
    with pytest.raises(ValueError, match="local must have"):
        merge_(torch.ones(3), torch.ones(2), 0.5)
