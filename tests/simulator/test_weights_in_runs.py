"""Runs with weights of their own, and runs that merge what is late, under faults: a checker weighs again."""

from __future__ import annotations

import dataclasses

import pytest

from atoll.protocol.commits import Commit, Kind
from atoll.protocol.ids import PeerId
from atoll.simulator.checkers import all_checkers
from atoll.simulator.host import Host
from atoll.simulator.run import trial
from atoll.simulator.setting import STEP_MS, STEPS, setting
from atoll.simulator.world import World


class Slow:
    """Every third worker is four times slower. Keeps what each weighed against its tokens, and when."""

    world: World

    def __init__(self) -> None:
        self.weights: dict[PeerId, list[float]] = {}
        self.updates_ms: list[int] = []

    def on_commit(self, host: Host, commit: Commit) -> None:
        for each in self.world.hosts.values():
            each.step_ms = STEP_MS * (1 if each.name == "w" or int(each.name[1:]) % 3 else 4)
        if host.name == "w" and commit.body.kind is Kind.UPDATE:
            self.updates_ms.append(self.world.clock.now_ms)
            for c in commit.body.contributors:
                self.weights.setdefault(c.peer, []).append(c.weight / c.tokens)


@pytest.mark.parametrize("weights", ["rate", "participation"])
def test_faults_break_nothing(weights: str) -> None:
    for seed in range(5):
        chosen = dataclasses.replace(setting(7, 5, "heavy"), weights=weights)
        outcome = trial(seed, chosen)
        assert (outcome.violation, outcome.stuck) == (None, None), f"FAIL seed={seed}"
        assert outcome.rejected == {}


def test_who_is_seldom_in_time_weighs_more_when_it_is() -> None:
    seen = Slow()
    chosen = dataclasses.replace(setting(6, 40, "crash", "dense"), weights="participation")
    outcome = trial(2, chosen, checkers=[*all_checkers(), seen])
    assert (outcome.violation, outcome.stuck) == (None, None)
    most = {peer: max(weights) for peer, weights in seen.weights.items()}
    assert max(most.values()) > 1.5
    assert max(max(weights) for weights in seen.weights.values()) <= 10


def test_what_is_late_is_merged_under_faults() -> None:
    for seed in range(6):
        chosen = dataclasses.replace(setting(7, 5, "heavy"), late="merge")
        outcome = trial(seed, chosen)
        assert (outcome.violation, outcome.stuck) == (None, None), f"FAIL seed={seed}"
        assert outcome.rejected == {}


def test_the_slow_are_in_updates_that_do_not_wait_for_them() -> None:
    """Rounds last as long as without them, and they contribute as much as their speed allows."""
    found = {}
    for late in ("merge", "carry"):
        seen = Slow()
        chosen = dataclasses.replace(setting(6, 30, "none", "dense"), late=late)
        outcome = trial(3, chosen, checkers=[*all_checkers(), seen])
        assert (outcome.violation, outcome.stuck, outcome.rejected) == (None, None, {})
        slow = [peer for peer, host in seen.world.hosts.items() if host.step_ms > STEP_MS]
        assert len(slow) == 2
        counts = [len(seen.weights.get(peer, [])) for peer in slow]
        found[late] = (sum(counts), max(max(seen.weights.get(peer, [0.0])) for peer in slow))
        if late == "merge":
            longest_ms = (seen.updates_ms[-1] - seen.updates_ms[3]) / len(seen.updates_ms[4:])
            assert longest_ms < 2.5 * STEPS * STEP_MS
    assert found["merge"][0] >= 2 * 30 // 6, "one of four rounds each, or nearly"
    assert found["merge"][1] < 0.75, "each began an update ago or earlier"
    assert found["carry"][0] == 0
