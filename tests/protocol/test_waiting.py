"""Until when a leader waits for more contributions than a quorum."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from leading_bench import FIVE, offer
from protocol_samples import ANCHOR, RULES, peer, terms

from atoll.protocol.commits import Kind
from atoll.protocol.deciding import Go, Wait, decide
from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import PeerId
from atoll.protocol.leading import Leading
from atoll.protocol.manifest import RoundRules, check_rounds
from atoll.protocol.waiting import Moment, Syncs, Watch, end_ms
from atoll.protocol.working import Working

STEPS = 10
DYNAMIC = dataclasses.replace(RULES, wait="dynamic")  # a grace of 25 %, 100 to 1000 ms
SLACK = dataclasses.replace(RULES, wait="slack", fragments=4, overlap=1)
W1, W2, W3, W4, W5 = map(peer, ("w1", "w2", "w3", "w4", "w5"))


def moment(now_ms: int, rules: RoundRules, quorum_ms: int = 4000, sync_ms: int = 0) -> Moment:
    """Of a round that began at 0."""
    return Moment(now_ms, 0, quorum_ms, sync_ms, rules)


def watch(progress: dict[PeerId, tuple[int, int]]) -> Watch:
    found = Watch()
    for who, (steps, at_ms) in progress.items():
        found.report(who, steps, at_ms)
    return found


def dynamic(seen: Watch, *missing: PeerId, now_ms: int = 4000, sync_ms: int = 0) -> int | None:
    here = {W1, W2, W3, W4, W5}.difference(missing)
    return end_ms(moment(now_ms, DYNAMIC, sync_ms=sync_ms), seen, here, dict.fromkeys(missing, STEPS))


# ---- dynamic ------------------------------------------------------------------------------------
# three of five are done after 4 s: 0.75 a second


@pytest.mark.parametrize(
    ("done", "until"),
    [
        ({W4: 8}, 6000),  # four in 5 s are 0.8 a second; then a grace of a second
        ({W4: 7}, 4100),  # in 5.7 s, 0.7: not worth it, and the least grace is 100 ms
        ({W4: 7, W5: 7}, 6715),  # five in 5.7 s, 0.87: worth it together
        ({W4: 8, W5: 2}, 6000),  # the last one would come after 20 s
        ({W4: 3, W5: 2}, 4100),
        ({}, 4100),  # of whom nothing is known
    ],
)
def test_who_is_waited_for(done: dict[PeerId, int], until: int) -> None:
    seen = watch({who: (steps, 4000) for who, steps in done.items()})
    assert dynamic(seen, W4, W5) == until


def test_a_long_exchange_is_a_reason_to_wait() -> None:
    seen = watch({W4: (7, 4000)})
    assert dynamic(seen, W4, W5) == 4100
    assert dynamic(seen, W4, W5, sync_ms=4000) == 6715


def test_who_is_not_done_when_it_was_due_is_waited_for_no_longer() -> None:
    seen = watch({W4: (8, 4000)})
    assert dynamic(seen, W4, W5) == 6000
    seen.report(W4, 9, 5900)
    assert dynamic(seen, W4, W5, now_ms=5999) == 6000, "a later report postpones nothing"
    assert dynamic(seen, W4, W5, now_ms=6000) == 4100


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 70_000)), max_size=9), st.integers(0, 59_000))
def test_no_report_holds_a_round_open_for_long(reports: list[tuple[int, int]], quorum_ms: int) -> None:
    """What one worker says may only bring its end forward, and members bear the leader until then."""
    seen, first = Watch(), 0
    for steps, after_ms in sorted(reports, key=lambda report: report[1]):
        seen.report(W4, steps, quorum_ms + after_ms)
        now = moment(quorum_ms + after_ms, DYNAMIC, quorum_ms)
        until = end_ms(now, seen, {W1, W2, W3}, {W4: STEPS})
        first = first or seen.due.get(W4, 0)
        assert until is not None
        assert until <= max(quorum_ms + DYNAMIC.grace_ms_min, min(first, now.last_ms))


def test_progress_is_of_when_it_was_first_said() -> None:
    seen = watch({W4: (5, 2000)})
    seen.report(W4, 5, 3900)
    seen.report(W4, 0, 3900)
    assert seen.progress == {W4: (5, 2000)}


# ---- slack --------------------------------------------------------------------------------------


def slack(offers: dict[PeerId, tuple[int, int]], sync_ms: int, quorum_ms: int = 4000) -> int | None:
    seen = Watch()
    for who, (at_ms, spare_ms) in offers.items():
        seen.offer(who, at_ms + spare_ms)
    return end_ms(moment(quorum_ms, SLACK, quorum_ms, sync_ms), seen, set(offers), {W5: STEPS})


@pytest.mark.parametrize(
    ("offers", "sync_ms", "until"),
    [
        ({W1: (2000, 8000), W2: (4000, 9000)}, 1000, 4000 + 3750),  # 3/4 of 10 s - 4 s - 1 s
        ({W1: (2000, 8000), W2: (4000, 9000)}, 6000, 5000),  # none left: the usual grace
        ({W1: (2000, 8000), W2: (4000, 9000)}, 0, 5000),  # nobody knows yet what an exchange takes
        ({W1: (2000, 1 << 60)}, 1000, 60_000),  # whatever is claimed, members bear no more
        ({W1: (2000, 1 << 60), W2: (2000, 8000)}, 1000, 4000 + 3750),
        ({W1: (2000, 0)}, 1000, 5000),
    ],
)
def test_slack_lasts_until_the_first_one_needs_the_update(
    offers: dict[PeerId, tuple[int, int]], sync_ms: int, until: int
) -> None:
    assert slack(offers, sync_ms) == until


@given(st.integers(0, 50_000), st.integers(0, 50_000), st.integers(1, 50_000), st.integers(0, 50_000))
def test_nobody_stands_still_for_slack(at_ms: int, spare_ms: int, sync_ms: int, more_ms: int) -> None:
    quorum_ms = at_ms + more_ms
    until = slack({W1: (at_ms, spare_ms)}, sync_ms, quorum_ms)
    usual = moment(quorum_ms, SLACK, quorum_ms).usual_ms
    assert until is not None
    assert until >= usual
    assert until == usual or until + sync_ms <= at_ms + spare_ms


def test_what_a_sync_takes_is_averaged_and_an_idle_round_says_nothing() -> None:
    syncs = Syncs()
    for begun, ended in ((100, 500), (None, 900), (1000, 1201)):
        if begun is not None:
            syncs.begin(begun)
            syncs.begin(begun + 50)  # another plan of the same round
        syncs.end(ended)
    assert syncs == Syncs((400 + 201 + 1) // 2)


def test_a_worker_knows_how_long_it_can_go_on() -> None:
    mine = Working()
    assert mine.spare_ms(1, 3, 1000) == 0
    mine.begin(1, ANCHOR, 1000)
    mine.trained(1, 100, 10, 500)
    assert mine.spare_ms(1, 0, 1600) == 0, "it needs the update at once"
    assert mine.spare_ms(1, 3, 1600) == 1500
    mine.begin(2, ANCHOR, 1600)
    assert mine.spare_ms(1, 3, 1700) == 400 + 1000
    assert mine.spare_ms(1, 1, 1700) == 400
    assert mine.spare_ms(1, 1, 9000) == 0, "it takes longer than the last one"


# ---- where a leader asks ------------------------------------------------------------------------


def test_a_leader_goes_on_at_that_end() -> None:
    given_terms = terms(*FIVE, updates=1, rules=DYNAMIC)
    assert decide(5999, 0, 4000, 3, 5, given_terms, 0, 6000) == Wait("3 of 5 offers, grace of 1 ms", 6000)
    gone = decide(6000, 0, 4000, 3, 5, given_terms, 0, 6000)
    assert isinstance(gone, Go)
    assert gone.kind is Kind.UPDATE
    assert isinstance(decide(4200, 0, 4000, 5, 5, given_terms, 0, 6000), Go), "all are here"


def test_a_leader_keeps_what_was_said_last() -> None:
    lead = Leading(terms("w1", "w2", "coordinator", updates=1, rules=SLACK), 0, 1000)
    lead.offer(W1, offer("w1"), 2000)  # told a round ahead
    lead.offer(W1, offer("w1", spare_ms=700), 2600)
    lead.offer(peer("stranger"), offer("stranger", spare_ms=1), 2600)
    assert lead.watch.spent_ms == {W1: 3300}


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({"wait": "slack"}, "overlap above 0"),
        ({"wait": "dynamic", "fragments": 2, "overlap": 1}, "wait = 'slack'"),
        ({"wait": "dynamic", "replicas": 2}, "each unit is waited for"),
        ({"wait": "soon"}, "one of grace, slack, dynamic"),
    ],
)
def test_what_a_rule_needs(changes: dict[str, object], right: str) -> None:
    with pytest.raises(ConfigError, match=right):
        check_rounds(RoundRules(**changes), "rounds")  # type: ignore[arg-type]
    check_rounds(RoundRules(wait="slack", fragments=2, overlap=1), "rounds")
