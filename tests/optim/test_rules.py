"""The outer rules beside Nesterov: each against its oracle, and against what its recurrence promises."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf, nan

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from optim_vectors import USUAL, integers_to_floats, tensor
from torch import Tensor

from atoll.optim import reference_rules
from atoll.optim.norms import norm
from atoll.optim.rules import (
    RULES,
    AdaptiveRule,
    AverageRule,
    Co2Rule,
    DelayedNesterovRule,
    EagerRule,
    NesterovRule,
    OuterRule,
    SgdRule,
    outer_rule,
)
from atoll.optim.rules.base import PIECE
from atoll.protocol.errors import ConfigError

LR, MU = st.floats(1e-3, 2.0), st.floats(0.0, 0.99)
UPDATES = st.lists(st.lists(USUAL, min_size=3, max_size=3), min_size=1, max_size=12)
small = partial(integers_to_floats, exponent=-27)


def walked(rule: OuterRule, start: Tensor, updates: Sequence[Tensor]) -> list[Tensor]:
    """The anchors after each update."""
    anchor, state, found = start.clone(), rule.state(start.numel()), []
    for update in updates:
        rule.step_(anchor, state, update)
        found.append(anchor.clone())
    return found


# ---- what all have in common ----------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_a_rule_steps_each_piece_alike_and_leaves_the_update(name: str) -> None:
    rule = outer_rule(name, {})
    numel = PIECE + 9
    anchor, update = integers_to_floats(numel, 1), small(numel, 2)
    state, before = rule.state(numel), update.clone()
    begin, end = anchor[:5].clone(), anchor[-5:].clone()
    rule.step_(anchor, state, update)
    assert torch.equal(update, before)
    for place, part in ((slice(0, 5), begin), (slice(-5, None), end)):
        rule.step_(part, rule.state(5), update[place].clone())
        assert torch.equal(anchor[place], part)
    assert not torch.equal(anchor[:5], integers_to_floats(numel, 1)[:5])


@pytest.mark.parametrize("name", RULES)
def test_a_rule_refuses_other_shapes_and_changes_nothing(name: str) -> None:
    rule = outer_rule(name, {})
    state = rule.state(3)
    for anchor, update in ((torch.ones(3), torch.ones(2)), (torch.ones(3), torch.ones(3).double())):
        with pytest.raises(ValueError, match="update must"):
            rule.step_(anchor, state, update)
        assert torch.equal(anchor, torch.ones(3))
        assert all(not vector.any() for vector in state)
    with pytest.raises(ValueError):
        rule.step_(torch.ones(4), (*state, torch.zeros(4)), torch.ones(4))


@pytest.mark.parametrize("name", RULES)
def test_the_state_is_all_that_a_step_depends_on(name: str) -> None:
    """Saved and loaded between two steps, nothing changes: a rule keeps nothing to itself."""
    updates = [small(50, seed) for seed in range(9)]
    together = walked(outer_rule(name, {}), integers_to_floats(50, 99), updates)[-1]
    anchor, state = integers_to_floats(50, 99), outer_rule(name, {}).state(50)
    for update in updates:
        state = tuple(vector.clone() for vector in state)
        outer_rule(name, {}).step_(anchor, state, update)
    assert torch.equal(anchor, together)


def test_a_rule_is_found_by_name_with_its_knobs() -> None:
    assert outer_rule("nesterov", {"lr": 0.4}) == NesterovRule(0.4, 0.9)
    assert outer_rule("co2", {"penalty": "gap", "clip": 2}) == Co2Rule(clip=2, penalty="gap")
    assert outer_rule("average", {}) == AverageRule()
    assert [each.name for each in RULES.values()] == list(RULES)


@pytest.mark.parametrize(
    ("name", "knobs", "words"),
    [
        ("nesterof", {}, "did you mean 'nesterov'"),
        ("sgd", {"momentum": 0.9}, "unknown knob 'momentum'.*has lr"),
        ("average", {"lr": 1.0}, "unknown knob 'lr'.*no knobs"),
        ("delayed-nesterov", {"period": 2.5}, "period = 2.5.*int"),
        ("sgd", {"lr": True}, "lr = True"),
        ("co2", {"penalty": "none"}, "penalty must be one of const, gap"),
        ("eager", {"momentum": 1.0}, "momentum must be in"),
    ],
)
def test_another_name_or_knob_is_refused_with_the_right_one(
    name: str, knobs: dict[str, float | str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        outer_rule(name, knobs, "LAB.toml")
    assert caught.value.where == "LAB.toml"


BAD_KNOBS = [
    (SgdRule, {"lr": 0.0}),
    (SgdRule, {"lr": nan}),
    (SgdRule, {"lr": inf}),
    (Co2Rule, {"clip": 0.0}),
    (Co2Rule, {"clip": nan}),
    (Co2Rule, {"staleness": 0.5}),
    (Co2Rule, {"staleness": nan}),
    (Co2Rule, {"momentum": 1.0}),
    (DelayedNesterovRule, {"period": 0}),
    (DelayedNesterovRule, {"period": 1 << 25}),
    (DelayedNesterovRule, {"period": 4, "spread": 0.3}),
    (DelayedNesterovRule, {"spread": -0.1}),
    (EagerRule, {"resync": 0}),
    (AdaptiveRule, {"floor": 0.0}),
    (AdaptiveRule, {"beta": 1.0}),
]


@pytest.mark.parametrize(("kind", "knobs"), BAD_KNOBS)
def test_a_rule_that_cannot_train_is_refused(kind: type, knobs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="outer"):
        kind(**knobs)


# ---- average and sgd ------------------------------------------------------------------------------


@given(st.lists(st.tuples(USUAL, USUAL), min_size=1, max_size=8), LR)
def test_sgd_rounds_each_operation_once(pairs: list[tuple[float, float]], lr: float) -> None:
    anchor, update = (tensor(list(column)) for column in zip(*pairs, strict=True))
    SgdRule(lr).step_(anchor, (), update)
    assert anchor.tolist() == [reference_rules.sgd(*pair, lr) for pair in pairs]


@given(st.lists(st.tuples(USUAL, USUAL), min_size=1, max_size=8))
def test_average_is_sgd_at_one_and_gives_the_local_parameters_back(pairs: list[tuple[float, float]]) -> None:
    anchor, update = (tensor(list(column)) for column in zip(*pairs, strict=True))
    averaged, stepped = anchor.clone(), anchor.clone()
    AverageRule().step_(averaged, (), update)
    SgdRule(1.0).step_(stepped, (), update)
    assert torch.equal(averaged, stepped)
    assert torch.equal(averaged, anchor - update)


# ---- CO2 ------------------------------------------------------------------------------------------


@given(UPDATES, LR, MU, st.floats(1e-3, 100.0), st.floats(1.0, 8.0))
def test_co2_rounds_each_operation_once_and_its_momentum_is_bounded(
    updates: list[list[float]], lr: float, mu: float, clip: float, staleness: float
) -> None:
    rule = Co2Rule(lr, mu, clip, "const", staleness)
    anchor, state = torch.zeros(3), rule.state(3)
    expected = [(0.0, 0.0)] * 3
    for update in updates:
        rule.step_(anchor, state, tensor(update))
        each = zip(expected, update, strict=True)
        expected = [reference_rules.co2(*before, value, lr, mu, clip, staleness) for before, value in each]
        assert list(zip(anchor.tolist(), state[0].tolist(), strict=True)) == expected
        assert state[0].abs().max() <= torch.tensor(clip)


def test_co2_without_penalty_and_bound_is_heavy_ball_sgd() -> None:
    start, updates = integers_to_floats(4000, 1), [small(4000, seed) for seed in range(8)]
    theirs = torch.nn.Parameter(start.clone())
    sgd = torch.optim.SGD([theirs], lr=0.8, momentum=0.5)
    for update, anchor in zip(updates, walked(Co2Rule(0.8, 0.5, inf), start, updates), strict=True):
        theirs.grad = update.clone()
        sgd.step()
        assert torch.allclose(anchor, theirs.detach(), rtol=0, atol=1e-6)
    clipped = walked(Co2Rule(0.8, 0.5, 0.01), start, updates)[-1]
    assert not torch.allclose(clipped, theirs.detach(), rtol=0, atol=1e-2)


@given(UPDATES, MU)
def test_co2_divides_a_late_update_by_how_far_the_anchor_moved(updates: list[list[float]], mu: float) -> None:
    rule = Co2Rule(1.0, mu, inf, "gap")
    state, norms, penalties = rule.state(3), [], []
    for update in updates:
        norms.append(norm(state[0]))
        penalties.append(reference_rules.gap_penalties(norms)[-1])
        before, anchor = state[0].clone(), torch.zeros(3)
        rule.step_(anchor, state, tensor(update))
        expected = before.double() * mu + tensor(update).double() / penalties[-1]
        size = float(before.abs().max() + tensor(update).abs().max())
        assert torch.allclose(state[0].double(), expected, rtol=0, atol=2e-6 * size)
    assert all(1 <= penalty <= 11 for penalty in penalties)


def test_co2_penalty_is_two_while_gaps_stay_alike() -> None:
    """Update, momentum and anchor settle where m = mu * m + u / 2: m = u / (2 * (1 - mu))."""
    rule = Co2Rule(1.0, 0.5, inf, "gap")
    anchor, state = torch.zeros(2), rule.state(2)
    rule.step_(anchor, state, tensor([3.0, 4.0]))
    assert state[0].tolist() == [3.0, 4.0]  # nothing moved before: no penalty
    for _ in range(300):
        rule.step_(anchor, state, tensor([3.0, 4.0]))
    assert state[0].tolist() == pytest.approx([3.0, 4.0])
    assert state[1].item() == pytest.approx(5.0)


# ---- Delayed Nesterov -----------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_delayed_nesterov_with_one_worker_is_nesterov_to_the_bit(spread: float) -> None:
    start, pushes = integers_to_floats(3000, 1), [small(3000, seed) for seed in range(8)]
    delayed = walked(DelayedNesterovRule(0.7, 0.9, 1, spread), start, pushes)
    plain = walked(NesterovRule(0.7, 0.9), start, pushes)
    assert all(torch.equal(a, b) for a, b in zip(delayed, plain, strict=True))
    theirs = torch.nn.Parameter(start.clone())
    sgd = torch.optim.SGD([theirs], lr=0.7, momentum=0.9, nesterov=True)
    for push in pushes:
        theirs.grad = push.clone()
        sgd.step()
    assert torch.allclose(delayed[-1], theirs.detach(), rtol=0, atol=2e-6)


@given(UPDATES, LR, MU, st.integers(1, 5), st.floats(0.0, 1.0))
def test_delayed_nesterov_follows_the_published_recurrence(
    pushes: list[list[float]], lr: float, mu: float, period: int, part: float
) -> None:
    spread = part / period * 0.999
    anchors = walked(
        DelayedNesterovRule(lr, mu, period, spread), torch.zeros(3), [tensor(push) for push in pushes]
    )
    for place in range(3):
        column = [push[place] for push in pushes]
        expected = reference_rules.delayed_nesterov(0.0, column, lr, mu, period, spread)
        size = max(1.0, lr * sum(abs(value) for value in column) / (1 - mu))
        found = [anchor[place].item() for anchor in anchors]
        assert found == pytest.approx(expected, rel=0, abs=1e-5 * size)


@given(st.lists(st.lists(USUAL, min_size=2, max_size=2), min_size=4, max_size=4), LR, MU)
def test_a_period_of_pushes_moves_as_far_as_one_nesterov_step_of_their_mean(
    pushes: list[list[float]], lr: float, mu: float
) -> None:
    """Summed over N pushes, c = 0: lr * (mean g + mu * m_new). Twice, so that momentum is not zero before."""
    delayed, rounds = DelayedNesterovRule(lr, mu, 4), NesterovRule(lr, mu)
    one, two = torch.zeros(2), torch.zeros(2)
    state, momentum = delayed.state(2), rounds.state(2)
    for _ in range(2):
        for push in pushes:
            delayed.step_(one, state, tensor(push))
        rounds.step_(two, momentum, torch.stack([tensor(push) for push in pushes]).mean(dim=0))
    scale = max(1.0, lr * max(abs(value) for push in pushes for value in push))
    assert torch.allclose(one, two, rtol=0, atol=4e-5 * scale)
    assert not state[1].any()
    assert state[2].item() == 0.0


def test_between_momentum_steps_only_the_pushes_move_the_anchor() -> None:
    rule = DelayedNesterovRule(1.0, 0.5, 4, 0.0)
    anchor, state = torch.zeros(1), rule.state(1)
    moved = []
    for push in (4.0, 8.0, 0.0, 4.0, 4.0):
        before = anchor.item()
        rule.step_(anchor, state, tensor([push]))
        moved.append(before - anchor.item())
    # momentum becomes 16 / 4 = 4 with the fourth push, which moves by 4 / 4 + 0.5 * 4
    assert moved == [1.0, 2.0, 0.0, 3.0, 1.0]
    assert [vector.item() for vector in state] == [4.0, 4.0, 1.0]


# ---- eager ----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(USUAL, USUAL, USUAL), min_size=1, max_size=8), st.integers(1, 64))
def test_the_eager_estimate_swaps_the_stale_share_for_the_fresh_one(
    triples: list[tuple[float, float, float]], workers: int
) -> None:
    mean, before, own = (tensor(list(column)) for column in zip(*triples, strict=True))
    rule = EagerRule()
    state = rule.state(len(triples))
    first = rule.estimate(state, own, 1 / workers)
    assert torch.equal(first, own * (1 / workers))
    rule.received_(state, mean, before)
    found = rule.estimate(state, own, 1 / workers)
    assert found.tolist() == [reference_rules.eager(*triple, 1 / workers) for triple in triples]
    assert torch.equal(state[1], mean), "an estimate changes nothing"


@given(st.lists(st.lists(USUAL, min_size=3, max_size=3), min_size=1, max_size=6))
def test_if_nothing_changed_the_estimate_is_the_mean(deltas: list[list[float]]) -> None:
    """All deltas as in the round before: the estimate of every worker is the round's mean, to rounding."""
    mean = torch.stack([tensor(delta) for delta in deltas]).mean(dim=0)
    rule = EagerRule()
    size = max(1.0, max(abs(value) for delta in deltas for value in delta))
    for delta in deltas:
        state = rule.state(3)
        rule.received_(state, mean, tensor(delta))
        found = rule.estimate(state, tensor(delta), 1 / len(deltas))
        assert torch.allclose(found, mean, rtol=0, atol=3e-7 * size)


