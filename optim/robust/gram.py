"""Lengths and inner products of a round's contributions, a tile at a time, with equal bits on every machine.

The product of two fp32 numbers is exact in fp64. Within a run of 4096 elements, eight sums take every eighth
product each and are then added pairwise; runs are added one after another. So the order of additions is the
same for every pair of vectors, whatever threads and vector units there are, and a matrix of the same vectors
in another order holds the same numbers. Runs begin anew with each piece of a codec.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atoll.optim.codecs.base import Codec, Payload
from atoll.optim.compiled import compiled
from atoll.optim.flat import Floats, floats
from atoll.optim.sums import Doubles

RUN = 4096


@dataclass(frozen=True, slots=True)
class Rows:
    """A round's vectors, fp32 [numel] each, still encoded: payloads in contributor order, and the previous
    update, if there is one, behind them. They are decoded in lockstep: there is one piece of each at a time.
    """

    payloads: Sequence[Payload]
    codec: Codec
    numel: int
    previous: Tensor | None = None

    def __len__(self) -> int:
        return len(self.payloads) + (self.previous is not None)

    def tiles(self) -> Iterator[tuple[slice, Floats]]:
        """The vectors a piece at a time: its place, and fp32 [rows, size] that the next piece overwrites.

        Raises RemoteProtocolError if a payload is not one of `numel` elements by `codec`, and ValueError if
        `previous` is not fp32 [numel].
        """
        previous = None if self.previous is None else floats("previous", self.previous, self.numel)
        decoders = [self.codec.pieces(payload, self.numel) for payload in self.payloads]
        room = np.empty((len(self), 0), dtype=np.float32)
        with torch.no_grad():
            for place, values in decoders[0]:
                size = place.stop - place.start
                if size > room.shape[1]:
                    room = np.empty((len(self), size), dtype=np.float32)
                tile = room[:, :size]
                np.copyto(tile[0], values.numpy())
                for row, decoder in enumerate(decoders[1:], 1):
                    other, values = next(decoder)
                    assert other == place, "equal sizes are cut into equal pieces"
                    np.copyto(tile[row], values.numpy())
                if previous is not None:
                    np.copyto(tile[-1], previous[place])
                yield place, tile
            for decoder in decoders[1:]:
                assert next(decoder, None) is None, "equal sizes are cut into equal pieces"


def gram(rows: Rows) -> Doubles:
    """The inner products of all pairs of rows, fp64 [n, n]. Raises as `Rows.tiles` does.

    Holds a tile and a run of each row. Never infinite: payloads are within VALUE_MAX, and the squares of any
    fp32 numbers within fp64.
    """
    found, run = np.zeros((len(rows), len(rows))), np.empty((len(rows), RUN))
    for _, tile in rows.tiles():
        add_products(tile, found, run, len(rows))
    for row in range(len(rows)):
        found[row + 1 :, row] = found[row, row + 1 :]
    return found


def squares(rows: Rows) -> Doubles:
    """The same with zeros off the diagonal: what rules need that look at lengths only."""
    found, run = np.zeros((len(rows), len(rows))), np.empty((len(rows), RUN))
    for _, tile in rows.tiles():
        add_products(tile, found, run, 1)
    return found


@compiled
def add_products(tile: Floats, found: Doubles, run: Doubles, others: int) -> None:
    """Add each row's products with itself and the rows behind it, `others` in all, to the upper triangle.

    `run` is room for a run of each row as fp64, zeros behind the last elements.
    """
    rows = tile.shape[0]
    for start in range(0, tile.shape[1], RUN):
        for row in range(rows):
            values, to = tile[row, start : start + RUN], run[row]
            for place in range(values.size):
                to[place] = np.float64(values[place])
            to[values.size :] = 0.0
        for first in range(rows):
            for second in range(first, min(first + others, rows)):
                found[first, second] += dot(run[first], run[second])


@compiled
def dot(left: Doubles, right: Doubles) -> float:
    """The sum of products of [RUN]: eight sums that a vector unit can hold, then their sum by halving."""
    a = b = c = d = e = f = g = h = 0.0
    for place in range(0, left.size, 8):
        a += left[place] * right[place]
        b += left[place + 1] * right[place + 1]
        c += left[place + 2] * right[place + 2]
        d += left[place + 3] * right[place + 3]
        e += left[place + 4] * right[place + 4]
        f += left[place + 5] * right[place + 5]
        g += left[place + 6] * right[place + 6]
        h += left[place + 7] * right[place + 7]
    return ((a + e) + (c + g)) + ((b + f) + (d + h))
