"""Radial-directional averaging: a round's mean that does not shrink when its contributors disagree."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor

from atoll.optim.flat import VALUE_MAX, floats
from atoll.optim.layout import Layout, Slot
from atoll.optim.mean import check_weight, mean_of
from atoll.optim.norms import norm

DIRECTION_MIN = 1e-6
"""Unit vectors whose mean is shorter than this cancel each other. What is left then is the rounding of fp32
contributions, and must not be stretched to their length. (The published 1e-12 is far below that rounding.)"""
NORM_MIN = 2.0**-70
"""A tensor shorter than this has no direction, as a zero has none: weight / norm stays within fp32."""

_EMBEDDING = re.compile(r"(^|[._])(embed\w*|wte|wpe)[._]")


def embeddings(layout: Layout) -> frozenset[str]:
    """The names of embedding tensors, which the paper averages plainly: most of their rows are zero."""
    return frozenset(slot.name for slot in layout.slots if _EMBEDDING.search(slot.name))


def rda(
    contributions: Iterable[tuple[int, Tensor]], layout: Layout, plain: Collection[str] = ()
) -> Tensor | None:
    """Length and direction of each tensor averaged apart, fp32 [layout.numel]; None if the weights sum to 0.

        out = sum(w * |v|) / sum(w) * phi(sum(w * phi(v))),   phi(v) = v / |v|,  phi(0) = 0

    for each tensor of the layout; those named in `plain`, and those whose directions cancel, get the weighted
    mean. Instead of the mean, after decoding, before the outer step. A mean of M directions at right angles
    is 1 / sqrt(M) long; this one keeps the length of its contributions. `contributions` are (weight, fp32
    [numel]) in contributor order, which is part of the result; lengths have a fixed order of additions
    (`optim/norms.py`) and all else is one rounding per operation, so equal lists give equal bits everywhere.
    Holds one vector beside the result and its direction. Raises ValueError for vectors of another shape, a
    negative weight, or a total beyond 2^53. (Decoupled DiLoCo, 2026)
    """
    shaped = [slot for slot in layout.slots if slot.name not in plain]
    directions = torch.zeros(layout.numel)
    lengths = dict.fromkeys((slot.name for slot in shaped), 0.0)
    weights: list[int] = []

    def noted() -> Iterator[tuple[int, Tensor]]:
        for weight, vector in contributions:
            floats("contribution", vector, layout.numel)
            check_weight(weight, sum(weights))
            weights.append(weight)
            for slot in shaped:
                lengths[slot.name] += weight * _add_direction(directions, vector, slot, weight)
            yield weight, vector

    mean = mean_of(noted(), layout.numel)
    if mean is not None:
        for slot in shaped:
            _replace(mean, directions, slot, lengths[slot.name], sum(weights))
    return mean


def _add_direction(directions: Tensor, vector: Tensor, slot: Slot, weight: int) -> float:
    """Add weight * phi(v) of one tensor to its place; its length."""
    place = slice(slot.offset, slot.offset + slot.numel)
    length = norm(vector[place])
    if weight and length >= NORM_MIN:
        with torch.no_grad():
            directions[place].add_(vector[place].mul(weight / length))
    return length


def _replace(mean: Tensor, directions: Tensor, slot: Slot, lengths: float, total: int) -> None:
    """Put the mean length along the mean direction, unless there is none."""
    place = slice(slot.offset, slot.offset + slot.numel)
    length = norm(directions[place])
    if length / total >= DIRECTION_MIN:
        with torch.no_grad():
            torch.mul(directions[place], lengths / total / length, out=mean[place])
            mean[place].clamp_(-VALUE_MAX, VALUE_MAX)
