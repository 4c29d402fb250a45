from __future__ import annotations

from collections.abc import Iterator

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from optim_vectors import USUAL, integers_to_floats, tensor
from torch import Tensor

from atoll.optim import reference
from atoll.optim.codecs import CODECS, Codec, codec
from atoll.optim.flat import VALUE_MAX
from atoll.optim.mean import TOTAL_WEIGHT_MAX, weighted_mean
from atoll.optim.parts import part_bounds
from atoll.protocol.errors import RemoteProtocolError

FP32, INT8 = codec("fp32"), codec("int8")
WEIGHTS = st.one_of(st.just(0), st.integers(1, 9), st.integers(0, 2**31))


@st.composite
def rounds(draw: st.DrawFn) -> list[tuple[int, list[float]]]:
    numel = draw(st.integers(1, 6))
    values = st.lists(USUAL, min_size=numel, max_size=numel)
    return draw(st.lists(st.tuples(WEIGHTS, values), min_size=1, max_size=6))


def mean_of(contributions: list[tuple[int, list[float]]], each: Codec = FP32) -> Tensor | None:
    payloads = ((weight, each.encode(tensor(values))) for weight, values in contributions)
    return weighted_mean(payloads, each, len(contributions[0][1]))


@given(rounds())
def test_it_agrees_with_the_reference_to_the_bit(contributions: list[tuple[int, list[float]]]) -> None:
    mean = mean_of(contributions)
    expected = reference.weighted_mean(contributions)
    assert (None if mean is None else mean.tolist()) == expected


@given(rounds(), st.sampled_from(list(CODECS.values())))
def test_it_is_near_the_exact_mean_of_what_was_decoded(
    contributions: list[tuple[int, list[float]]], each: Codec
) -> None:
    assume(any(weight for weight, _ in contributions))
    mean = mean_of(contributions, each)
    assert mean is not None
    numel = mean.numel()
    decoded = [(w, each.decode(each.encode(tensor(v)), numel).tolist()) for w, v in contributions]
    sizes = [(weight, [abs(value) for value in values]) for weight, values in decoded]
    exact, size = np.array(reference.exact_mean(decoded)), np.array(reference.exact_mean(sizes))
    assert np.all(np.abs(mean.numpy() - exact) <= (len(decoded) + 3) * 2.0**-23 * size + 1e-37)


@given(st.lists(USUAL, min_size=1, max_size=8), st.integers(1, 5), st.integers(1, 2**24))
def test_equal_contributions_have_themselves_as_mean(values: list[float], peers: int, weight: int) -> None:
    mean = mean_of([(weight, values)] * peers)
    assert mean is not None
    assert torch.allclose(mean, tensor(values), rtol=1e-6, atol=0)


def test_equal_weights_are_the_plain_average() -> None:
    mean = mean_of([(7, [1.0, -2.0]), (7, [3.0, 2.0]), (7, [5.0, 3.0])])
    assert mean is not None
    assert mean.tolist() == [3.0, 1.0]


@pytest.mark.parametrize("contributions", [[], [(0, b"garbage")], [(0, b""), (0, b"x")]])
def test_nothing_that_weighs_is_no_update(contributions: list[tuple[int, bytes]]) -> None:
    assert weighted_mean(contributions, FP32, 3) is None


def test_the_order_given_is_part_of_the_result() -> None:
    big, small = [2.0**24], [1.0]
    first = mean_of([(1, big), (1, small), (1, small)])
    last = mean_of([(1, small), (1, small), (1, big)])
    assert first is not None
    assert last is not None
    assert (first * 3).item() == 2.0**24
    assert (last * 3).item() == 2.0**24 + 2


def test_the_mean_of_parts_is_the_part_of_the_mean() -> None:
    numel, block = 5000, INT8.block
    vectors = [integers_to_floats(numel, seed) for seed in range(4)]
    weights = [8192, 1, 0, 77777]
    whole = weighted_mean(zip(weights, map(INT8.encode, vectors), strict=True), INT8, numel)
    assert whole is not None
    mean = torch.empty(numel)
    for start, stop in part_bounds(numel, 3, block):
        payloads = [INT8.encode(vector[start:stop]) for vector in vectors]
        weighted_mean(zip(weights, payloads, strict=True), INT8, stop - start, mean[start:stop])
    assert torch.equal(mean.view(torch.int32), whole.view(torch.int32))


def test_an_empty_part_has_an_empty_mean() -> None:
    mean = weighted_mean([(1, INT8.encode(torch.empty(0)))], INT8, 0)
    assert mean is not None
    assert mean.shape == (0,)


@pytest.mark.parametrize("each", CODECS.values(), ids=list(CODECS))
@pytest.mark.parametrize(
    "weights",
    [
        [2**52 + 1, 2**51 - 12345, 3, 2**24 + 1, 1],  # near the largest total
        [65087189, 39537003, 52336862, 62069400],  # rounding carries the sum past sum(weights) * VALUE_MAX
    ],
)
def test_the_largest_contributions_give_a_mean_that_can_be_encoded(each: Codec, weights: list[int]) -> None:
    extreme = each.encode(torch.tensor([VALUE_MAX, -VALUE_MAX]))
    mean = weighted_mean([(weight, extreme) for weight in weights], each, 2)
    assert mean is not None
    assert mean.tolist() == pytest.approx(each.decode(extreme, 2).tolist())
    each.encode(mean)


def test_one_payload_is_held_at_a_time() -> None:
    log = []

    class Logged:
        def __getattr__(self, name: str) -> object:
            return getattr(FP32, name)

        def pieces(self, payload: bytes, numel: int) -> Iterator[tuple[slice, Tensor]]:
            log.append("decode")
            return FP32.pieces(payload, numel)

    def contributions():
        for weight in (1, 2, 3):
            log.append("read")
            yield weight, FP32.encode(torch.ones(3))

    weighted_mean(contributions(), Logged(), 3)
    assert log == ["read", "decode"] * 3


def test_a_bad_payload_or_weight_is_refused() -> None:
    good = FP32.encode(torch.ones(3))
    with pytest.raises(RemoteProtocolError):
        weighted_mean([(1, good), (1, good[:-1])], FP32, 3)
    with pytest.raises(ValueError, match="negative"):
        weighted_mean([(2, good), (-1, good)], FP32, 3)
    with pytest.raises(ValueError, match="beyond"):
        weighted_mean([(1, good), (TOTAL_WEIGHT_MAX, good)], FP32, 3)
    with pytest.raises(ValueError, match="out must"):
        weighted_mean([(1, good)], FP32, 3, torch.ones(4))
