"""A breakpoint stops the one process that comes to it, with a real SIGSTOP, and none without a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from atoll.node.breakpoints import ARMED, HIT, Place, step_of_action, step_of_event
from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol import messages as m
from atoll.protocol.commits import Body, Commit, Kind, Snapshot
from atoll.protocol.ids import BlobRef, Digest, PeerId

REF = BlobRef(Digest("0" * 64), 8)
BODY = Body(Digest("1" * 64), 7, Digest("2" * 64), Kind.SKIP, Digest("3" * 64), (), ())
COMMIT = Commit(BODY, 0, ())
SNAPSHOT = Snapshot(9, 0, Digest("4" * 64), 8, ())
LEADER, WORKER = Place("p", 7, 0, "leader"), Place("p", 7, 0, "worker")

COME = """\
import sys
from pathlib import Path
from atoll.node import breakpoints
from atoll.protocol import events as e
found = breakpoints.Breakpoints(Path(sys.argv[1]))
breakpoints.place = lambda peer: breakpoints.Place("p", 7, 0, sys.argv[2])
found.arrive(None, e.Trained(7, 1, 1))
print("went on", flush=True)
"""


@pytest.mark.parametrize(
    ("action", "place", "step"),
    [
        (a.Send(("q",), m.Plan(7, 0, 1, (), ())), LEADER, "plan"),
        (a.Fetch(REF, (), "contribution"), WORKER, "scatter"),
        (a.Aggregate(7, 0, 1, 0, 2, ()), WORKER, "reduce"),
        (a.Fetch(REF, (), "result"), WORKER, "gather"),
        (a.Send(("q",), m.Propose(7, 0, BODY)), LEADER, "propose"),
        (a.Send(("q",), m.Vote(7, 0, Digest("1" * 64), b"")), WORKER, "vote"),
        (a.Persist(a.Committed(COMMIT)), WORKER, "commit"),
        (a.Persist(a.Committed(COMMIT)), LEADER, None),  # on disk first, struck before it tells
        (a.Send(("q",), m.Commits(8, (COMMIT,), 7)), LEADER, "commit"),
        (a.Send(("q",), m.Commits(8, (COMMIT,), 7)), WORKER, None),
        (a.Send(("q",), m.Commits(8, (), 9, SNAPSHOT)), LEADER, None),
        (a.Forget(3), WORKER, None),
    ],
)
def test_the_step_of_an_action(action: Any, place: Place, step: str | None) -> None:
    assert step_of_action(action, place) == step


def test_the_step_of_an_event() -> None:
    sender = PeerId("q")
    assert step_of_event(e.Trained(7, 1, 1)) == "offer"
    assert step_of_event(e.Received(sender, m.Held(7, 0, 0, ()))) == "scatter"
    assert step_of_event(e.Received(sender, m.Reduced(7, 0, 1, 0, REF))) == "reduce"
    assert step_of_event(e.Received(sender, m.Alive(7, 0, 1))) is None
    assert step_of_event(e.Found(())) is None


def come(folder: Path, role: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COME, str(folder), role]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_only_who_comes_in_the_armed_role_stops(tmp_path: Path) -> None:
    (tmp_path / ARMED).write_text(json.dumps({"step": "offer", "role": "leader"}))
    with come(tmp_path, "worker") as other:
        assert other.communicate(timeout=60)[0] == "went on\n"
    with come(tmp_path, "leader") as process:
        _, state = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(state)
        hit = json.loads((tmp_path / HIT).read_text())
        assert (hit["pid"], hit["step"], hit["role"], hit["round"]) == (process.pid, "offer", "leader", 7)
        with come(tmp_path, "leader") as second:  # the breakpoint is taken
            assert second.communicate(timeout=60)[0] == "went on\n"
        process.kill()
