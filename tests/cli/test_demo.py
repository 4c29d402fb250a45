"""The demo's judgement, and its processes. That the whole demo works is for tests/swarm to show."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from atoll.cli.demo import children, results
from atoll.cli.demo.evidence import Evidence, broken, lower_bound, same_anchor, undisturbed, victim
from atoll.cli.demo.script import Script
from atoll.coordinator import runfile

KEPT = Evidence(
    seconds=60.0,
    rounds=12,
    loss_first=5.5,
    loss_last=2.7,
    anchor_digests={"a": "00", "b": "00"},
    identical=True,
    killed=("c",),
    joined=("b",),
    bytes_per_peer_round=102.0,
    bytes_lower_bound=100.0,
    export="/model",
    plot="/loss.png",
)


def test_a_demo_that_keeps_its_promises() -> None:
    assert broken(KEPT, 12) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rounds": 11}, "11 of 12 rounds"),
        ({"identical": False}, "anchors"),
        ({"killed": ()}, "killed"),
        ({"joined": ()}, "joined"),
        ({"loss_last": 3.7}, "held-out loss"),
        ({"loss_last": float("nan")}, "held-out loss"),
        ({"loss_first": None}, "held-out loss"),
        ({"bytes_per_peer_round": 105.1}, "bytes"),
        ({"bytes_per_peer_round": None}, "bytes"),
        ({"export": None}, "export"),
        ({"plot": None}, "loss curve"),
    ],
)
def test_each_broken_promise_is_named(change: dict[str, Any], said: str) -> None:
    missing = broken(dataclasses.replace(KEPT, **change), 12)
    assert len(missing) == 1
    assert said in missing[0]


def commit(
    round_: int, contributors: str, members: int = 3, view: int = 0, sent: int = 100
) -> dict[str, Any]:
    return {
        "round": round_,
        "kind": "update" if contributors else "skip",
        "contributors": list(contributors),
        "members": members,
        "view": view,
        "sent_bytes": sent,
    }


def test_only_undisturbed_rounds_are_counted() -> None:
    commits = [
        commit(1, "", sent=1),  # counted since this peer's start
        commit(2, "ab", sent=10),
        commit(3, "a", sent=2),  # b missed it
        commit(4, "ab", view=1, sent=3),  # a second leader
        commit(5, "ab", sent=4),  # after a second leader
        commit(6, "ab", members=4, sent=5),  # somebody joins
        commit(7, "ab", members=4, sent=6),  # the joiner is on probation
        commit(8, "abc", members=4, sent=20),
        commit(9, "bc", members=4, sent=7),
    ]
    status = {"peer": "a", "commits": commits}
    assert undisturbed([status], witnesses=1) == {2: [10], 3: [20]}
    assert undisturbed([{"peer": "w", "commits": commits}], witnesses=1) == {}


def test_the_lower_bound_is_the_issues() -> None:
    assert lower_bound(1000, workers=4, witnesses=1) == 1750


def test_anchors_are_the_same_only_after_the_same_round() -> None:
    assert same_anchor([{"anchor_round": 3, "anchor_digest": "x"}] * 2)
    assert not same_anchor([{"anchor_round": 3, "anchor_digest": d} for d in "xy"])
    assert not same_anchor([{"anchor_round": r, "anchor_digest": "x"} for r in (3, 4)])
    assert not same_anchor([{"anchor_round": 3, "anchor_digest": None}] * 2)


def status(phase: str, leads: bool = False, round_: int = 3, role: str = "worker") -> dict[str, Any]:
    return {"role": role, "phase": phase, "leads": leads, "round": round_}


def test_the_victim_is_the_leader_while_it_decides() -> None:
    peers = {"a": status("exchanging"), "b": status("exchanging", leads=True), "c": status("training")}
    found = victim(peers, 3, 4)
    assert found is not None
    assert found[0] == "b"


def test_the_victim_is_an_owner_where_no_worker_leads_or_time_runs_out() -> None:
    witness = status("voting", leads=True, role="witness")
    assert victim({"w": witness, "a": status("exchanging")}, 3, 4) is not None
    waiting = {"a": status("exchanging"), "b": status("offered", leads=True)}
    assert victim(waiting, 3, 4) is None
    assert victim(waiting, 3, 3) is not None


def test_nobody_is_killed_outside_of_an_exchange_or_in_another_round() -> None:
    for peers in (
        {"a": status("training", leads=True)},
        {"a": status("exchanging", leads=True, round_=5)},
        {"a": status("exchanging", leads=True, round_=2)},
        {"w": status("voting", leads=True, role="witness")},
    ):
        assert victim(peers, 3, 4) is None


def test_the_demos_run_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "RUN.toml").write_text(Script(rounds=20).run_toml)
    run = runfile.read(tmp_path / "RUN.toml")
    assert (run.rules.rounds, run.rules.start_workers, run.outer.codec) == (20, 4, "int8")
    assert run.inner.total_steps == 20 * run.inner.steps


def test_the_plot_is_a_png(tmp_path: Path) -> None:
    losses = [{"round": 0, "loss": 5.5}, {"round": 1, "loss": 4.0}]
    results.draw(losses, {"peer1 killed": 1}, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_child_is_a_process_of_its_own_that_ends_when_told(tmp_path: Path) -> None:
    child = children.start("one", tmp_path, ["key", "show"])
    assert child.process.wait(30) == 2
    assert "there is no key" in child.last_words()
    children.stop([child])
    assert not child.alive


SLEEPER = "import time; time.sleep(600)"
OWNER = f"""\
import sys, time
from pathlib import Path
from atoll.cli.demo import children
children._TIED = children._TIED.replace('"-m", "atoll.cli.main"', '"-c", "{SLEEPER}"')
print(children.start("one", Path(sys.argv[1]), []).process.pid, flush=True)
time.sleep(600)
"""


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end_s = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_no_child_outlives_a_demo_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            pid = int(owner.stdout.readline())
            until(lambda: psutil.Process(pid).cmdline()[1:3] == ["-c", SLEEPER])
        finally:
            os.kill(owner.pid, signal.SIGKILL)
    until(lambda: gone(pid))
