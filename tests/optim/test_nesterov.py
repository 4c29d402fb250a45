from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from optim_vectors import USUAL, integers_to_floats, tensor
from torch import Tensor

from atoll.optim import reference
from atoll.optim.rules.base import PIECE
from atoll.optim.rules.nesterov import NesterovRule, step_

RULES = st.builds(NesterovRule, st.floats(1e-3, 2.0), st.floats(0.0, 0.99))
TRIPLES = st.lists(st.tuples(USUAL, USUAL, USUAL), min_size=1, max_size=8)


def last_places(a: Tensor, b: Tensor, *operands: Tensor) -> Tensor:
    """|a - b| in last places of the largest number that the step rounds, for each element.

    After a cancellation the result alone has finer places than what it was made of.
    """
    largest = torch.stack([operand.abs() for operand in (a, *operands)]).amax(dim=0)
    return (a.double() - b.double()).abs() / torch.from_numpy(np.spacing(largest.numpy())).double()


@given(TRIPLES, RULES)
def test_each_operation_is_rounded_once(
    triples: list[tuple[float, float, float]], rule: NesterovRule
) -> None:
    anchor, momentum, update = (tensor(list(column)) for column in zip(*triples, strict=True))
    step_(anchor, momentum, update, rule)
    expected = [reference.nesterov(*triple, rule.lr, rule.momentum) for triple in triples]
    assert list(zip(anchor.tolist(), momentum.tolist(), strict=True)) == expected


@pytest.mark.parametrize(("lr", "mu"), [(0.7, 0.9), (0.4, 0.8), (1.0, 0.5), (0.3, 0.95)])
def test_it_equals_torch_to_the_last_places(lr: float, mu: float) -> None:
    """Four roundings err by 2 places at most and torch's two (fused) by 1; so they never lie 3 apart, and
    hardly ever more than 1. Both begin each step with the same bits: the step is compared, not a pile."""
    numel = 20_000
    theirs = torch.nn.Parameter(integers_to_floats(numel, 1))
    sgd = torch.optim.SGD([theirs], lr=lr, momentum=mu, nesterov=True)
    momentum = torch.zeros(numel)
    for seed in range(2, 10):
        update = integers_to_floats(numel, seed, exponent=-27)
        before, ours = theirs.detach().clone(), theirs.detach().clone()
        theirs.grad = update.clone()
        sgd.step()
        step_(ours, momentum, update, NesterovRule(lr, mu))
        assert torch.equal(momentum, sgd.state[theirs]["momentum_buffer"])
        lr32, mu32 = reference.fp32(lr), reference.fp32(mu)
        exact = before.double() - lr32 * (update.double() + mu32 * momentum.double())
        rounded = (before, mu * momentum, update + mu * momentum)
        assert last_places(ours, exact, *rounded).max() <= 2
        apart = last_places(ours, theirs.detach(), *rounded)
        assert apart.max() < 3
        assert (apart > 1).double().mean() < 0.01


def test_eight_steps_on_their_own_stay_beside_torch() -> None:
    start = integers_to_floats(5000, 3)
    theirs = torch.nn.Parameter(start.clone())
    sgd = torch.optim.SGD([theirs], lr=0.7, momentum=0.9, nesterov=True)
    ours, momentum = start.clone(), torch.zeros(5000)
    for seed in range(8):
        theirs.grad = integers_to_floats(5000, seed, exponent=-27)
        sgd.step()
        step_(ours, momentum, theirs.grad, NesterovRule(0.7, 0.9))
    assert torch.allclose(ours, theirs.detach(), rtol=0, atol=2e-6)


def test_the_first_step_is_lr_times_one_plus_mu() -> None:
    anchor, momentum = torch.zeros(1), torch.zeros(1)
    step_(anchor, momentum, torch.ones(1), NesterovRule(0.7, 0.9))
    assert anchor.item() == pytest.approx(-1.33)
    assert momentum.item() == 1.0


def test_a_long_vector_is_stepped_like_its_pieces() -> None:
    numel = 2 * PIECE + 7
    anchor, momentum, update = (integers_to_floats(numel, seed) for seed in range(3))
    parts = [
        (anchor[p].clone(), momentum[p].clone(), update[p].clone()) for p in (slice(0, 9), slice(-9, None))
    ]
    rule = NesterovRule(0.7, 0.9)
    step_(anchor, momentum, update, rule)
    for part in parts:
        step_(*part, rule)
    assert torch.equal(anchor[:9], parts[0][0])
    assert torch.equal(anchor[-9:], parts[1][0])


@pytest.mark.parametrize(
    ("lr", "mu"), [(0.0, 0.9), (-1.0, 0.9), (float("nan"), 0.9), (0.7, 1.0), (0.7, -0.1)]
)
def test_a_rule_that_cannot_train_is_refused(lr: float, mu: float) -> None:
    with pytest.raises(ValueError, match="outer"):
        NesterovRule(lr, mu)


def test_vectors_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="momentum must have 3"):
        step_(torch.ones(3), torch.ones(2), torch.ones(3), NesterovRule(0.7, 0.9))
    with pytest.raises(ValueError, match="update must be"):
        step_(torch.ones(3), torch.ones(3), torch.ones(3).double(), NesterovRule(0.7, 0.9))
