from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from atoll.optim import reference
from atoll.optim.parts import part_bounds


@given(st.integers(0, 5000), st.integers(1, 40), st.sampled_from([1, 3, 256]))
def test_parts_cover_in_order_are_aligned_and_balanced(numel: int, parts: int, block: int) -> None:
    bounds = part_bounds(numel, parts, block)
    assert len(bounds) == parts
    assert [place for start, stop in bounds for place in range(start, stop)] == list(range(numel))
    assert all(edge % block == 0 or edge == numel for bound in bounds for edge in bound)
    blocks = sorted(-(-(stop - start) // block) for start, stop in bounds)
    assert blocks == reference.part_sizes_in_blocks(numel, parts, block)


def test_fewer_blocks_than_parts_leave_parts_empty() -> None:
    bounds = part_bounds(300, 4, 256)
    assert sorted(stop - start for start, stop in bounds) == [0, 0, 44, 256]


def test_a_large_vector_is_cut_without_being_walked() -> None:
    assert part_bounds(10**15, 2, 256)[1] == (5 * 10**14, 10**15)


@pytest.mark.parametrize("arguments", [(-1, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_nonsense_is_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot cut"):
        part_bounds(*arguments)
