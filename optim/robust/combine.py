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

RUN = 2048
"""Elements that are summed at a time: 16 KiB of sums."""


def combined(rows: Rows, factors: Sequence[float], total: float, out: Tensor | None = None) -> Tensor:
    """sum(factor * row) / total, fp32 [numel], in `out` if given, within VALUE_MAX.

    Products and sums are fp64, in the order of the rows, one rounding each; the quotient is rounded to fp32
    once. Factors have any sign and sizes up to 1e280: a projection's are large where short vectors stand in
    for long ones.
    A row whose factor is 0 is decoded, so its bytes are checked, and not added. Holds a piece of each row.
    Raises as `Rows.tiles` does, and ValueError if `out` is not fp32 [numel].
    """
    result = torch.empty(rows.numel, dtype=torch.float32) if out is None else out
    values, sums = floats("out", result, rows.numel), np.empty(RUN)
    each = np.array(factors, dtype=np.float64)
    for place, tile in rows.tiles():
        add_rows(tile, each, float(total), sums, values[place])
    return result


@compiled
def add_rows(tile: Floats, factors: Doubles, total: float, sums: Doubles, out: Floats) -> None:
    """Fill `out` with the quotients, cut at VALUE_MAX: those beyond fp32 would else become infinite.

    `sums` is room for a run.
    """
    for start in range(0, out.size, RUN):
        to = out[start : start + RUN]
        sums[:] = 0.0
        for row in range(factors.size):
            factor = factors[row]
            if factor != 0.0:
                values = tile[row, start : start + RUN]
                for place in range(values.size):
                    sums[place] += factor * np.float64(values[place])
        for place in range(to.size):
            to[place] = np.float32(min(max(sums[place] / total, -VALUE_MAX), VALUE_MAX))
