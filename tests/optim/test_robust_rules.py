"""Coefficient rules against slow oracles, and the bounds that each of them promises."""

from __future__ import annotations

from math import inf

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from optim_vectors import integers_to_floats, tensor
from robust_rounds import doubles, evidence, honest, near, rounds, rows_of, size_of
from torch import Tensor

from atoll.optim import reference_robust
from atoll.optim.robust import (
    RULES,
    CenteredClipping,
    Combination,
    FedLD,
    Flag,
    Krum,
    Mean,
    Prioritizer,
    Rule,
    carried_out,
    clip_factors,
    performance,
)
from atoll.optim.robust.flag import Span
from atoll.optim.robust.krum import krum_order
from atoll.optim.robust.prioritizer import nearest_first

Round = tuple[list[int], list[Tensor]]
COEFFICIENT = [name for name in RULES if name not in ("median", "trimmed-mean")]


def carried(
    rule: Rule, vectors: list[Tensor], weights: list[int] | None = None, faulty: int = 0, seed: bytes = b""
) -> Tensor:
    decision = rule.decide(evidence(vectors, weights, faulty, seed=seed))
    return carried_out(decision, rows_of(vectors))


def chosen(rule: Rule, vectors: list[Tensor], faulty: int, seed: bytes = b"") -> list[int]:
    decision = rule.decide(evidence(vectors, faulty=faulty, seed=seed))
    return [place for place, factor in enumerate(decision.factors) if factor]


# ---- the clip -------------------------------------------------------------------------------------


@given(rounds())
def test_the_clip_bounds_every_length(round_: Round) -> None:
    _, vectors = round_
    lengths = evidence(vectors).norms()
    factors, middle = clip_factors(lengths), float(np.median(lengths))
    assert all(0 <= factor <= 1 for factor in factors)
    assert all(
        length * factor <= middle * (1 + 1e-15) for length, factor in zip(lengths, factors, strict=True)
    )
    assert all(factor == 1 for length, factor in zip(lengths, factors, strict=True) if length <= middle), (
        "who is not longer than the middle one stays as it is, to the bit"
    )


@pytest.mark.parametrize(
    ("lengths", "factors"),
    [
        ([5.0], [1.0]),
        ([0.0], [1.0]),
        ([0.0, 0.0, 7.0], [1.0, 1.0, 0.0]),
        ([1.0, 3.0], [1.0, 2.0 / 3.0]),
        ([2.0, 2.0, 2.0, 2.0**90], [1.0, 1.0, 1.0, 2.0**-89]),
        ([1e-30, 1e-30, 2e-30], [1.0, 1.0, 0.5]),
    ],
)
def test_what_is_longer_than_the_middle_is_as_long(lengths: list[float], factors: list[float]) -> None:
    assert clip_factors(lengths) == factors


# ---- Krum -----------------------------------------------------------------------------------------


@given(rounds(peers_min=3, peers_max=11), st.integers(0, 4))
def test_krum_agrees_with_the_oracle(round_: Round, faulty: int) -> None:
    weights, vectors = round_
    count = len(vectors)
    assume(count >= 2 * faulty + 3)
    scores = reference_robust.krum_scores(doubles(vectors), faulty)
    order = krum_order(evidence(vectors, weights, faulty))
    scale = max(float((vector**2).sum()) for vector in doubles(vectors))
    found = [scores[place] for place in order]
    assert found == pytest.approx(sorted(scores), rel=1e-9, abs=1e-12 * scale)
    several = sorted(order[: count - faulty])
    expected = reference_robust.mean([doubles(vectors)[p] for p in several], [weights[p] for p in several])
    assert near(carried(Krum(several=True), vectors, weights, faulty), expected, size_of(vectors))
    assert torch.equal(carried(Krum(), vectors, weights, faulty), vectors[order[0]] + 0.0)


@given(st.integers(0, 3), st.integers(0, 5), st.integers(0, 999), st.data())
def test_krum_never_chooses_a_far_outlier(liars: int, more: int, seed: int, data: st.DataObject) -> None:
    good = honest(60, liars + 3 + more, seed)
    factors = data.draw(st.lists(st.sampled_from([-1e12, -20.0, 30.0, 1e9]), min_size=liars, max_size=liars))
    bad = [factor * good[place] for place, factor in enumerate(factors)]
    places = data.draw(st.permutations(range(len(good) + liars)))
    vectors = [(good + bad)[place] for place in places]
    honest_places = {place for place, source in enumerate(places) if source < len(good)}
    for several in (False, True):
        assert set(chosen(Krum(several), vectors, liars)) <= honest_places
    assert len(chosen(Krum(True), vectors, liars)) == len(good)


