from __future__ import annotations

import pytest
import torch
from hypothesis import given
from optim_vectors import vectors
from torch import Tensor

from atoll.optim import reference
from atoll.optim.flat import PIECE, NonFinite
from atoll.optim.pseudo_gradient import pseudo_gradient


@given(vectors())
def test_it_is_anchor_minus_local(anchor: Tensor) -> None:
    local = anchor.flip(0) * 0.75
    expected = reference.pseudo_gradient(anchor.tolist(), local.tolist())
    assert pseudo_gradient(anchor, local).tolist() == expected
    assert pseudo_gradient(anchor, local, local) is local
    assert local.tolist() == expected


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, PIECE, PIECE + 4])
def test_a_diverged_worker_is_told(bad: float, place: int) -> None:
    local = torch.zeros(PIECE + 5)
    local[place] = bad
    with pytest.raises(NonFinite, match="diverged"):
        pseudo_gradient(torch.ones(PIECE + 5), local)


def test_a_difference_that_overflows_is_told() -> None:
    with pytest.raises(NonFinite):
        pseudo_gradient(torch.tensor([3e38]), torch.tensor([-3e38]))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="local must have 3 elements, not 2"):
        pseudo_gradient(torch.ones(3), torch.ones(2))
    with pytest.raises(ValueError, match="anchor must be"):
        pseudo_gradient(torch.ones(3).half(), torch.ones(3))
