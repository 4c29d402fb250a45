"""Coordinate median and trimmed mean: sorted values, whatever the order and the weights."""

from __future__ import annotations

from itertools import product

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from optim_vectors import FLOATS, tensor
from robust_rounds import doubles, encoded, honest, near, rounds, size_of
from torch import Tensor

from atoll.optim import reference_robust
from atoll.optim.codecs import CODECS, Codec, codec
from atoll.optim.flat import VALUE_MAX
from atoll.optim.robust import aggregate
from atoll.optim.robust.coordinate import comparisons, sort_rows

FP32, INT8 = codec("fp32"), codec("int8")
RULES = ("median", "trimmed-mean")


def result(
    rule: str, vectors: list[Tensor], faulty: int = 0, clip: bool = False, each: Codec = FP32
) -> Tensor:
    found = aggregate(
        rule,
        encoded([1] * len(vectors), vectors, each),
        each,
        vectors[0].numel(),
        faulty=faulty,
        clip=clip,
    )
    assert found is not None
    return found


@pytest.mark.parametrize("rows", range(1, 13))
def test_the_network_sorts_every_column_of_zeros_and_ones(rows: int) -> None:
    """Then it sorts all values (Knuth's zero-one principle)."""
    columns = np.array(list(product((0, 1), repeat=rows)), dtype=np.float32).T.copy()
    expected = np.sort(columns, axis=0)
    sort_rows(columns, comparisons(rows))
    assert np.array_equal(columns, expected)


def test_the_network_sorts_many_rows() -> None:
    for rows in (31, 64, 100):
        columns = np.random.default_rng(rows).standard_normal((rows, 50)).astype(np.float32)
        expected = np.sort(columns, axis=0)
        sort_rows(columns, comparisons(rows))
        assert np.array_equal(columns, expected)


@given(rounds(), st.integers(0, 4), st.booleans())
def test_they_agree_with_the_oracle(round_: tuple[list[int], list[Tensor]], faulty: int, clip: bool) -> None:
    _, vectors = round_
    seen = reference_robust.clip(doubles(vectors)) if clip else doubles(vectors)
    cut = min(faulty, (len(vectors) - 1) // 2)
    size = size_of(vectors)
    assert near(result("median", vectors, faulty, clip), reference_robust.median(seen), size, 2e-7)
    assert near(
        result("trimmed-mean", vectors, faulty, clip), reference_robust.trimmed(seen, cut), size, 2e-7
    )


@given(st.lists(st.lists(FLOATS, min_size=4, max_size=4), min_size=1, max_size=8), st.data())
def test_the_order_of_contributions_changes_no_bit(rows: list[list[float]], data: st.DataObject) -> None:
    vectors = [tensor(row) for row in rows]
    shuffled = data.draw(st.permutations(vectors))
    for rule, faulty in product(RULES, (0, 1, 2)):
        one, two = result(rule, vectors, faulty), result(rule, shuffled, faulty)
        assert torch.equal(one.view(torch.int32), two.view(torch.int32))


@given(st.lists(st.lists(FLOATS, min_size=3, max_size=3), min_size=1, max_size=9))
def test_the_median_of_extreme_values_is_exact(rows: list[list[float]]) -> None:
    found = result("median", [tensor(row) for row in rows])
    expected = np.median(np.array(rows, dtype=np.float64), axis=0).astype(np.float32)
    assert np.array_equal(found.numpy(), expected)
    assert float(found.abs().max()) <= VALUE_MAX


@given(
    st.lists(st.lists(FLOATS, min_size=3, max_size=3), min_size=3, max_size=6),
    st.lists(st.lists(FLOATS, min_size=3, max_size=3), max_size=2),
)
def test_the_result_lies_between_honest_values(good: list[list[float]], bad: list[list[float]]) -> None:
    vectors = [tensor(row) for row in good + bad]
    low, high = tensor(np.min(good, axis=0).tolist()), tensor(np.max(good, axis=0).tolist())
    for rule in RULES:
        found = result(rule, vectors, faulty=len(bad))
        assert bool((found >= low).all())
        assert bool((found <= high).all())


def test_a_cut_that_is_too_small_lets_a_liar_through() -> None:
    vectors = [*honest(100, 5), torch.full((100,), 1e6), torch.full((100,), 1e6)]
    assert float(result("trimmed-mean", vectors, 1).max()) > 1e4
    assert float(result("trimmed-mean", vectors, 2).max()) < 2


@given(rounds())
def test_nothing_cut_is_the_unweighted_mean(round_: tuple[list[int], list[Tensor]]) -> None:
    _, vectors = round_
    expected = reference_robust.mean(doubles(vectors), [1] * len(vectors))
    assert near(result("trimmed-mean", vectors), expected, size_of(vectors))


def test_weights_count_for_nothing_but_zero() -> None:
    vectors = [tensor([1.0]), tensor([2.0]), tensor([9.0]), tensor([100.0])]
    for rule, expected in (("median", 2.0), ("trimmed-mean", 2.0)):
        found = aggregate(rule, encoded([10**9, 1, 1, 0], vectors), FP32, 1, faulty=1, clip=False)
        assert found is not None
        assert found.tolist() == [expected]


@pytest.mark.parametrize("each", CODECS.values(), ids=list(CODECS))
def test_every_codec_is_sorted_as_it_decodes(each: Codec) -> None:
    numel = 140_000  # two pieces and more
    vectors = honest(numel, 3)
    decoded = np.sort(np.array([each.decode(each.encode(v), numel).numpy() for v in vectors]), axis=0)
    assert np.array_equal(result("median", vectors, each=each).numpy(), decoded[1])


def test_a_zero_has_no_sign() -> None:
    found = result("median", [tensor([-0.0]), tensor([-0.0])])
    assert found.view(torch.int32).tolist() == [0]


def test_too_many_liars_leave_the_median() -> None:
    vectors = honest(50, 4)
    assert torch.equal(result("trimmed-mean", vectors, 9), result("median", vectors))
