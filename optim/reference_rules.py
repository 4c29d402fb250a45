"""Slow oracles for outer rules, averaging, schedules and scalars: pure Python, one element at a time.

As in `reference`: fp32(a + b) of fp32 numbers is the fp32 operation, so most can be compared to the bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import fsum, hypot, sqrt

from atoll.optim.reference import fp32

Vector = Sequence[float]
_MASK = (1 << 64) - 1


def sgd(anchor: float, update: float, lr: float) -> float:
    """One element after a step of plain SGD."""
    return fp32(anchor - fp32(fp32(lr) * update))


def co2(
    anchor: float, momentum: float, update: float, lr: float, mu: float, clip: float, penalty: float
) -> tuple[float, float]:
    """(anchor, momentum) of one element after a heavy-ball step with penalty and clipping."""
    moved = fp32(fp32(fp32(mu) * momentum) + fp32(update / fp32(penalty)))
    moved = min(max(moved, -fp32(clip)), fp32(clip))
    return fp32(anchor - fp32(fp32(lr) * moved)), moved


def gap_penalties(norms: Sequence[float], kept: float = 0.9) -> list[float]:
    """CO2's penalties for the norms of the momentum before each step, in real numbers."""
    mean, found = 0.0, []
    for gap in norms:
        if gap:
            mean = kept * mean + (1 - kept) * gap if mean else gap
        found.append(1 + gap / mean if gap else 1.0)
    return found


def delayed_nesterov(
    anchor: float, pushes: Sequence[float], lr: float, mu: float, period: int, spread: float
) -> list[float]:
    """One element after each push, in real numbers. (HALoS's form of the recurrence)"""
    momentum, collected, found = 0.0, 0.0, []
    for count, push in enumerate(pushes):
        collected += push
        if (count + 1) % period == 0:
            momentum, collected = mu * momentum + collected / period, 0.0
            share = 1 - spread * period + spread
        else:
            share = spread
        anchor -= lr * (share * mu * momentum + push / period)
        found.append(anchor)
    return found


def eager(mean: float, own_before: float, own: float, share: float) -> float:
    """One element of the estimate: the stale share swapped for the fresh one."""
    return fp32(fp32(mean - fp32(own_before * fp32(share))) + fp32(own * fp32(share)))


def adaptive(anchor: float, updates: Sequence[float], lr: float, beta: float, floor: float) -> list[float]:
    """One element after each step, in real numbers, with the bias correction written as a power."""
    square, found = 0.0, []
    for count, update in enumerate(updates, 1):
        square = beta * square + (1 - beta) * update * update
        anchor -= lr * update / max(floor, sqrt(square / (1 - beta**count)))
        found.append(anchor)
    return found


def rda(tensors: Sequence[tuple[int, Vector]]) -> list[float]:
    """Radial-directional average of one tensor, in real numbers; the weights must not sum to 0."""
    total = sum(weight for weight, _ in tensors)
    radius = fsum(weight * hypot(*vector) for weight, vector in tensors) / total
    units = [(weight, vector, hypot(*vector)) for weight, vector in tensors if any(vector)]
    columns = range(len(tensors[0][1]))
    direction = [fsum(weight * v[place] / length for weight, v, length in units) / total for place in columns]
    length = hypot(*direction)
    if length < 1e-6:
        return [fsum(weight * vector[place] for weight, vector in tensors) / total for place in columns]
    return [radius * value / length for value in direction]


def sent_at(step: int, steps: int, fragments: int) -> int | None:
    """The fragment sent after an inner step: Streaming DiLoCo's own formula, offsets p * H / P."""
    spread = steps // fragments
    return step % steps // spread if step > 0 and step % spread == 0 else None


def lightest_bins(sizes: Mapping[str, int], bins: int) -> list[set[str]]:
    """Names dealt by size, the largest first, each to the lightest bin; the first of equals."""
    held: list[set[str]] = [set() for _ in range(bins)]
    for name in sorted(sorted(sizes), key=lambda name: -sizes[name]):
        min(held, key=lambda names: sum(sizes[each] for each in names)).add(name)
    return held


def noloco(
    anchor: float, momentum: float, update: float, mean_anchor: float, lr: float, mu: float
) -> tuple[float, float]:
    """(anchor, momentum) of one element of one peer after a gossip step."""
    lr, mu = fp32(lr), fp32(mu)
    momentum = fp32(fp32(mu * momentum) - fp32(lr * update))
    momentum = fp32(momentum + fp32(lr * fp32(mean_anchor - anchor)))
    return fp32(anchor + momentum), momentum


def scalar_value(code: int) -> float:
    """What a byte of a scalar gradient means; it must be a code."""
    if code == 0:
        return 0.0
    magnitude = fp32(float((Decimal((code & 127) - 64) / 8).exp()))
    return -magnitude if code >= 128 else magnitude


def sign(seed: bytes, step: int, peer: str, place: int) -> int:
    """Element `place` of a direction: bit place % 64 of splitmix64's number place // 64 from the key on."""
    told = hashlib.sha256(seed).digest() + step.to_bytes(8, "little") + peer.encode()
    key = int.from_bytes(hashlib.sha256(told).digest()[:8], "little")
    word = (key + (place // 64 + 1) * 0x9E3779B97F4A7C15) & _MASK
    word = ((word ^ word >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ word >> 27) * 0x94D049BB133111EB) & _MASK
    return 1 if (word ^ word >> 31) >> place % 64 & 1 else -1


def scalar_steps(start: Vector, lr: float, seed: bytes, codes: Mapping[tuple[int, str], int]) -> list[float]:
    """Parameters after all codes, by (step, peer), are applied in that order."""
    found = list(start)
    for step, peer in sorted(codes):
        among = sum(each == step for each, _ in codes)
        reach = fp32(-lr * scalar_value(codes[step, peer]) / among)
        found = [fp32(value + reach * sign(seed, step, peer, place)) for place, value in enumerate(found)]
    return found
