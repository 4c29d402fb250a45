"""A volunteer pauses and resumes; then a majority is killed for good, and the researcher goes on without it.

Real processes and the real verbs: a coordinator and four workers, one story in order.
"""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest
from faults import slow_training
from story import (
    COORDINATOR,
    ROUND_S,
    START_S,
    Anchors,
    contributes,
    join,
    publish,
    updates,
    wait_same,
    wait_updates,
)

from atoll.cli import boundary
from atoll.cli.demo.swarm import Swarm
from atoll.cli.main import app
from atoll.node.disk import read_ledger
from atoll.protocol.commits import Kind
from atoll.protocol.keys import Key

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]
WORKERS = ("w1", "w2", "w3", "w4")
LOST, LEFT = ("w2", "w3", "w4"), ("coordinator", "w1")
QUIET_VIEWS = 3


class Told:
    """What the story hands from one test to the next."""

    invite = ""
    height = 0


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    swarm = Swarm(tmp_path_factory.mktemp("recovery"), Anchors())
    try:
        Told.invite = publish(swarm, rounds=10_000, steps=24, workers=len(WORKERS))
        for name in WORKERS:
            join(swarm, name, Told.invite)
        swarm.until(lambda: updates(swarm) >= 1, START_S, "the first update")
        yield swarm
    finally:
        swarm.close()


def atoll(swarm: Swarm, verb: str, name: str, *arguments: str) -> int:
    """A verb, told to one daemon, in this process."""
    command = [verb, "--state", str(swarm.children[name].state_dir), *arguments]
    return boundary.run(lambda: app(command, prog_name="atoll", standalone_mode=False))


def role_of(swarm: Swarm, name: str) -> str | None:
    """The role that the coordinator's ledger gives this peer."""
    peer = swarm.statuses[name]["peer"]
    roles = {member["peer"]: member["role"] for member in swarm.statuses[COORDINATOR]["members"]}
    return roles.get(peer)


def train_seconds(swarm: Swarm, name: str) -> float:
    """The processor time that this worker's trainer has had."""
    return sum(psutil.Process(swarm.statuses[name]["training"]["pid"]).cpu_times()[:2])


def test_a_paused_worker_votes_and_does_not_train(swarm: Swarm) -> None:
    assert atoll(swarm, "pause", "w4") == 0
    swarm.until(lambda: role_of(swarm, "w4") == "paused", ROUND_S, "a commit that says so")
    assert swarm.statuses["w4"]["paused"]
    swarm.until(lambda: swarm.fresh["w4"]["phase"] in ("paused", "voting"), ROUND_S, "its rest")
    spent_s = train_seconds(swarm, "w4")
    height = swarm.statuses["w4"]["height"]
    wait_updates(swarm, 3)
    assert train_seconds(swarm, "w4") - spent_s < 0.1
    ledger = read_ledger(swarm.children[COORDINATOR].state_dir, Key.generate())
    without = [c for c in ledger.commits if c.body.round > height and c.body.kind is Kind.UPDATE]
    assert not any(swarm.statuses["w4"]["peer"] in commit.body.counted for commit in without)
    assert any(swarm.statuses["w4"]["peer"] in dict(commit.votes) for commit in without)
    assert all(commit.view == 0 for commit in without)
    assert wait_same(swarm)


def test_a_pause_outlives_a_restart(swarm: Swarm) -> None:
    swarm.kill("w4")
    join(swarm, "w4", Told.invite)
    with slow_training(swarm, "w4"):
        swarm.until(lambda: "w4" in swarm.fresh, START_S, "its status")
    swarm.until(lambda: swarm.fresh.get("w4", {}).get("phase") in ("paused", "voting"), START_S, "its rest")
    height = swarm.statuses["w4"]["height"]
    swarm.until(lambda: swarm.statuses["w4"]["height"] > height, ROUND_S, "a round that it follows")
    assert swarm.statuses["w4"]["paused"]
    assert swarm.statuses["w4"]["training"]["step"] == 0


def test_it_resumes_and_contributes(swarm: Swarm) -> None:
    assert atoll(swarm, "resume", "w4") == 0
    swarm.until(lambda: contributes(swarm, "w4"), ROUND_S, "a contribution")
    assert role_of(swarm, "w4") == "worker"
    assert wait_same(swarm)


def test_a_lost_majority_stops_the_run(swarm: Swarm) -> None:
    for name in LOST:
        swarm.kill(name)
    swarm.look()
    swarm.until(
        lambda: all(swarm.fresh.get(name, {}).get("view", 0) >= QUIET_VIEWS for name in LEFT),
        ROUND_S,
        f"a round that has come to view {QUIET_VIEWS}",
    )
    Told.height = max(swarm.statuses[name]["height"] for name in LEFT)
    members = swarm.statuses[COORDINATOR]["members"]
    assert len(members) == len(WORKERS) + 1


def test_the_researcher_goes_on_with_who_is_left(swarm: Swarm) -> None:
    w1 = swarm.statuses["w1"]["peer"]
    assert atoll(swarm, "recover", COORDINATOR, "--keep", w1[-10:], "--yes") == 0
    swarm.until(lambda: all(swarm.fresh[n]["epoch"] == 1 for n in LEFT), ROUND_S, "epoch 1")
    assert len(swarm.statuses["w1"]["members"]) == len(LEFT)
    wait_updates(swarm, 2)
    assert wait_same(swarm)
    recovery = read_ledger(swarm.children["w1"].state_dir, Key.generate()).commit(Told.height + 1)
    assert (recovery.body.kind, recovery.body.epoch) == (Kind.RECOVERY, 1)


def test_one_that_was_killed_follows_into_the_epoch(swarm: Swarm) -> None:
    join(swarm, "w2", Told.invite)
    with slow_training(swarm, "w2"):
        swarm.until(lambda: "w2" in swarm.fresh, START_S, "its status")
    swarm.until(lambda: contributes(swarm, "w2"), START_S, "a contribution of the one that came back")
    assert swarm.statuses["w2"]["epoch"] == 1
    assert wait_same(swarm)
    ledgers = [read_ledger(swarm.children[n].state_dir, Key.generate()) for n in (*LEFT, "w2")]
    shared = min(ledger.height for ledger in ledgers)
    assert len({ledger.digest_of_round(shared) for ledger in ledgers}) == 1
