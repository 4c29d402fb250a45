"""Gossip in pairs: who meets whom, and what a step does to the mean and to the distance between anchors."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import fsum

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from optim_vectors import USUAL, integers_to_floats, tensor
from torch import Tensor

from atoll.optim import reference_rules
from atoll.optim.gossip import NoLoCoRule, consensus_distance, mean_of_pair, pairs

SEED = b"a run"
PEERS = [f"peer {number}" for number in range(9)]
NAMES = st.lists(st.integers(0, 99).map(str), max_size=9, unique=True)


@settings(max_examples=40)
@given(st.binary(max_size=8), st.integers(0, 10**6), NAMES, st.randoms(use_true_random=False))
def test_everybody_is_in_one_group_whatever_the_order_given(
    seed: bytes, round_: int, peers: list[str], random: object
) -> None:
    found = pairs(seed, round_, peers)
    assert sorted(peer for group in found for peer in group) == sorted(peers)
    assert [len(group) for group in found] == [2] * (len(peers) // 2) + [1] * (len(peers) % 2)
    random.shuffle(peers)  # type: ignore[attr-defined]
    assert pairs(seed, round_, peers) == found


def test_every_pair_meets_about_equally_often() -> None:
    """1,800 rounds of 9 peers: a pair meets with probability 1/9, 200 times, standard deviation 13."""
    met = Counter(frozenset(group) for round_ in range(1800) for group in pairs(SEED, round_, PEERS))
    couples = [count for group, count in met.items() if len(group) == 2]
    alone = [count for group, count in met.items() if len(group) == 1]
    assert (len(couples), len(alone)) == (36, 9)
    assert all(120 < count < 280 for count in (*couples, *alone))


def test_another_seed_pairs_otherwise_and_a_peer_comes_once() -> None:
    assert pairs(SEED, 1, PEERS) != pairs(b"another", 1, PEERS)
    with pytest.raises(ValueError, match="twice"):
        pairs(SEED, 1, ["a", "b", "a"])


FIVES = st.lists(st.tuples(USUAL, USUAL, USUAL, USUAL), min_size=1, max_size=6)


@given(FIVES, st.floats(1e-3, 2.0), st.floats(0.0, 0.99))
def test_each_operation_is_rounded_once(
    columns: list[tuple[float, float, float, float]], lr: float, mu: float
) -> None:
    anchor, momentum, update, mean = (tensor(list(column)) for column in zip(*columns, strict=True))
    NoLoCoRule(lr, mu).step_(anchor, momentum, update, mean)
    expected = [reference_rules.noloco(*column, lr, mu) for column in columns]
    assert list(zip(anchor.tolist(), momentum.tolist(), strict=True)) == expected


class Swarm:
    """Peers that gossip; `locals` gives each one's trained parameters, by (peer, round)."""

    def __init__(self, peers: int, rule: NoLoCoRule, spread: int = 0) -> None:
        self.rule = rule
        self.anchors = {PEERS[place]: integers_to_floats(50, spread * place) for place in range(peers)}
        self.momenta = {peer: torch.zeros(50) for peer in self.anchors}

    def round(self, round_: int, trained: dict[str, Tensor]) -> None:
        for group in pairs(SEED, round_, list(self.anchors)):
            updates = [self.anchors[peer] - trained[peer] for peer in group]
            before = [self.anchors[peer] for peer in group]
            update, anchor = mean_of_pair(updates[0], updates[-1]), mean_of_pair(before[0], before[-1])
            for peer in group:
                self.anchors[peer] = self.anchors[peer].clone()
                self.rule.step_(self.anchors[peer], self.momenta[peer], update, anchor)

    def mean(self) -> Tensor:
        return torch.stack(list(self.anchors.values())).double().mean(dim=0)


def trained(swarm: Swarm, round_: int) -> dict[str, Tensor]:
    moves = (integers_to_floats(50, 100 * round_ + place, -27) for place in range(len(swarm.anchors)))
    return {peer: anchor - move for (peer, anchor), move in zip(swarm.anchors.items(), moves, strict=True)}


def test_lr_one_without_momentum_makes_a_pair_equal_and_keeps_the_mean_of_locals() -> None:
    swarm = Swarm(7, NoLoCoRule(1.0, 0.0), spread=1)
    for round_ in range(3):
        locals_ = trained(swarm, round_)
        swarm.round(round_, locals_)
        for one, other in (group for group in pairs(SEED, round_, list(swarm.anchors)) if len(group) == 2):
            assert torch.allclose(swarm.anchors[one], swarm.anchors[other], rtol=0, atol=1e-6)
            expected = mean_of_pair(locals_[one], locals_[other])
            assert torch.allclose(swarm.anchors[one], expected, rtol=0, atol=1e-6)
        of_locals = torch.stack(list(locals_.values())).double().mean(dim=0)
        assert torch.allclose(swarm.mean(), of_locals, rtol=0, atol=1e-6)


def test_the_mean_anchor_moves_as_if_all_had_averaged() -> None:
    """The pull within a group sums to nothing, so the mean anchor takes heavy-ball steps of all deltas."""
    swarm = Swarm(8, NoLoCoRule(0.7, 0.5), spread=1)
    mean, momentum = swarm.mean(), torch.zeros(50, dtype=torch.float64)
    for round_ in range(6):
        locals_ = trained(swarm, round_)
        delta = swarm.mean() - torch.stack(list(locals_.values())).double().mean(dim=0)
        momentum = 0.5 * momentum - 0.7 * delta
        mean = mean + momentum
        swarm.round(round_, locals_)
        assert torch.allclose(swarm.mean(), mean, rtol=0, atol=1e-6)


def test_anchors_come_together_when_nothing_else_moves_them() -> None:
    swarm = Swarm(8, NoLoCoRule(0.7, 0.0), spread=1)
    distances = []
    for round_ in range(12):
        distances.append(consensus_distance(list(swarm.anchors.values())))
        swarm.round(round_, dict(swarm.anchors))
    assert all(after < before for before, after in pairwise(distances))
    assert distances[-1] < 0.01 * distances[0]


@settings(max_examples=40)
@given(st.lists(st.lists(USUAL, min_size=3, max_size=3), min_size=1, max_size=6))
def test_the_consensus_distance_is_the_variance_of_anchors(anchors: list[list[float]]) -> None:
    means = [fsum(column) / len(anchors) for column in zip(*anchors, strict=True)]
    exact = fsum((x - m) ** 2 for row in anchors for x, m in zip(row, means, strict=True)) / len(anchors)
    size = max(abs(value) for row in anchors for value in row)
    found = consensus_distance([tensor(row) for row in anchors])
    assert found == pytest.approx(exact, rel=1e-5, abs=1e-10 * size * size)
    assert consensus_distance([tensor(anchors[0])] * 4) <= 1e-12 * size * size


def test_wrong_shapes_and_knobs_are_refused() -> None:
    with pytest.raises(ValueError, match="lr"):
        NoLoCoRule(0.0)
    with pytest.raises(ValueError, match="momentum"):
        NoLoCoRule(momentum=1.0)
    with pytest.raises(ValueError, match="mean anchor must have"):
        NoLoCoRule().step_(torch.ones(2), torch.zeros(2), torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="other must have"):
        mean_of_pair(torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="no anchors"):
        consensus_distance([])


def test_a_pair_computes_the_same_mean_on_both_sides() -> None:
    one, other = integers_to_floats(1000, 1), integers_to_floats(1000, 2, -30)
    assert torch.equal(mean_of_pair(one, other), mean_of_pair(other, one))
    assert torch.equal(mean_of_pair(one, one), one)
