"""Modules that only some peers train: what each of them learns, and from whom."""

from __future__ import annotations

from math import sqrt

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from optim_vectors import USUAL, integers_to_floats, tensor

from atoll.optim import reference
from atoll.optim.fragments import balanced
from atoll.optim.layout import Layout
from atoll.optim.mean import mean_of
from atoll.optim.modules import ModuleMap
from atoll.optim.pseudo_gradient import pseudo_gradient
from atoll.optim.rules import NesterovRule

PATHS = {"carol": (0, 2), "alice": (0, 1), "bob": (0, 1)}
MODULES = ModuleMap.of(PATHS, 4)


def test_the_map_turns_paths_into_the_peers_of_each_module() -> None:
    assert MODULES.peers == (("alice", "bob", "carol"), ("alice", "bob"), ("carol",), ())
    assert {peer: MODULES.path(peer) for peer in PATHS} == PATHS
    assert MODULES.path("dave") == ()


@pytest.mark.parametrize("path", [(0, 0), (4,), (-1,)])
def test_a_path_names_modules_that_are_there_once_each(path: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="alice trains modules"):
        ModuleMap.of({"alice": path}, 4)


SHARES = st.dictionaries(
    st.sampled_from(["alice", "bob", "carol"]),
    st.tuples(st.integers(0, 1000), st.lists(USUAL, min_size=2, max_size=2)),
)


@settings(max_examples=60)
@given(SHARES, st.booleans())
def test_a_module_averages_its_peers_in_their_order(
    shares: dict[str, tuple[int, list[float]]], rescale: bool
) -> None:
    given_ = {peer: (weight, tensor(values)) for peer, (weight, values) in shares.items()}
    found = MODULES.mean(0, given_, 2, rescale)
    expected = reference.weighted_mean(shares[peer] for peer in sorted(shares))
    if expected is None:
        assert found is None
        return
    assert found is not None
    among = sum(weight > 0 for weight, _ in shares.values())
    factor = reference.fp32(sqrt(among)) if rescale else 1.0
    assert found.tolist() == [reference.fp32(value * factor) for value in expected]
    turned = MODULES.mean(0, dict(reversed(given_.items())), 2, rescale)
    assert turned is not None
    assert torch.equal(found, turned)


def test_independent_directions_keep_their_length_when_rescaled() -> None:
    paths = {f"peer {place}": (0,) for place in range(9)}
    shares = {peer: (5, torch.eye(9)[place].clone()) for place, peer in enumerate(paths)}
    modules = ModuleMap.of(paths, 1)
    plain, longer = modules.mean(0, shares, 9), modules.mean(0, shares, 9, rescale=True)
    assert plain is not None
    assert longer is not None
    assert float(plain.norm()) == pytest.approx(1 / 3)
    assert float(longer.norm()) == pytest.approx(1.0)


def test_a_share_of_a_stranger_is_refused() -> None:
    with pytest.raises(ValueError, match="carol does not train module 1"):
        MODULES.mean(1, {"carol": (1, torch.ones(2))}, 2)
    assert MODULES.mean(3, {}, 2) is None


def test_a_round_moves_each_module_by_its_own_peers_alone() -> None:
    """A module of one path takes the plain local and outer step; one that nobody trained stays as it was."""
    layout = Layout.of([(f"m{module}", (40,)) for module in range(4)])
    fragments, rule = balanced(layout, 4), NesterovRule(0.7, 0.9)
    anchor = integers_to_floats(160, 1)
    moved = {peer: integers_to_floats(160, seed, -27) for seed, peer in enumerate(sorted(PATHS), 2)}
    states = [rule.state(40) for _ in range(4)]
    alone, alone_state = fragments.gather(anchor, 2), rule.state(40)
    shared, shared_state = fragments.gather(anchor, 1), rule.state(40)
    untouched = fragments.gather(anchor, 3)
    for _ in range(3):
        for module in range(4):
            start = fragments.gather(anchor, module)
            deltas = {
                peer: pseudo_gradient(start, start - fragments.gather(moved[peer], module))
                for peer in MODULES.peers[module]
            }
            update = MODULES.mean(module, {peer: (3, delta) for peer, delta in deltas.items()}, 40)
            if update is not None:
                rule.step_(start, states[module], update)
                fragments.scatter(start, anchor, module)
        delta = pseudo_gradient(alone, alone - fragments.gather(moved["carol"], 2))
        rule.step_(alone, alone_state, delta)
        both = [
            pseudo_gradient(shared, shared - fragments.gather(moved[peer], 1)) for peer in ("alice", "bob")
        ]
        mean = mean_of([(3, each) for each in both], 40)
        assert mean is not None
        rule.step_(shared, shared_state, mean)
    assert torch.allclose(fragments.gather(anchor, 2), alone, rtol=0, atol=1e-6)
    assert torch.equal(fragments.gather(anchor, 1), shared)
    assert torch.equal(fragments.gather(anchor, 3), untouched)
    assert not torch.equal(shared, fragments.gather(integers_to_floats(160, 1), 1))
