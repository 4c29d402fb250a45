"""Attacks: each does what it says, and on real training some rules bear what a plain mean does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from atoll.simulator.timing import attacks, text
from atoll.simulator.timing.attacks import ATTACKS, Defence, Field, Seen, trained
from atoll.simulator.timing.learner import Learner

ROOT = Path(__file__).resolve().parent.parent.parent
WORKERS, ROUNDS = 8, 4


@pytest.fixture(scope="module")
def learner() -> Iterator[Learner]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Learner(text.load("iid", WORKERS, 0, bytes_max=200_000), 0)
    torch.set_num_threads(before)


def seen(attackers: int = 2, honest: int = 6) -> Seen:
    draws = np.random.default_rng(0)
    own, others = (draws.standard_normal((n, 50)).astype(np.float32) for n in (attackers, honest))
    return Seen(own, others, lambda: 7 * own, np.full(50, 0.5, np.float32), draws)


def test_attacks_send_what_they_say() -> None:
    known = seen()
    assert (attacks.sign_flip(known) == -4 * known.own).all()
    assert (attacks.scaled(known) == 50 * known.own).all()
    assert (attacks.labels(known) == 7 * known.own).all()
    lengths = np.linalg.norm(attacks.gaussian(known), axis=1)
    assert lengths == pytest.approx(10 * np.median(np.linalg.norm(known.honest, axis=1)), rel=1e-5)
    assert attacks.free_ride(known) == pytest.approx(np.full((2, 50), 0.5), abs=0.1)
    assert {attack(seen()).shape for attack in ATTACKS.values()} == {(2, 50)}


def test_a_small_bias_is_within_what_honest_ones_differ_by() -> None:
    known = seen()
    bias = attacks.small_bias(known)
    assert (bias[0] == bias[1]).all()
    off = np.abs(bias[0] - known.honest.mean(0)) / known.honest.std(0)
    assert 0 < off.max() < 1.5
    assert ((bias[0] > known.honest.min(0)) & (bias[0] < known.honest.max(0))).mean() > 0.9


def loss_of(learner: Learner, attack: str, defence: Defence, attackers: int = 2) -> float | None:
    return trained(learner, Field(WORKERS, attackers, 2, rounds=ROUNDS), attack, defence, 0)


def test_a_plain_mean_goes_uphill_and_krum_does_not(learner: Learner) -> None:
    clean = loss_of(learner, "none", Defence("mean", clip=False), attackers=0)
    plain = loss_of(learner, "sign_flip", Defence("mean", clip=False))
    robust = loss_of(learner, "sign_flip", Defence("multi-krum"))
    assert clean is not None
    assert robust is not None
    assert robust < 1.05 * clean
    assert plain is None or plain > 1.5 * clean


def test_poisoned_labels_teach_something_else(learner: Learner) -> None:
    """If all learn the wrong labels, the loss on right ones is worse than guessing."""
    found = trained(learner, Field(WORKERS, WORKERS - 1, 0, rounds=ROUNDS), "labels", Defence("mean"), 0)
    assert found is not None
    assert found > np.log(text.VOCABULARY)


@pytest.mark.long
def test_the_benchmark(tmp_path: Path) -> None:
    plot = tmp_path / "attacks.png"
    script = str(ROOT / "benchmarks" / "attacks.py")
    options = ["--json", "--shares", "0.25", "--rounds", "1", "--plot", str(plot)]
    done = subprocess.run(
        [sys.executable, script, *options], capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(done.stdout)
    assert found["attacks"] == list(ATTACKS)
    assert len(found["rows"]) == len(found["rules"]) * len(ATTACKS)
    assert {row["rule"] for row in found["rows"]} == set(found["rules"])
    assert plot.read_bytes().startswith(b"\x89PNG")
