"""Workers of different speeds, and commits that assign each its steps."""

from __future__ import annotations

import dataclasses
from statistics import mean

import pytest

from atoll.protocol.actions import Send
from atoll.protocol.commits import Commit, Kind
from atoll.protocol.ids import PeerId
from atoll.simulator.host import Host
from atoll.simulator.run import trial
from atoll.simulator.setting import STEP_MS, STEPS, setting
from atoll.simulator.world import World


class Unequal:
    """A step takes every third worker twice as long, and every third four times. Keeps what updates hold."""

    world: World

    def __init__(self) -> None:
        self.updates: list[dict[PeerId, int]] = []

    def on_send(self, host: Host, action: Send) -> None:
        host.step_ms = STEP_MS * self.slowness(host)

    def slowness(self, host: Host) -> int:
        return 1 << int(host.name[1:]) % 3 if host.name != "w" else 1

    def on_commit(self, host: Host, commit: Commit) -> None:
        body = commit.body
        if host.name == "w" and body.kind is Kind.UPDATE:
            self.updates.append({c.peer: c.steps for c in body.contributors})


def steps_by_slowness(work: str) -> dict[int, float]:
    """Inner steps per update that the workers of each kind contributed, once the first rounds are over."""
    seen = Unequal()
    chosen = dataclasses.replace(setting(6, 30, "none", "dense"), work=work)
    outcome = trial(5, chosen, checkers=[seen])
    assert (outcome.violation, outcome.stuck) == (None, None)
    late = seen.updates[10:]
    found: dict[int, float] = {}
    for host in seen.world.hosts.values():
        if host.name != "w":
            mine = mean(update.get(host.id, 0) for update in late)
            found[seen.slowness(host)] = found.get(seen.slowness(host), 0) + mine / 2
    return found


def test_the_slow_contribute_what_their_speed_allows_and_else_next_to_nothing() -> None:
    found = steps_by_slowness("by-speed")
    assert found[1] > 0.6 * STEPS, "a step takes 0.8 to 1.3 of its time, and the fastest one sets the pace"
    assert found[2] == pytest.approx(found[1] / 2, rel=0.25)
    assert found[4] == pytest.approx(found[1] / 4, rel=0.3)
    equal = steps_by_slowness("equal")
    assert equal[4] < 0.1 * STEPS, "they come too late, round after round"


def test_heavy_faults_break_nothing() -> None:
    for seed in range(10):
        outcome = trial(seed, dataclasses.replace(setting(7, 4, "heavy"), work="by-speed"))
        assert (outcome.violation, outcome.stuck) == (None, None), f"FAIL seed={seed}"
        assert outcome.rejected == {}


def test_liars_break_nothing() -> None:
    for seed in range(4):
        chosen = setting(6, 4, "heavy", liars=2, votes="two-thirds")
        outcome = trial(seed, dataclasses.replace(chosen, work="by-speed"))
        assert (outcome.violation, outcome.stuck) == (None, None), f"FAIL seed={seed}"
