"""The one face of the robust rules: clip, then rule; parts and whole; trees of groups."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from optim_vectors import tensor
from robust_rounds import FP32, doubles, encoded, honest, near, rounds, rows_of, size_of
from torch import Tensor

from atoll.optim import reference_robust
from atoll.optim.codecs import CODECS, Codec, codec
from atoll.optim.mean import TOTAL_WEIGHT_MAX, weighted_mean
from atoll.optim.parts import part_bounds
from atoll.optim.robust import (
    RULES,
    Combination,
    Evidence,
    Sorting,
    aggregate,
    carried_out,
    decide,
    evidence_of,
    robust_rule,
)
from atoll.optim.robust.gram import gram
from atoll.optim.robust.hierarchy import Level, leaf, tree
from atoll.protocol.errors import ConfigError, RemoteProtocolError

INT8 = codec("int8")
Round = tuple[list[int], list[Tensor]]


def bits(vector: Tensor | None) -> list[int]:
    assert vector is not None
    return vector.view(torch.int32).tolist()


@given(rounds(), st.sampled_from(list(CODECS.values())))
def test_the_mean_without_a_clip_is_the_weighted_mean_to_the_bit(round_: Round, each: Codec) -> None:
    contributions = encoded(*round_, each)
    numel = round_[1][0].numel()
    expected = weighted_mean(contributions, each, numel)
    assert bits(aggregate("mean", contributions, each, numel, clip=False)) == bits(expected)


@given(rounds())
def test_the_mean_after_the_clip_agrees_with_the_oracle(round_: Round) -> None:
    weights, vectors = round_
    found = aggregate("mean", encoded(weights, vectors), FP32, vectors[0].numel())
    expected = reference_robust.mean(reference_robust.clip(doubles(vectors)), weights)
    assert near(found, expected, size_of(vectors))


@pytest.mark.parametrize("rule", RULES)
@given(round_=rounds(), faulty=st.integers(0, 3), seed=st.binary(max_size=3))
def test_a_clip_before_a_rule_is_the_rule_of_clipped_vectors(
    rule: str, round_: Round, faulty: int, seed: bytes
) -> None:
    weights, vectors = round_
    numel = vectors[0].numel()
    shortened = [tensor(vector.tolist()) for vector in reference_robust.clip(doubles(vectors))]
    found = aggregate(rule, encoded(weights, vectors), FP32, numel, faulty=faulty, seed=seed)
    expected = aggregate(rule, encoded(weights, shortened), FP32, numel, faulty=faulty, clip=False, seed=seed)
    assert found is not None
    assert expected is not None
    if rule in ("krum", "multi-krum", "bristle", "fedld", "flag"):  # near a tie rounding may choose
        assert float(found.double().norm()) <= 1.001 * max(np.linalg.norm(v) for v in doubles(shortened))
    else:
        assert near(found, expected.double().numpy(), size_of(vectors), 1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_that_weighs_is_no_update(rule: str) -> None:
    for contributions in ([], [(0, b"garbage")], [(0, b""), (0, b"x")]):
        for clip in (True, False):
            assert aggregate(rule, contributions, FP32, 3, clip=clip) is None


@pytest.mark.parametrize("rule", RULES)
def test_what_weighs_nothing_is_left_out(rule: str) -> None:
    vectors = honest(40, 5)
    some = encoded([1, 2, 3, 4, 5], vectors)
    padded = [(0, b"garbage"), *some[:3], (0, b""), *some[3:]]
    for clip in (True, False):
        plain = aggregate(rule, some, FP32, 40, faulty=1, clip=clip, seed=b"s")
        assert bits(aggregate(rule, padded, FP32, 40, faulty=1, clip=clip, seed=b"s")) == bits(plain)


@pytest.mark.parametrize("rule", RULES)
def test_one_contribution_is_its_own_aggregate(rule: str) -> None:
    vector = honest(40, 1)[0]
    found = aggregate(rule, encoded([7], [vector]), FP32, 40, faulty=1)
    assert near(found, vector.double().numpy(), 1.0, 2e-7)


@pytest.mark.parametrize("rule", RULES)
def test_the_result_is_put_where_it_should_be(rule: str) -> None:
    vectors = honest(600, 5)
    contributions = encoded([1, 2, 3, 4, 5], vectors, INT8)
    plain = aggregate(rule, contributions, INT8, 600, faulty=1)
    room = torch.full((800,), 9.0)
    found = aggregate(rule, contributions, INT8, 600, faulty=1, out=room[100:700])
    assert bits(found) == bits(room[100:700]) == bits(plain)
    assert room[:100].tolist() + room[700:].tolist() == [9.0] * 200
    with pytest.raises(ValueError, match="out must"):
        aggregate(rule, contributions, INT8, 600, faulty=1, out=torch.empty(5))


@pytest.mark.parametrize("rule", RULES)
def test_an_empty_part_has_an_empty_aggregate(rule: str) -> None:
    contributions = encoded([1, 2, 3], [torch.empty(0)] * 3, INT8)
    found = aggregate(rule, contributions, INT8, 0, faulty=1)
    assert found is not None
    assert found.shape == (0,)


@pytest.mark.parametrize("rule", RULES)
def test_bad_payloads_and_weights_are_refused(rule: str) -> None:
    good = FP32.encode(torch.ones(3))
    with pytest.raises(RemoteProtocolError):
        aggregate(rule, [(1, good), (1, good[:-1]), (1, good)], FP32, 3)
    with pytest.raises(ValueError, match="negative"):
        aggregate(rule, [(2, good), (-1, good)], FP32, 3)
    with pytest.raises(ValueError, match="beyond"):
        aggregate(rule, [(1, good), (TOTAL_WEIGHT_MAX, good)], FP32, 3)


def test_an_unknown_rule_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'multi-krum'"):
        aggregate("multikrum", [], FP32, 3)
    assert [robust_rule(name).name for name in RULES] == list(RULES)


def test_a_decision_says_why() -> None:
    vectors = [*honest(40, 6), 1e6 * honest(40, 1)[0]]
    rows = rows_of(vectors)
    words = {
        "mean": "the mean of 7",
        "median": "the middle 1 of 7",
        "trimmed-mean": "cut 1 at each end of 7",
        "multi-krum": "of 7",
        "flag": "projected 7 onto 4 of 6 directions",
    }
    for name, expected in words.items():
        rule = robust_rule(name)
        found = decide(rule, evidence_of(rule, rows, [1] * 7, 1, clip=True))
        assert found.why.startswith("clipped 3 of 7 to the median norm ")
        assert found.why.endswith(expected)
        assert isinstance(found, Sorting if name in ("median", "trimmed-mean") else Combination)


@pytest.mark.parametrize("rule", ["multi-krum", "centered-clipping", "flag", "mean"])
def test_parts_can_be_decided_on_as_one(rule: str) -> None:
    """Owners hand in the Gram matrix of their part; one decision then holds for all parts."""
    numel, weights = 5000, [3, 1, 4, 1, 5, 9]
    vectors = [*honest(numel, 5), -20 * honest(numel, 1)[0]]
    parts = [
        rows_of([v[start:stop] for v in vectors], each=INT8)
        for start, stop in part_bounds(numel, 3, INT8.block)
    ]
    total = sum(gram(part) for part in parts)
    decision = decide(robust_rule(rule), Evidence(total, tuple(weights), 1))
    found = torch.cat([carried_out(decision, part) for part in parts])
    whole = aggregate(rule, encoded(weights, vectors, INT8), INT8, numel, faulty=1)
    assert whole is not None
    assert torch.allclose(found, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in ("flag", "bristle", "fedld")])
@pytest.mark.parametrize("attack", [-1.0, -20.0, 1e6])
def test_a_quarter_of_liars_bend_the_update_little(rule: str, attack: float) -> None:
    good = honest(2000, 6)
    vectors = [attack * good[0], *good, attack * good[1]]
    mean = torch.stack(good).mean(0)
    found = aggregate(rule, encoded([1] * 8, vectors, INT8), INT8, 2000, faulty=2)
    assert found is not None
    assert float((found - mean).norm()) < 0.65 * float(mean.norm())


@given(rounds(peers_min=2), st.data())
def test_a_tree_of_means_is_the_flat_mean(round_: Round, data: st.DataObject) -> None:
    weights, vectors = round_
    cuts = sorted(data.draw(st.lists(st.integers(0, len(vectors)), max_size=3)))
    bounds = list(zip([0, *cuts], [*cuts, len(vectors)], strict=True))
    contributions, numel = encoded(weights, vectors), vectors[0].numel()
    groups = [contributions[start:stop] for start, stop in bounds]
    plain = Level("mean", clip=False)
    found = tree(plain, plain, groups, FP32, numel, FP32)
    flat = weighted_mean(contributions, FP32, numel)
    assert flat is not None
    assert near(found, flat.double().numpy(), size_of(vectors), 1e-6)


def test_each_leaf_has_its_own_liars() -> None:
    """Two of nine lie, one in each of two groups: a leaf of three that expects one outvotes it."""
    good = honest(50, 7)
    liar = torch.full((50,), 1e6)
    groups = [encoded([1, 1, 1], [*good[:2], liar]), encoded([1, 1, 1], [liar, *good[2:4]])]
    groups.append(encoded([1, 1, 1], good[4:]))
    leaves, root = Level("trimmed-mean", 0.34, clip=False), Level("mean", clip=False)
    found = tree(leaves, root, groups, FP32, 50, FP32)
    assert found is not None
    assert float(found.abs().max()) < 2
    careless = tree(Level("trimmed-mean", 0.3, clip=False), root, groups, FP32, 50, FP32)
    assert careless is not None
    assert float(careless.abs().max()) > 1e4


def test_a_root_may_be_robust_against_whole_groups() -> None:
    good, liar = honest(50, 6), torch.full((50,), 1e6)
    groups = [encoded([1, 1], good[k : k + 2]) for k in (0, 2, 4)] + [encoded([1, 1], [liar, liar])]
    found = tree(Level("mean"), Level("median", 0.25), groups, FP32, 50, INT8)
    assert found is not None
    assert float(found.abs().max()) < 2


def test_what_a_leaf_hands_up_is_a_contribution() -> None:
    vectors = honest(300, 3)
    weight, payload = leaf(Level(clip=False), encoded([5, 0, 7], vectors), FP32, 300, INT8)
    assert weight == 12
    expected = weighted_mean(encoded([5, 0, 7], vectors), FP32, 300)
    assert expected is not None
    assert payload == INT8.encode(expected)
    assert leaf(Level(), [(0, b"x")], FP32, 300, INT8) == (0, b"")
    assert tree(Level(), Level(), [[], [(0, b"")]], FP32, 300, INT8) is None
