"""When a leader goes on: with all offers, after a grace for the rest, without an update, or not yet."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.protocol.commits import Kind
from atoll.protocol.grace import grace_ms
from atoll.protocol.terms import Terms


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet, and why. `until_ms` is when to look again if nothing happens."""

    reason: str
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Go:
    """Plan now, with what is here; `kind` is what can come of it."""

    kind: Kind
    reason: str


def decide(
    now_ms: int,
    since_ms: int,
    quorum_ms: int | None,
    offers: int,
    expected: int,
    terms: Terms,
    joiners: int,
    end_ms: int | None = None,
) -> Wait | Go:
    """Whether a leader goes on: when all have offered, after the grace for the rest, or without an update.

    `since_ms` is when the round began here, `quorum_ms` when enough offers were in; `expected` counts the
    workers that have not been lost. `end_ms` is the end of another wait than the usual grace (waiting.py).
    (Quorum and adaptive grace: Decoupled DiLoCo, 2026)
    """
    rules = terms.rules
    if terms.gathering:
        return gather(terms, joiners)
    if offers < terms.quorum:
        last_ms = since_ms + rules.train_ms_max
        if now_ms >= last_ms or expected < terms.quorum:
            return Go(Kind.SKIP, f"{offers} offers, {terms.quorum} are the quorum")
        return Wait(f"{offers} of {expected} offers, {terms.quorum} are the quorum", last_ms)
    if offers >= expected:
        return Go(Kind.UPDATE, f"all {offers} offers")
    assert quorum_ms is not None
    if end_ms is None:
        bounds_ms = (rules.grace_ms_min, rules.grace_ms_max)
        end_ms = quorum_ms + grace_ms(quorum_ms - since_ms, rules.grace_share, bounds_ms)
    if now_ms >= end_ms:
        return Go(Kind.UPDATE, f"{offers} of {expected} offers when the grace was over")
    return Wait(f"{offers} of {expected} offers, grace of {end_ms - now_ms} ms", end_ms)


def gather(terms: Terms, joiners: int) -> Wait | Go:
    wanted, present = terms.wanted, len(terms.workers) + joiners
    if joiners and (present >= wanted or terms.updates):
        return Go(Kind.SKIP, f"{present} workers")
    if not joiners and len(terms.workers) >= wanted:
        return Go(Kind.SKIP, "the workers' probation goes by")
    return Wait(f"{present} of {wanted} workers")
