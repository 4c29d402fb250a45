"""The small numbers of a round (Gram matrix, eigenvectors, evidence) and the sum they end in."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from optim_vectors import integers_to_floats
from robust_rounds import FP32, doubles, encoded, evidence, honest, near, rounds, rows_of, size_of
from torch import Tensor

from atoll.optim.codecs import CODECS, Codec, Payload, codec
from atoll.optim.flat import VALUE_MAX
from atoll.optim.robust import Evidence, Rows, aggregate, tolerated
from atoll.optim.robust.combine import combined
from atoll.optim.robust.flag import product
from atoll.optim.robust.gram import RUN, gram, squares
from atoll.protocol.errors import RemoteProtocolError

INT8 = codec("int8")


def exact_gram(vectors: list[Tensor]) -> list[list[float]]:
    """In rational numbers, rounded once."""
    rows = [[Fraction(value) for value in vector.tolist()] for vector in vectors]
    return [[float(sum(a * b for a, b in zip(x, y, strict=True))) for y in rows] for x in rows]


@given(rounds())
def test_a_gram_matrix_is_the_exact_one_to_a_few_roundings(round_: tuple[list[int], list[Tensor]]) -> None:
    _, vectors = round_
    found, exact = gram(rows_of(vectors)), np.array(exact_gram(vectors))
    lengths = np.sqrt(np.diag(exact))
    assert np.all(np.abs(found - exact) <= 1e-15 * lengths * lengths[:, None])
    assert np.array_equal(found, found.T)
    assert np.array_equal(np.diag(squares(rows_of(vectors))), np.diag(found))


@pytest.mark.parametrize("each", CODECS.values(), ids=list(CODECS))
def test_a_long_gram_matrix_of_every_codec(each: Codec) -> None:
    numel = 150_017
    vectors = [integers_to_floats(numel, seed) for seed in range(3)]
    previous = integers_to_floats(numel, 9)
    decoded = [each.decode(each.encode(vector), numel) for vector in vectors]
    expected = np.array([*doubles(decoded), previous.double().numpy()])
    found = gram(rows_of(vectors, previous, each))
    lengths = np.linalg.norm(expected, axis=1)
    assert np.all(np.abs(found - expected @ expected.T) <= 1e-13 * lengths * lengths[:, None])


def test_the_matrix_of_vectors_in_another_order_has_the_same_bits() -> None:
    vectors = honest(3 * RUN + 5, 6)
    order = [3, 1, 5, 0, 2, 4]
    found, shuffled = gram(rows_of(vectors)), gram(rows_of([vectors[place] for place in order]))
    assert np.array_equal(shuffled, found[np.ix_(order, order)])


def test_extreme_values_stay_finite() -> None:
    vectors = [torch.full((5000,), value) for value in (VALUE_MAX, -VALUE_MAX, 2.0**-149)]
    previous = torch.full((5000,), 3e38)
    found = gram(rows_of(vectors, previous))
    assert np.isfinite(found).all()
    assert found[0, 0] == pytest.approx(5000 * VALUE_MAX**2)
    assert found[2, 2] > 0


def test_a_wrong_payload_is_refused_wherever_it_stands() -> None:
    good = FP32.encode(torch.ones(3))
    for payloads in ([good, good[:-1]], [good[:-1], good], [good, b""]):
        with pytest.raises(RemoteProtocolError):
            gram(Rows(payloads, FP32, 3))
    with pytest.raises(ValueError, match="previous must have 3"):
        gram(Rows([good], FP32, 3, torch.ones(4)))
    empty = FP32.encode(torch.empty(0))
    with pytest.raises(RemoteProtocolError):
        gram(Rows([empty, good], FP32, 0))


def test_a_product_adds_in_order() -> None:
    left = np.array([[2.0**53, 1.0, 1.0]])
    assert product(left, np.ones((3, 1))).tolist() == [[2.0**53]]
    assert product(left[:, ::-1].copy(), np.ones((3, 1))).tolist() == [[2.0**53 + 2]]


@given(rounds(), st.data())
def test_a_sum_is_rounded_once(round_: tuple[list[int], list[Tensor]], data: st.DataObject) -> None:
    _, vectors = round_
    finite = st.floats(-1e6, 1e6)
    factors = data.draw(st.lists(finite, min_size=len(vectors), max_size=len(vectors)))
    found = combined(rows_of(vectors), factors, 7.0)
    terms = [factor * vector for factor, vector in zip(factors, doubles(vectors), strict=True)]
    expected = sum(terms) / 7.0
    assert near(found, expected, float(np.abs(np.array(terms)).max()), 1e-15 + 2.0**-24)


def test_a_sum_of_extremes_is_cut() -> None:
    vectors = [torch.full((3,), VALUE_MAX), torch.full((3,), VALUE_MAX)]
    assert combined(rows_of(vectors), [1e200, 1.0], 1.0).tolist() == [VALUE_MAX] * 3
    assert combined(rows_of(vectors), [-1e200, 1.0], 1e-5).tolist() == [-VALUE_MAX] * 3
    assert combined(rows_of(vectors), [1e200, -1e200], 1.0).tolist() == [0.0] * 3


def test_evidence_is_checked() -> None:
    good = np.eye(2)
    assert not Evidence(good, (1, 2)).has_previous
    assert Evidence(np.eye(3), (1, 2)).has_previous
    wrong = [
        (np.eye(4), (1, 2), 0, "Gram"),
        (good, (1, 0), 0, "weight 0"),
        (good, (1, -1), 0, "negative"),
        (good, (2**53, 1), 0, "beyond"),
        (good, (1, 2), -1, "faulty"),
        (good * np.nan, (1, 2), 0, "NaN"),
    ]
    for matrix, weights, faulty, words in wrong:
        with pytest.raises(ValueError, match=words):
            Evidence(matrix, weights, faulty)


def test_a_share_of_liars_is_rounded_down() -> None:
    shares = {0.25: [0, 0, 0, 1, 1], 0.2: [0, 0, 0, 0, 1], 0.0: [0] * 5, 0.49: [0, 0, 1, 1, 2]}
    for share, expected in shares.items():
        assert [tolerated(share, count) for count in range(1, 6)] == expected
    assert tolerated(0.29, 100) == 29 != int(0.29 * 100)
    for share in (0.5, -0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="share"):
            tolerated(share, 4)


class Watched:
    """A codec that says how far its decoders are apart."""

    def __init__(self, each: Codec) -> None:
        self.each, self.places, self.apart = each, [0] * 64, 0

    def pieces(self, payload: Payload, numel: int) -> Iterator[tuple[slice, Tensor]]:
        mine = self.places.index(0)
        for place, values in self.each.pieces(payload, numel):
            self.places[mine] = place.stop
            begun = [stop for stop in self.places if stop]
            self.apart = max(self.apart, max(begun) - min(begun))
            yield place, values


@pytest.mark.parametrize("rule", ["mean", "trimmed-mean", "flag"])  # lengths, sorting, all products
def test_memory_is_a_piece_of_each_contribution(rule: str) -> None:
    """Peak of numpy's new memory at two lengths: but for scales of the payloads, it does not grow.

    A tile of six rows is most of it, less than one vector of the shorter length. The codec's pieces are in
    torch's memory, which is not counted; that there is one for each contribution shows below.
    """
    peaks = []
    for numel in (1_000_000, 2_000_000):
        vectors = [integers_to_floats(numel, seed) for seed in range(6)]
        contributions, out = encoded([1, 2, 3, 4, 5, 6], vectors, INT8), torch.empty(numel)
        aggregate(rule, contributions, INT8, numel, faulty=1, out=out)  # compiled, and caches filled
        tracemalloc.start()
        aggregate(rule, contributions, INT8, numel, faulty=1, out=out)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        tables, tile = 6 * numel // INT8.block * 4, 6 * 128 * 1024 * 4
        assert peaks[-1] < tables + tile + 500_000 < 4 * numel
    assert peaks[1] - peaks[0] < 6 * 1_000_000 // INT8.block * 4 + 200_000


def test_contributions_are_decoded_in_lockstep() -> None:
    numel = 500_000
    watched = Watched(INT8)
    payloads = [INT8.encode(integers_to_floats(numel, seed)) for seed in range(5)]
    steps = sum(1 for _ in Rows(payloads, watched, numel).tiles())  # type: ignore[arg-type]
    assert steps == 4
    assert watched.apart == 128 * 1024


def test_decisions_look_at_lengths_only_where_that_is_enough() -> None:
    vectors = honest(100, 4)
    assert np.array_equal(squares(rows_of(vectors)), np.diag(np.diag(gram(rows_of(vectors)))))
    assert evidence(vectors).norms() == pytest.approx([float(v.double().norm()) for v in vectors])
    assert size_of(vectors) > 0
