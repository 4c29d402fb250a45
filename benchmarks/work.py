"""Tokens lost to waiting where workers are fast, half and a quarter as fast: equal work, and work by speed.

    python benchmarks/work.py --json

A coordinator and three workers, real processes over loopback. Two of the trainers are stopped and let go
again ten times a second, so that they train for a half and a quarter of the time. Every round waits for all
(quorum 1), in fragments and one round ahead, so that no exchange is waited for: what is lost is lost to the
slowest. `waiting_share` is sum(speed * time not in inner steps) / sum(speed * time), with speeds 4 : 2 : 1,
over `rounds` updates after some to settle; `steps` are what the workers are assigned in the end. The bound
for equal work is 1 - (1 + 1 + 1) / (4 + 2 + 1) = 0.571: everybody does as much as the slowest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atoll.cli import places
from atoll.cli.demo.swarm import Swarm

RUN = """\
[run]
name = "work"
rounds = 100000
[model]
architecture = "llama"
[model.config]
hidden_size = 96
intermediate_size = 256
num_hidden_layers = 3
num_attention_heads = 4
max_position_embeddings = 128
tie_word_embeddings = true
[data]
source = "stdlib"
sequence_tokens = 128
bytes_max = 2_000_000
[inner]
steps = {steps}
batch_sequences = 2
total_steps = 100000
warmup_steps = 10
[outer]
clip = "none"
[rounds]
start_workers = 3
quorum = 1.0
fragments = 2
overlap = 1
deadline_ms = 60_000
lease_ms = 20_000
work = "{work}"
[coordinator]
listen = "127.0.0.1:0"
dht_listen = ["/ip4/127.0.0.1/tcp/0"]
evaluate_windows = 0
"""
SPEEDS = {"w1": 4, "w2": 2, "w3": 1}
KINDS = ("equal", "by-speed")
PERIOD_S = 0.1
START_S, ROUND_S = 180.0, 120.0
EQUAL_BOUND = 1 - len(SPEEDS) * min(SPEEDS.values()) / sum(SPEEDS.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="that are measured, for each kind of work")
    parser.add_argument("--settle", type=int, default=6, help="rounds before those")
    parser.add_argument("--steps", type=int, default=48, help="inner steps of a round")
    parser.add_argument("--work", choices=KINDS, action="append", help="one of them; without it both")
    parser.add_argument("--json", action="store_true", help="one line")
    given = parser.parse_args()
    result: dict[str, Any] = {"speeds": SPEEDS, "equal_bound": round(EQUAL_BOUND, 3)}
    for work in given.work or KINDS:
        result[work] = measure(work, given.steps, given.settle, given.rounds)
        print(f"{work}: {result[work]}", file=sys.stderr, flush=True)
    print(json.dumps(result, indent=None if given.json else 1))


def measure(work: str, steps: int, settle: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="atoll-work-") as folder:
        swarm = Swarm(Path(folder), lambda swarm: None)
        try:
            _start(swarm, RUN.format(steps=steps, work=work))
            with _slowed(swarm):
                _rounds(swarm, settle)
                before = _spent(swarm)
                _rounds(swarm, rounds)
                after = _spent(swarm)
            return {"rounds": rounds, **_shares(before, after), "steps": _assigned(swarm)}
        finally:
            swarm.close()


def _shares(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    wall_s = {name: after[name]["at_s"] - before[name]["at_s"] for name in SPEEDS}
    busy = {name: (after[name]["steps_s"] - before[name]["steps_s"]) / wall_s[name] for name in SPEEDS}
    lost = sum(speed * (1 - busy[name]) for name, speed in SPEEDS.items()) / sum(SPEEDS.values())
    return {
        "waiting_share": round(lost, 4),
        "busy": {name: round(share, 4) for name, share in busy.items()},
        "seconds": round(max(wall_s.values()), 1),
    }


@contextlib.contextmanager
def _slowed(swarm: Swarm) -> Iterator[None]:
    """Stop the slow trainers for their share of every tenth of a second; at the end they all go on."""
    pids = {swarm.statuses[name]["training"]["pid"]: speed for name, speed in SPEEDS.items() if speed < 4}
    over = threading.Event()

    def drive(pid: int, share: float) -> None:
        while not over.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                time.sleep(PERIOD_S * share)
                os.kill(pid, signal.SIGSTOP)
            time.sleep(PERIOD_S * (1 - share))

    threads = [threading.Thread(target=drive, args=(pid, speed / 4)) for pid, speed in pids.items()]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _start(swarm: Swarm, run: str) -> None:
    (swarm.folder / "RUN.toml").write_text(run)
    swarm.start("coordinator", "coordinator", str(swarm.folder / "RUN.toml"))
    state_dir = swarm.children["coordinator"].state_dir
    swarm.until(lambda: places.invite(state_dir) is not None, START_S, "the invite")
    for worker in SPEEDS:
        swarm.start(worker, "join", places.invite(state_dir) or "", "--dht-listen", "/ip4/127.0.0.1/tcp/0")
    swarm.until(lambda: _updates(swarm) >= 1, START_S, "the first update")


def _updates(swarm: Swarm) -> int:
    return max((status["updates"] for status in swarm.fresh.values()), default=0)


def _rounds(swarm: Swarm, count: int) -> None:
    swarm.look()
    wanted = _updates(swarm) + count
    swarm.until(lambda: _updates(swarm) >= wanted, count * ROUND_S, f"{count} more updates")


def _spent(swarm: Swarm) -> dict[str, dict[str, float]]:
    swarm.look()
    return {name: dict(swarm.statuses[name]["training"]["spent"]) for name in SPEEDS}


def _assigned(swarm: Swarm) -> dict[str, int]:
    names = {swarm.statuses[name]["peer"]: name for name in SPEEDS}
    members = swarm.statuses["w1"]["members"]
    return {names[member["peer"]]: member["steps"] for member in members if member["peer"] in names}


if __name__ == "__main__":
    main()
