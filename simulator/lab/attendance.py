"""Who is there, who is slow, and whose contribution comes too late: the same for all methods, by hashes.

A draw depends on (seed, what, replica, place in time) alone: neither the method nor its rounds move it, and a
trial that is resumed draws the same again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from atoll.protocol.errors import ConfigError
from atoll.workload.fields import custom, is_number, nearest, real, whole

LATE = ("carry", "drop")


def _late(value: Any, key: str, where: str) -> str:
    if value not in LATE:
        raise ConfigError(f"`{key}` is {value!r}", where, nearest(str(value), LATE))
    return str(value)


def _speeds(value: Any, key: str, where: str) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(is_number(speed) and 0 < speed <= 1 for speed in value):
        right = "numbers above 0, up to 1 (full speed), such as [0.5, 0.5]"
        raise ConfigError(f"`{key}` is {value!r}", where, right)
    return tuple(float(speed) for speed in value)


@dataclass(frozen=True, slots=True)
class Churn:
    """Replicas that leave and come back, and contributions that miss their round.

    Every `every_steps` steps a replica leaves with probability `leave`, for `away` such periods; it comes
    back with the anchor and an inner optimizer that starts anew. `miss` is the probability that a
    contribution does not arrive: then it waits in the residual for the next round (`late` is "carry"), or is
    lost ("drop").
    """

    every_steps: int = whole(50, 1, 1_000_000)
    leave: float = real(0.0, 0.0, 1.0)
    away: int = whole(2, 1, 100)
    miss: float = real(0.0, 0.0, 1.0)
    late: str = custom(_late, default="carry")


@dataclass(frozen=True, slots=True)
class Stragglers:
    """`speeds` of the first replicas, as shares of full speed; the others are fast. A slow replica takes so
    many of everybody's steps and its contribution weighs as much less; the synchronous baseline waits."""

    speeds: tuple[float, ...] = custom(_speeds, default=())


@dataclass(frozen=True, slots=True)
class Attendance:
    """What churn and stragglers make of one seed. Replica 0 never leaves: somebody holds the anchor."""

    seed: int
    replicas: int
    churn: Churn
    stragglers: Stragglers

    def present(self, replica: int, step: int) -> bool:
        """Whether the replica is there at that step."""
        if replica == 0 or not self.churn.leave:
            return True
        period = step // self.churn.every_steps
        left = range(max(1, period - self.churn.away + 1), period + 1)
        return not any(self._draw("leave", replica, each) < self.churn.leave for each in left)

    def delivers(self, replica: int, step: int) -> bool:
        """Whether what it sends at that step arrives in time."""
        return not self.churn.miss or self._draw("miss", replica, step) >= self.churn.miss

    def steps(self, replica: int, first: int, last: int) -> int:
        """How many inner steps it takes while the others take `last - first`."""
        speeds = self.stragglers.speeds
        speed = speeds[replica] if replica < len(speeds) else 1.0
        return int(last * speed) - int(first * speed)

    def _draw(self, what: str, replica: int, place: int) -> float:
        """A number from 0 to below 1."""
        text = f"{self.seed} {what} {replica} {place}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


def run_seed(seed: int) -> bytes:
    """What decides the order of the windows under a seed of the lab."""
    return f"lab {seed}".encode()
