"""Runs with weights of their own under faults: voters find the same ones, and so does a checker."""

from __future__ import annotations

import dataclasses

import pytest

from atoll.protocol.commits import Commit, Kind
from atoll.protocol.ids import PeerId
from atoll.simulator.checkers import all_checkers
from atoll.simulator.host import Host
from atoll.simulator.run import trial
from atoll.simulator.setting import STEP_MS, setting
from atoll.simulator.world import World


class Slow:
    """Every third worker is four times slower. Keeps what each weighed against its tokens."""

    world: World

    def __init__(self) -> None:
        self.weights: dict[PeerId, list[float]] = {}

    def on_commit(self, host: Host, commit: Commit) -> None:
        for each in self.world.hosts.values():
            each.step_ms = STEP_MS * (1 if each.name == "w" or int(each.name[1:]) % 3 else 4)
        if host.name == "w" and commit.body.kind is Kind.UPDATE:
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
