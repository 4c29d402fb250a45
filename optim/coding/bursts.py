"""How stragglers come in bursts, and when a round must wait for them lest the pattern break the code.

A sequential code is made for the bursty model (B, W, lambda): in any W rounds one after another at most
lambda workers straggle, and the rounds in which one of them does span at most B. A worker that falls back
is back soon. Whoever runs rounds sees to it that the pattern holds, by waiting. (Sequential Gradient
Coding, Krishnan 2023)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bursts:
    """`burst` is B, `window` W, `distinct` lambda. Raises ValueError outside 1 <= B < W, lambda >= 0."""

    burst: int
    window: int
    distinct: int

    def __post_init__(self) -> None:
        if not 1 <= self.burst < self.window or self.distinct < 0:
            raise ValueError(f"1 <= burst < window and distinct >= 0, not {self}")


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a round may not end without its late workers."""

    reason: str


def must_wait(bursts: Bursts, past: Sequence[Collection[int]], late: Collection[int]) -> Wait | None:
    """Whether a round must wait for all, or may end without the `late`; None if it may.

    `past` are the stragglers of earlier rounds, the last at the end. Only the last W - 1 rounds of `past`
    are looked at, so no more need to be kept. A round that waited has no stragglers, and goes into `past`
    as an empty set: then the pattern conforms for ever. Waiting for some might do, but who they are would
    be a choice that each peer could make differently.
    """
    recent = [*past[max(0, len(past) - bursts.window + 1) :], late]
    distinct = sorted({worker for missing in recent for worker in missing})
    if len(distinct) > bursts.distinct:
        many = f"{len(distinct)} workers straggled within {bursts.window} rounds"
        return Wait(f"{many}, more than {bursts.distinct}")
    for worker in distinct:
        rounds = [number for number, missing in enumerate(recent) if worker in missing]
        span = rounds[-1] - rounds[0] + 1
        if span > bursts.burst:
            return Wait(f"worker {worker}'s straggling spans {span} rounds, more than {bursts.burst}")
    return None


def conforms(bursts: Bursts, rounds: Sequence[Collection[int]]) -> bool:
    """Whether the stragglers of all rounds keep to the model."""
    return all(must_wait(bursts, rounds[:number], late) is None for number, late in enumerate(rounds))


def stragglers(delays_s: Mapping[int, float], slack: float = 1.0) -> frozenset[int]:
    """Who takes more than (1 + slack) times as long as the fastest; a delay may be infinite, not all."""
    fastest = min(delays_s.values(), default=0.0)
    return frozenset(worker for worker, delay in delays_s.items() if delay > (1.0 + slack) * fastest)
