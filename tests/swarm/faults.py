"""Strikes at exact steps of a round: five real processes, real signals, and what the others lose by it.

One process stops itself where a breakpoint tells it to (`atoll.node.breakpoints`); then it is killed, thawed
once the others have decided the round without it, or killed and started anew at once. Lost time is counted
in deadlines that expired at the others, so a slow machine changes no verdict.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT
from typing import Any

import psutil
from story import COORDINATOR, DIRECT, LIBP2P, ROUND_S, START_S, Anchors, Status, join, start_coordinator

from atoll.cli import places
from atoll.cli.demo.swarm import Swarm
from atoll.node.breakpoints import ARMED, HIT, TAKEN
from atoll.node.disk import read_ledger
from atoll.protocol.keys import Key

WORKERS = ("w1", "w2", "w3", "w4")
FAULTS = ("kill", "freeze", "restart")
HIT_S, POLL_S = 60.0, 0.002

RUN = """\
[run]
name = "faults"
rounds = 100_000

[model]
architecture = "llama"
[model.config]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 64
tie_word_embeddings = true

[data]
source = "stdlib"
sequence_tokens = 32
bytes_max = 200_000

[inner]
steps = 8
batch_sequences = 2
learning_rate = 1e-3
warmup_steps = 10
total_steps = 100_000

[rounds]
start_workers = 4
owners_max = 2
grace_ms_min = 300
deadline_ms = 4_000
retry_ms = 300
lease_ms = 8_000
missed_max = 2
keep_rounds = 64

[coordinator]
listen = "127.0.0.1:0"
dht_listen = ["/ip4/127.0.0.1/tcp/0"]
evaluate_windows = 0
"""


@dataclass(frozen=True, slots=True)
class Strike:
    """What happens to whom at which step."""

    step: str
    role: str
    fault: str

    def __str__(self) -> str:
        return f"{self.fault} the {self.role} at {self.step}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a strike cost. `deadlines_lost` counts views, of any round until all were back, whose leader
    somebody else waited for in vain; `seconds` are until the others had committed the round, `back_seconds`
    until the victim contributed again."""

    strike: Strike
    victim: str
    round: int
    view: int
    decided_view: int
    deadlines_lost: int
    seconds: float
    back_seconds: float | None


class FaultSwarm(Swarm):
    """A coordinator and four workers, all breakable. A frozen process is not asked how it is."""

    def __init__(self, folder: Path, breakpoints: Path) -> None:
        super().__init__(folder, Anchors())
        self.breakpoints = breakpoints
        self.frozen: str | None = None
        self.invite = ""

    @property
    def living(self) -> list[str]:
        return [name for name in super().living if name != self.frozen]

    def close(self) -> None:
        if self.frozen is not None:
            self.thaw()
        super().close()

    def kill(self, name: str) -> None:
        super().kill(name)
        if self.frozen == name:
            self.frozen = None

    def thaw(self) -> None:
        assert self.frozen is not None
        self.children[self.frozen].process.send_signal(SIGCONT)
        self.frozen = None

    def restart(self, name: str) -> None:
        """Start a process, or start a killed one again from its directory."""
        if name == COORDINATOR:
            start_coordinator(self)
        else:
            join(self, name, self.invite, LIBP2P if name == "w4" else DIRECT)


@contextmanager
def slow_training(swarm: Swarm, but: str) -> Iterator[None]:
    """Let the inner steps of the others take longer than the block, as real ones do.

    Rounds of half a second leave a process that starts no processor on a small machine.
    """
    trainers = [
        psutil.Process(status["training"]["pid"])
        for name, status in swarm.fresh.items()
        if name != but and status["training"]
    ]
    for trainer in trainers:
        trainer.suspend()
    try:
        yield
    finally:
        for trainer in trainers:
            trainer.resume()


@contextmanager
def fault_swarm(folder: Path) -> Iterator[FaultSwarm]:
    """Five processes that have made their first update; all end with the block."""
    breakpoints = folder / "breakpoints"
    breakpoints.mkdir(parents=True)
    os.environ["ATOLL_BREAKPOINTS"] = str(breakpoints)
    swarm = FaultSwarm(folder, breakpoints)
    try:
        (folder / "RUN.toml").write_text(RUN)
        start_coordinator(swarm)
        state_dir = swarm.children[COORDINATOR].state_dir
        swarm.until(lambda: places.invite(state_dir) is not None, START_S, "the invite")
        swarm.invite = places.invite(state_dir) or ""
        for name in WORKERS:
            swarm.restart(name)
        swarm.until(lambda: all_back(swarm), START_S, "all five in one round")
        yield swarm
    finally:
        swarm.close()
        del os.environ["ATOLL_BREAKPOINTS"]


# ---- what the swarm has come to ----------------------------------------------------------------------


