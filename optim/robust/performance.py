"""Bristle's integrator: how much to believe a peer, from how well its model does on what one can test."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal, localcontext
from math import fsum, sqrt

SCORE_MIN = -100.0
BELIEF_MAX = 6.0
"""Of a peer that is far better in everything and sure of it: a weight of that many."""


def performance(own: Sequence[float], peer: Sequence[float]) -> float:
    """The factor of a peer's weight, 0 to 6, from the marks of one's own model and of the peer's.

    Marks are in [0, 1], one for each domain (a class, a language, a source) in the same order, for example F1
    or exp(-loss). A peer as good as oneself gets its certainty, the mean less the standard deviation of its
    marks; a better one gets more, a much worse one nothing. Exponentials are decimal arithmetic, which
    rounds correctly on every machine. Raises ValueError for marks that are not shares, or none.
    (Bristle, Verbraeken et al. 2021, by domain and not by class)
    """
    if not own or len(own) != len(peer) or not all(0 <= mark <= 1 for mark in (*own, *peer)):
        raise ValueError(f"marks must be shares, as many of the peer's as of one's own: {own}, {peer}")
    mean = fsum(peer) / len(peer)
    deviation = sqrt(fsum((mark - mean) ** 2 for mark in peer) / len(peer))
    score = fsum(_score(mine, mark) for mine, mark in zip(own, peer, strict=True))
    with localcontext(Context(prec=30)):
        sigmoid = 1 / (1 + (Decimal(-score) / 100).exp())
        belief = float(10 * sigmoid - 4)
    return max(0.0, belief) * max(0.0, mean - deviation)


def _score(own: float, peer: float) -> float:
    """The gap in tenths to the power of 3 + own if the peer is better, else 4 + own, and then negative."""
    gap = 10.0 * abs(own - peer)
    if not gap:
        return 0.0
    with localcontext(Context(prec=30)):
        power = float((Decimal(gap).ln() * Decimal((3.0 if peer > own else 4.0) + own)).exp())
    return power if peer > own else max(SCORE_MIN, -power)
