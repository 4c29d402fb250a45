"""One swarm of real processes that loses, freezes and regains its peers; every anchor seen must agree.

The tests are one story in order: coordinator and three workers over loopback, real libp2p and gRPC. They
train in fragments, one round ahead of the ledger (test_faults_at_each_phase.py: the whole vector). At last
one rests, a majority is killed for good, and the researcher goes on with who is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import grpc
import psutil
import pytest
from faults import slow_training
from story import (
    COORDINATOR,
    DIRECT,
    LIBP2P,
    ROUND_S,
    START_S,
    Anchors,
    atoll,
    catch,
    contributes,
    join,
    publish,
    role_of,
    start_coordinator,
    train_seconds,
    updates,
    wait_same,
    wait_updates,
)

from atoll.cli import places
from atoll.cli.demo.swarm import Swarm
from atoll.coordinator.rpc import control_pb2 as rpc
from atoll.coordinator.rpc.control_pb2_grpc import ControlStub
from atoll.node.disk import read_ledger
from atoll.protocol.commits import Commit, Kind
from atoll.protocol.keys import Key

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]
WORKERS = ("w1", "w2", "w3")
FRAGMENTS = 3
STREAMING = f"fragments = {FRAGMENTS}\noverlap = 1\n"
LOST, LEFT = ("w2", "w3"), (COORDINATOR, "w1")
QUIET_VIEWS = 3
BUSY = ("exchanging", "voting")


class Told:
    """What the story hands from one test to the next."""

    invite = ""
    victim = ""
    height = 0


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    swarm = Swarm(tmp_path_factory.mktemp("swarm"), Anchors())
    try:
        Told.invite = publish(swarm, rounds=10_000, steps=12, workers=len(WORKERS), rules=STREAMING)
        for name in WORKERS:
            join(swarm, name, Told.invite, LIBP2P if name == "w3" else DIRECT)
        swarm.until(lambda: updates(swarm) >= 1, START_S, "the first update")
        yield swarm
    finally:
        swarm.close()


def test_all_train_and_agree(swarm: Swarm) -> None:
    wait_updates(swarm, 2)
    assert wait_same(swarm)
    members = next(iter(swarm.fresh.values()))["members"]
    assert [m["role"] for m in members].count("worker") == len(WORKERS)
    wait_updates(swarm, FRAGMENTS)
    ledger = read_ledger(swarm.children[COORDINATOR].state_dir, Key.generate())
    done = [commit.body for commit in ledger.commits if commit.body.kind is Kind.UPDATE]
    assert {body.round % FRAGMENTS for body in done} == set(range(FRAGMENTS))


def test_a_trainer_that_was_killed_trains_on(swarm: Swarm) -> None:
    pid = swarm.statuses["w2"]["training"]["pid"]
    os.kill(pid, signal.SIGKILL)
    swarm.until(lambda: swarm.fresh["w2"]["training"]["pid"] != pid, START_S, "another trainer")
    swarm.until(lambda: contributes(swarm, "w2"), START_S, "a contribution of what it trained")
    assert wait_same(swarm)


def test_bytes_stay_at_the_lower_bound(swarm: Swarm) -> None:
    """Undisturbed rounds on direct addresses; this model is small, so what is not payload weighs more."""
    wait_updates(swarm, 1)
    status = swarm.statuses["w1"]
    calm = [c for c in status["commits"] if c["view"] == 0 and len(c["contributors"]) == len(WORKERS)]
    assert calm
    payload = min(c["bytes"]["contribution"]["sent"] + c["bytes"]["result"]["sent"] for c in calm)
    assert payload <= 1.05 * status["bytes_lower_bound"]


def test_the_leader_is_killed_during_the_exchange(swarm: Swarm) -> None:
    victim = catch(swarm, lambda s: s["leads"] and s["phase"] in BUSY, "a leader in its exchange")
    swarm.kill(victim)
    Told.victim = victim
    wait_updates(swarm, 2)
    assert wait_same(swarm)


def test_the_killed_node_resumes_from_its_checkpoint(swarm: Swarm) -> None:
    state_dir = swarm.children[Told.victim].state_dir
    before = max(int(p.stem.split("-")[1]) for p in state_dir.glob("state-*.safetensors"))
    assert before > 0
    ledger = (state_dir / "ledger.log").read_bytes()
    peer = swarm.killed[Told.victim]
    join(swarm, Told.victim, Told.invite, LIBP2P if Told.victim == "w3" else DIRECT)
    swarm.until(lambda: contributes(swarm, Told.victim), START_S, "a contribution of the resumed node")
    assert (state_dir / "ledger.log").read_bytes().startswith(ledger)
    assert swarm.statuses[Told.victim]["peer"] == peer
    assert wait_same(swarm)


def test_training_goes_on_without_the_coordinator(swarm: Swarm) -> None:
    swarm.kill("coordinator")
    wait_updates(swarm, 3)
    assert wait_same(swarm)
    start_coordinator(swarm)
    swarm.until(lambda: "coordinator" in swarm.fresh, START_S, "the coordinator's status")
    height = max(s["height"] for s in swarm.fresh.values())
    swarm.until(
        lambda: swarm.fresh.get("coordinator", {}).get("anchor_round", 0) >= height,
        ROUND_S,
        "its catching up",
    )
    swarm.until(
        lambda: any(m["you"] for m in swarm.fresh.get("coordinator", {}).get("members", [])),
        ROUND_S,
        "the coordinator among the members",
    )
    assert wait_same(swarm)
    Told.invite = (swarm.children["coordinator"].state_dir / "invite").read_text().strip()


def test_a_frozen_worker_costs_no_round(swarm: Swarm) -> None:
    frozen = swarm.children["w2"].process
    frozen.send_signal(signal.SIGSTOP)
    try:
        peers = [name for name in swarm.living if name != "w2"]
        height = max(swarm.fresh[name]["height"] for name in peers if name in swarm.fresh)
        swarm.until(
            lambda: (
                max(swarm.fresh[n]["updates"] for n in peers if n in swarm.fresh) > 0
                and all(swarm.fresh[n]["height"] >= height + 2 for n in peers if n in swarm.fresh)
            ),
            ROUND_S,
            "two rounds without the frozen worker",
        )
    finally:
        frozen.send_signal(signal.SIGCONT)
    swarm.until(lambda: contributes(swarm, "w2"), ROUND_S, "a contribution of the thawed worker")
    assert wait_same(swarm)


def test_garbage_is_refused_with_a_reason(swarm: Swarm, tmp_path: Path) -> None:
    from garbage import GarbagePeer

    before = sum(swarm.statuses["w1"]["rejected"].values())
    reasons = asyncio.run(GarbagePeer(tmp_path, Told.invite).pester(swarm.statuses["w1"]["peer"]))
    assert "not signed" in reasons["unsigned"]
    assert "signature" in reasons["mis-signed"]
    assert "not a message" in reasons["truncated"]
    assert "at most" in reasons["oversized"]
    assert "another run" in reasons["other run"]
    assert "not the caller's" in reasons["another's envelope"] or "caller" in reasons["another's envelope"]
    wait_updates(swarm, 1)
    assert sum(swarm.statuses["w1"]["rejected"].values()) >= before + 3
    assert wait_same(swarm)


def test_the_control_api_tells_the_run_and_its_ledger(swarm: Swarm) -> None:
    state_dir = swarm.children["coordinator"].state_dir
    with grpc.insecure_channel(f"unix:{places.socket_of(state_dir)}") as channel:
        control = ControlStub(channel)
        run = control.Run(rpc.AboutRun(), timeout=5)
        assert run.invite == Told.invite
        assert json.loads(run.manifest)["name"] == "swarm-test"
        checkpoint = control.Checkpoint(rpc.AboutCheckpoint(), timeout=5)
        assert Path(checkpoint.path).name == f"state-{checkpoint.round}.safetensors"
        commits = [json.loads(text) for text in control.Ledger(rpc.AboutLedger(), timeout=5).commits]
    assert [commit["round"] for commit in commits] == list(range(1, len(commits) + 1))
    assert all(b["parent"] == a["digest"] for a, b in pairwise(commits))
    updates = [commit for commit in commits if commit["kind"] == "update"]
    assert all(sum(c["weight"] for c in commit["contributors"]) > 0 for commit in updates)


def test_a_paused_worker_votes_and_does_not_train(swarm: Swarm) -> None:
    assert atoll(swarm, "pause", "w2") == 0
    swarm.until(lambda: role_of(swarm, "w2") == "paused", ROUND_S, "a commit that says so")
    assert swarm.statuses["w2"]["paused"]
    swarm.until(lambda: swarm.fresh["w2"]["phase"] in ("paused", "voting"), ROUND_S, "its rest")
    spent_s = train_seconds(swarm, "w2")
    height = swarm.statuses["w2"]["height"]
    wait_updates(swarm, 3)
    assert train_seconds(swarm, "w2") - spent_s < 0.1
    me, folder = swarm.statuses["w2"]["peer"], swarm.children[COORDINATOR].state_dir

    def without() -> list[Commit]:
        commits = read_ledger(folder, Key.generate()).commits
        return [c for c in commits if c.body.round > height and c.body.kind is Kind.UPDATE]

    assert not any(me in commit.body.counted for commit in without())
    swarm.until(lambda: any(me in dict(commit.votes) for commit in without()), ROUND_S, "its vote in time")
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
    assert len(swarm.statuses[COORDINATOR]["members"]) == len(WORKERS) + 1


def test_the_researcher_goes_on_with_who_is_left(swarm: Swarm) -> None:
    w1 = swarm.statuses["w1"]["peer"]
    assert atoll(swarm, "recover", COORDINATOR, "--keep", w1[-10:], "--yes") == 0
    swarm.until(lambda: all(swarm.fresh[n]["epoch"] == 1 for n in LEFT), ROUND_S, "epoch 1")
    assert len(swarm.statuses["w1"]["members"]) == len(LEFT)
    wait_updates(swarm, 2)
    assert wait_same(swarm)
    recovery = read_ledger(swarm.children["w1"].state_dir, Key.generate()).commit(Told.height + 1)
    assert (recovery.body.kind, recovery.body.epoch) == (Kind.RECOVERY, 1)


def test_one_that_was_killed_follows_into_the_epoch_and_still_rests(swarm: Swarm) -> None:
    join(swarm, "w2", Told.invite)
    with slow_training(swarm, "w2"):
        swarm.until(lambda: swarm.fresh.get("w2", {}).get("phase") == "joining", START_S, "its catching up")
    assert swarm.fresh["w2"]["epoch"] == 1
    swarm.until(lambda: role_of(swarm, "w2") == "paused", ROUND_S, "its being a member")
    assert swarm.statuses["w2"]["training"]["step"] == 0
    assert atoll(swarm, "resume", "w2") == 0
    swarm.until(lambda: contributes(swarm, "w2"), START_S, "a contribution of the one that came back")
    assert wait_same(swarm)
    ledgers = [read_ledger(swarm.children[n].state_dir, Key.generate()) for n in (*LEFT, "w2")]
    shared = min(ledger.height for ledger in ledgers)
    assert len({ledger.digest_of_round(shared) for ledger in ledgers}) == 1


def test_everything_ends_when_told(swarm: Swarm) -> None:
    pids = [swarm.children[name].process.pid for name in swarm.living]
    family = {child.pid for pid in pids for child in psutil.Process(pid).children(recursive=True)}
    assert family
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    codes = {name: swarm.children[name].process.wait(30) for name in swarm.living}
    assert set(codes.values()) == {0}, codes
    _, alive = psutil.wait_procs([psutil.Process(p) for p in family if psutil.pid_exists(p)], timeout=10)
    assert not alive
