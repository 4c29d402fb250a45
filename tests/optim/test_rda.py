"""Radial-directional averaging, and the norms with a fixed order that it needs."""

from __future__ import annotations

from math import fsum, hypot, sqrt

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from optim_vectors import USUAL, integers_to_floats, tensor
from torch import Tensor

from atoll.optim import reference_rules
from atoll.optim.flat import PIECE, VALUE_MAX
from atoll.optim.layout import Layout
from atoll.optim.mean import TOTAL_WEIGHT_MAX, mean_of
from atoll.optim.norms import norm, sum_of_squares
from atoll.optim.rda import embeddings, rda

LAYOUT = Layout.of([("embed.weight", (2,)), ("layers.0.w", (2, 2)), ("norm", (3,))])
NUMEL = LAYOUT.numel
PLACES = {"embed.weight": slice(0, 2), "layers.0.w": slice(2, 6), "norm": slice(6, 9)}
VECTORS = st.lists(USUAL, min_size=NUMEL, max_size=NUMEL)
ROUNDS = st.lists(st.tuples(st.integers(0, 10**6), VECTORS), min_size=1, max_size=6)
USUAL_LISTS = st.lists(USUAL, max_size=300)
Round = list[tuple[int, list[float]]]


def averaged(round_: Round, plain: tuple[str, ...] = ()) -> Tensor | None:
    return rda(((weight, tensor(values)) for weight, values in round_), LAYOUT, plain)


# ---- norms ----------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(USUAL_LISTS.map(tensor))
def test_a_norm_is_the_exact_one_to_a_few_roundings(vector: Tensor) -> None:
    exact = fsum(value * value for value in vector.tolist())
    assert sum_of_squares(vector) == pytest.approx(exact, rel=16 * 2.0**-53, abs=0)
    assert norm(vector) == sqrt(sum_of_squares(vector))


def test_a_norm_adds_by_halving() -> None:
    """At 2^54, fp64 has every fourth number. Elements 0 and 2 meet, then 1 and 3, then the two sums."""
    in_a_row = ((2.0**54 + 2.25) + 0.0) + 2.25
    neighbours = (2.0**54 + 2.25) + (0.0 + 2.25)
    by_halving = (2.0**54 + 0.0) + (2.25 + 2.25)
    assert in_a_row == neighbours == 2.0**54 + 8 != by_halving
    assert sum_of_squares(tensor([2.0**27, 1.5, 0.0, 1.5])) == by_halving


def test_a_long_norm_adds_piece_after_piece() -> None:
    vector = integers_to_floats(2 * PIECE + 17, 4)
    bounds = ((0, PIECE), (PIECE, 2 * PIECE), (2 * PIECE, None))
    total = 0.0
    for start, stop in bounds:
        total += sum_of_squares(vector[start:stop])
    assert sum_of_squares(vector) == total
    assert norm(vector) == pytest.approx(float(np.linalg.norm(vector.double().numpy())), rel=1e-14)


def test_the_norm_of_nothing_and_of_the_largest() -> None:
    assert norm(torch.empty(0)) == 0.0
    assert norm(torch.full((4,), 3e38)) == pytest.approx(2 * float(np.float32(3e38)))
    assert norm(tensor([2.0**-149])) == 2.0**-149


# ---- the average ----------------------------------------------------------------------------------


@settings(max_examples=40)
@given(ROUNDS)
def test_it_agrees_with_the_oracle(round_: Round) -> None:
    found = averaged(round_, ("embed.weight",))
    weighing = [(weight, values) for weight, values in round_ if weight]
    if not weighing:
        assert found is None
        return
    assert found is not None
    mean = mean_of([(weight, tensor(values)) for weight, values in round_], NUMEL)
    assert mean is not None
    assert torch.equal(found[:2], mean[:2])
    total = sum(weight for weight, _ in weighing)
    for place in (PLACES["layers.0.w"], PLACES["norm"]):
        expected = tensor(reference_rules.rda([(weight, values[place]) for weight, values in weighing]))
        lengths = sum(weight * hypot(*values[place]) for weight, values in weighing) / total
        units = [
            (weight, np.array(values[place]) / hypot(*values[place]))
            for weight, values in weighing
            if any(values[place])
        ]
        straight = np.linalg.norm(sum(weight * unit for weight, unit in units)) / total if units else 1.0
        if not 1e-7 < straight < 1e-5:  # near the threshold, rounding decides
            assert torch.allclose(found[place], expected, rtol=0, atol=2e-6 * lengths / max(straight, 1e-6))


@settings(max_examples=40)
@given(VECTORS, st.integers(1, 8), st.integers(1, 10**6))
def test_equal_contributions_are_their_own_average(values: list[float], peers: int, weight: int) -> None:
    found = averaged([(weight, values)] * peers)
    assert found is not None
    for place in PLACES.values():
        size = hypot(*values[place])
        assert torch.allclose(found[place], tensor(values[place]), rtol=0, atol=1e-6 * size)


