"""How many contributions to wait for: a leader's guess at what makes the loss fall fastest in time.

Each further one makes the mean less noisy, and comes later. The gain of k of them is estimated from how much
they differ (a second-order bound on the loss), the time of the k-th from when they came in past rounds; the
best quotient wins. A choice of one leader that nobody repeats: contributors are what the commit says, so this
need not agree on two peers. Times are milliseconds since the round began. (DBW: Xu, Neglia and Sebastianelli
2020)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

WORSE = 1.01
"""A loss that grew by more than one percent: the last choice was too bold."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What a round's contributions say of the next: squared length of their true mean, and their variance."""

    square: float
    variance: float


def spread(squares: Sequence[float], mean_square: float) -> Spread:
    """From the |g_i|^2 of k contributions and the |mean|^2 of their plain mean, by `optim/norms.py`.

    variance = sum |g_i - mean|^2 / (k - 1); the mean's own noise, variance / k, is taken off its square.
    Raises ValueError for fewer than two.
    """
    count = len(squares)
    if count < 2:
        raise ValueError("one contribution says nothing about their variance")
    variance = max(0.0, sum(squares) - count * mean_square) / (count - 1)
    return Spread(max(0.0, mean_square - variance / count), variance)


def curvature(lr: float, found: Spread, count: int, fell: float) -> float:
    """L: how much less the loss fell than a straight line says, for a step of `count` contributions.

    fell = lr * N^2 - L * lr^2 / 2 * (N^2 + V / k), solved for L; 0 if it fell as far or farther. Average it
    over rounds (`averaged`): one round's loss is noisy. N^2 and V are those of the round of the step.
    """
    moved = found.square + found.variance / count
    return max(0.0, 2.0 * (lr * found.square - fell) / (lr * lr * moved)) if moved > 0 else 0.0


def averaged(old: float | None, sample: float, share: float = 0.25) -> float:
    """An exponential average; the first sample is taken as it is, one that is not finite not at all."""
    if not isfinite(sample):
        return 0.0 if old is None else old
    return sample if old is None else old + share * (sample - old)


def gain(count: int, lr: float, curve: float, found: Spread) -> float:
    """How far a step of k = `count` lets the loss fall: (lr - L lr^2 / 2) N^2 - L lr^2 / 2 * V / k."""
    bend = curve * lr * lr / 2.0
    return (lr - bend) * found.square - bend * found.variance / count


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The non-decreasing row nearest to `values` in weighted squares, by pooling adjacent violators.

    Weights are positive. (Ayer et al. 1955)
    """
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        mean, total, count = value, weight, 1
        while pools and pools[-1][0] > mean:
            before, its, many = pools.pop()
            mean = (before * its + mean * total) / (its + total)
            total, count = its + total, many + count
        pools.append((mean, total, count))
    return [mean for mean, _, count in pools for _ in range(count)]


def arrival_times(rounds: Sequence[Sequence[float]], workers: int) -> list[float]:
    """The time until the k-th arrival, for k = 1 to `workers`, from the sorted arrivals of the last rounds.

    The means of the rounds that had a k-th, weighted by their number, made non-decreasing: means over
    different rounds need not be. Infinite for a k that no round had. Give late ones too: what came after the
    quorum says what waiting for it would have cost.
    """
    columns = [[row[place] for row in rounds if len(row) > place] for place in range(workers)]
    seen = [column for column in columns if column]
    means = [sum(column) / len(column) for column in seen]
    return isotonic(means, [float(len(column)) for column in seen]) + [inf] * (workers - len(seen))


@dataclass(frozen=True, slots=True)
class Choice:
    """How many to wait for, and why."""

    count: int
    reason: str


def choose(times: Sequence[float], gains: Sequence[float], before: int = 0, rose: float = 0.0) -> Choice:
    """The k whose gain by time is largest; of equals the largest k, as it is less noisy for the same.

    `times` and `gains` are for k = 1 to n. All n if no gain is above zero: then noise is all there is. If the
    loss rose with k = `before`, `rose` being the loss over the one before it, wait for one more.
    """
    count = len(times)
    if not count or len(gains) != count:
        raise ValueError(f"{count} times and {len(gains)} gains")
    if before and rose > WORSE:
        wanted = min(count, before + 1)
        return Choice(wanted, f"the loss rose with {before}")
    rates = [gain_ / max(time, 1.0) for gain_, time in zip(gains, times, strict=True)]
    best = max(rates)
    if not best > 0:
        return Choice(count, "no number of contributions promises a gain")
    found = max(place for place, rate in enumerate(rates) if rate == best) + 1
    return Choice(found, f"{found} of {count} gain most in {times[found - 1]:.0f} ms")
