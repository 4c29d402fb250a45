"""Weights of contributions, in whole numbers."""

from __future__ import annotations

from decimal import Decimal, getcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.protocol.manifest import TOKENS_MAX, Assignment
from atoll.protocol.weights import FACTOR_MAX, UNIT, combined, stale, token_rate

getcontext().prec = 60
TOKENS = st.integers(0, TOKENS_MAX)


@given(st.integers(0, 10**9))
def test_staleness_is_one_over_the_square_root(staleness: int) -> None:
    """To the last whole number, against 60 decimal digits."""
    exact = Decimal(UNIT) / Decimal(1 + staleness).sqrt()
    assert stale(staleness, 10**9) == int(exact) or 0 <= exact - stale(staleness, 10**9) < 1


def test_staleness_by_hand() -> None:
    assert [stale(s, 8) for s in (0, 3, 8, 9)] == [UNIT, UNIT // 2, UNIT // 3, 0]
    assert stale(1, 8) == 46340
    with pytest.raises(ValueError, match="staleness"):
        stale(-1, 8)


@given(st.integers(1, 10**9), st.integers(1, TOKENS_MAX), TOKENS, st.integers(0, 10**9))
def test_token_rate_is_tokens_times_rate_and_no_claim_beats_the_assignment(
    steps: int, tokens: int, done: int, took: int
) -> None:
    weight = token_rate(done, took, Assignment(steps, tokens))
    assert 0 <= weight <= done
    if took and Fraction(done, took) <= Fraction(tokens, steps):
        assert weight == int(Fraction(done) * Fraction(done, took) / Fraction(tokens, steps))
    elif took:
        assert weight == done


def test_token_rate_by_hand() -> None:
    assignment = Assignment(100, 51_200)
    assert token_rate(51_200, 100, assignment) == 51_200
    assert token_rate(25_600, 50, assignment) == 25_600  # half of the steps, full ones
    assert token_rate(25_600, 100, assignment) == 12_800  # all the steps, half full
    assert token_rate(51_200, 1, assignment) == 51_200  # a lie gains nothing
    assert token_rate(51_200, 0, assignment) == 0


@given(TOKENS, st.lists(st.integers(0, FACTOR_MAX), max_size=4))
def test_factors_are_multiplied_and_rounded_once(tokens: int, factors: list[int]) -> None:
    exact = Fraction(tokens)
    for factor in factors:
        exact *= Fraction(factor, UNIT)
    assert combined(tokens, *factors) == int(exact)


def test_factors_that_make_no_sense() -> None:
    assert combined(7, UNIT, UNIT) == 7
    for wrong in ((-1, UNIT), (1, -1), (1, FACTOR_MAX + 1)):
        with pytest.raises(ValueError, match="weights are"):
            combined(*wrong)
