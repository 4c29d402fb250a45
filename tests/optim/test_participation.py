"""Updates of weights that are not divided by their own sum."""

from __future__ import annotations

import random
from fractions import Fraction

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from optim_vectors import tensor, usual_vectors
from torch import Tensor

from atoll.optim.flat import VALUE_MAX
from atoll.optim.mean import mean_of
from atoll.optim.participation import share_
from atoll.optim.reference import fp32
from atoll.optim.reference_federated import fedau_weights


@given(usual_vectors(), st.integers(0, 2**53), st.integers(1, 2**53))
def test_each_element_is_multiplied_once(mean: Tensor, present: int, registered: int) -> None:
    factor = fp32(present / registered)
    expected = [max(-VALUE_MAX, min(VALUE_MAX, fp32(x * factor))) for x in mean.tolist()]
    assert share_(mean, present, registered).tolist() == expected


@given(usual_vectors())
def test_all_present_at_factor_one_is_the_mean_itself(mean: Tensor) -> None:
    before = mean.clone()
    assert torch.equal(share_(mean, 12345, 12345), before)


def test_a_rare_peer_moves_the_anchor_as_far_as_the_others_in_the_long_run() -> None:
    """Three peers pull along an axis each, and are there in 90, 50 and 20 % of the rounds.

    Divided by all who are registered, each comes as far as if it were always there; by who is here, it
    does not.
    """
    shares, rounds, unit = (0.9, 0.5, 0.2), 3000, 1 << 16
    draw = random.Random(2)
    presence = [[draw.random() < share for _ in range(rounds)] for share in shares]
    weights = [fedau_weights(row, 50) for row in presence]
    axes = torch.eye(3).unbind()
    right, plain = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for round_ in range(rounds):
        here = [(int(weights[n][round_] * unit), axes[n]) for n in range(3) if presence[n][round_]]
        mean = mean_of(here, 3)
        if mean is not None:
            plain += mean.double()
            right += share_(mean, sum(weight for weight, _ in here), 3 * unit).double()
    assert (right / rounds * 3).tolist() == pytest.approx([1.0, 1.0, 1.0], rel=0.08)
    assert max((plain / plain.sum() * 3).tolist()) > 1.15


@pytest.mark.parametrize(("present", "registered"), [(-1, 1), (1, 0), (2**53 + 1, 1), (1, 2**53 + 1)])
def test_what_is_no_share(present: int, registered: int) -> None:
    with pytest.raises(ValueError, match="share"):
        share_(torch.zeros(3), present, registered)


def test_extremes_stay_within_bounds() -> None:
    assert share_(tensor([VALUE_MAX, -VALUE_MAX]), 2**53, 1).tolist() == [VALUE_MAX, -VALUE_MAX]
    assert Fraction(1) == fedau_weights([True], 5)[0]
