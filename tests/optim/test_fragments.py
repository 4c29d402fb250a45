"""Cutting a model: every element once, layers kept whole, sizes balanced."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given
from optim_vectors import integers_to_floats

from atoll.optim import reference_rules
from atoll.optim.fragments import Fragments, balanced, sequential, strided
from atoll.optim.layout import Layout

Cut = Callable[..., Fragments]


def model(layers: int, prefix: str = "model.layers") -> Layout:
    """Names and sizes like those of a Llama-style model, tied embedding."""
    named: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (50, 8))]
    for layer in range(layers):
        named += [
            (f"{prefix}.{layer}.self_attn.q_proj.weight", (8, 8)),
            (f"{prefix}.{layer}.mlp.up_proj.weight", (24, 8)),
            (f"{prefix}.{layer}.input_layernorm.weight", (8,)),
        ]
    return Layout.of([*named, ("model.norm.weight", (8,))])


def names_of(layout: Layout, fragments: Fragments) -> list[set[str]]:
    """Which tensors lie in each fragment; each must lie in one."""
    found: list[set[str]] = [set() for _ in range(len(fragments))]
    for slot in layout.slots:
        inside = [
            fragment
            for fragment in range(len(fragments))
            for place in fragments.slices[fragment]
            if place.start < slot.offset + slot.numel and slot.offset < place.stop
        ]
        if slot.numel:
            assert len(inside) == 1, slot.name
            found[inside[0]].add(slot.name)
    return found


def layers_of(names: set[str]) -> set[int]:
    return {int(name.split(".")[2]) for name in names if ".layers." in name}


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=12))
    layers = draw(st.lists(st.integers(-1, 5), min_size=len(sizes), max_size=len(sizes)))
    return Layout.of(
        (f"layers.{layer}.w{i}" if layer >= 0 else f"embed{i}", (size,))
        for i, (size, layer) in enumerate(zip(sizes, layers, strict=True))
    )


def made_or_none(layout: Layout, count: int, cut: Cut, rest: str) -> Fragments | None:
    """None where a fragment would be empty."""
    layers = len({slot.name.split(".")[1] for slot in layout.slots if slot.name.startswith("layers.")})
    try:
        return cut(layout, count) if cut is balanced else cut(layout, count, rest)
    except ValueError:
        filled = sum(slot.numel > 0 for slot in layout.slots)
        assert count > min(filled, layers) or any(slot.numel == 0 for slot in layout.slots)
        return None


@given(
    layouts(),
    st.integers(1, 6),
    st.sampled_from([sequential, strided, balanced]),
    st.sampled_from(["own", "balanced"]),
)
def test_every_element_is_in_one_fragment(layout: Layout, count: int, cut: Cut, rest: str) -> None:
    made = made_or_none(layout, count, cut, rest)
    assume(made is not None)
    assert made is not None
    assert len(made) == count
    flat, again = integers_to_floats(layout.numel, 1), torch.zeros(layout.numel)
    touched = torch.zeros(layout.numel)
    for fragment in range(count):
        part = made.gather(flat, fragment)
        assert 0 < part.numel() == made.numel_of(fragment)
        made.scatter(part, again, fragment)
        made.scatter(torch.ones(part.numel()) + made.gather(touched, fragment), touched, fragment)
        places = made.slices[fragment]
        assert all(one.stop < other.start for one, other in pairwise(places))
    assert torch.equal(again, flat)
    assert torch.equal(touched, torch.ones(layout.numel))
    names_of(layout, made)


@given(layouts(), st.integers(1, 6))
def test_balanced_is_largest_first_into_the_lightest(layout: Layout, count: int) -> None:
    sizes = {slot.name: slot.numel for slot in layout.slots}
    expected = [
        {name for name in names if sizes[name]} for names in reference_rules.lightest_bins(sizes, count)
    ]
    if all(expected):
        assert names_of(layout, balanced(layout, count)) == expected
    else:
        with pytest.raises(ValueError, match="do not fill"):
            balanced(layout, count)


def test_balanced_depends_on_names_and_sizes_not_on_their_order() -> None:
    layout = model(5)
    turned = Layout.of([(slot.name, slot.shape) for slot in reversed(layout.slots)])
    assert names_of(layout, balanced(layout, 4)) == names_of(turned, balanced(turned, 4))
    sizes = [balanced(layout, 4).numel_of(fragment) for fragment in range(4)]
    assert max(sizes) - min(sizes) <= 64


@pytest.mark.parametrize("prefix", ["model.layers", "transformer.h", "blocks"])
def test_sequential_keeps_neighbours_together_and_the_rest_apart(prefix: str) -> None:
    layout = model(6, prefix)
    found = names_of(layout, sequential(layout, 4))
    numbers = [{name.removeprefix(f"{prefix}.").split(".")[0] for name in names} for names in found[:-1]]
    assert numbers == [{"0", "1"}, {"2", "3"}, {"4", "5"}]
    assert found[-1] == {"model.embed_tokens.weight", "model.norm.weight"}


def test_sequential_divides_layers_as_evenly_as_it_can() -> None:
    layout = model(7)
    found = [layers_of(names) for names in names_of(layout, sequential(layout, 3, "balanced"))]
    assert found == [{0, 1, 2}, {3, 4}, {5, 6}]


def test_strided_takes_every_so_manieth_layer() -> None:
    layout = model(7)
    found = names_of(layout, strided(layout, 4))
    assert [layers_of(names) for names in found] == [{0, 3, 6}, {1, 4}, {2, 5}, set()]
    assert [layers_of(names) for names in names_of(layout, strided(layout, 3, "balanced"))] == [
        {0, 3, 6},
        {1, 4},
        {2, 5},
    ]


def test_the_rest_may_join_the_lightest_fragments() -> None:
    layout = model(7)
    found = names_of(layout, strided(layout, 3, "balanced"))
    # three layers in the first; the embedding, larger, goes to the second, and the norm to the third
    assert "model.embed_tokens.weight" in found[1]
    assert "model.norm.weight" in found[2]


def test_layers_are_ordered_by_number_not_by_text() -> None:
    layout = model(12)
    assert [layers_of(names) for names in names_of(layout, sequential(layout, 3))][:2] == [
        set(range(6)),
        set(range(6, 12)),
    ]


@pytest.mark.parametrize("cut", [sequential, strided, balanced])
def test_one_fragment_is_the_whole_vector(cut: Cut) -> None:
    layout = model(2)
    assert cut(layout, 1).slices == ((slice(0, layout.numel),),)


def test_too_many_fragments_are_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match="2 layers do not fill 3 fragments"):
        sequential(model(2), 4)
    with pytest.raises(ValueError, match="0 layers do not fill"):
        strided(Layout.of([("w", (3,)), ("b", (1,))]), 2)
    with pytest.raises(ValueError, match="2 tensors do not fill 3"):
        balanced(Layout.of([("w", (3,)), ("b", (1,))]), 3)
    with pytest.raises(ValueError, match="at least one"):
        balanced(model(2), 0)
    with pytest.raises(ValueError, match="rest must be"):
        sequential(model(2), 2, "mixed")


def test_vectors_of_other_sizes_are_refused() -> None:
    layout = model(2)
    made = balanced(layout, 2)
    with pytest.raises(ValueError, match="flat must have"):
        made.gather(torch.zeros(layout.numel - 1), 0)
    with pytest.raises(ValueError, match="part must have"):
        made.scatter(torch.zeros(3), torch.zeros(layout.numel), 0)
    with pytest.raises(ValueError, match="out must have"):
        made.gather(torch.zeros(layout.numel), 0, torch.zeros(3))
