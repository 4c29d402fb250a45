from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from atoll.optim.layout import Layout, Slot

SHAPES = st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=6)


def named(shapes: list[list[int]]) -> list[tuple[str, list[int]]]:
    return [(f"p{place}", shape) for place, shape in enumerate(shapes)]


@given(SHAPES)
def test_slots_cover_the_vector_without_gaps(shapes: list[list[int]]) -> None:
    layout = Layout.of(named(shapes))
    flat = torch.arange(layout.numel, dtype=torch.float32)
    views = layout.views(flat)
    assert [list(view.shape) for view in views.values()] == shapes
    joined = torch.cat([torch.empty(0), *(view.reshape(-1) for view in views.values())])
    assert torch.equal(joined, flat)


@given(SHAPES)
def test_gather_undoes_scatter(shapes: list[list[int]]) -> None:
    layout = Layout.of(named(shapes))
    flat = torch.arange(layout.numel, dtype=torch.float32) + 1
    model = [(name, torch.nn.Parameter(torch.zeros(shape))) for name, shape in named(shapes)]
    layout.scatter(flat, model)
    assert torch.equal(layout.gather(model), flat)
    out = torch.zeros(layout.numel)
    assert layout.gather(model, out) is out
    assert torch.equal(out, flat)


def test_a_view_writes_through() -> None:
    layout = Layout.of([("a", [2]), ("b", [2, 2])])
    flat = torch.zeros(6)
    layout.views(flat)["b"][1, 0] = 7
    assert flat.tolist() == [0, 0, 0, 0, 7, 0]
    assert layout.slots == (Slot("a", (2,), 0, 2), Slot("b", (2, 2), 2, 4))


def test_a_module_with_tied_weights_is_laid_out_once_and_keeps_its_dtype() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)).to(torch.bfloat16)
    model[1].weight = model[0].weight
    layout = Layout.of((name, parameter.shape) for name, parameter in model.named_parameters())
    assert layout.numel == 9 + 3 + 3
    layout.scatter(torch.full((15,), 0.5), model.named_parameters())
    assert model[1].weight.dtype == torch.bfloat16
    assert torch.equal(layout.gather(model.named_parameters()), torch.full((15,), 0.5))


@pytest.mark.parametrize(
    "model",
    [
        [("a", [2])],
        [("a", [2]), ("b", [4]), ("c", [1])],
        [("a", [2]), ("b", [2, 2])],
        [("b", [4]), ("a", [2])],
    ],
)
def test_another_model_is_refused_and_left_alone(model: list[tuple[str, list[int]]]) -> None:
    layout = Layout.of([("a", [2]), ("b", [4])])
    tensors = [(name, torch.zeros(shape)) for name, shape in model]
    with pytest.raises(ValueError, match="layout has"):
        layout.scatter(torch.ones(6), tensors)
    with pytest.raises(ValueError, match="layout has"):
        layout.gather(tensors)
    assert all(not tensor.any() for _, tensor in tensors)


@pytest.mark.parametrize(
    "flat", [torch.ones(5), torch.ones(6).double(), torch.ones(2, 3), torch.ones(12)[::2]]
)
def test_a_vector_of_another_kind_is_refused(flat: torch.Tensor) -> None:
    layout = Layout.of([("a", [2]), ("b", [4])])
    with pytest.raises(ValueError, match="flat must"):
        layout.views(flat)
    with pytest.raises(ValueError, match="out must"):
        layout.gather([("a", torch.ones(2)), ("b", torch.ones(4))], flat)


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        Layout.of([("a", [1]), ("a", [1])])
    with pytest.raises(ValueError, match="negative"):
        Layout.of([("a", [-1])])
