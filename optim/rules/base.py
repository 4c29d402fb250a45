"""What an outer rule is: what becomes of the anchor once a round's update is known.

A rule is a frozen dataclass of a run's knobs. It holds no tensors: its state is a few fp32 vectors that the
caller keeps, saves and hashes beside the anchor. What a step writes depends on the bits of its arguments
alone: elementwise fp32 with one rounding per operation, and norms by `optim/norms.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Protocol

from torch import Tensor

from atoll.optim.flat import floats, pieces

PIECE = 128 * 1024
"""Elements at a time: large enough for torch to use its threads, small enough to stay in cache."""


class OuterRule(Protocol):
    """One outer optimiser with its knobs."""

    @property
    def name(self) -> str:
        """What a run manifest calls it."""

    def state(self, numel: int) -> tuple[Tensor, ...]:
        """The state before the first step: zeros, fp32 and flat. Most are [numel]; a counter is [1]."""

    def step_(self, anchor: Tensor, state: Sequence[Tensor], update: Tensor) -> None:
        """Take one outer step, in place on `anchor` and `state`; `update` (a mean of pseudo-gradients, so
        a step goes against it) is left as it is. `anchor` and `update` are fp32 [numel] on the CPU.

        Raises ValueError if a vector has another shape or type; nothing is changed then.
        """


def walk(numel: int, vectors: Mapping[str, Tensor]) -> Iterator[slice]:
    """Check that the named vectors are flat fp32 [numel]; the cache-sized pieces to work on them."""
    for name, vector in vectors.items():
        floats(name, vector, numel)
    return pieces(numel, PIECE)


def positive(what: str, value: float) -> None:
    """Raise ValueError unless `value` is a positive number."""
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{what} must be a positive number, not {value}")


def below_one(what: str, value: float) -> None:
    """Raise ValueError unless 0 <= value < 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{what} must be in [0, 1), not {value}")


def at_least_one(what: str, value: int) -> None:
    """Raise ValueError unless `value` is a whole number from 1 on that an fp32 counter holds exactly."""
    if not (isinstance(value, int) and 1 <= value <= 1 << 24):
        raise ValueError(f"{what} must be a whole number from 1 to {1 << 24}, not {value}")
