"""Cut a model into fragments, each with rounds of its own: whole tensors, by layer or by size.

A fragment's vector holds its tensors in the order of the layout. (Streaming DiLoCo, Douillard et al. 2025;
balanced: Decoupled DiLoCo, 2026)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.optim.flat import floats
from atoll.optim.layout import Layout, Slot

_LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|h)\.(\d+)\.")
RESTS = ("own", "balanced")


@dataclass(frozen=True, slots=True)
class Fragments:
    """Every element of a flat vector [numel] is in one fragment. `slices[p]` ascend and do not touch."""

    numel: int
    slices: tuple[tuple[slice, ...], ...]

    def __len__(self) -> int:
        return len(self.slices)

    def numel_of(self, fragment: int) -> int:
        """Elements of one fragment."""
        return sum(place.stop - place.start for place in self.slices[fragment])

    def holds(self, fragment: int, slot: Slot) -> bool:
        """Whether a slot of the layout that was cut lies in this fragment."""
        return any(place.start <= slot.offset < place.stop for place in self.slices[fragment])

    def gather(self, flat: Tensor, fragment: int, out: Tensor | None = None) -> Tensor:
        """Copy a fragment out of `flat`, fp32 [numel], into `out`, fp32 [numel_of(fragment)], and return it.

        Raises ValueError if a vector has another shape.
        """
        floats("flat", flat, self.numel)
        part = torch.empty(self.numel_of(fragment)) if out is None else out
        floats("out", part, self.numel_of(fragment))
        self._copy(fragment, lambda inside, outside: part[inside].copy_(flat[outside]))
        return part

    def scatter(self, part: Tensor, flat: Tensor, fragment: int) -> None:
        """Copy a fragment's vector to its places in `flat`. Raises ValueError if one has another shape."""
        floats("flat", flat, self.numel)
        floats("part", part, self.numel_of(fragment))
        self._copy(fragment, lambda inside, outside: flat[outside].copy_(part[inside]))

    def _copy(self, fragment: int, copy: Callable[[slice, slice], object]) -> None:
        at = 0
        with torch.no_grad():
            for place in self.slices[fragment]:
                size = place.stop - place.start
                copy(slice(at, at + size), place)
                at += size


def sequential(layout: Layout, fragments: int, rest: str = "own") -> Fragments:
    """Consecutive layers together, as evenly as they divide.

    What is in no layer (embeddings, last norm, head) is the last fragment if `rest` is "own", so that
    `fragments - 1` hold layers; if "balanced", each such tensor, the largest first, joins the fragment that
    is the smallest by then. Layers are told by names such as `layers.3.`, `h.3.` or `blocks.3.`. One
    fragment is the whole model. Raises ValueError if a fragment would be empty.
    """
    return _by_layer(layout, fragments, rest, lambda place, layers, bins: place * bins // layers)


def strided(layout: Layout, fragments: int, rest: str = "own") -> Fragments:
    """Every so-manieth layer together, from the first to the last of the model; else as `sequential`.

    Streaming DiLoCo's choice: the same loss, and a fragment's exchange hides behind more of the training.
    """
    return _by_layer(layout, fragments, rest, lambda place, layers, bins: place % bins)


def balanced(layout: Layout, fragments: int) -> Fragments:
    """Tensors by size, the largest first and names in order where sizes are equal, each to the fragment
    that is the smallest by then: equal messages whatever the model. Raises ValueError if one were empty."""
    bins: list[list[Slot]] = [[] for _ in range(_at_least_one(fragments))]
    _deal(layout.slots, bins)
    return _joined(layout, bins)


PARTITIONS: dict[str, Callable[..., Fragments]] = {
    "sequential": sequential,
    "strided": strided,
    "balanced": balanced,
}
"""Ways to cut by name; all take (layout, fragments), and those by layer also what becomes of the rest."""


def _by_layer(layout: Layout, fragments: int, rest: str, bin_of: Callable[[int, int, int], int]) -> Fragments:
    if rest not in RESTS:
        raise ValueError(f"rest must be one of {', '.join(RESTS)}, not {rest!r}")
    if _at_least_one(fragments) == 1:
        return _joined(layout, [list(layout.slots)])
    layers, outside = _layers(layout)
    own = rest == "own" and bool(outside)
    bins: list[list[Slot]] = [[] for _ in range(fragments - own)]
    if len(layers) < len(bins):
        raise ValueError(
            f"{len(layers)} layers do not fill {len(bins)} fragments: cut it 'balanced', or less"
        )
    for place, slots in enumerate(layers):
        bins[bin_of(place, len(layers), len(bins))] += slots
    if own:
        bins.append(list(outside))
    else:
        _deal(outside, bins)
    return _joined(layout, bins)


def _at_least_one(fragments: int) -> int:
    if fragments < 1:
        raise ValueError(f"a model has at least one fragment, not {fragments}")
    return fragments


def _layers(layout: Layout) -> tuple[list[list[Slot]], list[Slot]]:
    """The slots of each layer by its number, and those in no layer."""
    layers: dict[int, list[Slot]] = {}
    outside: list[Slot] = []
    for slot in layout.slots:
        found = _LAYER.search(slot.name)
        (layers.setdefault(int(found[1]), []) if found else outside).append(slot)
    return [layers[number] for number in sorted(layers)], outside


def _deal(slots: Iterable[Slot], bins: Sequence[list[Slot]]) -> None:
    sizes = [sum(slot.numel for slot in held) for held in bins]
    for slot in sorted(slots, key=lambda slot: (-slot.numel, slot.name)):
        lightest = sizes.index(min(sizes))
        bins[lightest].append(slot)
        sizes[lightest] += slot.numel


def _joined(layout: Layout, bins: Sequence[Sequence[Slot]]) -> Fragments:
    made = Fragments(layout.numel, tuple(_places(slots) for slots in bins))
    if not all(made.slices):
        raise ValueError(f"{len(layout.slots)} tensors do not fill {len(bins)} fragments")
    return made


def _places(slots: Sequence[Slot]) -> tuple[slice, ...]:
    """Ascending slices of these slots; those that touch are one."""
    places: list[slice] = []
    for slot in sorted(slots, key=lambda slot: slot.offset):
        if slot.numel == 0:
            continue
        start, stop = slot.offset, slot.offset + slot.numel
        if places and places[-1].stop == start:
            start = places.pop().start
        places.append(slice(start, stop))
    return tuple(places)
