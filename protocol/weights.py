"""What a contribution weighs: whole numbers, so that a leader and its voters find the same ones.

A weight begins as tokens and is multiplied by factors: participation (participation.py), staleness, token
rate. Factors are whole numbers in units of 1/UNIT, and `combined` rounds down once at the end. A weight of 0
means that there is nothing to take: such a contributor is left out of the commit. Which of them a run takes
is decided in weighing.py.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atoll.protocol.manifest import Assignment

UNIT_BITS = 16
UNIT = 1 << UNIT_BITS
"""A factor of 1."""
FACTOR_MAX = 1 << 32
"""No factor is larger than 65,536."""


def token_rate(tokens: int, steps: int, assignment: Assignment) -> int:
    """tokens * (tokens / steps), in units in which a step of the assignment's tokens leaves them as they are.

    One whose steps were smaller than assigned moved less for each token of a step's noise; its weight falls
    by the share that they had. The rate is no larger than the assignment's: else who claims one step for all
    its tokens would outweigh all others. 0 without steps. (Decoupled DiLoCo, 2026)
    """
    if tokens <= 0 or steps <= 0:
        return 0
    usual = steps * assignment.tokens
    return min(tokens, tokens * tokens * assignment.steps // usual)


def stale(staleness: int, staleness_max: int) -> int:
    """The factor (1 + s)^(-1/2) of what began s updates before the anchor that it is merged into; 0 beyond.

    Rounded down, by an integer square root. (FedBuff, Nguyen et al. 2022; FedAST, Askin et al. 2024)
    """
    if staleness < 0:
        raise ValueError(f"staleness is 0 or more, not {staleness}")
    return isqrt(UNIT * UNIT // (1 + staleness)) if staleness <= staleness_max else 0


def combined(tokens: int, *factors: int) -> int:
    """Tokens times all factors, rounded down once."""
    if tokens < 0 or any(not 0 <= factor <= FACTOR_MAX for factor in factors):
        raise ValueError(f"weights are 0 or more, and factors at most {FACTOR_MAX}: {tokens}, {factors}")
    weight = tokens
    for factor in factors:
        weight *= factor
    return weight >> (len(factors) * UNIT_BITS)
