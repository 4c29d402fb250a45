"""A model's parameters as one flat fp32 vector, and back.

The vector is what peers agree on. Its order is that of `named_parameters()`, which counts a tied weight
once, or `order`: all the names, as a run lists them that trains in fragments. Buffers are not in it, since
they are not trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn


class Slot(NamedTuple):
    """One parameter's place: its first occurrence's name, its shape, where it starts."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def slots(model: nn.Module, order: Sequence[str] = ()) -> tuple[Slot, ...]:
    """List the model's unique parameters in vector order."""
    return tuple(slot for slot, _ in _placed(model, order))


def _placed(model: nn.Module, order: Sequence[str]) -> Iterator[tuple[Slot, nn.Parameter]]:
    parameters = dict(model.named_parameters())
    assert not order or set(order) == set(parameters), "an order of another model"
    start = 0
    for name in order or parameters:
        parameter = parameters[name]
        yield Slot(name, tuple(parameter.shape), start), parameter
        start += parameter.numel()


def numel(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _check(model: nn.Module, flat: torch.Tensor) -> None:
    assert flat.dtype == torch.float32, flat.dtype
    assert flat.shape == (numel(model),), (flat.shape, numel(model))


@torch.no_grad()
def write(model: nn.Module, flat: torch.Tensor, order: Sequence[str] = ()) -> None:
    """Copy the model's parameters into `flat` (fp32, 1-D, on the CPU)."""
    _check(model, flat)
    for (_, shape, start), parameter in _placed(model, order):
        flat[start : start + parameter.numel()].view(shape).copy_(parameter)


@torch.no_grad()
def load(model: nn.Module, flat: torch.Tensor, order: Sequence[str] = ()) -> None:
    """Copy `flat` into the model's parameters."""
    _check(model, flat)
    for (_, shape, start), parameter in _placed(model, order):
        parameter.copy_(flat[start : start + parameter.numel()].view(shape))


@torch.no_grad()
def subtract(
    model: nn.Module,
    flat: torch.Tensor,
    out: torch.Tensor,
    order: Sequence[str] = (),
    piece: slice = slice(None),
) -> None:
    """out <- flat - parameters. With `flat` holding the anchor this leaves the pseudo-gradient.

    Only for the parameters that lie in `piece` of the vector, a fragment's for example. `out` may be `flat`.
    """
    _check(model, flat)
    _check(model, out)
    for (_, shape, start), parameter in _within(model, order, piece):
        place = slice(start, start + parameter.numel())
        torch.sub(flat[place].view(shape), parameter.to(flat.device), out=out[place].view(shape))


@torch.no_grad()
def mix(model: nn.Module, flat: torch.Tensor, share: float, order: Sequence[str], piece: slice) -> None:
    """parameters <- (1 - share) flat + share parameters, for those that lie in `piece` of the vector.

    With a share of 0 they become what `flat` holds there. (Streaming DiLoCo, Douillard et al. 2025)
    """
    _check(model, flat)
    for (_, shape, start), parameter in _within(model, order, piece):
        there = flat[start : start + parameter.numel()].view(shape).to(parameter.device)
        parameter.copy_(there if share == 0 else share * parameter + (1 - share) * there)


def _within(model: nn.Module, order: Sequence[str], piece: slice) -> Iterator[tuple[Slot, nn.Parameter]]:
    first, last, _ = piece.indices(numel(model))
    for slot, parameter in _placed(model, order):
        if first <= slot.start < last:
            assert slot.start + parameter.numel() <= last, "a parameter lies in two fragments"
            yield slot, parameter


def finite(values: torch.Tensor) -> bool:
    """Whether no element is infinite or NaN. A finite sum says so, and is much faster to have than the check
    of each; that is left for a sum that overflows."""
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())