@given(UPDATES)
def test_one_eager_worker_steps_with_exactly_its_own(deltas: list[list[float]]) -> None:
    rule, plain = EagerRule(0.4, 0.9), NesterovRule(0.4, 0.9)
    one, two = torch.zeros(3), torch.zeros(3)
    state, momentum = rule.state(3), plain.state(3)
    for delta in map(tensor, deltas):
        estimate = rule.estimate(state, delta, 1.0)
        assert torch.equal(estimate, delta)
        rule.step_(one, state, estimate)
        rule.received_(state, delta, delta)
        plain.step_(two, momentum, delta)
    assert torch.equal(one, two)


def test_eager_workers_drift_apart_and_a_resync_makes_them_equal() -> None:
    workers, rounds, rule = 4, 7, EagerRule(0.4, 0.9, resync=7)
    shared, momentum = integers_to_floats(100, 5), rule.shared.state(100)
    anchors = [shared.clone() for _ in range(workers)]
    states = [rule.state(100) for _ in range(workers)]
    for round_ in range(rounds):
        deltas = [small(100, 10 * round_ + worker) for worker in range(workers)]
        for anchor, state, delta in zip(anchors, states, deltas, strict=True):
            rule.step_(anchor, state, rule.estimate(state, delta, 1 / workers))
        mean = torch.stack(deltas).mean(dim=0)
        rule.shared.step_(shared, momentum, mean)
        for state, delta in zip(states, deltas, strict=True):
            rule.received_(state, mean, delta)
        assert not torch.equal(anchors[0], anchors[1])
    for anchor, state in zip(anchors, states, strict=True):
        rule.resync_(anchor, state, shared, momentum[0])
        assert torch.equal(anchor, shared)
        assert torch.equal(state[0], momentum[0])


