"""FedAU: a member that is seldom here counts as many times as it was away."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_samples import peer

from atoll.optim.reference_federated import fedau_weights
from atoll.protocol.errors import ConfigError
from atoll.protocol.participation import Gaps, ParticipationRules, next_gaps, weights_of
from atoll.protocol.weights import UNIT

A, B, C = map(peer, "abc")
OPEN = ParticipationRules(50, 1 << 16)


@given(st.lists(st.booleans(), max_size=120), st.integers(1, 12), st.integers(1, 12))
def test_it_agrees_with_the_oracle(presence: list[bool], gap_max: int, weight_max: int) -> None:
    rules, gaps = ParticipationRules(gap_max, weight_max), Gaps()
    for present, exact in zip(presence, fedau_weights(presence, gap_max), strict=True):
        assert gaps.weight(rules) == min(int(exact * UNIT), weight_max * UNIT)
        gaps = gaps.after(present, rules)


@pytest.mark.parametrize(("share", "expected"), [(0.2, 5.0), (0.5, 2.0), (0.9, 1 / 0.9), (1.0, 1.0)])
def test_bernoulli_participation_comes_to_one_over_p(share: float, expected: float) -> None:
    draw, gaps = random.Random(3), Gaps()
    for _ in range(40_000):
        gaps = gaps.after(draw.random() < share, OPEN)
    assert gaps.weight(OPEN) / UNIT == pytest.approx(expected, rel=0.03)


def test_long_gaps_are_cut_so_that_a_weight_is_biased_but_bounded() -> None:
    """The mean of min(gap, K) for p = 0.02 and K = 50: (1 - (1 - p)^K) / p = 31.8 instead of 50."""
    draw, gaps = random.Random(5), Gaps()
    for _ in range(200_000):
        gaps = gaps.after(draw.random() < 0.02, OPEN)
    assert gaps.weight(OPEN) / UNIT == pytest.approx((1 - 0.98**50) / 0.02, rel=0.03)
    assert gaps.weight(ParticipationRules(50, 10)) == 10 * UNIT


def test_over_many_rounds_every_member_counts_alike() -> None:
    """What FedAU is for: the sum of weights over all rounds is the number of rounds, for each."""
    shares, draw = {A: 0.9, B: 0.5, C: 0.15}, random.Random(11)
    gaps: dict[str, Gaps] = {}
    counted = dict.fromkeys(shares, Fraction(0))
    rounds = 8000
    for _ in range(rounds):
        here = [who for who in shares if draw.random() < shares[who]]
        for who, weight in weights_of(gaps, here, OPEN).items():
            counted[who] += Fraction(weight, UNIT)
        gaps = next_gaps(gaps, here, list(shares), OPEN)
    for total in counted.values():
        assert float(total / rounds) == pytest.approx(1.0, rel=0.06)


def test_the_first_weight_is_one_and_a_round_counts_with_what_was_known_before_it() -> None:
    gaps: dict[str, Gaps] = {}
    for here in ([A], [A], [A, B]):
        before = weights_of(gaps, here, OPEN)
        gaps = next_gaps(gaps, here, [A, B], OPEN)
    assert before == {A: UNIT, B: UNIT}
    assert gaps == {A: Gaps(3, 3, 0), B: Gaps(3, 1, 0)}
    assert weights_of(gaps, [A, B, C], OPEN) == {A: UNIT, B: 3 * UNIT, C: UNIT}


def test_only_who_is_registered_is_remembered() -> None:
    gaps = next_gaps({A: Gaps(9, 3, 1), C: Gaps(4, 2, 0)}, [A], [B, A], OPEN)
    assert gaps == {A: Gaps(11, 4, 0), B: Gaps(0, 0, 1)}
    assert list(gaps) == sorted((A, B))


@pytest.mark.parametrize("wrong", [(0, 1), (1, 0), (1 << 21, 1), (1, 1 << 17)])
def test_rules_that_make_no_sense(wrong: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="_max"):
        ParticipationRules(*wrong)
