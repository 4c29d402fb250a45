"""Real processes that exchange sparse contributions: no owner sums them up, each peer does."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import RUN
from story import (
    COORDINATOR,
    ROUND_S,
    START_S,
    Anchors,
    contributes,
    join,
    start_coordinator,
    updates,
    wait_same,
    wait_updates,
)

from atoll.cli import places
from atoll.cli.demo.swarm import Swarm
from atoll.node.disk import read_ledger
from atoll.protocol.commits import Kind
from atoll.protocol.keys import Key

pytestmark = [pytest.mark.long, pytest.mark.swarm, pytest.mark.timeout(300)]
WORKERS = ("w1", "w2")
FRAGMENTS = 2
RULES = f"""exchange = "sparse"
fragments = {FRAGMENTS}
overlap = 1
[outer]
codec = "topk"
feedback = 0.95
"""


def start(swarm: Swarm) -> None:
    """Coordinator and workers, until the newest update is of all."""
    run = RUN.replace("start_workers = 4", f"start_workers = {len(WORKERS)}")
    (swarm.folder / "RUN.toml").write_text(run.replace("[coordinator]", f"{RULES}[coordinator]"))
    start_coordinator(swarm)
    state_dir = swarm.children[COORDINATOR].state_dir
    swarm.until(lambda: places.invite(state_dir) is not None, START_S, "the invite")
    invite = places.invite(state_dir) or ""
    for name in WORKERS:
        join(swarm, name, invite)
    swarm.until(lambda: updates(swarm) >= 1, START_S, "the first update")
    swarm.until(lambda: all(contributes(swarm, name) for name in WORKERS), ROUND_S, "an update of all")


def test_a_sparse_run_trains_through_the_death_of_a_worker(tmp_path: Path) -> None:
    swarm = Swarm(tmp_path, Anchors())
    try:
        start(swarm)
        swarm.kill("w2")
        swarm.until(lambda: not contributes(swarm, "w2"), ROUND_S, "an update without the killed worker")
        wait_updates(swarm, FRAGMENTS)
        assert wait_same(swarm)
        ledgers = [read_ledger(child.state_dir, Key.generate()) for child in swarm.children.values()]
    finally:
        swarm.close()
    shared = min(ledger.height for ledger in ledgers)
    assert len({ledger.digest_of_round(shared) for ledger in ledgers}) == 1
    done = [commit.body for commit in ledgers[0].commits if commit.body.kind is Kind.UPDATE]
    assert {body.round % FRAGMENTS for body in done} == set(range(FRAGMENTS))
    assert all(len(body.blobs) == len(body.contributors) for body in done), "nobody sums contributions up"
