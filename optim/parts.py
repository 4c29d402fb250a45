"""Cut a flat vector into one part for each reducer."""

from __future__ import annotations

from itertools import pairwise


def part_bounds(numel: int, parts: int, block: int) -> tuple[tuple[int, int], ...]:
    """`parts` contiguous pieces [start, stop) that cover [0, numel) in order.

    Every boundary inside the vector is a multiple of `block`, the codec's block, so that cutting never
    splits a block and adds no scale to the wire. Sizes differ by one block at most; the vector's last
    block may be short. With fewer blocks than parts some parts are empty: their owner has nothing to do
    and must not be waited for. Raises ValueError unless numel >= 0 and parts, block >= 1.
    """
    if numel < 0 or parts < 1 or block < 1:
        raise ValueError(f"cannot cut {numel} elements into {parts} parts of blocks of {block}")
    blocks = -(-numel // block)
    cuts = [min(blocks * part // parts * block, numel) for part in range(parts + 1)]
    return tuple(pairwise(cuts))
