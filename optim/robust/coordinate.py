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
from atoll.optim.flat import Floats, floats, pieces
from atoll.optim.robust.evidence import Evidence, Sorting
from atoll.optim.robust.gram import Rows

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

    Each value is factor * x, rounded to fp32 (as it is for a factor of 1; zero has no sign). Kept values are
    added in fp64 in ascending order, divided, and rounded to fp32 once, so the mean is between them and the
    same for contributions in another order. Holds a piece of each row. Raises as `Rows.tiles` does, and
    ValueError if `out` is not fp32 [numel].
    """
    result = torch.empty(rows.numel, dtype=torch.float32) if out is None else out
    values = floats("out", result, rows.numel)
    room, network = np.empty((len(rows.payloads), RUN), dtype=np.float32), comparisons(len(rows.payloads))
    for place, tile in rows.tiles():
        for piece in pieces(place.stop - place.start, RUN):
            size = piece.stop - piece.start
            for row, factor, to in zip(tile, factors, room, strict=False):
                scaled(row[piece], factor, to[:size])
            sort_rows(room, network)
            mean_of_rows(room[kept[0] : kept[1]], values[place][piece])
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
def scaled(row: Floats, factor: float, out: Floats) -> None:
    """Fill `out` with factor * x. Adding zero makes a zero positive: equal numbers are then equal bits."""
    for place in range(row.size):
        out[place] = np.float32(factor * np.float64(row[place])) + np.float32(0)


@compiled
def sort_rows(rows: Floats, network: Places) -> None:
    """Sort each column in place, no NaN among them."""
    for pair in range(network.shape[0]):
        low, high = rows[network[pair, 0]], rows[network[pair, 1]]
        for place in range(low.size):
            one, two = low[place], high[place]
            low[place] = one if one < two else two
            high[place] = two if one < two else one


@compiled
def mean_of_rows(rows: Floats, out: Floats) -> None:
    """Fill `out` with the mean of the rows, added from the first to the last."""
    for place in range(out.size):
        total = np.float64(rows[0, place])
        for row in range(1, rows.shape[0]):
            total += np.float64(rows[row, place])
        out[place] = np.float32(total / rows.shape[0])
