"""A small swarm of real processes for the tests: the demo's own, with a smaller model and more rounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from atoll.cli import boundary, places
from atoll.cli.demo.swarm import Swarm
from atoll.cli.main import app

Status = dict[str, Any]
EFFORT = ("--effort", "0.2")
"""Rounds of half a second would leave processes that start no processor on a small machine."""
DIRECT = ("--listen", "127.0.0.1:0", *EFFORT)
LIBP2P = ("--libp2p-only", *EFFORT)
COORDINATOR = "coordinator"
START_S, ROUND_S = 120.0, 60.0

RUN = """\
[run]
name = "swarm-test"
rounds = {rounds}

[model]
architecture = "llama"
[model.config]
hidden_size = 64
intermediate_size = 176
num_hidden_layers = 2
num_attention_heads = 4
max_position_embeddings = 128
tie_word_embeddings = true

[data]
source = "stdlib"
sequence_tokens = 64
bytes_max = 500_000

[inner]
steps = {steps}
batch_sequences = 4
learning_rate = 3e-3
warmup_steps = 10
total_steps = 2000

[rounds]
start_workers = {workers}
grace_ms_min = 300
deadline_ms = 5_000
lease_ms = 4_000
missed_max = 2
{rules}
[coordinator]
listen = "127.0.0.1:0"
dht_listen = ["/ip4/127.0.0.1/tcp/0"]
evaluate_windows = 0
"""


class Anchors:
    """Every anchor digest that any peer was seen with; two for one round are a split history."""

    def __init__(self) -> None:
        self.of_round: dict[int, str] = {}

    def __call__(self, swarm: Swarm) -> None:
        for name, status in swarm.fresh.items():
            if status["anchor_round"] is not None:
                seen = self.of_round.setdefault(status["anchor_round"], status["anchor_digest"])
                assert seen == status["anchor_digest"], f"{name} has another anchor {status['anchor_round']}"


def publish(swarm: Swarm, *, rounds: int, steps: int, workers: int, rules: str = "") -> str:
    """Start the coordinator; its invite. `rules` are further lines of [rounds]."""
    run_file: Path = swarm.folder / "RUN.toml"
    run_file.write_text(RUN.format(rounds=rounds, steps=steps, workers=workers, rules=rules))
    start_coordinator(swarm)
    state_dir = swarm.children[COORDINATOR].state_dir
    swarm.until(lambda: places.invite(state_dir) is not None, START_S, "the invite")
    invite = places.invite(state_dir)
    assert invite is not None
    return invite


def start_coordinator(swarm: Swarm) -> None:
    swarm.killed.pop(COORDINATOR, None)
    swarm.start(COORDINATOR, "coordinator", str(swarm.folder / "RUN.toml"))


def join(swarm: Swarm, name: str, invite: str, reach: tuple[str, ...] = DIRECT) -> None:
    """Start a worker, or start it again from its state directory."""
    swarm.killed.pop(name, None)
    swarm.start(name, "join", invite, "--dht-listen", "/ip4/127.0.0.1/tcp/0", *reach)


def atoll(swarm: Swarm, verb: str, name: str, *arguments: str) -> int:
    """A verb, told to one daemon, in this process."""
    command = [verb, "--state", str(swarm.children[name].state_dir), *arguments]
    return boundary.run(lambda: app(command, prog_name="atoll", standalone_mode=False))


def role_of(swarm: Swarm, name: str) -> str | None:
    """The role that the coordinator's ledger gives this peer."""
    peer = swarm.statuses.get(name, {}).get("peer")
    roles = {member["peer"]: member["role"] for member in swarm.statuses[COORDINATOR]["members"]}
    return roles.get(peer)


def train_seconds(swarm: Swarm, name: str) -> float:
    """The processor time that this worker's trainer has had."""
    return sum(psutil.Process(swarm.statuses[name]["training"]["pid"]).cpu_times()[:2])


def updates(swarm: Swarm) -> int:
    return max((status["updates"] for status in swarm.fresh.values()), default=0)


def wait_updates(swarm: Swarm, more: int) -> None:
    """Until `more` updates were committed from now on."""
    swarm.look()
    wanted = updates(swarm) + more
    swarm.until(lambda: updates(swarm) >= wanted, ROUND_S + 20 * more, f"{more} more updates")


def wait_same(swarm: Swarm) -> str:
    """Until all living peers were seen at one height with one anchor; that digest."""
    found: list[str] = []

    def same() -> bool:
        states = {(s["anchor_round"], s["anchor_digest"]) for s in swarm.fresh.values()}
        if len(swarm.fresh) == len(swarm.living) and len(states) == 1:
            found.append(states.pop()[1])
        return bool(found)

    swarm.until(same, ROUND_S, "one anchor on every living peer", fast=True)
    return found[0]


def catch(swarm: Swarm, which: Callable[[Status], bool], what: str) -> str:
    """Until some living worker's fresh status is as wanted; its name."""
    found: list[str] = []

    def one() -> bool:
        found.extend(n for n, s in swarm.fresh.items() if s["role"] == "worker" and which(s))
        return bool(found)

    swarm.until(one, ROUND_S, what, fast=True)
    return found[0]


def contributes(swarm: Swarm, name: str) -> bool:
    """Whether the newest update that anybody tells of holds a contribution of this peer."""
    peer = swarm.statuses.get(name, {}).get("peer")
    commits = [c for s in swarm.fresh.values() for c in s["commits"] if c["kind"] == "update"]
    newest = max(commits, key=lambda commit: commit["round"], default=None)
    return newest is not None and peer in newest["contributors"]
