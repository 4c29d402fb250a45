"""The demo from its first process to its last commit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.cli import places
from atoll.cli.demo.evidence import same_anchor, victim
from atoll.cli.demo.script import COORDINATOR, JOINER, Script
from atoll.cli.demo.swarm import Swarm

Status = Mapping[str, Any]

LOOPBACK = ("--listen", "127.0.0.1:0", "--dht-listen", "/ip4/127.0.0.1/tcp/0")


def play(script: Script, swarm: Swarm) -> None:
    """Run the swarm to its last round. Raises PromiseBroken when it stands still; ends no process."""
    invite = _publish(script, swarm)
    for number in range(1, script.workers + 1):
        swarm.start(f"peer{number}", "join", invite, *LOOPBACK)
    swarm.until(lambda: _height(swarm) >= 1, script.start_s + script.silence_s, "the first commit")
    _kill(script, swarm)
    wanted = _height(swarm) + script.join_after
    swarm.until(lambda: _height(swarm) >= wanted, script.silence_s, "commits without the killed peer")
    swarm.start(JOINER, "join", invite, *LOOPBACK)
    left_s = script.patience_s - swarm.seconds
    swarm.until(lambda: _joined(swarm) or _finished(swarm), left_s, "the late peer among the members")
    if _joined(swarm):
        swarm.note(f"{JOINER} has caught up and is a member")
    left_s = max(script.silence_s / 3, script.patience_s - swarm.seconds)
    swarm.until(lambda: _finished(swarm), left_s, "the last round, and the same anchor on every peer")
    swarm.note(f"{_coordinator(swarm)['updates']} updates, the same anchor on {len(swarm.living)} peers")


def _publish(script: Script, swarm: Swarm) -> str:
    """Start the coordinator; the invite that it prints."""
    run_file: Path = swarm.folder / "RUN.toml"
    run_file.write_text(script.run_toml)
    swarm.start(COORDINATOR, "coordinator", str(run_file))
    state_dir = swarm.children[COORDINATOR].state_dir
    swarm.until(lambda: places.invite(state_dir) is not None, script.start_s, "the coordinator's invite")
    invite = places.invite(state_dir)
    assert invite is not None
    return invite


def _kill(script: Script, swarm: Swarm) -> None:
    """Find a worker that leads or owns a part at this moment, and kill it."""
    near = script.kill_from - 1
    swarm.until(lambda: _height(swarm) >= near - 1, script.silence_s, f"round {near}")
    swarm.until(
        lambda: _victim(script, swarm) is not None or _height(swarm) >= script.kill_by,
        script.silence_s,
        f"a peer to kill by round {script.kill_by}",
        fast=True,
    )
    found = _victim(script, swarm)
    if found is not None:
        name, why = found
        swarm.kill(name)
        swarm.note(f"{name} killed (SIGKILL): it {why}")


def _victim(script: Script, swarm: Swarm) -> tuple[str, str] | None:
    return victim(swarm.fresh, script.kill_from, script.kill_by)


def _coordinator(swarm: Swarm) -> Status:
    return swarm.statuses.get(COORDINATOR, {})


def _height(swarm: Swarm) -> int:
    return max((status["height"] for status in swarm.statuses.values()), default=0)


def _joined(swarm: Swarm) -> bool:
    """Whether the late peer is a member and holds the state of the last commit that it knows of."""
    status = swarm.statuses.get(JOINER)
    if status is None or not any(member["you"] for member in status["members"]):
        return False
    return status["anchor_round"] is not None and status["phase"] not in ("joining", "catching up")


def _finished(swarm: Swarm) -> bool:
    """Whether every living peer has the last update, and the coordinator has evaluated it."""
    living = [swarm.statuses[name] for name in swarm.living if name in swarm.statuses]
    if len(living) < len(swarm.living) or not all(_complete(status) for status in living):
        return False
    last = _coordinator(swarm)
    evaluated = last["evaluation"] and last["evaluation"][-1]["round"] == last["anchor_round"]
    return bool(evaluated) and same_anchor(living)


def _complete(status: Status) -> bool:
    """Whether a peer has committed the last update, and applied it."""
    return status["updates"] >= status["rounds_total"] and status["anchor_round"] == status["height"]
