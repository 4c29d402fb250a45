"""Rules for each coordinate by itself: the middle values of all contributions, or the middle one.

Contributions count alike here, whatever their weights: a coordinate's order knows no tokens. One of weight 0
is left out. Values are sorted by a network of comparisons between rows, the same for every coordinate, so a
vector unit sorts many at once; sorted values do not depend on the order of the contributions, and neither
does anything below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atoll.optim.compiled import compiled
from atoll.optim.flat import Floats, floats
from atoll.optim.robust.evidence import Evidence, Sorting
from atoll.optim.robust.gram import Rows
from atoll.optim.sums import Doubles

Places = NDArray[np.int64]

RUN = 2048
"""Elements of each row that are sorted at a time: 8 KiB."""


@dataclass(frozen=True, slots=True)
class Median:
    """The middle value of each coordinate, halfway between the two middle ones of an even number.

    Holds against fewer liars than half without knowing how many. Costs variance: it is one contributor's
    value where the mean would average the noise of all. Of sparse payloads it is mostly zero: use it on dense
    ones. (Yin et al. 2018)
    """

    name: str = "median"
    needs: str = "nothing"

    def decide(self, evidence: Evidence) -> Sorting:
        count = evidence.contributions
        kept = ((count - 1) // 2, count // 2 + 1)
        return Sorting((1.0,) * count, kept, f"the middle {kept[1] - kept[0]} of {count}")


@dataclass(frozen=True, slots=True)
class TrimmedMean:
    """The mean of each coordinate without the f largest and the f smallest values, f as many as may lie.

    With f of n at half or beyond, as many are cut as leave the median. Nothing cut is the unweighted mean. A
    result lies between honest values as long as no more than f lie. (Yin et al. 2018)
    """

    name: str = "trimmed-mean"
    needs: str = "nothing"

    def decide(self, evidence: Evidence) -> Sorting:
        count = evidence.contributions
        cut = min(evidence.faulty, (count - 1) // 2)
        least = "" if cut == evidence.faulty else f", not {evidence.faulty}: too few contributions"
        return Sorting((1.0,) * count, (cut, count - cut), f"cut {cut} at each end of {count}{least}")


def sorted_mean(
    rows: Rows, factors: Sequence[float], kept: tuple[int, int], out: Tensor | None = None
) -> Tensor:
    """Of each coordinate the mean of its sorted values [kept[0], kept[1]), fp32 [numel], in `out` if given.

    Each value is factor * x, rounded to fp32 (as it is for a factor of 1). Kept values are
    added in fp64 in ascending order, divided, and rounded to fp32 once, so the mean is between them and the
    same for contributions in another order. Holds a piece of each row. Raises as `Rows.tiles` does, and
    ValueError if `out` is not fp32 [numel].
    """
    result = torch.empty(rows.numel, dtype=torch.float32) if out is None else out
    count, values = len(rows.payloads), floats("out", result, rows.numel)
    each, network = np.array(factors[:count], dtype=np.float64), comparisons(count)
    room, sums = np.empty((count, RUN), dtype=np.float32), np.empty(RUN)
    for place, tile in rows.tiles():
        sort_tile(tile, each, network, kept, room, sums, values[place])
    return result


@lru_cache(maxsize=64)
def comparisons(count: int) -> Places:
    """Pairs of rows [m, 2]: exchanged in this order wherever the first is larger, `count` rows are sorted.

    (merge exchange; Batcher 1968, Knuth 5.2.2 M)
    """
    found: list[tuple[int, int]] = []
    top = 1 << max(0, (count - 1).bit_length() - 1) if count > 1 else 0
    size = top
    while size > 0:
        step, residue, gap = top, 0, size
        while True:
            found += [(row, row + gap) for row in range(count - gap) if row & size == residue]
            if step == size:
                break
            gap, step, residue = step - size, step // 2, size
        size //= 2
    return np.array(found, dtype=np.int64).reshape(-1, 2)


@compiled
def sort_tile(
    tile: Floats,
    factors: Doubles,
    network: Places,
    kept: tuple[int, int],
    room: Floats,
    sums: Doubles,
    out: Floats,
) -> None:
    """Fill `out` with the mean of the kept rows of the sorted columns; `room` and `sums` are for a run.

    Sums begin at zero, so a zero has no sign: equal numbers are then equal bits.
    """
    count = np.float64(kept[1] - kept[0])
    for start in range(0, out.size, RUN):
        to = out[start : start + RUN]
        for row in range(factors.size):
            factor, values, scaled = factors[row], tile[row, start : start + RUN], room[row]
            for place in range(values.size):
                scaled[place] = np.float32(factor * np.float64(values[place]))
        sort_rows(room[:, : to.size], network)
        sums[:] = 0.0
        for row in range(kept[0], kept[1]):
            values = room[row, : to.size]
            for place in range(values.size):
                sums[place] += np.float64(values[place])
        for place in range(to.size):
            to[place] = np.float32(sums[place] / count)


@compiled
def sort_rows(rows: Floats, network: Places) -> None:
    """Sort each column in place, no NaN among them."""
    for pair in range(network.shape[0]):
        low, high = rows[network[pair, 0]], rows[network[pair, 1]]
        for place in range(low.size):
            one, two = low[place], high[place]
            low[place] = one if one < two else two
            high[place] = two if one < two else one
