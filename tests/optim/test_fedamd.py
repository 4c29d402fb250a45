"""FedAMD: anchors and miners."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from optim_vectors import USUAL, tensor
from torch import Tensor

from atoll.optim import reference_federated as reference
from atoll.optim.fedamd import Anchors, anchor_peers, merged, mine
from atoll.optim.reference import fp32


def test_anchor_peers_are_drawn_by_hash() -> None:
    peers = [f"peer {n}" for n in range(2000)]
    drawn = anchor_peers("parent", peers)
    assert drawn == anchor_peers("parent", list(reversed(peers))) == sorted(drawn)
    assert 330 <= len(drawn) <= 470
    assert drawn != anchor_peers("another parent", peers)
    assert anchor_peers("parent", peers, 0.0) == []
    assert anchor_peers("parent", peers, 1.0) == sorted(peers)
    with pytest.raises(ValueError, match="share"):
        anchor_peers("parent", peers, 1.5)


def quadratic(at: list[float], batch: int) -> list[float]:
    """The gradient of sum (x - batch % 3)^2 / 2 in fp32."""
    return [fp32(x - batch % 3) for x in at]


@given(
    st.lists(USUAL, min_size=5, max_size=5),
    st.lists(USUAL, min_size=5, max_size=5),
    st.sampled_from([0.5, 0.1, 0.003]),
    st.integers(1, 12),
)
def test_a_miner_agrees_with_the_oracle(
    start: list[float], direction: list[float], lr: float, steps: int
) -> None:
    given_ = tensor(start), tensor(direction)
    found = mine(*given_, lambda at, batch: tensor(quadratic(at.tolist(), batch)), lr, steps)
    delta, last = reference.sarah(start, direction, quadratic, lr, steps)
    assert found.pseudo_gradient.tolist() == delta
    assert found.direction.tolist() == last
    assert [it.tolist() for it in given_] == [start, direction]


def test_with_full_batches_each_direction_is_the_gradient() -> None:
    """Whole numbers and halves: no rounding, so equality is exact."""
    target = tensor([4.0, -8.0, 16.0])

    def full(at: Tensor, batch: int) -> Tensor:
        here = at.clone().requires_grad_()
        loss: Tensor = (here - target).square().sum() / 2
        return torch.autograd.grad(loss, here)[0]

    start = torch.zeros(3)
    at = start
    for steps in range(1, 9):
        found = mine(start, full(start, 0), full, 0.5, steps)
        assert torch.equal(found.direction, full(at, 0))
        at = at - 0.5 * full(at, 0)
        assert torch.equal(start - found.pseudo_gradient, at)


def test_drift_cancels_where_local_sgd_keeps_it() -> None:
    """Two miners whose data pull to either side end near the common minimum, not near their own."""
    centres = [tensor([10.0]), tensor([-8.0])]
    curves = (1.0, 3.0)
    members = Anchors(1, "ab")
    start = tensor([0.0])
    for member, centre, curve in zip("ab", centres, curves, strict=True):
        members.take(member, curve * (start - centre))
    direction = members.direction()
    assert direction is not None
    mined = [
        mine(start, direction, lambda at, _, c=c, k=k: k * (at - c), 0.05, 30)
        for c, k in zip(centres, curves, strict=True)
    ]
    update = merged(mined, 1)
    assert update is not None
    best = (1.0 * 10.0 + 3.0 * -8.0) / 4.0
    local = [c * (1 - (1 - 0.05 * k) ** 30) for c, k in zip((10.0, -8.0), curves, strict=True)]
    assert abs(float(start - update) - best) < 0.5 * abs(sum(local) / 2 - best)


def test_the_newest_of_each_member_counts() -> None:
    anchors = Anchors(2, "abc")
    assert anchors.direction() is None
    kept = tensor([2.0, 0.0])
    anchors.take("c", kept)
    kept.zero_()
    anchors.take("a", tensor([9.0, 9.0]))
    anchors.take("a", tensor([0.0, 4.0]))
    found = anchors.direction()
    assert found is not None
    assert found.tolist() == [1.0, 2.0]
    with pytest.raises(KeyError):
        anchors.take("d", tensor([1.0, 1.0]))
    with pytest.raises(ValueError, match="finite"):
        anchors.take("a", tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="step"):
        mine(kept, kept, lambda at, _: at, 0.1, 0)
    with pytest.raises(ValueError, match="gradient must have"):
        mine(kept, kept, lambda at, _: torch.zeros(3), 0.1)
    assert merged([], 2) is None