@given(st.integers(0, 999), st.data())
def test_krums_choice_does_not_depend_on_the_order(seed: int, data: st.DataObject) -> None:
    vectors = honest(40, 7, seed)
    order = data.draw(st.permutations(range(7)))
    for rule in (Krum(), Krum(True)):
        plain = chosen(rule, vectors, 2)
        shuffled = chosen(rule, [vectors[place] for place in order], 2)
        assert sorted(order[place] for place in shuffled) == plain
    found = carried(Krum(), vectors, faulty=2)
    assert torch.equal(carried(Krum(), [vectors[place] for place in order], faulty=2), found)


def test_ties_go_to_the_lower_place() -> None:
    one, other = honest(20, 2)
    assert chosen(Krum(), [one, one, one, one, one], 1) == [0]
    assert chosen(Krum(True), [other, one, one, one, one], 1) == [1, 2, 3, 4]
    assert chosen(Krum(True), [one] * 5, 1) == [0, 1, 2, 3]


def test_too_few_contributions_are_explained() -> None:
    for count, faulty in ((1, 0), (2, 0), (4, 1), (6, 2)):
        vectors, weights = honest(30, count), list(range(1, count + 1))
        for rule in (Krum(), Krum(True)):
            found = rule.decide(evidence(vectors, weights, faulty))
            other = CenteredClipping().decide(evidence(vectors, weights, faulty))
            words = f"{rule.name} needs {2 * faulty + 3} contributions for {faulty} liars, {count} came: "
            assert found == Combination(other.factors, other.total, words + other.why)


# ---- centered clipping ----------------------------------------------------------------------------


@given(rounds(), st.integers(1, 5), st.sampled_from([None, 0.01, 1.0, 1e4]), st.booleans())
def test_centered_clipping_agrees_with_the_oracle(
    round_: Round, iterations: int, radius: float | None, begin: bool
) -> None:
    weights, vectors = round_
    previous = 0.5 * vectors[0] if begin else None
    rule = CenteredClipping(iterations, radius)
    decision = rule.decide(evidence(vectors, weights, previous=previous))
    found = carried_out(decision, rows_of(vectors, previous))
    start = np.zeros(found.numel()) if previous is None else previous.double().numpy()
    expected = reference_robust.centered_clipping(doubles(vectors), weights, start, iterations, radius)
    assert near(found, expected, size_of(vectors), 1e-5)


@given(rounds(), st.integers(1, 5), st.sampled_from([1e-6, 0.5, 20.0]))
def test_centered_clipping_goes_no_farther_than_its_radius(
    round_: Round, iterations: int, radius: float
) -> None:
    weights, vectors = round_
    for begin in (None, vectors[-1]):
        rule = CenteredClipping(iterations, radius)
        found = carried_out(rule.decide(evidence(vectors, weights, previous=begin)), rows_of(vectors, begin))
        moved = found.double() - (0 if begin is None else begin.double())
        assert float(moved.norm()) <= iterations * radius * (1 + 1e-6) + 1e-6 * size_of(vectors)


@given(rounds())
def test_an_infinite_radius_is_the_weighted_mean(round_: Round) -> None:
    weights, vectors = round_
    expected = reference_robust.mean(doubles(vectors), weights)
    assert near(carried(CenteredClipping(4, inf), vectors, weights), expected, size_of(vectors))


@given(st.integers(0, 999), st.sampled_from([-1e9, -5.0, 1e3]))
def test_few_liars_move_the_centre_little(seed: int, factor: float) -> None:
    good = honest(60, 6, seed)
    mean = torch.stack(good).mean(0)
    with_liars = carried(CenteredClipping(), [*good, factor * good[0], factor * good[1]])
    assert float((with_liars - mean).norm()) < 0.6 * float(mean.norm())


# ---- flag -----------------------------------------------------------------------------------------


@given(rounds(peers_max=7), st.integers(1, 7), st.integers(1, 5), st.sampled_from([0.0, 2.0]))
def test_the_flag_aggregator_agrees_with_the_oracle(
    round_: Round, rank: int, iterations: int, pairs: float
) -> None:
    weights, vectors = round_
    units = [v / np.linalg.norm(v) for v in doubles(vectors) if v.any()]
    independent = int(np.linalg.matrix_rank(np.array(units))) if units else 0
    rank = min(rank, max(independent, 1))
    found = carried(Flag(rank, iterations, pairs), vectors, weights)
    expected = reference_robust.flag(doubles(vectors), weights, rank, iterations, pairs)
    assert near(found, expected, size_of(vectors), 1e-5)


