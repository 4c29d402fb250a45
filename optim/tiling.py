"""The order of elements in which 4096 consecutive ones are a 64 x 64 tile of a matrix.

A codec that works on chunks of a flat vector sees, in the model's own order, a few long rows of a matrix. In
tiled order a chunk is a square of neighbouring rows and columns, which is what the cosine codec transforms.
The order is a permutation of the vector, so everything elementwise (anchor, momentum, residual, mean) may
stay in it from round to round. (DeMo, Peng et al. 2024, and SparseLoCo, Sarfi et al. 2025, cut each
parameter so)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from atoll.optim.flat import floats
from atoll.optim.layout import Layout, Slot

SIDE = 64


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tiled order of a layout: first the tiles of each parameter, then what no whole tile holds.

    A parameter of two or more dimensions counts as the matrix of its rows, [numel / last size, last size].
    Its tiles come row by row, each row-major. What is left of it, the columns right of the tiles and the
    rows below them, and vectors and scalars follow in the layout's order after the tiles of all, so that
    every tile begins at a multiple of 4096.
    """

    layout: Layout

    @property
    def tiles(self) -> int:
        """How many chunks of 4096 are tiles: the first ones of the tiled vector."""
        return sum(rows * columns for rows, columns in map(_grid, self.layout.slots))

    def tile(self, flat: Tensor, out: Tensor | None = None) -> Tensor:
        """`flat`, fp32 [numel] in the layout's order, copied into tiled order: `out`, if given.

        Raises ValueError if a vector is not that, or if the two share memory.
        """
        tiled = torch.empty_like(flat) if out is None else out
        for here, there in self._pairs(flat, tiled):
            there.copy_(here)
        return tiled

    def untile(self, tiled: Tensor, out: Tensor | None = None) -> Tensor:
        """The inverse of `tile`; raises as it does."""
        flat = torch.empty_like(tiled) if out is None else out
        for here, there in self._pairs(flat, tiled):
            here.copy_(there)
        return flat

    def _pairs(self, flat: Tensor, tiled: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of the same shape into both orders: copying each pair moves every element once."""
        floats("flat", flat, self.layout.numel)
        floats("tiled", tiled, self.layout.numel)
        if flat.numel() and flat.data_ptr() == tiled.data_ptr():
            raise ValueError("a vector cannot be tiled in place")
        return self._matched(flat.detach(), tiled.detach())

    def _matched(self, flat: Tensor, tiled: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        rest: list[Tensor] = []
        start = 0
        for slot in self.layout.slots:
            own = flat[slot.offset : slot.offset + slot.numel]
            rows, columns = _grid(slot)
            if rows * columns == 0:
                rest.append(own)
                continue
            matrix = own.view(-1, slot.shape[-1])
            upper, lower = matrix.tensor_split([rows * SIDE])
            left, right = upper.tensor_split([columns * SIDE], dim=1)
            tiles = left.view(rows, SIDE, columns, SIDE).transpose(1, 2)
            yield tiles, tiled[start : start + tiles.numel()].view(tiles.shape)
            start += tiles.numel()
            rest += [right, lower]
        for piece in rest:
            yield piece, tiled[start : start + piece.numel()].view(piece.shape)
            start += piece.numel()


def _grid(slot: Slot) -> tuple[int, int]:
    """Rows and columns of whole tiles of a parameter."""
    if len(slot.shape) < 2:
        return 0, 0
    return prod(slot.shape[:-1]) // SIDE, slot.shape[-1] // SIDE