def all_back(swarm: FaultSwarm) -> bool:
    """Whether all five are members that keep up, and the newest updates hold every worker's contribution."""
    statuses = [swarm.fresh.get(name) for name in (COORDINATOR, *WORKERS)]
    if not all(status and any(member["you"] for member in status["members"]) for status in statuses):
        return False
    known = [status for status in statuses if status]
    heights = [status["height"] for status in known]
    if max(heights) - min(heights) > 1 or any(status["phase"] == "catching up" for status in known):
        return False
    newest = next((c for c in reversed(known[0]["commits"]) if c["kind"] == "update"), None)
    return newest is not None and {s["peer"] for s in known[1:]} <= set(newest["contributors"])


def height(swarm: FaultSwarm, names: Iterable[str]) -> int:
    """How far all of these are."""
    return min((swarm.statuses[name]["height"] for name in names), default=0)


def deadlines_lost(statuses: Iterable[Status], first: int) -> int:
    """Views of rounds from `first` on that somebody waited for until the deadline; each counts once."""
    lost = {
        (commit["round"], view)
        for status in statuses
        for commit in status["commits"]
        if commit["round"] >= first
        for view in commit["expired_views"]
    }
    return len(lost)


def one_history(swarm: FaultSwarm) -> int:
    """The number of rounds that all ledgers on disk share; AssertionError if two decided one differently."""
    verifier = Key.generate()
    read = [read_ledger(child.state_dir, verifier).commits for child in swarm.children.values()]
    ledgers = [[commit.body.digest for commit in commits] for commits in read]
    shared = min(map(len, ledgers))
    for ledger in ledgers:
        assert ledger[:shared] == ledgers[0][:shared], "two ledgers differ"
    return shared


# ---- a strike ----------------------------------------------------------------------------------------


def strike(swarm: FaultSwarm, planned: Strike, back: bool = True) -> Outcome:
    """Strike, and wait until the others have decided the round, then until the victim contributes again.

    Without `back` a killed process stays away, and the others only have to go on without it.
    """
    hit = _hit(swarm, planned)
    victim = next(name for name, child in swarm.children.items() if child.process.pid == hit["pid"])
    others = [name for name in swarm.children if name != victim]
    began_s, round_ = time.monotonic(), hit["round"]
    swarm.frozen = victim
    swarm.note(f"{planned}: {victim}, round {round_}, view {hit['view']}")
    if planned.fault != "freeze":
        swarm.kill(victim)
    if planned.fault == "restart":
        swarm.restart(victim)
    swarm.until(lambda: height(swarm, others) >= round_, ROUND_S, "the end of the round that was struck")
    decided_s = time.monotonic() - began_s
    if planned.fault == "kill":
        swarm.until(lambda: _updated(swarm, others, round_), ROUND_S, "an update without the victim")
    if back:
        _bring_back(swarm, planned.fault, victim)
        swarm.until(
            lambda: all_back(swarm) and _updated(swarm, [victim], round_), START_S, f"an update with {victim}"
        )
    known = [swarm.statuses[name] for name in others]
    decided = max(c["view"] for status in known for c in status["commits"] if c["round"] == round_)
    lost = deadlines_lost(known, round_)
    back_s = time.monotonic() - began_s if back else None
    return Outcome(planned, victim, round_, hit["view"], decided, lost, decided_s, back_s)


def _bring_back(swarm: FaultSwarm, fault: str, victim: str) -> None:
    if fault == "freeze":
        swarm.thaw()
        return
    if fault == "kill":
        swarm.restart(victim)
    with slow_training(swarm, victim):
        swarm.until(lambda: victim in swarm.fresh, START_S, f"the status of {victim}")


def _updated(swarm: FaultSwarm, names: Iterable[str], after_round: int) -> bool:
    """Whether each of these has seen an update of a later round."""
    return all(
        any(c["kind"] == "update" and c["round"] > after_round for c in swarm.statuses[name]["commits"])
        for name in names
    )


def _hit(swarm: FaultSwarm, planned: Strike) -> dict[str, Any]:
    """Arm the breakpoint and wait until somebody has stopped at it."""
    for name in (TAKEN, HIT):
        (swarm.breakpoints / name).unlink(missing_ok=True)
    unfinished = swarm.breakpoints / "arming"
    unfinished.write_text(json.dumps({"step": planned.step, "role": planned.role}))
    os.replace(unfinished, swarm.breakpoints / ARMED)
    end_s = time.monotonic() + HIT_S
    while time.monotonic() < end_s:
        if (swarm.breakpoints / HIT).exists():
            hit: dict[str, Any] = json.loads((swarm.breakpoints / HIT).read_text())
            if psutil.Process(hit["pid"]).status() == psutil.STATUS_STOPPED:
                return hit
        time.sleep(POLL_S)
    raise AssertionError(f"nobody came to it: {planned}")