@given(rounds(), st.integers(1, 9))
def test_its_subspace_is_orthonormal_and_its_projector_idempotent(round_: Round, rank: int) -> None:
    _, vectors = round_
    known = evidence(vectors)
    inverse = np.array([1 / norm if norm else 0.0 for norm in known.norms()])
    units = known.gram * inverse * inverse[:, None]
    span = Span.of(units)
    assert np.abs(span.coordinates @ span.coordinates.T - units).max() < 1e-11
    assert np.abs(span.basis.T @ units @ span.basis - np.eye(span.basis.shape[1])).max(initial=0) < 1e-3
    directions = Flag(rank).directions(span.coordinates)
    assert directions.shape[1] == min(rank, span.coordinates.shape[1])
    assert np.abs(directions.T @ directions - np.eye(directions.shape[1])).max(initial=0) < 1e-12
    projector = directions @ directions.T
    assert np.abs(projector @ projector - projector).max(initial=0) < 1e-12


@given(st.integers(1, 9), st.integers(0, 99), st.sampled_from([1e-18, 1.0, 1e15]))
def test_identical_contributions_are_returned(peers: int, seed: int, scale: float) -> None:
    vector = (scale * integers_to_floats(50, seed)).contiguous()
    weights = list(range(1, peers + 1))
    for name in COEFFICIENT:
        assert near(
            carried(RULES[name], [vector] * peers, weights), vector.double().numpy(), size_of([vector])
        )


def test_the_flag_aggregator_cuts_what_one_alone_says() -> None:
    """Noise at right angles to what the others share is no part of the subspace."""
    common, odd = torch.zeros(40), torch.zeros(40)
    common[:20], odd[30] = 1.0, 5.0
    good = [common + 0.05 * integers_to_floats(40, seed) * (common > 0) for seed in range(6)]
    found = carried(Flag(rank=1), [*good, odd])
    plain = carried(Mean(), [*good, odd])
    assert float(found[30].abs()) < 1e-3 < 0.5 < float(plain[30])
    assert torch.allclose(found[:20], plain[:20], rtol=0.05)


# ---- FedLD ----------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.integers(0, 999), st.sampled_from([1e-9, 1.0, 1e9]), st.data())
def test_fedld_agrees_with_the_oracle(peers: int, seed: int, scale: float, data: st.DataObject) -> None:
    vectors = [(scale * vector).contiguous() for vector in honest(30, peers, seed, 0.7)]
    weights = data.draw(st.lists(st.integers(1, 1000), min_size=peers, max_size=peers))
    eigenvectors = np.linalg.eigh(np.array(doubles(vectors)) @ np.array(doubles(vectors)).T)[1]
    assume(float(np.abs(eigenvectors).min()) > 1e-6)  # a sign is no rounding
    expected = reference_robust.fedld(doubles(vectors), weights, 0.8)
    assert near(carried(FedLD(), vectors, weights), expected, size_of(vectors), 1e-5)


# ---- the prioritizer ------------------------------------------------------------------------------


@given(rounds(peers_max=12), st.integers(0, 4), st.sampled_from([0.0, 0.4, 1.0]), st.binary(max_size=4))
def test_the_prioritizer_agrees_with_the_oracle(
    round_: Round, faulty: int, alpha: float, seed: bytes
) -> None:
    _, vectors = round_
    known = evidence(vectors, faulty=faulty, previous=vectors[0], seed=seed)
    distances = [known.distance(place, len(vectors)) for place in range(len(vectors))]
    exact = [float(((v - doubles(vectors)[0]) ** 2).sum()) for v in doubles(vectors)]
    assert distances == pytest.approx(exact, rel=1e-9, abs=1e-12 * max(1e-300, known.gram.max()))
    picks = max(1, len(vectors) - faulty)
    decision = Prioritizer(alpha).decide(known)
    assert [p for p, factor in enumerate(decision.factors) if factor] == reference_robust.prioritized(
        distances, picks, alpha, seed
    )


