"""Slow or broken: what is said of a peer, from the times of the last rounds."""

from __future__ import annotations

import dataclasses
import random
from statistics import median_low

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from protocol_samples import contributor, member, members, peer, terms, update

from atoll.protocol.commits import Rejection
from atoll.protocol.diagnosis import (
    TRANSFERS_MAX,
    WINDOW,
    RoundTimes,
    Timing,
    Transfer,
    Verdict,
    diagnose,
    noted,
    times_of,
)
from atoll.protocol.ids import PeerId
from atoll.protocol.ledger import NOBODY
from atoll.protocol.reasons import NO_OFFER, NOT_IN_TIME

PEERS = [peer(f"w{n}") for n in range(12)]
STEPS, STEP_MS, MIB_MS = 100, 40, 80
JITTER = st.floats(0.95, 1.05)


def round_of(
    count: int,
    draw: random.Random | None = None,
    compute: dict[PeerId, float] | None = None,
    up: dict[PeerId, float] | None = None,
    down: dict[PeerId, float] | None = None,
    path: dict[tuple[PeerId, PeerId], float] | None = None,
) -> RoundTimes:
    """A round of `count` equal peers, some slower by a factor; everything within 5 % of what it should be."""

    def off(ms: float, *factors: float) -> int:
        for factor in factors:
            ms *= factor
        return round(ms * (draw.uniform(0.95, 1.05) if draw else 1.0))

    compute, up, down, path = compute or {}, up or {}, down or {}, path or {}
    here = PEERS[:count]
    timings = tuple(Timing(p, STEPS, STEPS, off(STEPS * STEP_MS, compute.get(p, 1.0))) for p in here)
    transfers = tuple(
        Transfer(a, b, 4 << 20, off(4 * MIB_MS, max(up.get(a, 1.0), down.get(b, 1.0)), path.get((a, b), 1.0)))
        for a in here
        for b in here
        if a != b
    )
    return RoundTimes(timings, transfers)


def verdicts(past: tuple[RoundTimes, ...]) -> dict[PeerId, Verdict]:
    return {who: it.verdict for who, it in diagnose(past).items()}


def rounds(*of: RoundTimes) -> tuple[RoundTimes, ...]:
    past: tuple[RoundTimes, ...] = ()
    for one in of:
        past = noted(past, one)
    return past


# ---- no false alarms ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("count", [2, 3, 4, 8, 12])
def test_five_percent_of_jitter_is_fine(count: int, seed: int) -> None:
    draw, past = random.Random(seed), ()
    for _ in range(12):
        past = noted(past, round_of(count, draw))
        found = diagnose(past)
        assert {it.verdict for it in found.values()} == {Verdict.FINE}, f"seed {seed}: {found}"


@example([[1.05, 0.95, 0.95, 0.95, 0.95, 0.95]] * 5)
@given(st.lists(st.lists(JITTER, min_size=6, max_size=6), min_size=1, max_size=8))
def test_no_jitter_of_five_percent_is_ever_an_outlier(factors: list[list[float]]) -> None:
    """Not even if one peer is always slow by 5 % and all others fast."""
    past: tuple[RoundTimes, ...] = ()
    for row in factors:
        timings = [
            Timing(who, STEPS, STEPS, int(1_000_000 * by)) for who, by in zip(PEERS, row, strict=False)
        ]
        sends = [
            Transfer(who, NOBODY, 1 << 20, int(100_000 * by)) for who, by in zip(PEERS, row, strict=False)
        ]
        past = noted(past, RoundTimes(tuple(timings), tuple(sends)))
    assert set(verdicts(past).values()) == {Verdict.FINE}


def test_a_swarm_of_many_speeds_has_no_outlier() -> None:
    """Without steps by speed, 1:2:4 is how this swarm is; nobody in it is broken."""
    factors = dict(zip(PEERS, [1.0, 1.3, 1.7, 2.0, 2.4, 3.1, 3.6, 4.0], strict=False))
    past = rounds(*(round_of(8, None, factors) for _ in range(5)))
    assert set(verdicts(past).values()) == {Verdict.FINE}


def test_one_bad_round_is_no_verdict() -> None:
    calm, bad = round_of(6), round_of(6, None, {PEERS[2]: 5.0}, {PEERS[3]: 5.0})
    assert set(verdicts(rounds(calm, calm, bad, calm, calm)).values()) == {Verdict.FINE}
    assert set(verdicts(rounds(calm, bad, calm, bad, calm)).values()) == {Verdict.FINE}


def test_a_newcomer_is_judged_after_three_rounds() -> None:
    past: tuple[RoundTimes, ...] = rounds(*(round_of(5) for _ in range(4)))
    found = []
    for _ in range(3):
        past = noted(past, round_of(6, None, {PEERS[5]: 3.0}, {PEERS[5]: 3.0}))
        found.append(diagnose(past)[PEERS[5]].verdict)
    assert found == [Verdict.FINE, Verdict.FINE, Verdict.SLOW_COMPUTE]


