"""When a leader goes on where several workers train each unit. `leading.decide` is for all other runs."""

from __future__ import annotations

from collections.abc import Set

from atoll.protocol.commits import Kind
from atoll.protocol.deciding import Go, Wait, gather
from atoll.protocol.ids import PeerId
from atoll.protocol.terms import Terms


def decide_units(
    now_ms: int,
    since_ms: int,
    quorum_ms: int | None,
    offered: Set[PeerId],
    gone: Set[PeerId],
    terms: Terms,
    joiners: int,
    unconfirmed: int = 0,
) -> Wait | Go:
    """Whether a leader goes on: as soon as each unit is offered, whoever is still away.

    A unit is waited for as long as one of its workers is not `gone`, for `train_ms_max` at most; then, and
    after the least grace, units count as contributions do elsewhere: a quorum of them is enough. For the
    `unconfirmed`, which one worker alone has offered, another one gets the usual grace.
    """
    if terms.gathering:
        return gather(terms, joiners)
    lacking = [group for group in terms.groups if offered.isdisjoint(group)]
    total, rules = len(terms.groups), terms.rules
    here, end_ms = f"{total - len(lacking)} of {total} units", since_ms + rules.train_ms_max
    if not lacking:
        if unconfirmed and quorum_ms is not None:
            share_ms = min(int(rules.grace_share * (quorum_ms - since_ms)), rules.grace_ms_max)
            end_ms = min(end_ms, quorum_ms + max(rules.grace_ms_min, share_ms))
            if now_ms < end_ms:
                return Wait(f"all units, {unconfirmed} of them from one worker alone", end_ms)
        return Go(Kind.UPDATE, f"all {total} units")
    if now_ms < end_ms and any(not gone >= set(group) for group in lacking):
        return Wait(here, end_ms)
    if total - len(lacking) < terms.quorum:
        return Go(Kind.SKIP, f"{here}, {terms.quorum} are the quorum")
    assert quorum_ms is not None
    end_ms = min(end_ms, quorum_ms + rules.grace_ms_min)
    if now_ms < end_ms:
        return Wait(f"{here}, and nobody is left for the others", end_ms)
    return Go(Kind.UPDATE, f"{here}, and nobody is left for the others")
