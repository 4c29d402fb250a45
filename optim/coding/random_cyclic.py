"""The rows of a random cyclic code: Tandon's construction, from numbers that a seed gives everywhere."""

from __future__ import annotations

import hashlib
from math import fsum

import numpy as np

from atoll.optim.coding.solve import Doubles, least_squares, solve

DRAWS = 16
"""Amplification has a heavy tail: the best of a few draws is three to ten times better than a usual one."""

Rows = list[tuple[float, ...]]


def random_rows(workers: int, stragglers: int, seed: bytes) -> Rows:
    """n rows of s + 1 coefficients, the first 1, for units i .. i + s (mod n): the best of 16 draws.

    Judged by the amplification where s neighbours are missing, the worst of the n such sets.
    """
    if stragglers == 0:
        return [(1.0,)] * workers
    draws = (_draw(workers, stragglers, seed, draw) for draw in range(DRAWS))
    return min(draws, key=lambda rows: _worst(rows, stragglers))


def _draw(workers: int, stragglers: int, seed: bytes, draw: int) -> Rows:
    """Rows at right angles to s random vectors, whose entries sum to 0: so ones are among their sums."""
    across = [_normals(seed, (draw, line), workers) for line in range(stragglers)]
    found: Rows = []
    for place in range(workers):
        rest = [(place + step) % workers for step in range(1, stragglers + 1)]
        matrix = [[line[unit] for unit in rest] for line in across]
        found.append((1.0, *solve(matrix, [-line[place] for line in across])))
    return found


def _normals(seed: bytes, place: tuple[int, int], count: int) -> list[float]:
    """`count` numbers, nearly normal, with sum 0: each of 12 uniform ones (Irwin-Hall), exact in fp64."""
    key = hashlib.sha256(b"atoll cyclic code" + bytes(place) + seed).digest()
    found = []
    for entry in range(count - 1):
        words = hashlib.blake2b(bytes([entry]), key=key, digest_size=48).digest()
        whole = sum(int.from_bytes(words[start : start + 4], "little") for start in range(0, 48, 4))
        found.append((whole - 6 * 2**32) * 2.0**-32)
    return [*found, -fsum(found)]


def _worst(rows: Rows, stragglers: int) -> float:
    workers = len(rows)
    matrix = np.zeros((workers, workers))
    for place, row in enumerate(rows):
        for step, value in enumerate(row):
            matrix[place, (place + step) % workers] = value
    present = range(workers - stragglers)
    return max(_amplification(np.roll(matrix, shift, axis=0)[present]) for shift in range(workers))


def _amplification(rows: Doubles) -> float:
    found = least_squares(rows, len(rows))
    terms = (
        abs(factor * value)
        for factor, row in zip(found.tolist(), rows.tolist(), strict=True)
        for value in row
    )
    return fsum(terms) / int(rows.shape[1])
