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
from atoll.optim.flat import Floats, floats, pieces
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

    def tiles(self) -> Iterator[tuple[slice, list[Floats]]]:
        """The vectors a piece at a time: its place, and a row for each vector that the next one overwrites.

        Raises RemoteProtocolError if a payload is not one of `numel` elements by `codec`, and ValueError if
        `previous` is not fp32 [numel].
        """
        previous = None if self.previous is None else floats("previous", self.previous, self.numel)
        decoders = [self.codec.pieces(payload, self.numel) for payload in self.payloads]
        with torch.no_grad():
            for found in zip(*decoders, strict=True):
                place = found[0][0]
                assert all(each == place for each, _ in found), "equal sizes are cut into equal pieces"
                rows = [values.numpy() for _, values in found]
                yield place, rows if previous is None else [*rows, previous[place]]


def gram(rows: Rows) -> Doubles:
    """The inner products of all pairs of rows, fp64 [n, n]. Raises as `Rows.tiles` does.

    Holds a tile and a run of each row. Never infinite: payloads are within VALUE_MAX, and the squares of any
    fp32 numbers within fp64.
    """
    found, run = np.zeros((len(rows), len(rows))), np.zeros((len(rows), RUN))
    for _, tile in rows.tiles():
        for piece in pieces(len(tile[0]), RUN):
            add_products(_in_run(run, tile, piece), found)
    for row in range(len(rows)):
        found[row + 1 :, row] = found[row, row + 1 :]
    return found


def squares(rows: Rows) -> Doubles:
    """The same with zeros off the diagonal: what rules need that look at lengths only."""
    found, run = np.zeros((len(rows), len(rows))), np.zeros((len(rows), RUN))
    for _, tile in rows.tiles():
        for piece in pieces(len(tile[0]), RUN):
            _in_run(run, tile, piece)
            for row in range(len(rows)):
                found[row, row] += dot(run[row], run[row])
    return found


def _in_run(run: Doubles, tile: Sequence[Floats], piece: slice) -> Doubles:
    """Elements of each row as fp64 in `run`, zeros behind them."""
    for to, values in zip(run, tile, strict=True):
        np.copyto(to[: piece.stop - piece.start], values[piece])
    run[:, piece.stop - piece.start :] = 0.0
    return run


@compiled
def add_products(run: Doubles, found: Doubles) -> None:
    """Add the products of each row [RUN] with itself and with those behind it to the upper triangle."""
    for first in range(run.shape[0]):
        for second in range(first, run.shape[0]):
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
