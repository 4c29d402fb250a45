"""Slow, plain oracles for weights by participation, and for an isotonic fit."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def fedau_weights(presence: Sequence[bool], gap_max: int) -> list[Fraction]:
    """The weight of a client in each round, as the paper's code has it: a list of gaps and its mean."""
    gaps: list[int] = []
    since, weights = 0, []
    for present in presence:
        weights.append(Fraction(sum(gaps), len(gaps)) if gaps else Fraction(1))
        if present:
            gaps.append(since + 1)
            since = 0
        else:
            since += 1
            if since >= gap_max:
                gaps.append(since)
                since = 0
    return weights


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """By the min-max formula: the largest over starts of the smallest over ends of the mean between them."""
    size = len(values)

    def mean(first: int, last: int) -> float:
        its = range(first, last + 1)
        return sum(values[i] * weights[i] for i in its) / sum(weights[i] for i in its)

    return [max(min(mean(a, b) for b in range(i, size)) for a in range(i + 1)) for i in range(size)]
