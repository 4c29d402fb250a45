"""For whom leaders wait in whole runs, where a part of the workers is slower."""

from __future__ import annotations

import dataclasses

import pytest

from atoll.protocol.actions import Send
from atoll.protocol.commits import Commit, Kind
from atoll.simulator.host import Host
from atoll.simulator.run import trial
from atoll.simulator.setting import STEP_MS, setting
from atoll.simulator.world import World


class Slower:
    """A step takes every second worker longer. Keeps how much the witness saw counted, and when."""

    world: World

    def __init__(self, slowness: float) -> None:
        self.slowness, self.counted, self.ends_ms = slowness, 0, [0]

    def on_send(self, host: Host, action: Send) -> None:
        host.step_ms = STEP_MS * 6  # a round of six seconds: members say that they are alive meanwhile
        if host.name != "w" and int(host.name[1:]) % 2:
            host.step_ms = int(host.step_ms * self.slowness)

    def on_commit(self, host: Host, commit: Commit) -> None:
        if host.name == "w" and commit.body.kind is Kind.UPDATE:
            self.counted += len(commit.body.contributors)
            self.ends_ms.append(self.world.clock.now_ms)


def counted(wait: str, slowness: float, mode: str = "dense") -> tuple[float, float]:
    """Contributions by update, and by second; streaming runs train three rounds ahead."""
    seen = Slower(slowness)
    chosen = dataclasses.replace(setting(6, 12, "none", mode), wait=wait)
    outcome = trial(5, chosen, checkers=[seen])
    assert (outcome.violation, outcome.stuck) == (None, None)
    updates = len(seen.ends_ms) - 1
    return seen.counted / updates, 1000 * seen.counted / seen.ends_ms[-1]


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_those_that_are_worth_it_are_waited_for(mode: str) -> None:
    usual, dynamic = counted("grace", 1.6, mode), counted("dynamic", 1.6, mode)
    assert usual[0] < 4.5, "the grace ends before they are done"
    assert dynamic[0] > 5
    assert dynamic[1] > 1.05 * usual[1]


def test_those_that_are_not_are_not() -> None:
    assert counted("dynamic", 4.0)[0] < 4


def test_those_that_cost_nobody_time_are_waited_for() -> None:
    assert counted("slack", 1.3, "streaming")[1] > 1.15 * counted("grace", 1.3, "streaming")[1]


@pytest.mark.parametrize(
    ("wait", "mode"), [("dynamic", "dense"), ("dynamic", "sparse"), ("slack", "streaming")]
)
def test_heavy_faults_break_nothing(wait: str, mode: str) -> None:
    for seed in range(2):
        outcome = trial(seed, dataclasses.replace(setting(7, 4, "heavy", mode), wait=wait))
        assert (outcome.violation, outcome.stuck) == (None, None), f"FAIL seed={seed}"
        assert outcome.rejected == {}
