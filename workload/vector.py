"""A model's parameters as one flat fp32 vector, and back.

The vector is what peers agree on. Its order is that of `named_parameters()`, which counts a tied weight
once; buffers are not in it, since they are not trained.
"""

from __future__ import annotations

import math
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


def slots(model: nn.Module) -> tuple[Slot, ...]:
    """List the model's unique parameters in vector order."""
    found: list[Slot] = []
    start = 0
    for name, parameter in model.named_parameters():
        found.append(Slot(name, tuple(parameter.shape), start))
        start += parameter.numel()
    return tuple(found)


def numel(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _check(model: nn.Module, flat: torch.Tensor) -> None:
    assert flat.dtype == torch.float32, flat.dtype
    assert flat.shape == (numel(model),), (flat.shape, numel(model))


@torch.no_grad()
def write(model: nn.Module, flat: torch.Tensor) -> None:
    """Copy the model's parameters into `flat` (fp32, 1-D, on the CPU)."""
    _check(model, flat)
    for (_, shape, start), parameter in zip(slots(model), model.parameters(), strict=True):
        flat[start : start + parameter.numel()].view(shape).copy_(parameter)


@torch.no_grad()
def load(model: nn.Module, flat: torch.Tensor) -> None:
    """Copy `flat` into the model's parameters."""
    _check(model, flat)
    for (_, shape, start), parameter in zip(slots(model), model.parameters(), strict=True):
        parameter.copy_(flat[start : start + parameter.numel()].view(shape))


@torch.no_grad()
def subtract(model: nn.Module, flat: torch.Tensor) -> None:
    """flat <- flat - parameters. With `flat` holding the anchor this leaves the pseudo-gradient."""
    _check(model, flat)
    for (_, shape, start), parameter in zip(slots(model), model.parameters(), strict=True):
        flat[start : start + parameter.numel()].view(shape).sub_(parameter.to(flat.device))