def test_a_third_gives_its_share() -> None:
    order = list(range(60))
    found = Prioritizer(0.4).chosen(order, 25, b"seed")
    assert [sum(20 * k <= place < 20 * k + 20 for place in found) for k in range(3)] == [9, 12, 4]
    assert found != Prioritizer(0.4).chosen(order, 25, b"other")
    rounded = Prioritizer(0.4).chosen(order, 10, b"seed")  # 3.6, 4.8 and 1.6, of which there is room for 1
    assert [sum(20 * k <= place < 20 * k + 20 for place in rounded) for k in range(3)] == [4, 5, 1]
    assert Prioritizer(0.0).chosen(order, 25, b"seed") == list(range(25))
    heard = {place for n in range(200) for place in Prioritizer(0.4).chosen(order, 25, n.to_bytes(2, "big"))}
    assert heard == set(order)


def test_distance_is_from_the_middle_where_there_is_no_previous_update() -> None:
    good = honest(40, 5)
    vectors = [-good[0], *good]
    assert nearest_first(evidence(vectors))[-1] == 0
    assert nearest_first(evidence(vectors, previous=-good[0]))[0] == 0
    assert nearest_first(evidence([good[0]])) == [0]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6),
)
def test_belief_agrees_with_the_oracle(marks: list[tuple[float, float]]) -> None:
    own, peer = [mine for mine, _ in marks], [mark for _, mark in marks]
    found = performance(own, peer)
    assert found == pytest.approx(reference_robust.performance(own, peer), rel=1e-9, abs=1e-9)
    assert 0 <= found <= 6


def test_belief_in_equals_betters_and_worse() -> None:
    assert performance([0.5, 0.5], [0.5, 0.5]) == 0.5
    assert performance([0.2, 0.2], [0.9, 0.9]) > 5 > 1 > performance([0.5, 0.5], [0.45, 0.45])
    assert performance([0.9, 0.9], [0.2, 0.2]) == 0.0
    assert performance([0.5, 0.5], [0.9, 0.1]) < performance([0.5, 0.5], [0.5, 0.5])
    for own, peer in (([], []), ([0.5], [0.5, 0.5]), ([0.5], [1.5]), ([float("nan")], [0.5])):
        with pytest.raises(ValueError, match="marks"):
            performance(own, peer)


# ---- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COEFFICIENT)
def test_nothing_but_zeros_is_zero(name: str) -> None:
    for count in (1, 2, 3, 7):
        assert carried(RULES[name], [torch.zeros(4)] * count, faulty=1).tolist() == [0.0] * 4


@pytest.mark.parametrize("name", COEFFICIENT)
@given(seed=st.integers(0, 999), data=st.data())
def test_the_order_of_contributions_matters_to_rounding_only(
    name: str, seed: int, data: st.DataObject
) -> None:
    if name == "bristle":  # draws by place: only its alpha 0 does not see the order
        rule: Rule = Prioritizer(0.0)
    else:
        rule = RULES[name]
    vectors, weights = honest(40, 7, seed), [3, 1, 4, 1, 5, 9, 2]
    order = data.draw(st.permutations(range(7)))
    one = carried(rule, vectors, weights, 2)
    two = carried(rule, [vectors[place] for place in order], [weights[place] for place in order], 2)
    assert near(two, one.double().numpy(), size_of(vectors), 1e-5 if name in ("flag", "fedld") else 2e-7)


@pytest.mark.parametrize("name", COEFFICIENT)
def test_extreme_contributions_give_a_finite_update(name: str) -> None:
    most = 127.0 * 2.0**57
    sets = [
        [torch.full((3,), most)] * 4,
        [torch.full((3,), most), torch.full((3,), -most), tensor([most, 0.0, 1e-45]), torch.zeros(3)],
        [torch.full((3,), 1e-45), tensor([1e-38, 0.0, 0.0]), torch.full((3,), most)],
    ]
    for vectors in sets:
        found = carried(RULES[name], vectors, [2**50 + 1] * len(vectors))
        assert float(found.abs().max()) <= most


@pytest.mark.parametrize(
    ("kind", "knobs"),
    [
        (CenteredClipping, {"iterations": 0}),
        (CenteredClipping, {"radius": 0.0}),
        (CenteredClipping, {"radius": float("nan")}),
        (Flag, {"rank": 0}),
        (Flag, {"rank": -2}),
        (Flag, {"iterations": 0}),
        (Flag, {"pairs": -1.0}),
        (Flag, {"pairs": inf}),
        (FedLD, {"kept": 0.0}),
        (FedLD, {"kept": 1.1}),
        (Prioritizer, {"alpha": 1.5}),
    ],
)
def test_wrong_knobs_are_refused(kind: type, knobs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"takes|kept|alpha"):
        kind(**knobs)
