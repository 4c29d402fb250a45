"""Gradient codes: which worker adds up which units, with which coefficients. (Tandon et al. 2017)

A code of n workers has n units. Worker i sends one vector, the sum of B[i, k] * unit k over its row's units;
from the vectors of enough workers the sum of all units is decoded (`decoding`). Coefficients are the same
doubles on every machine: they come from exact decimals, or from integers by a fixed order of operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from atoll.optim.coding.circulant import circulant_row
from atoll.optim.coding.random_cyclic import random_rows

WORKERS_MAX = 64
"""Survivors fit a machine word, and a decode vector takes milliseconds."""

Row = tuple[tuple[int, float], ...]
"""(unit, coefficient) of what a worker adds up, in the order in which it does: by unit."""


@dataclass(frozen=True, slots=True)
class Code:
    """`rows[i]` is what worker i adds up; any `stragglers` workers may be missing.

    `groups` are sets of workers with equal rows, in the order of workers and units; codes without
    replicas have none.
    """

    name: str
    stragglers: int
    rows: tuple[Row, ...]
    groups: tuple[tuple[int, ...], ...] = ()

    @property
    def workers(self) -> int:
        return len(self.rows)

    @property
    def units(self) -> int:
        return len(self.rows)

    @property
    def load(self) -> int:
        """Units that the busiest worker computes in a round: this much the round gets longer."""
        return max(len(row) for row in self.rows)

    def holders(self, unit: int) -> tuple[int, ...]:
        """The workers that compute a unit: they hold its shard where shards are private."""
        return tuple(place for place, row in enumerate(self.rows) if any(unit == held for held, _ in row))


def identity(workers: int) -> Code:
    """Everybody's own unit and no other: nobody may be missing."""
    return repetition(workers, 0)


@lru_cache(maxsize=64)
def repetition(workers: int, stragglers: int) -> Code:
    """Fractional repetition: groups of s + 1 workers compute the same s + 1 units, all with coefficient 1.

    Where s + 1 does not divide n, the first groups have a worker more, or several, and with each a unit more:
    still exact, but their members compute more than others. Raises ValueError outside 0 <= s < n <= 64.
    """
    check_size(workers, stragglers)
    size, larger = divmod(workers, workers // (stragglers + 1))
    groups: list[tuple[int, ...]] = []
    start = 0
    for place in range(workers // (stragglers + 1)):
        stop = start + size + (place < larger)
        groups.append(tuple(range(start, stop)))
        start = stop
    rows = tuple(tuple((unit, 1.0) for unit in group) for group in groups for _ in group)
    return Code("repetition" if stragglers else "identity", stragglers, rows, tuple(groups))


@lru_cache(maxsize=64)
def circulant(workers: int, stragglers: int) -> Code:
    """Row i holds units i .. i + s (mod n), with coefficients that come from roots of unity.

    Real, all positive, the same row for everybody, and the least amplifying of the cyclic codes known here.
    Exists only if one of n and s is even and the other odd. Raises ValueError else.
    """
    check_size(workers, stragglers)
    if (workers - stragglers) % 2 == 0:
        raise ValueError(
            f"no real circulant for {workers} workers and {stragglers} stragglers: one must be odd"
        )
    row = circulant_row(workers, stragglers)
    return Code("circulant", stragglers, _cyclic([row] * workers))


@lru_cache(maxsize=64)
def random_cyclic(workers: int, stragglers: int, seed: bytes) -> Code:
    """Row i holds units i .. i + s (mod n) with coefficients drawn by `seed`, the best of a few draws.

    Exists for all n and s, and amplifies the error of a lossy payload many times: for fp32 payloads and
    s = 1, where nothing better exists. Raises ValueError outside 0 <= s < n <= 64.
    """
    check_size(workers, stragglers)
    return Code("random", stragglers, _cyclic(random_rows(workers, stragglers, seed)))


def check_size(workers: int, stragglers: int) -> None:
    """Raise ValueError outside 0 <= s < n <= 64."""
    if not 0 <= stragglers < workers <= WORKERS_MAX:
        raise ValueError(f"0 <= stragglers < workers <= {WORKERS_MAX}, not {stragglers} of {workers}")


def _cyclic(rows: list[tuple[float, ...]]) -> tuple[Row, ...]:
    """Each row's coefficients at units that begin with its own, round the circle."""
    return tuple(
        tuple(sorted(((place + step) % len(rows), value) for step, value in enumerate(row)))
        for place, row in enumerate(rows)
    )
