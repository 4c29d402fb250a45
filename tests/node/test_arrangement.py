"""A run's vectors list the parameters fragment by fragment, and the model gets each back in its place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from atoll.node.arrangement import PARTITIONS, arranged
from atoll.node.local_model import LocalModel
from atoll.node.shared_round import SharedRound
from atoll.protocol.errors import ConfigError
from atoll.workload import vector


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(4))
    return nn.ModuleDict({"embed": nn.Embedding(7, 5), "layers": layers, "head": nn.Linear(5, 7, bias=False)})


def named(of: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(slot.name, slot.shape) for slot in vector.slots(of)]


def local(of: nn.Module, fragments: int, mixing: float) -> tuple[LocalModel, SharedRound, tuple[slice, ...]]:
    order, pieces = arranged(named(of), fragments, "balanced")
    shared = SharedRound.alone(vector.numel(of), fragments)
    vector.write(of, shared.anchor, order)
    return LocalModel(of, shared, order, pieces, mixing), shared, pieces


@pytest.mark.parametrize("partition", PARTITIONS)
def test_every_parameter_is_in_one_fragment_and_comes_back(partition: str) -> None:
    one, other = model(1), model(2)
    order, pieces = arranged(named(one), 3, partition)
    assert sorted(order) == sorted(name for name, _ in named(one))
    assert [piece.start for piece in pieces[1:]] == [piece.stop for piece in pieces[:-1]]
    flat = torch.zeros(vector.numel(one))
    vector.write(one, flat, order)
    vector.load(other, flat, order)
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    starts = {slot.start for slot in vector.slots(one, order)}
    assert all(piece.start in starts for piece in pieces), "no parameter lies in two fragments"


def test_one_fragment_is_the_models_own_order() -> None:
    order, pieces = arranged(named(model()), 1, "strided")
    assert list(order) == [name for name, _ in named(model())]
    assert pieces == (slice(0, vector.numel(model())),)


def test_too_many_fragments_are_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="fragments = 60"):
        arranged(named(model()), 60, "balanced", "RUN.toml: [rounds]")


def test_a_fragment_is_handed_over_and_the_model_trains_on() -> None:
    trained = model()
    side, shared, pieces = local(trained, 2, 0.25)
    side.begin(fresh=True)
    anchor = shared.anchor.clone()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.sub_(1)
    assert side.hand_over(1)
    assert torch.allclose(shared.delta[pieces[1]], torch.ones(1))
    assert not shared.delta[pieces[0]].any(), "another round's may still lie there"

    assert not side.waits
    with shared.writing(1):
        shared.anchor[pieces[1]] += 3
    assert side.waits
    side.begin(fresh=False)
    assert not side.waits
    assert side.hand_over(0)
    assert torch.allclose(shared.delta[pieces[0]], torch.ones(1)), "it went on from where it was"
    assert side.hand_over(1)
    expected = shared.anchor[pieces[1]] - (0.75 * shared.anchor[pieces[1]] + 0.25 * (anchor[pieces[1]] - 1))
    assert torch.allclose(shared.delta[pieces[1]], expected)


def test_who_evaluates_does_not_train_on_from_there() -> None:
    trained = model()
    side, shared, _ = local(trained, 2, 0.5)
    side.begin(fresh=True)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.sub_(1)
    side.load()
    side.begin(fresh=False)
    assert side.hand_over(0)
    assert not shared.delta.any()


def test_what_is_not_finite_is_told() -> None:
    trained = model()
    side, _, _ = local(trained, 1, 0.0)
    side.begin(fresh=False)
    with torch.no_grad():
        next(trained.parameters()).fill_(float("nan"))
    assert not side.hand_over(0)


@pytest.mark.parametrize("fragment", [0, None])
def test_an_update_may_overtake_the_round_that_it_replaces(fragment: int | None) -> None:
    """With one fragment: what is handed over is measured against the anchor that the round began with."""
    trained = model()
    side, shared, _ = local(trained, 1, 0.0)
    side.begin(fresh=True)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.sub_(1)
    for _ in range(2):  # an update, and another
        with shared.writing(fragment):
            shared.anchor.add_(100)
    assert not side.waits
    assert side.hand_over(0)
    assert torch.allclose(shared.delta, torch.ones(1))
    kept = shared.delta.clone()
    with shared.writing(fragment):
        shared.anchor.add_(100)
    assert torch.equal(shared.delta, kept), "nothing is in training: the daemon leaves it alone"


def test_with_fragments_a_round_on_a_state_that_is_gone_gives_nothing() -> None:
    trained = model()
    side, shared, _ = local(trained, 2, 0.5)
    side.begin(fresh=True)
    with shared.writing():
        shared.anchor.add_(100)
    assert not side.hand_over(0)
    side.begin(fresh=True)
    assert side.hand_over(0)
    assert not shared.delta.any()
