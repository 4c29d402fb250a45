"""The weighted sum that every coefficient rule ends in: the second pass over a round's contributions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from atoll.optim.compiled import compiled
from atoll.optim.flat import VALUE_MAX, Floats, floats
from atoll.optim.robust.gram import Rows
from atoll.optim.sums import Doubles


def combined(rows: Rows, factors: Sequence[float], total: float, out: Tensor | None = None) -> Tensor:
    """sum(factor * row) / total, fp32 [numel], in `out` if given, within VALUE_MAX.

    Products and sums are fp64, in the order of the rows, one rounding each; the quotient is rounded to fp32
    once. Factors have any sign and sizes up to 1e280: a projection's are large where short vectors stand in
    for long ones.
    A row whose factor is 0 is decoded, so its bytes are checked, and not added. Holds a piece of each row.
    Raises as `Rows.tiles` does, and ValueError if `out` is not fp32 [numel].
    """
    result = torch.empty(rows.numel, dtype=torch.float32) if out is None else out
    values, sums = floats("out", result, rows.numel), np.empty(0)
    for place, tile in rows.tiles():
        size = place.stop - place.start
        sums = sums if sums.size >= size else np.empty(size)
        sums[:size] = 0.0
        for factor, row in zip(factors, tile, strict=True):
            if factor:
                add(row, factor, sums[:size])
        divided(sums[:size], total, values[place])
    return result


@compiled
def add(row: Floats, factor: float, sums: Doubles) -> None:
    """Add factor * row to the sums."""
    for place in range(row.size):
        sums[place] += factor * np.float64(row[place])


@compiled
def divided(sums: Doubles, total: float, out: Floats) -> None:
    """Fill `out` with the quotients, cut at VALUE_MAX: those beyond fp32 would else become infinite."""
    for place in range(sums.size):
        out[place] = np.float32(min(max(sums[place] / total, -VALUE_MAX), VALUE_MAX))
