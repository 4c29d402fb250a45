"""Real processes, one of which does not train: audits leave it no weight, and the others all of theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from story import COORDINATOR, DIRECT, START_S, Anchors, atoll, join, publish, updates, wait_same

from atoll.cli.demo import children
from atoll.cli.demo.swarm import Swarm
from atoll.node.disk import read_ledger
from atoll.protocol.keys import Key

pytestmark = [pytest.mark.long, pytest.mark.swarm, pytest.mark.timeout(400)]
HONEST, RIDER = ("w1", "w2", "w3", "w4"), "rider"
STEPS = 24
AUDITS = """
[audit]
auditors = 3
targets = 5
steps = 12
"""


def start_rider(swarm: Swarm, invite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole node: only its trainer is another one."""
    with monkeypatch.context() as other:
        other.setattr(children, "_TIED", children._TIED.replace("atoll.cli.main", "free_rider"))
        other.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
        join(swarm, RIDER, invite, DIRECT)


def weights(swarm: Swarm) -> dict[str, float]:
    """What audits leave of each worker's weight, by the coordinator's ledger."""
    left = {m["peer"]: m["reputation"] for m in swarm.fresh.get(COORDINATOR, {}).get("members", ())}
    names = {status["peer"]: name for name, status in swarm.statuses.items()}
    return {names[peer]: found["weight"] for peer, found in left.items() if found and peer in names}


def test_who_does_not_train_ends_without_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    swarm = Swarm(tmp_path, Anchors())
    try:
        invite = publish(swarm, rounds=10_000, steps=STEPS, workers=len(HONEST) + 1, rules=AUDITS)
        for name in HONEST:
            join(swarm, name, invite)
        start_rider(swarm, invite, monkeypatch)
        swarm.until(lambda: updates(swarm) >= 1, START_S, "the first update")
        told = {RIDER: 0.0, **dict.fromkeys(HONEST, 1.0)}
        swarm.until(lambda: weights(swarm) == told, 240, "a rider without weight, and others with all")
        before = updates(swarm)
        swarm.until(lambda: updates(swarm) >= before + 3, 60, "three more updates")
        assert wait_same(swarm)
        capsys.readouterr()
        assert atoll(swarm, "status", COORDINATOR, "--json") == 0
        status = json.loads(capsys.readouterr().out)
        rider = next(m for m in status["members"] if m["peer"] == swarm.statuses[RIDER]["peer"])
        assert rider["reputation"]["value"] < 0.35
        assert rider["reputation"]["judgements"] >= 3
        assert atoll(swarm, "status", COORDINATOR) == 0
        assert "weighs 0.00" in " ".join(capsys.readouterr().out.split())
        ledger = read_ledger(swarm.children[COORDINATOR].state_dir, Key.generate())
        last = [commit.body for commit in ledger.commits if commit.body.contributors][-1]
        assert swarm.statuses[RIDER]["peer"] not in last.counted
        assert swarm.statuses[RIDER]["peer"] in {one.peer for one in last.sent}
    finally:
        swarm.close()
