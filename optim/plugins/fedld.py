"""FedLD: keep the directions in which contributions vary together, each as strong as its share of the whole.

The principal directions of m contributions are found from their m x m matrix of inner products. The weakest
fifth, where single contributors pull alone, is dropped. Of each contribution the part along a direction is
stretched to (its share of the total variance) * (the contribution's length), and all are averaged. So a
contribution counts by its side of each direction and its length, not by how far it strays. Tensor by tensor;
the margin loss of the paper is the inner training's affair. (Zeng et al. 2024)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from atoll.optim.compiled import compiled
from atoll.optim.flat import VALUE_MAX, Floats, floats
from atoll.optim.jacobi import eigen_symmetric
from atoll.optim.layout import Layout
from atoll.optim.mean import check_weight
from atoll.optim.sums import LANES, Doubles, fold

TOP_PERCENT = 80
NOTHING = 2.0**-40
"""A direction or a projection this small against the whole is what rounding left, and has no side."""


def fedld(
    contributions: Sequence[tuple[int, Tensor]], layout: Layout, top_percent: int = TOP_PERCENT
) -> Tensor | None:
    """The filtered mean of (weight, fp32 [numel]) in contributor order, fp32 [numel]; None if none weighs.

    Needs all vectors at once. Directions come from the contributions as they are, weights count in the mean
    over them. Equal contributions give themselves, to rounding. Tensors of one element get the weighted
    mean's value. Equal inputs in equal order give equal bits. Raises ValueError for vectors of another shape,
    a negative weight or a percentage that is not 1 to 100.
    """
    if not 1 <= top_percent <= 100:
        raise ValueError(f"top_percent is 1 to 100, not {top_percent}")
    total = 0
    for weight, vector in contributions:
        floats("contribution", vector, layout.numel)
        check_weight(weight, total)
        total += weight
    shares = [weight / total for weight, _ in contributions if weight]
    vectors = [vector for weight, vector in contributions if weight]
    if not vectors:
        return None
    out = torch.empty(layout.numel)
    for slot in layout.slots:
        place = slice(slot.offset, slot.offset + slot.numel)
        parts = [vector[place] for vector in vectors]
        of_each = shares if slot.numel == 1 else coefficients(inner_products(parts), shares, top_percent)
        _combine(out[place], parts, of_each)
    return out


def inner_products(vectors: Sequence[Tensor]) -> Doubles:
    """All inner products of fp32 vectors [n], in fp64: exact products, in the order of `sums.py`."""
    arrays, lanes = [floats("vector", vector) for vector in vectors], np.empty(LANES)
    found = np.empty((len(arrays), len(arrays)))
    for row, one in enumerate(arrays):
        for column, other in enumerate(arrays[: row + 1]):
            found[row, column] = found[column, row] = _sum_products(one, other, lanes)
    return found


@compiled
def _sum_products(one: Floats, other: Floats, lanes: Doubles) -> float:
    """The sum of products; lane j of 64 adds up elements j, j + 64, ..."""
    lanes[:] = 0.0
    for start in range(0, one.size, LANES):
        for place in range(start, min(start + LANES, one.size)):
            lanes[place - start] += np.float64(one[place]) * np.float64(other[place])
    return fold(lanes)


def coefficients(gram: Doubles, shares: Sequence[float], top_percent: int = TOP_PERCENT) -> tuple[float, ...]:
    """What to multiply each contribution by, from their inner products fp64 [m, m] and shares of the weight.

    With unit eigenvectors e_j and eigenvalues s_j of gram, direction j is sum_l e_j[l] g_l / sqrt(s_j), and
    the projection of g_i on it has the sign of e_j[i]. All zero if the contributions are.
    """
    count = len(shares)
    values, columns = eigen_symmetric(gram)
    total = sum(max(0.0, float(value)) for value in values)
    found = [0.0] * count
    for place in range(max(1, count * top_percent // 100)):
        value = float(values[place])
        if value <= NOTHING * total:
            break
        e = [float(part) for part in columns[:, place]]
        pull = sum(
            share * (length if part > 0 else -length)
            for share, length, part in zip(shares, _lengths(gram), e, strict=True)
            if abs(part) * sqrt(value) > NOTHING * length
        )
        scale = value / total * pull / sqrt(value)
        found = [sofar + scale * part for sofar, part in zip(found, e, strict=True)]
    return tuple(found)


def _lengths(gram: Doubles) -> list[float]:
    return [sqrt(float(gram[place, place])) for place in range(gram.shape[0])]


def _combine(out: Tensor, vectors: Sequence[Tensor], of_each: Sequence[float]) -> None:
    """sum(c * g) in this order, one rounding for each operation, clamped to VALUE_MAX."""
    with torch.no_grad():
        out.zero_()
        for factor, vector in zip(of_each, vectors, strict=True):
            out.add_(vector.mul(factor))
        out.clamp_(-VALUE_MAX, VALUE_MAX)
