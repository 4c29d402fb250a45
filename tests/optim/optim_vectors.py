"""Vectors for the tests of optim/: strategies, and numbers that are the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import hypothesis.strategies as st
import numpy as np
import torch
from torch import Tensor

from atoll.optim.flat import VALUE_MAX


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def integers_to_floats(numel: int, seed: int, exponent: int = -24) -> Tensor:
    """`numel` fp32 numbers in +-2^(23 + exponent): a 64-bit integer mix (splitmix64), scaled exactly.

    No float sampler: `torch.randn` with one seed differs between instruction sets.
    """
    with np.errstate(over="ignore"):
        state = np.arange(numel, dtype=np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
        state *= np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    whole = (state >> np.uint64(40)).astype(np.int64) - 2**23
    return torch.from_numpy(whole.astype(np.float32) * np.float32(2.0**exponent))


FLOATS = st.floats(-VALUE_MAX, VALUE_MAX, width=32)
USUAL = st.floats(-1e3, 1e3, width=32).map(lambda x: x if abs(x) > 1e-20 else 0.0)
"""Sizes at which no product is subnormal, so relative bounds on rounding hold."""


@st.composite
def _vectors(draw: st.DrawFn, elements: st.SearchStrategy[float], numel_max: int) -> Tensor:
    """Some drawn values, spread through a vector of pseudo-random ones that may be long."""
    drawn = draw(st.lists(elements, max_size=24))
    filler = draw(st.integers(0, max(0, numel_max - len(drawn))))
    exponent = draw(st.sampled_from([-60, -34, -24, 0]))
    vector = torch.cat([tensor(drawn), integers_to_floats(filler, draw(st.integers(0, 99)), exponent)])
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(vector.numel())
    return vector[torch.from_numpy(order)].contiguous()


vectors: Callable[..., st.SearchStrategy[Tensor]] = partial(_vectors, FLOATS, 700)
usual_vectors: Callable[..., st.SearchStrategy[Tensor]] = partial(_vectors, USUAL, 700)
