"""A flat vector: the one shape that every function of optim/ takes. fp32, one dimension, contiguous, CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]

PIECE = 64 * 1024
"""Elements worked on at a time: 256 KiB stay in the second-level cache between the operations on them, and
are large enough that the time is numpy's and not Python's. Half of it measured 0.85 of the speed."""

VALUE_MAX = 127.0 * 2.0**57
"""Largest magnitude that a codec encodes or decodes, about 1.8e19 and exact in fp32.

Far beyond any pseudo-gradient, and far enough below the fp32 limit that no weighted sum (total weight up
to 2^53) can overflow. So what a peer sends can make a mean wrong, never infinite.
"""

NORMAL_MIN = np.finfo(np.float32).tiny
"""Smallest normal fp32. What a payload multiplies by is this at least or 0: a product then never depends on
whether a machine flushes subnormal numbers."""


class NonFinite(ValueError):
    """A vector holds NaN, an infinity or an absurdly large value: training diverged, do not contribute."""


def floats(name: str, vector: Tensor, numel: int | None = None) -> Floats:
    """The numpy view of a flat vector. Raises ValueError if it is not one, or not of `numel` elements."""
    flat = vector.dtype == torch.float32 and vector.dim() == 1 and vector.is_contiguous()
    if not flat or vector.device.type != "cpu":
        shape, kind = list(vector.shape), f"{vector.dtype} on {vector.device}"
        raise ValueError(f"{name} must be a contiguous 1-D fp32 tensor on the CPU, not {shape} {kind}")
    if numel is not None and vector.numel() != numel:
        raise ValueError(f"{name} must have {numel} elements, not {vector.numel()}")
    array: Floats = vector.detach().numpy()
    return array


def pieces(numel: int, size: int = PIECE) -> Iterator[slice]:
    """Cut [0, numel) into slices of `size`, the last one shorter."""
    for start in range(0, numel, size):
        yield slice(start, min(start + size, numel))


def all_finite(array: Floats) -> bool:
    """Whether no element is NaN or infinite, in one pass over memory without a mask of the whole."""
    mask = np.empty(min(PIECE, array.size), dtype=np.bool_)
    for piece in pieces(array.size):
        found = mask[: piece.stop - piece.start]
        np.isfinite(array[piece], out=found)
        if not found.all():
            return False
    return True


def within(piece: Floats, limit: float, scratch: Floats) -> bool:
    """Whether |x| <= limit for every x of a non-empty piece; NaN is not. `scratch` is as large as a piece."""
    magnitude = np.abs(piece, out=scratch[: piece.size])
    return bool(magnitude.max() <= limit)