def test_eager_refuses_a_share_that_is_none() -> None:
    rule = EagerRule()
    for share in (0.0, -0.1, 1.1, nan):
        with pytest.raises(ValueError, match="share"):
            rule.estimate(rule.state(2), torch.ones(2), share)


# ---- adaptive -------------------------------------------------------------------------------------


@given(UPDATES, LR, MU, st.floats(1e-2, 10.0))
def test_adaptive_is_the_bias_corrected_mean_of_squares(
    updates: list[list[float]], lr: float, beta: float, floor: float
) -> None:
    found = walked(AdaptiveRule(lr, beta, floor), torch.zeros(3), [tensor(update) for update in updates])
    for place in range(3):
        expected = reference_rules.adaptive(0.0, [update[place] for update in updates], lr, beta, floor)
        size = max(1.0, lr * len(updates) / (1 - beta))
        column = [anchor[place].item() for anchor in found]
        assert column == pytest.approx(expected, rel=1e-4, abs=1e-5 * size)


def test_the_first_adaptive_step_is_lr_long_in_every_coordinate() -> None:
    anchor = torch.zeros(4)
    rule = AdaptiveRule(0.5, 0.9, 1e-3)
    rule.step_(anchor, rule.state(4), tensor([4.0, -0.25, 1e-4, 0.0]))
    assert anchor.tolist() == pytest.approx([-0.5, 0.5, -0.05, 0.0])


def test_a_mean_of_scaled_steps_is_the_scaled_mean_step() -> None:
    """The point of one scaling for all: local steps may divide by it, and averages stay what they were."""
    rule = AdaptiveRule(beta=0.99, floor=1e-4)
    state = rule.state(1000)
    for seed in range(3):
        rule.refresh_(state, small(1000, seed))
    gradients = [small(1000, 10 + worker) for worker in range(4)]
    of_steps = torch.stack([rule.scale(state, gradient) for gradient in gradients]).mean(dim=0)
    of_mean = rule.scale(state, torch.stack(gradients).mean(dim=0))
    assert torch.allclose(of_steps, of_mean, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(of_mean, torch.stack(gradients).mean(dim=0), rtol=0.5)


def test_a_scaling_of_nothing_is_refused() -> None:
    rule = AdaptiveRule()
    with pytest.raises(ValueError, match="nothing was taken"):
        rule.scale(rule.state(2), torch.ones(2))