def test_nothing_is_said_of_nothing() -> None:
    assert diagnose(()) == {}
    assert diagnose((RoundTimes(()),)) == {}


# ---- what was injected is found -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [3, 4, 8, 12])
@pytest.mark.parametrize(
    ("where", "verdict"),
    [
        ("compute", Verdict.SLOW_COMPUTE),
        ("up", Verdict.SLOW_UPLINK),
        ("down", Verdict.SLOW_DOWNLINK),
    ],
)
def test_a_slowdown_of_two_is_found_within_the_window(
    where: str, verdict: Verdict, count: int, seed: int
) -> None:
    draw = random.Random(seed)
    past = rounds(*(round_of(count, draw) for _ in range(WINDOW)))
    found = []
    for _ in range(WINDOW):
        past = noted(past, round_of(count, draw, **{where: {PEERS[1]: 2.0}}))
        found.append(verdicts(past))
    assert found[-1][PEERS[1]] is verdict, f"seed {seed}"
    for one in found:
        assert {its for who, its in one.items() if who != PEERS[1]} == {Verdict.FINE}, f"seed {seed}"
    for _ in range(WINDOW):  # and forgiven as soon
        past = noted(past, round_of(count, draw))
    assert set(verdicts(past).values()) == {Verdict.FINE}


def test_of_two_the_slower_one_is_named_but_not_whose_link() -> None:
    past = rounds(*(round_of(2, None, {PEERS[0]: 2.0}) for _ in range(5)))
    assert verdicts(past) == {PEERS[0]: Verdict.SLOW_COMPUTE, PEERS[1]: Verdict.FINE}
    past = rounds(*(round_of(2, None, None, {PEERS[0]: 2.0}) for _ in range(5)))
    assert set(verdicts(past).values()) == {Verdict.FINE}


def test_a_slow_path_is_neither_end() -> None:
    past = rounds(*(round_of(5, None, path={(PEERS[0], PEERS[1]): 9.0}) for _ in range(5)))
    assert set(verdicts(past).values()) == {Verdict.FINE}


def test_two_faults_at_once_are_told_apart() -> None:
    slow = {"compute": {PEERS[0]: 3.0}, "up": {PEERS[1]: 3.0}, "down": {PEERS[2]: 3.0}}
    past = rounds(*(round_of(8, random.Random(n), **slow) for n in range(5)))
    found = verdicts(past)
    assert [found[who] for who in PEERS[:4]] == [
        Verdict.SLOW_COMPUTE,
        Verdict.SLOW_UPLINK,
        Verdict.SLOW_DOWNLINK,
        Verdict.FINE,
    ]


