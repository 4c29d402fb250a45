"""Slow, plain oracles for weights by participation, an isotonic fit, and FedAMD: one element at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from atoll.optim.reference import fp32


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


def sarah(
    start: Sequence[float],
    direction: Sequence[float],
    gradient: Callable[[list[float], int], list[float]],
    lr: float,
    steps: int,
) -> tuple[list[float], list[float]]:
    """(pseudo-gradient, last direction) of a miner, to the bit."""
    lr = fp32(lr)

    def stepped(at: Sequence[float], along: Sequence[float]) -> list[float]:
        return [fp32(x - fp32(lr * v)) for x, v in zip(at, along, strict=True)]

    before, v = list(start), list(direction)
    here = stepped(before, v)
    for batch in range(1, steps):
        old, new = gradient(before, batch), gradient(here, batch)
        v = [fp32(fp32(a - b) + c) for a, b, c in zip(v, old, new, strict=True)]
        before, here = here, stepped(here, v)
    return [fp32(a - b) for a, b in zip(start, here, strict=True)], v
