from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from optim_vectors import integers_to_floats

from atoll.optim.layout import Layout
from atoll.optim.reference_sparse import tiled_order
from atoll.optim.tiling import Tiling

SIZES = st.sampled_from([0, 1, 3, 63, 64, 65, 130])
SHAPES = st.lists(st.lists(SIZES, max_size=2) | st.tuples(st.integers(1, 3), SIZES, SIZES), max_size=4)


def tiling(shapes: list[list[int]]) -> Tiling:
    return Tiling(Layout.of((f"p{place}", shape) for place, shape in enumerate(shapes)))


@settings(max_examples=40)
@given(SHAPES)
def test_it_is_the_reference_order_and_back(shapes: list[list[int]]) -> None:
    tiles = tiling(shapes)
    flat = torch.arange(tiles.layout.numel, dtype=torch.float32)  # exact below 2^24
    order = tiles.tile(flat)
    assert order.tolist() == tiled_order(shapes)
    assert sorted(order.tolist()) == flat.tolist()
    assert torch.equal(tiles.untile(order), flat)
    assert torch.equal(tiles.tile(tiles.untile(flat)), flat)


def test_each_chunk_is_a_square_of_one_parameter() -> None:
    shapes = [[7], [130, 200], [2, 96, 64], [63, 64], []]
    tiles = tiling(shapes)
    flat = integers_to_floats(tiles.layout.numel, 1)
    views, tiled = tiles.layout.views(flat), tiles.tile(flat)
    a, b = views["p1"], views["p2"].reshape(192, 64)
    squares = [a[r : r + 64, c : c + 64] for r in (0, 64) for c in (0, 64, 128)]
    squares += [b[r : r + 64] for r in (0, 64, 128)]
    assert tiles.tiles == len(squares) == 9
    for place, square in enumerate(squares):
        assert torch.equal(tiled[place * 4096 : (place + 1) * 4096].view(64, 64), square)
    rest = [views["p0"], a[:128, 192:].reshape(-1), a[128:].reshape(-1), views["p3"].reshape(-1), views["p4"]]
    assert torch.equal(tiled[9 * 4096 :], torch.cat([piece.reshape(-1) for piece in rest]))


def test_buffers_are_reused() -> None:
    tiles = tiling([[128, 64], [5]])
    flat, out = integers_to_floats(tiles.layout.numel, 2), torch.empty(tiles.layout.numel)
    assert tiles.tile(flat, out) is out
    back = torch.empty_like(flat)
    assert tiles.untile(out, back) is back
    assert torch.equal(back, flat)


def test_misuse_is_refused() -> None:
    tiles = tiling([[128, 64]])
    flat = torch.zeros(128 * 64)
    with pytest.raises(ValueError, match="in place"):
        tiles.tile(flat, flat)
    with pytest.raises(ValueError, match="flat must have 8192 elements"):
        tiles.tile(flat[1:])
    with pytest.raises(ValueError, match="flat must have 8192 elements"):
        tiles.untile(flat, flat[1:])
