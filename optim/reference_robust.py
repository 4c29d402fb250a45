"""Slow oracles for robust aggregation: whole vectors in fp64, each formula as its paper has it.

numpy's own order of additions and its LAPACK are good enough here: comparisons leave room for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, floor, sqrt

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Vectors = Sequence[Doubles]


def shares(weights: Sequence[int]) -> list[float]:
    """Each weight's part of the total."""
    return [weight / sum(weights) for weight in weights]


def mean(vectors: Vectors, weights: Sequence[int]) -> Doubles:
    """The weighted mean."""
    total = np.zeros_like(vectors[0])
    for share, vector in zip(shares(weights), vectors, strict=True):
        total += share * vector
    return total


def clip(vectors: Vectors) -> list[Doubles]:
    """Each vector shortened to the median length."""
    lengths = [float(np.linalg.norm(vector)) for vector in vectors]
    middle = float(np.median(lengths))
    return [
        v * min(1.0, middle / length) if length else v for v, length in zip(vectors, lengths, strict=True)
    ]


def trimmed(vectors: Vectors, cut: int) -> Doubles:
    """Of each coordinate the mean without the `cut` smallest and largest values."""
    ordered = np.sort(np.array(vectors), axis=0)
    return np.asarray(ordered[cut : len(vectors) - cut].mean(axis=0))


def median(vectors: Vectors) -> Doubles:
    """The median of each coordinate."""
    return np.asarray(np.median(np.array(vectors), axis=0))


def krum_scores(vectors: Vectors, faulty: int) -> list[float]:
    """For each vector the sum of its smallest n - f - 2 squared distances."""
    found = []
    for place, vector in enumerate(vectors):
        others = [other for each, other in enumerate(vectors) if each != place]
        distances = sorted(float(((vector - other) ** 2).sum()) for other in others)
        found.append(sum(distances[: len(vectors) - faulty - 2]))
    return found


def centered_clipping(
    vectors: Vectors, weights: Sequence[int], begin: Doubles, iterations: int, radius: float | None
) -> Doubles:
    """The centre after some iterations."""
    centre = begin.astype(np.float64)
    for _ in range(iterations):
        gaps = [vector - centre for vector in vectors]
        lengths = [float(np.linalg.norm(gap)) for gap in gaps]
        limit = float(np.median(lengths)) if radius is None else radius
        for share, gap, length in zip(shares(weights), gaps, lengths, strict=True):
            centre = centre + share * gap * (min(1.0, limit / length) if length else 1.0)
    return centre


def flag(vectors: Vectors, weights: Sequence[int], rank: int, iterations: int, pairs: float = 0.0) -> Doubles:
    """The mean projected on the subspace that iteratively reweighted singular vectors span."""
    units = np.array([v / np.linalg.norm(v) if v.any() else v for v in vectors])
    count, stack, scale = len(units), list(units), [1.0] * len(units)
    if pairs:
        for i in range(count):
            for j in range(count):
                if i != j:
                    stack.append(units[i] - units[j])
                    scale.append(pairs / (count * (count - 1)))
    subspace = _left_singular(np.array(stack), scale, rank)
    for _ in range(iterations):
        sines = [abs(1.0 - float(((subspace.T @ row) ** 2).sum())) for row in stack]
        each = [s * (sine + 1e-7) ** -0.25 for s, sine in zip(scale, sines, strict=True)]
        subspace = _left_singular(np.array(stack), each, rank)
    return np.asarray(subspace @ (subspace.T @ mean(vectors, weights)))


def _left_singular(rows: Doubles, scale: Sequence[float], rank: int) -> Doubles:
    columns = (rows * np.array(scale)[:, None]).T
    return np.asarray(np.linalg.svd(columns, full_matrices=False)[0][:, :rank])


def fedld(vectors: Vectors, weights: Sequence[int], kept: float) -> Doubles:
    """Each vector's components along the principal directions, with lengths by variance; their mean."""
    rows = np.array(vectors)
    values, eigenvectors = np.linalg.eigh(rows @ rows.T / len(rows))
    values, eigenvectors = values[::-1], eigenvectors[:, ::-1]
    found = []
    for row in rows:
        revised = np.zeros_like(row)
        for j in range(max(1, int(kept * len(rows)))):
            direction = rows.T @ eigenvectors[:, j]
            along = (row @ direction) / (direction @ direction) * direction
            revised += along * (values[j] / values.sum()) * np.linalg.norm(row) / np.linalg.norm(along)
        found.append(revised)
    return mean(found, weights)


def prioritized(distances: Sequence[float], picks: int, alpha: float, seed: bytes) -> list[int]:
    """The places that are heard, in ascending order."""
    order = [place for _, place in sorted((d, place) for place, d in enumerate(distances))]
    drawn: list[int] = []
    for third in range(3):
        first, last = (-(-k * len(order) // 3) for k in (third, third + 1))
        lots = {
            p: blake3(b"prioritizer" + p.to_bytes(8, "little") + seed).digest() for p in order[first:last]
        }
        share = ((1 - alpha) ** 2, 2 * alpha * (1 - alpha), alpha**2)[third]
        for place in sorted(lots, key=lambda p: lots[p])[: floor(share * picks + 0.5)]:
            if len(drawn) < picks:
                drawn.append(place)
    for place in order:
        if len(drawn) < picks and place not in drawn:
            drawn.append(place)
    return sorted(drawn)


def performance(own: Sequence[float], peer: Sequence[float]) -> float:
    """The belief in a peer, with the machine's exponentials."""
    score = 0.0
    for mine, mark in zip(own, peer, strict=True):
        gap = 10 * abs(mine - mark)
        score += gap ** (3 + mine) if mark > mine else max(-100.0, -(gap ** (4 + mine)))
    certainty = max(0.0, float(np.mean(peer)) - sqrt(float(np.var(peer))))
    return max(0.0, 10 / (1 + exp(-score / 100)) - 4) * certainty
