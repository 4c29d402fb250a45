"""Buffers of stale updates, workers shared out among models, and peers that do as they like."""

from __future__ import annotations

from fractions import Fraction
from math import sqrt

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from optim_vectors import USUAL, integers_to_floats, tensor, usual_vectors
from torch import Tensor

from atoll.optim.anarchic import Newest, arrivals, brought_to
from atoll.optim.flat import VALUE_MAX
from atoll.optim.mean import mean_of
from atoll.optim.reference import fp32
from atoll.optim.reference_federated import buffered
from atoll.optim.rules.delayed_nesterov import DelayedNesterovRule
from atoll.optim.staleness import Buffer, reallocated

UNIT = 1 << 16
VECTORS = st.lists(USUAL, min_size=4, max_size=4)
PUSHES = st.lists(st.tuples(st.integers(0, UNIT), VECTORS), max_size=12)

# ---- the buffer -----------------------------------------------------------------------------------


@given(PUSHES, st.integers(1, 4))
def test_it_agrees_with_the_oracle(pushes: list[tuple[int, list[float]]], size: int) -> None:
    buffer, found = Buffer(4, size, UNIT), []
    for weight, update in pushes:
        given_, before = tensor(update), buffer.total
        step = buffer.push(weight, given_)
        assert given_.tolist() == update
        if step is not None:
            found.append(step.tolist())
            assert (buffer.count, buffer.total) == (0, 0)
        else:
            assert buffer.total == before + weight
    assert found == buffered(pushes, size, UNIT)


@given(st.lists(VECTORS, max_size=8))
def test_one_at_a_time_and_not_stale_is_plain_sgd(updates: list[list[float]]) -> None:
    buffer, anchor, plain = Buffer(4, 1, UNIT), torch.zeros(4), torch.zeros(4)
    for update in map(tensor, updates):
        step = buffer.push(UNIT, update)
        assert step is not None
        assert torch.equal(step, update)
        anchor.sub_(step)
        plain.sub_(update)
    assert torch.equal(anchor, plain)


