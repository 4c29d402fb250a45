"""When a leader goes on, and what it waits for until then."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from leading_bench import (
    FIVE,
)
from protocol_samples import (
    RULES,
    member,
    terms,
)

from atoll.protocol.commits import Kind
from atoll.protocol.deciding import Go, Wait, decide

# ---- decide -------------------------------------------------------------------------------------
# five workers, a quorum of three; the round began at 1000; the grace is 25 %, 100 to 1000 ms

GRACE = terms(*FIVE, updates=1)


@pytest.mark.parametrize(
    ("now", "quorum_ms", "offers", "expected", "kind", "until", "words"),
    [
        (1000, None, 0, 5, None, 61_000, "0 of 5 offers, 3 are the quorum"),
        (5000, None, 2, 5, None, 61_000, "2 of 5 offers, 3 are the quorum"),
        (60_999, None, 2, 5, None, 61_000, "2 of 5 offers"),
        (61_000, None, 2, 5, Kind.SKIP, None, "2 offers, 3 are the quorum"),  # train_ms_max
        (1001, None, 2, 2, Kind.SKIP, None, "2 offers, 3 are the quorum"),  # three are lost
        (1001, None, 0, 3, None, 61_000, "0 of 3 offers"),
        (5000, 5000, 5, 5, Kind.UPDATE, None, "all 5 offers"),
        (5000, 5000, 3, 3, Kind.UPDATE, None, "all 3 offers"),  # nobody else is left
        (3000, 3000, 3, 5, None, 3500, "3 of 5 offers, grace of 500 ms"),  # a quarter of 2 s
        (3499, 3000, 4, 5, None, 3500, "4 of 5 offers, grace of 1 ms"),
        (3500, 3000, 3, 5, Kind.UPDATE, None, "3 of 5 offers when the grace was over"),
        (9000, 3000, 4, 5, Kind.UPDATE, None, "4 of 5 offers when the grace was over"),
        (1040, 1040, 3, 5, None, 1140, "grace of 100 ms"),  # at least 100
        (41_000, 41_000, 3, 5, None, 42_000, "grace of 1000 ms"),  # at most 1000
        (1000, 1000, 3, 5, None, 1100, "grace of 100 ms"),
    ],
)
def test_when_a_leader_goes_on(
    now: int,
    quorum_ms: int | None,
    offers: int,
    expected: int,
    kind: Kind | None,
    until: int | None,
    words: str,
) -> None:
    decision = decide(now, 1000, quorum_ms, offers, expected, GRACE, 0)
    assert words in decision.reason
    if kind is None:
        assert isinstance(decision, Wait)
        assert decision.until_ms == until
    else:
        assert isinstance(decision, Go)
        assert decision.kind is kind


@given(st.integers(0, 100_000), st.integers(0, 5), st.integers(0, 5), st.integers(0, 70_000))
def test_no_decision_waits_for_what_has_passed(elapsed: int, offers: int, lost: int, quorum_at: int) -> None:
    expected = max(offers, 5 - lost)
    quorum_ms = 1000 + min(quorum_at, elapsed) if offers >= GRACE.quorum else None
    now = 1000 + elapsed
    decision = decide(now, 1000, quorum_ms, offers, expected, GRACE, 0)
    if isinstance(decision, Wait):
        assert decision.until_ms is not None
        assert decision.until_ms > now
        later = decide(decision.until_ms, 1000, quorum_ms, offers, expected, GRACE, 0)
        assert isinstance(later, Go)
    else:
        assert (decision.kind is Kind.UPDATE) == (offers >= GRACE.quorum)


def gathering(present: int, start: int, updates: int = 0) -> Any:
    crowd = (member("coordinator"), *(member(f"w{n}", weight_from=9) for n in range(present)))
    rules = dataclasses.replace(RULES, start_workers=start)
    return terms(members=crowd, round=2, updates=updates, rules=rules)


@pytest.mark.parametrize(
    ("present", "start", "updates", "joiners", "goes", "words"),
    [
        (0, 3, 0, 0, False, "0 of 3 workers"),
        (0, 3, 0, 2, False, "2 of 3 workers"),
        (0, 3, 0, 3, True, "3 workers"),
        (0, 3, 0, 9, True, "9 workers"),
        (2, 3, 0, 1, True, "3 workers"),
        (1, 3, 0, 0, False, "1 of 3 workers"),
        (3, 3, 0, 0, True, "probation"),
        (0, 3, 5, 0, False, "0 of 1 workers"),  # all workers are gone: wait for one
        (0, 3, 5, 1, True, "1 workers"),
        (1, 3, 5, 0, True, "probation"),
    ],
)
def test_gathering(present: int, start: int, updates: int, joiners: int, goes: bool, words: str) -> None:
    given = gathering(present, start, updates)
    assert given.gathering
    decision = decide(10**9, 0, None, 0, 0, given, joiners)
    assert words in decision.reason
    if goes:
        assert isinstance(decision, Go)
        assert decision.kind is Kind.SKIP
    else:
        assert decision == Wait(decision.reason, None)
