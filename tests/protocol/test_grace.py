"""How long a leader may wait for more when a quorum is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from leading_bench import FIVE
from protocol_samples import terms

from atoll.protocol.deciding import Wait, decide
from atoll.protocol.grace import grace_ms, slack_ms


@pytest.mark.parametrize(
    ("window", "quorum", "sync", "share", "slack"),
    [
        (10_000, 4_000, 1_000, 0.5, 2_500),
        (10_000, 4_000, 1_000, 0.9, 4_500),
        (10_000, 9_000, 1_000, 0.9, 0),  # the quorum is late
        (10_000, 20_000, 1_000, 0.9, 0),
        (0, 1, 1, 0.9, 0),  # nothing overlaps
    ],
)
def test_slack_is_a_share_of_what_nobody_needs(
    window: int, quorum: int, sync: int, share: float, slack: int
) -> None:
    assert slack_ms(window, quorum, sync, share) == slack


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7), st.floats(0, 0.99))
def test_the_update_is_never_late_for_it(window: int, quorum: int, sync: int, share: float) -> None:
    slack = slack_ms(window, quorum, sync, share)
    assert slack >= 0
    assert not slack or quorum + slack + sync <= window


@given(st.integers(0, 100_000))
def test_without_slack_it_is_what_a_leader_does_today(waited_ms: int) -> None:
    given_terms = terms(*FIVE, updates=1)
    rules = given_terms.rules
    decision = decide(waited_ms, 0, waited_ms, 3, 5, given_terms, 0)
    assert isinstance(decision, Wait)
    bounds = (rules.grace_ms_min, rules.grace_ms_max)
    assert decision.until_ms == waited_ms + grace_ms(waited_ms, rules.grace_share, bounds)
