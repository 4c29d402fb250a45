"""One swarm of real processes that loses, freezes and regains its peers; every anchor seen must agree.

The tests are one story in order: coordinator and three workers over loopback, real libp2p and gRPC.
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
from story import (
    DIRECT,
    LIBP2P,
    ROUND_S,
    START_S,
    Anchors,
    catch,
    contributes,
    join,
    publish,
    start_coordinator,
    updates,
    wait_same,
    wait_updates,
)

from atoll.cli import places
from atoll.cli.demo.swarm import Swarm
from atoll.coordinator.rpc import control_pb2 as rpc
from atoll.coordinator.rpc.control_pb2_grpc import ControlStub

pytestmark = [pytest.mark.swarm, pytest.mark.timeout(300)]
WORKERS = ("w1", "w2", "w3")
BUSY = ("exchanging", "voting")


class Told:
    """What the story hands from one test to the next."""

    invite = ""
    victim = ""


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    swarm = Swarm(tmp_path_factory.mktemp("swarm"), Anchors())
    try:
        Told.invite = publish(swarm, rounds=10_000, steps=12, workers=len(WORKERS))
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