@settings(max_examples=40)
@given(ROUNDS)
def test_its_length_is_the_mean_length(round_: Round) -> None:
    found = averaged(round_)
    if found is None:
        return
    total = sum(weight for weight, _ in round_)
    for place in PLACES.values():
        lengths = fsum(weight * hypot(*values[place]) for weight, values in round_) / total
        length = norm(found[place])
        cancelled = length < 0.999 * lengths
        if cancelled:  # directions that cancel: the plain mean instead, which is shorter
            plain = mean_of([(weight, tensor(values)) for weight, values in round_], NUMEL)
            assert plain is not None
            assert torch.equal(found[place], plain[place])
        else:
            assert length == pytest.approx(lengths, rel=1e-5)


@settings(max_examples=40)
@given(ROUNDS, st.integers(0, 20))
def test_a_common_factor_of_the_weights_changes_nothing(round_: Round, doublings: int) -> None:
    scaled = [(weight << doublings, values) for weight, values in round_]
    one, two = averaged(round_), averaged(scaled)
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        assert torch.equal(one, two)


@settings(max_examples=40)
@given(ROUNDS, st.randoms(use_true_random=False))
def test_the_order_matters_to_rounding_only(round_: Round, random: object) -> None:
    shuffled = list(round_)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, two = averaged(round_), averaged(shuffled)
    if one is None or two is None:
        assert one is two is None
        return
    for place in PLACES.values():
        size = max(hypot(*values[place]) for _, values in round_)
        total = sum(weight for weight, _ in round_)
        units = [
            weight / total * np.array(values[place]) / hypot(*values[place])
            for weight, values in round_
            if any(values[place])
        ]
        straight = float(np.linalg.norm(sum(units))) if units else 1.0
        if straight > 1e-5:
            assert torch.allclose(one[place], two[place], rtol=0, atol=4e-6 * size / straight)


def test_it_stays_long_where_a_mean_shrinks() -> None:
    """Nine directions at right angles: a mean is a third as long; this is as long as each."""
    rows = torch.eye(9).unbind()
    layout = Layout.of([("w", (9,))])
    mean = mean_of([(1, row) for row in rows], 9)
    found = rda([(1, row) for row in rows], layout)
    assert mean is not None
    assert found is not None
    assert norm(mean) == pytest.approx(1 / 3)
    assert found.tolist() == pytest.approx([1 / 3] * 9)
    assert norm(found) == pytest.approx(1.0)


def test_directions_that_cancel_give_the_mean() -> None:
    layout = Layout.of([("w", (2,))])
    found = rda([(1, tensor([3.0, 0.0])), (1, tensor([-1.0, 0.0]))], layout)
    assert found is not None
    assert found.tolist() == [1.0, 0.0]
    nothing = rda([(1, torch.zeros(2)), (1, torch.zeros(2))], layout)
    assert nothing is not None
    assert nothing.tolist() == [0.0, 0.0]


def test_what_rounding_left_of_a_cancelled_direction_is_not_stretched() -> None:
    """Three vectors at 120 degrees: in fp32 their sum is not quite zero, and points anywhere."""
    layout = Layout.of([("w", (2,))])
    vectors = [tensor([1.0, 0.0]), tensor([-0.5, sqrt(0.75)]), tensor([-0.5, -sqrt(0.75) * (1 + 1e-6)])]
    found = rda([(1, vector) for vector in vectors], layout)
    assert found is not None
    assert 0 < norm(found) < 1e-6


@pytest.mark.parametrize("weights", [(TOTAL_WEIGHT_MAX - 1, 1), (4, 1)])  # 4 and 1: rounding goes past it
@pytest.mark.parametrize("value", [VALUE_MAX, 2.0**-71, 2.0**-149])
def test_the_largest_and_the_smallest_stay_finite_and_within_bounds(
    value: float, weights: tuple[int, int]
) -> None:
    layout = Layout.of([("w", (3,))])
    found = rda([(weight, torch.full((3,), value)) for weight in weights], layout)
    assert found is not None
    assert found.tolist() == pytest.approx([value] * 3)
    assert float(found.abs().max()) <= VALUE_MAX


def test_contributions_are_read_once_and_checked() -> None:
    read = iter([(1, torch.ones(NUMEL)), (1, torch.ones(NUMEL))])
    assert rda(read, LAYOUT) is not None
    assert rda([], LAYOUT) is None
    with pytest.raises(ValueError, match="negative"):
        rda([(-1, torch.ones(NUMEL))], LAYOUT)
    with pytest.raises(ValueError, match="must have 9"):
        rda([(1, torch.ones(NUMEL + 1))], LAYOUT)


def test_embeddings_are_known_by_their_names() -> None:
    names = ["model.embed_tokens.weight", "transformer.wte.weight", "embeddings.word.weight", "embed.weight"]
    others = ["layers.0.w", "lm_head.weight", "model.norm.weight", "layers.0.membedding_like.weight"]
    layout = Layout.of([(name, (1,)) for name in names + others])
    assert embeddings(layout) == set(names)


# ---- the mean of vectors that are decoded already -------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 10**6), USUAL_LISTS.map(tensor)), max_size=1))
def test_the_mean_of_nothing_that_weighs_is_none(contributions: list[tuple[int, Tensor]]) -> None:
    numel = contributions[0][1].numel() if contributions else 3
    found = mean_of(contributions, numel)
    assert (found is None) == (sum(weight for weight, _ in contributions) == 0)
    with pytest.raises(ValueError, match="negative"):
        mean_of([*contributions, (-1, torch.zeros(numel))], numel)
