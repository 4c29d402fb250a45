"""Audits of real training: riders send what they say, auditors tell them from those that trained."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from atoll.protocol import audit
from atoll.protocol.audit import AuditRules
from atoll.simulator.timing import text
from atoll.simulator.timing.attacks import Field
from atoll.simulator.timing.audits import RIDERS, Audit, Run, Work
from atoll.simulator.timing.learner import NUMEL, Learner, Unit

ROOT = Path(__file__).resolve().parent.parent.parent
WORKERS, ROUNDS = 8, 10
RULES = AuditRules(auditors=3, targets=6, memory=8)


@pytest.fixture(scope="module")
def learner() -> Iterator[Learner]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Learner(text.load("iid", WORKERS, 0, bytes_max=400_000), 0)
    torch.set_num_threads(before)


def run(learner: Learner, rider: str, stretch: int = 0, riders: int = 2, liars: int = 0) -> Run:
    given = Run(
        learner, Field(WORKERS, riders, riders, rounds=ROUNDS), rider, 0, Audit(RULES, stretch=stretch), liars
    )
    given.trained()
    return given


def values(given: Run) -> list[float]:
    return [given.known.get(peer, audit.FOUNDER).value / audit.UNIT for peer in given.peers]


def work(learner: Learner) -> Work:
    anchor = learner.first()
    units = [Unit(worker, 3, 8) for worker in range(6)]
    honest = np.stack(list(learner.deltas(anchor, units[:4]).values()))
    return Work(learner, anchor, units[4:], honest, 2 * honest, honest[0], np.random.default_rng(0))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def test_riders_send_what_they_say(learner: Learner) -> None:
    known = work(learner)
    sent = {name: rider(known) for name, rider in RIDERS.items()}
    assert {each.shape for each in sent.values()} == {(2, NUMEL)}
    assert not sent["zeros"].any()
    for one in sent["copy"]:
        assert max(cosine(one, honest) for honest in known.honest) > 0.99
        assert not any((one == honest).all() for honest in known.honest)
    assert max(cosine(sent["stale"][0], before) for before in known.before) > 0.99
    assert cosine(sent["mean"][0], known.honest.mean(0)) > 0.99
    assert cosine(sent["last update"][0], known.update) > 0.99
    assert abs(cosine(sent["noise"][0], known.honest[0])) < 0.1
    own = learner.deltas(known.anchor, known.units)
    assert 0.2 < cosine(sent["other data"][0], own[known.units[0]]) < 0.9
    usual = np.median(np.linalg.norm(known.honest, axis=1))
    assert np.linalg.norm(sent["quarter"], axis=1) == pytest.approx([usual, usual], rel=1e-4)


def test_riders_lose_their_weight_and_workers_keep_theirs(learner: Learner) -> None:
    found = values(run(learner, "copy"))
    assert min(found[:6]) > 0.6
    assert max(found[6:]) < 0.45


@pytest.mark.long
def test_a_replay_finds_out_who_did_a_part_of_the_work(learner: Learner) -> None:
    found = values(run(learner, "quarter", stretch=2))
    assert min(found[:6]) > 0.7
    assert max(found[6:]) < 0.3


def test_wrong_labels_fail_by_the_heldout_loss(learner: Learner) -> None:
    found = values(run(learner, "labels"))
    assert min(found[:6]) > 0.5
    assert max(found[6:]) < 0


@pytest.mark.long
def test_liars_among_the_auditors_lose_their_say(learner: Learner) -> None:
    found = values(run(learner, "copy", stretch=2, liars=1))
    assert min(found[:6]) > 0.5
    assert max(found[6:]) < 0.3


@pytest.mark.long
def test_the_benchmark_prints_one_line_and_riders_end_with_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "audits.py"), "--quick", "--json", "--riders", "copy"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) == 4
    for row in rows:
        assert row["honest"] > 0.8
        # One of five may have been lucky lately; where work is replayed luck does not help.
        assert row.get("riders", 0) < (0.01 if row["replay"] else 0.1) * row["honest"]
