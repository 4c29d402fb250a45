"""FedAMD's anchors and miners, FedLD's filter of directions."""

from __future__ import annotations

from math import hypot

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from optim_vectors import USUAL, integers_to_floats, tensor
from torch import Tensor

from atoll.optim import reference_federated as reference
from atoll.optim.flat import VALUE_MAX
from atoll.optim.layout import Layout
from atoll.optim.mean import mean_of
from atoll.optim.plugins.fedamd import Anchors, anchor_peers, merged, mine
from atoll.optim.plugins.fedld import _sum_products, coefficients, fedld, inner_products
from atoll.optim.reference import fp32
from atoll.optim.sums import LANES

# ---- FedAMD ---------------------------------------------------------------------------------------


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


# ---- FedLD ----------------------------------------------------------------------------------------

LAYOUT = Layout.of([("w", (2, 3)), ("bias", (1,)), ("norm", (5,))])
ROWS = st.lists(USUAL, min_size=12, max_size=12)


@given(ROWS, st.integers(1, 9), st.integers(1, 10**6))
def test_equal_contributions_are_their_own_update(values: list[float], peers: int, weight: int) -> None:
    found = fedld([(weight, tensor(values))] * peers, LAYOUT)
    assert found is not None
    for slot in LAYOUT.slots:
        place = slice(slot.offset, slot.offset + slot.numel)
        size = hypot(*values[place])
        assert torch.allclose(found[place], tensor(values[place]), rtol=0, atol=2e-6 * size + 1e-30)


@given(st.integers(0, 10**6), st.integers(1, 10), st.sampled_from([80, 50, 100]))
def test_it_agrees_with_the_oracle(seed: int, peers: int, percent: int) -> None:
    """Directions by LAPACK in parameter space; generic vectors, as equal eigenvalues have no one basis."""
    rows = [integers_to_floats(12, seed + 1000 * n) for n in range(peers)]
    weights = [1 + (seed + n) % 5 for n in range(peers)]
    found = fedld(list(zip(weights, rows, strict=True)), LAYOUT, percent)
    mean = mean_of(zip(weights, rows, strict=True), 12)
    assert found is not None
    assert mean is not None
    for slot in LAYOUT.slots:
        place = slice(slot.offset, slot.offset + slot.numel)
        if slot.numel == 1:
            assert torch.allclose(found[place], mean[place], rtol=1e-5)
            continue
        table = np.stack([row[place].double().numpy() for row in rows])
        _, sizes, units = np.linalg.svd(table, full_matrices=False)
        directions = list(zip((sizes**2).tolist(), units.tolist(), strict=True))
        each = list(zip(map(float, weights), table.tolist(), strict=True))
        expected = reference.fedld(each, directions, max(1, peers * percent // 100))
        assert found[place].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5 * float(sizes[0]))


def test_a_lone_direction_is_dropped_and_the_common_one_kept() -> None:
    rows = [tensor([1.0, 0.01 * n, 0.0]) for n in (-2, -1, 1, 2)] + [tensor([1.0, 0.0, 0.2])]
    found = fedld([(1, row) for row in rows], Layout.of([("w", (3,))]), 40)
    assert found is not None
    assert float(found[0]) == pytest.approx(1.0, rel=0.05)
    found = fedld([(1, row) for row in rows], Layout.of([("w", (3,))]), 20)
    assert found is not None
    assert abs(float(found[2])) < 0.05


def test_what_is_orthogonal_to_a_direction_has_no_side_of_it() -> None:
    """Else rounding would give it a vote of its whole length."""
    rows = [tensor([3.0, 0.0, 0.0]), tensor([0.0, 1.0, 0.0])]
    found = fedld([(1, row) for row in rows], Layout.of([("w", (3,))]), 100)
    assert found is not None
    assert found.tolist() == pytest.approx([0.9 * 3 / 2, 0.1 * 1 / 2, 0.0])


def test_edges() -> None:
    layout = Layout.of([("w", (2,))])
    assert fedld([], layout) is None
    assert fedld([(0, tensor([1.0, 1.0]))], layout) is None
    zeros = fedld([(1, torch.zeros(2)), (5, torch.zeros(2))], layout)
    assert zeros is not None
    assert zeros.tolist() == [0.0, 0.0]
    largest = fedld([(1, torch.full((2,), VALUE_MAX))] * 3, layout)
    assert largest is not None
    assert largest.tolist() == pytest.approx([VALUE_MAX] * 2)
    assert float(largest.max()) <= VALUE_MAX
    weighed = fedld([(3, tensor([1.0, 0.0])), (0, tensor([0.0, 9.0]))], layout)
    assert weighed is not None
    assert weighed.tolist() == pytest.approx([1.0, 0.0])
    with pytest.raises(ValueError, match="top_percent"):
        fedld([], layout, 0)
    with pytest.raises(ValueError, match="negative"):
        fedld([(-1, torch.zeros(2))], layout)
    with pytest.raises(ValueError, match="must have 2"):
        fedld([(1, torch.zeros(3))], layout)


@given(st.integers(1, 300), st.integers(0, 99))
def test_inner_products_are_exact_to_a_few_roundings_and_have_one_order(numel: int, seed: int) -> None:
    one, other = integers_to_floats(numel, seed), integers_to_floats(numel, seed + 7)
    found = inner_products([one, other])
    assert found[0, 1] == found[1, 0] == _sum_products.plain(one.numpy(), other.numpy(), np.empty(LANES))
    exact = sum(a * b for a, b in zip(one.tolist(), other.tolist(), strict=True))
    assert found[0, 1] == pytest.approx(exact, rel=1e-9, abs=1e-12)


def test_coefficients_of_equals_are_their_shares() -> None:
    assert coefficients(np.full((4, 4), 9.0), [0.25] * 4) == pytest.approx([0.25] * 4)
    assert coefficients(np.zeros((2, 2)), [0.5, 0.5]) == (0.0, 0.0)
