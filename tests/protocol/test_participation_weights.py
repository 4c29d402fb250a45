"""FedAU: a member that is seldom here counts as many times as it was away."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.optim.reference_federated import fedau_weights
from atoll.protocol.errors import RemoteProtocolError
from atoll.protocol.participation import GAP_MAX, GAPS_MAX, WEIGHT_MAX, Gaps
from atoll.protocol.weights import UNIT


@given(st.lists(st.booleans(), max_size=400))
def test_it_agrees_with_the_oracle_as_long_as_the_gaps_are_few(presence: list[bool]) -> None:
    gaps = Gaps()
    for present, exact in zip(presence, fedau_weights(presence, GAP_MAX), strict=True):
        if gaps.count == GAPS_MAX:
            break
        assert gaps.factor == min(int(exact * UNIT), WEIGHT_MAX * UNIT)
        gaps = gaps.after(present)


@pytest.mark.parametrize(("share", "expected"), [(0.2, 5.0), (0.5, 2.0), (0.9, 1 / 0.9), (1.0, 1.0)])
def test_bernoulli_participation_comes_to_one_over_p(share: float, expected: float) -> None:
    """In the mean over its rounds: a mean of 64 gaps moves about the true one by a tenth or so."""
    draw, gaps, factors = random.Random(3), Gaps(), []
    for _ in range(40_000):
        gaps = gaps.after(draw.random() < share)
        factors.append(gaps.factor)
    settled = factors[len(factors) // 2 :]
    assert sum(settled) / len(settled) / UNIT == pytest.approx(expected, rel=0.03)


def test_over_many_rounds_every_member_counts_alike() -> None:
    """What FedAU is for: the sum of weights over all rounds is the number of rounds, for each."""
    shares, draw = {"a": 0.9, "b": 0.5, "c": 0.15}, random.Random(11)
    gaps = dict.fromkeys(shares, Gaps())
    counted = dict.fromkeys(shares, Fraction(0))
    rounds = 8000
    for _ in range(rounds):
        here = [who for who in shares if draw.random() < shares[who]]
        for who in here:
            counted[who] += Fraction(gaps[who].factor, UNIT)
        gaps = {who: each.after(who in here) for who, each in gaps.items()}
    for total in counted.values():
        assert float(total / rounds) == pytest.approx(1.0, rel=0.08)


def test_by_hand() -> None:
    """The first factor is one, and a round counts with what was known before it."""
    gaps = Gaps()
    assert gaps.factor == UNIT
    gaps = gaps.after(False).after(False)
    assert (gaps, gaps.factor) == (Gaps(0, 0, 2), UNIT)
    gaps = gaps.after(True)
    assert (gaps, gaps.factor) == (Gaps(3 * UNIT, 1, 0), 3 * UNIT)
    assert gaps.after(True).factor == 2 * UNIT


def test_who_is_always_here_stays_as_it_is() -> None:
    gaps = Gaps()
    for _ in range(GAPS_MAX):
        gaps = gaps.after(True)
    assert gaps == gaps.after(True) == Gaps(GAPS_MAX * UNIT, GAPS_MAX)


def test_one_that_became_reliable_is_not_rare_for_ever() -> None:
    gaps = Gaps()
    for _ in range(200 * 8):
        gaps = gaps.after(_ % 8 == 7)
    assert gaps.factor == 8 * UNIT
    for _ in range(6 * GAPS_MAX):
        gaps = gaps.after(True)
    assert gaps.factor < 1.05 * UNIT


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 120)), max_size=40))
def test_whatever_happens_it_stays_within_bounds(stretches: list[tuple[bool, int]]) -> None:
    gaps = Gaps()
    for present, times in stretches:
        for _ in range(times):
            gaps = gaps.after(present)
            gaps.check()
            assert UNIT <= gaps.factor <= WEIGHT_MAX * UNIT


@pytest.mark.parametrize(
    "wrong", [(1, 0, 0), (1, 2, 0), (GAP_MAX + 1, 1, 0), (99, GAPS_MAX + 1, 0), (0, 0, GAP_MAX)]
)
def test_what_is_no_past(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(RemoteProtocolError, match="past"):
        Gaps(wrong[0] * UNIT, *wrong[1:]).check()