def test_who_stopped_early_is_as_slow_as_if_it_had_gone_on() -> None:
    rows = tuple(Timing(who, STEPS, STEPS, 4000) for who in PEERS[:4])
    early = Timing(PEERS[4], STEPS // 2, STEPS, 4000)
    partly = Timing(PEERS[5], 25, STEPS, 4000, offered=False)
    found = diagnose(rounds(*(RoundTimes((*rows, early, partly)) for _ in range(5))))
    assert found[PEERS[4]].verdict is found[PEERS[5]].verdict is Verdict.SLOW_COMPUTE
    assert found[PEERS[4]].figures.compute.percent == 100
    assert found[PEERS[5]].figures.compute.percent == 300


def test_less_to_do_in_the_same_time_is_fine() -> None:
    rows = [Timing(who, STEPS // by, STEPS // by, 4000) for who, by in zip(PEERS, (1, 2, 4), strict=False)]
    assert set(verdicts(rounds(*[RoundTimes(tuple(rows))] * 5)).values()) == {Verdict.FINE}


# ---- stuck ----------------------------------------------------------------------------------------


def with_idle(count: int, steps: int, idle: set[int]) -> RoundTimes:
    return RoundTimes(
        tuple(
            Timing(who, steps, STEPS, 4000, offered=False) if n in idle else Timing(who, STEPS, STEPS, 4000)
            for n, who in enumerate(PEERS[:count])
        )
    )


@pytest.mark.parametrize("steps", [0, STEPS])
def test_no_progress_and_no_offer_is_stuck(steps: int) -> None:
    calm = with_idle(6, steps, set())
    assert verdicts(rounds(calm, calm, with_idle(6, steps, {4})))[PEERS[4]] is Verdict.FINE
    found = diagnose(rounds(calm, with_idle(6, steps, {4}), with_idle(6, steps, {4})))
    assert found[PEERS[4]].verdict is Verdict.STUCK
    assert found[PEERS[4]].why == "no offer and no progress for 2 rounds in which most others made one"
    assert {it.verdict for who, it in found.items() if who != PEERS[4]} == {Verdict.FINE}
    assert verdicts(rounds(calm, *[with_idle(6, steps, {4})] * 2, calm))[PEERS[4]] is Verdict.FINE


def test_a_round_in_which_most_made_no_offer_counts_for_nobody() -> None:
    failed = with_idle(6, 0, {1, 2, 3, 4})
    assert set(verdicts(rounds(failed, failed, failed)).values()) == {Verdict.FINE}
    one = with_idle(6, 0, {4})
    assert verdicts(rounds(one, failed, failed, one))[PEERS[4]] is Verdict.STUCK


def test_what_never_arrives_in_time_has_a_slow_way_out() -> None:
    rows = tuple(Timing(who, STEPS, STEPS, 4000, missed=n == 2) for n, who in enumerate(PEERS[:5]))
    found = diagnose(rounds(*[RoundTimes(rows)] * 4))
    assert found[PEERS[2]].verdict is Verdict.SLOW_UPLINK
    assert found[PEERS[2]].why == "what it offered did not arrive in time in 4 of 4 rounds"


# ---- words, memory, an oracle ---------------------------------------------------------------------


def test_words_that_a_person_reads() -> None:
    past = rounds(*(round_of(5, None, {PEERS[0]: 2.5}, {PEERS[1]: 4.0}, {PEERS[2]: 2.0}) for _ in range(5)))
    said = [f"{it.verdict.value}: {it.why}" for it in diagnose(past).values()]
    assert said == [
        "slow compute: its steps take 10000 ms, 150 % more than the median",
        "slow uplink: it sends 3.3 MB/s, where the median is 13.1",
        "slow downlink: it receives 6.6 MB/s, where the median is 13.1",
        "fine: as fast as the others in 5 rounds",
        "fine: as fast as the others in 5 rounds",
    ]


def test_what_is_kept_is_bounded() -> None:
    many = tuple(Transfer(PEERS[0], PEERS[1], (1 << 20) + n, 5) for n in range(TRANSFERS_MAX + 100))
    small = (Transfer(PEERS[0], PEERS[1], 1000, 5), Transfer(PEERS[0], PEERS[1], 1 << 20, 0))
    past: tuple[RoundTimes, ...] = ()
    for _ in range(3 * WINDOW):
        past = noted(past, RoundTimes((), small + many))
    assert len(past) == WINDOW
    assert {len(one.transfers) for one in past} == {TRANSFERS_MAX}
    assert min(t.size_bytes for t in past[0].transfers) == (1 << 20) + 100


@given(st.lists(st.lists(st.integers(1, 10**6), min_size=5, max_size=5), min_size=3, max_size=WINDOW))
def test_slow_compute_agrees_with_the_rule_as_it_is_written(table: list[list[int]]) -> None:
    past = tuple(
        RoundTimes(tuple(Timing(who, 1, 1, ms) for who, ms in zip(PEERS, row, strict=False))) for row in table
    )
    late = [median_low([row[n] - median_low(row) for row in table]) for n in range(5)]
    spread = median_low([abs(by - median_low(late)) for by in late])
    for n, who in enumerate(PEERS[:5]):
        tenth = median_low([row[n] for row in table]) // 10
        slow = late[n] > max(int(3 * 1.4826 * spread + 1e-9), tenth)
        near = abs(late[n] - 3 * 1.4826 * spread) < 0.001 * spread + 2
        assert near or (verdicts(past)[who] is Verdict.SLOW_COMPUTE) == slow


def test_commits_tell_who_is_slow_who_is_late_and_who_is_stuck() -> None:
    """What each node concludes from the ledger alone, in a run that assigns work by speed."""
    given = terms("coordinator", "w1", "w2", "w3", "w4", "w5", "w6")
    waiting = member("w7", weight_from=99)
    past: tuple[RoundTimes, ...] = ()
    for _ in range(4):
        done = tuple(
            dataclasses.replace(contributor(name), train_ms=ms)
            for name, ms in (("w1", 1000), ("w2", 1010), ("w3", 990), ("w4", 2500))
        )
        body = update(
            given,
            before=(*members("coordinator", "w1", "w2", "w3", "w4", "w5", "w6"), waiting),
            contributors=done,
            rejected=(Rejection(peer("w5"), NO_OFFER), Rejection(peer("w6"), NOT_IN_TIME)),
        )
        past = noted(past, times_of(body, 10))
    found = verdicts(past)
    assert found[peer("w4")] is Verdict.SLOW_COMPUTE
    assert found[peer("w5")] is Verdict.STUCK
    assert found[peer("w6")] is Verdict.SLOW_UPLINK
    assert {found[peer(name)] for name in ("w1", "w2", "w3")} == {Verdict.FINE}
    assert not found.keys() & {peer("coordinator"), peer("w7")}, "nobody waits for these"