def test_stale_weights_shorten_the_step_and_are_not_divided_away() -> None:
    buffer = Buffer(2, 2, UNIT)
    assert buffer.push(UNIT // 2, tensor([1.0, 0.0])) is None
    assert (buffer.count, buffer.total) == (1, UNIT // 2)
    step = buffer.push(UNIT // 2, tensor([1.0, 4.0]))
    assert step is not None
    assert step.tolist() == [0.5, 1.0]


def test_one_that_is_too_stale_takes_no_place() -> None:
    buffer = Buffer(1, 2, UNIT)
    assert [buffer.push(0, tensor([9.0])) for _ in range(5)] == [None] * 5
    assert (buffer.count, buffer.total) == (0, 0)


def test_it_works_with_delayed_nesterov() -> None:
    """A buffer of one in front of the rule that takes pushes one by one changes nothing."""
    rule, numel = DelayedNesterovRule(period=3), 7
    one, two = torch.zeros(numel), torch.zeros(numel)
    states, buffer = (rule.state(numel), rule.state(numel)), Buffer(numel, 1, UNIT)
    for place in range(7):
        push = integers_to_floats(numel, place)
        step = buffer.push(UNIT, push)
        assert step is not None
        rule.step_(one, states[0], push)
        rule.step_(two, states[1], step)
    assert torch.equal(one, two)
    assert one.abs().sum() > 0


def test_what_a_buffer_refuses_leaves_it_as_it_was() -> None:
    buffer = Buffer(3, 2, UNIT)
    for weight, update in ((-1, torch.ones(3)), (UNIT + 1, torch.ones(3)), (1, torch.ones(4))):
        with pytest.raises(ValueError, match=r"weight|must have"):
            buffer.push(weight, update)
    assert (buffer.count, buffer.total, float(buffer.summed.abs().sum())) == (0, 0, 0.0)
    for size, unit in ((0, 1), (1, 3), (1, 0), (2**40, 2**40)):
        with pytest.raises(ValueError, match="buffer"):
            Buffer(3, size, unit)


def test_the_largest_stay_within_bounds() -> None:
    buffer = Buffer(1, 1000, UNIT)
    steps = [buffer.push(UNIT, tensor([VALUE_MAX])) for _ in range(1000)]
    assert steps[-1] is not None
    assert steps[-1].tolist() == pytest.approx([VALUE_MAX])
    assert float(steps[-1]) <= VALUE_MAX


# ---- workers for several models -------------------------------------------------------------------

SPREADS = st.lists(
    st.tuples(st.floats(0, 1e6), st.floats(0, 1e6).filter(lambda x: x == 0 or x > 1e-6)),
    min_size=1,
    max_size=6,
)


@given(st.integers(0, 60), SPREADS)
def test_all_workers_are_given_out_and_noise_never_gets_less(
    workers: int, spreads: list[tuple[float, float]]
) -> None:
    given_ = reallocated(workers, spreads)
    assert sum(given_) == workers
    assert workers < len(spreads) or min(given_) >= 1
    for (v, m), its in zip(spreads, given_, strict=True):
        for (w, n), other in zip(spreads, given_, strict=True):
            if m and n and sqrt(v / m) > sqrt(w / n):
                assert its >= other


def test_reallocation_by_hand() -> None:
    assert reallocated(9, [(1.0, 1.0), (4.0, 1.0)]) == (3, 6)  # 7 free by 1:2 are 2.33 and 4.67
    assert reallocated(11, [(1.0, 1.0), (9.0, 1.0), (1.0, 0.0)]) == (2, 5, 4)  # a mean of zero: the noisiest
    assert reallocated(5, [(0.0, 1.0), (0.0, 1.0)]) == (3, 2)
    assert reallocated(1, [(1.0, 1.0), (2.0, 1.0)]) == (0, 1)
    assert reallocated(0, [(1.0, 1.0)]) == (0,)
    for wrong in ([(-1.0, 1.0)], [(float("nan"), 1.0)], [(float("inf"), 1.0)], []):
        with pytest.raises(ValueError, match="variances"):
            reallocated(3, wrong)


# ---- as many steps as they like -------------------------------------------------------------------


@given(usual_vectors(), st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_push_is_brought_to_a_common_length(update: Tensor, steps: int, common: int) -> None:
    before, factor = update.clone(), fp32(common / steps)
    expected = [max(-VALUE_MAX, min(VALUE_MAX, fp32(x * factor))) for x in update.tolist()]
    assert brought_to(update, steps, common).tolist() == expected
    assert torch.equal(update, before)


@given(st.lists(st.tuples(st.integers(1, 1000), VECTORS), min_size=1, max_size=6), st.integers(1, 100))
def test_with_fresh_pushes_of_all_both_ways_are_the_same(
    pushes: list[tuple[int, list[float]]], common: int
) -> None:
    newest = Newest(4, common, range(len(pushes)))
    for member, (steps, update) in reversed(list(enumerate(pushes))):
        newest.take(member, 1, tensor(update))  # one that is replaced
        newest.take(member, steps, tensor(update))
    one = arrivals([(steps, tensor(update)) for steps, update in pushes], common, 4)
    two = newest.mean()
    assert one is not None
    assert two is not None
    assert torch.equal(one, two)
    for place, value in enumerate(one.tolist()):
        exact = sum(Fraction(update[place]) * common / steps for steps, update in pushes) / len(pushes)
        assert value == pytest.approx(float(exact), rel=1e-4, abs=1e-3 * common)


def test_a_peer_of_ten_times_the_steps_counts_once() -> None:
    one = [(10, tensor([10.0, 0.0])), (100, tensor([0.0, 100.0]))]
    found = arrivals(one, 50, 2)
    assert found is not None
    assert found.tolist() == [25.0, 25.0]
    plain = mean_of([(1, update) for _, update in one], 2)
    assert plain is not None
    assert plain.tolist() == [5.0, 50.0]


def test_the_absent_count_with_what_they_gave_last() -> None:
    newest = Newest(1, 10, "ab")
    assert newest.mean() is None
    newest.take("a", 10, tensor([4.0]))
    assert newest.mean() == tensor([2.0])
    newest.take("b", 20, tensor([4.0]))
    assert newest.mean() == tensor([3.0])
    newest.take("a", 10, tensor([0.0]))
    assert newest.mean() == tensor([1.0])
    with pytest.raises(KeyError):
        newest.take("c", 1, tensor([1.0]))
    for steps in (0, 1 << 25):
        with pytest.raises(ValueError, match="steps are"):
            newest.take("a", steps, tensor([1.0]))
    assert arrivals([], 1, 3) is None
