"""An auditor measures in its own trainer: what was trained is told from noise, and nothing is disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import CONFIG, DEADLINE_S

from atoll.node.audits import FILE, Audits
from atoll.node.blobs import BlobStore
from atoll.node.disk import STATES_AUDITED, STATES_KEPT, Disk
from atoll.node.numbers import Numbers
from atoll.node.training import Training
from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol.ids import BlobRef, PeerId, digest_of
from atoll.protocol.manifest import Assignment, Manifest
from atoll.workload import model as models
from atoll.workload import vector
from atoll.workload.config import ModelConfig

STEPS, ROUND = 20, 4
WORKER, RIDER = PeerId("worker"), PeerId("rider")
MODEL = ModelConfig.from_mapping(CONFIG.model, "[model]")
UNIT = replace(CONFIG, inner={**CONFIG.inner, "steps": STEPS, "learning_rate": 1e-2, "state": "unit"})


class Auditor:
    """A node's side of an audit: the real trainer, disk, store and numbers."""

    def __init__(self, folder: Path) -> None:
        self.loop, self.worker = asyncio.new_event_loop(), ThreadPoolExecutor(1)
        self.folder = folder
        numel = vector.numel(models.build(MODEL))
        blobs = tuple(BlobRef(digest_of(name), 4 * numel) for name in (b"anchor", b"momentum"))
        self.numbers = Numbers(Manifest("a run", "nobody", numel, blobs, Assignment(STEPS, STEPS * 256)))
        vector.write(models.build(MODEL), self.numbers.anchor)
        self.training = Training(UNIT, self.numbers, self.worker, lambda event: None)
        self.disk, self.store = Disk(folder), BlobStore(1 << 30)
        self.state = self.numbers.state(ROUND - 1)
        self.disk.save_state(ROUND - 1, "run", self.numbers.anchor, self.numbers.momentum)
        self.run(self.training.start(None))
        self.audits = Audits(self.training, self.numbers, self.disk, self.store, self.worker)

    def run(self, awaited: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(awaited, DEADLINE_S))

    def trained(self) -> torch.Tensor:
        """The pseudo-gradient of the worker's round."""
        trainer = self.training.trainer
        assert trainer is not None
        self.run(trainer.train(ROUND, STEPS, 1, 3, ROUND * STEPS))
        return trainer.shared.delta.clone()

    def sent(self, delta: torch.Tensor) -> tuple[BlobRef, ...]:
        """In two parts, as an exchange of two owners has it."""
        payloads = self.numbers.encode(ROUND, delta.clone(), 2)
        self.numbers.missed(ROUND, "drop", False)
        return tuple(self.store.put(payload, round=ROUND, kind="contribution") for payload in payloads)

    def close(self) -> None:
        self.run(self.training.close())
        self.worker.shutdown()
        self.disk.close()
        self.loop.close()


@pytest.fixture(scope="module")
def auditor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Auditor]:
    found = Auditor(tmp_path_factory.mktemp("auditor"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def work(auditor: Auditor) -> torch.Tensor:
    return auditor.trained()


@pytest.fixture(scope="module")
def order(auditor: Auditor, work: torch.Tensor) -> a.Audit:
    noise = torch.randn(work.shape, generator=torch.Generator().manual_seed(0))
    steps = tuple(range(0, STEPS, 2))
    works = tuple(
        a.Audited(peer, auditor.sent(delta), (1, 3), steps)
        for peer, delta in ((WORKER, work), (RIDER, noise * (3 * work.norm() / noise.norm())))
    )
    return a.Audit(ROUND, auditor.state.anchor, works)


def on_time() -> bool:
    return False


def test_who_trained_gains_more_on_its_own_steps(
    auditor: Auditor, order: a.Audit, work: torch.Tensor
) -> None:
    told = auditor.run(auditor.audits.audit(order, on_time))
    assert told.round == ROUND
    worker, rider = told.falls
    assert (worker.target, rider.target) == (WORKER, RIDER)
    assert worker.heldout > 100_000
    assert worker.assigned - worker.control > 20_000
    assert abs(rider.assigned - rider.control) < (worker.assigned - worker.control) / 2
    assert not (auditor.folder / FILE).exists()
    assert torch.equal(auditor.trained(), work), "the next round begins as if nobody had looked"
    again = auditor.run(auditor.audits.audit(order, on_time))
    assert again == told


def test_a_contribution_counts_as_far_as_the_clip_leaves_it(auditor: Auditor, order: a.Audit) -> None:
    first, second = auditor.audits._factors(order)
    assert first == pytest.approx(0.7)
    assert second == pytest.approx(0.7 * 2 / 3, rel=0.02), "three times as long, where the median is twice"


def test_nothing_is_measured_where_the_anchor_is_another_or_gone(auditor: Auditor, order: a.Audit) -> None:
    other = replace(order, anchor=digest_of(b"other"))
    early = replace(order, round=ROUND - 1)
    for wrong in (other, early):
        assert auditor.run(auditor.audits.audit(wrong, on_time)) == e.Scored(wrong.round, ())


def test_an_audit_ends_when_it_is_too_late_or_the_machine_rests(auditor: Auditor, order: a.Audit) -> None:
    assert auditor.run(auditor.audits.audit(order, lambda: True)).falls == ()
    asked = iter([False, True])
    assert len(auditor.run(auditor.audits.audit(order, lambda: next(asked))).falls) == 1
    auditor.training.rest(True)
    assert auditor.run(auditor.audits.audit(order, on_time)).falls == ()
    auditor.training.rest(False)


def test_an_audit_waits_until_the_trainer_is_idle(auditor: Auditor, order: a.Audit) -> None:
    async def story() -> list[str]:
        said: list[str] = []

        async def audit() -> None:
            await auditor.audits.audit(order, on_time)
            said.append("audited")

        async with auditor.training.machine:
            task = asyncio.ensure_future(audit())
            trainer = auditor.training.trainer
            assert trainer is not None
            await trainer.train(ROUND, STEPS, 1, 3, ROUND * STEPS)
            said.append("trained")
        await task
        return said

    assert auditor.run(story()) == ["trained", "audited"]


def test_a_blob_that_is_gone_ends_the_audit_and_not_the_node(auditor: Auditor, order: a.Audit) -> None:
    lost = replace(order.works[1], parts=(BlobRef(digest_of(b"lost"), 5), *order.works[1].parts[1:]))
    told = auditor.run(auditor.audits.audit(replace(order, works=(lost,)), on_time))
    assert told.falls == ()


def test_the_states_that_audits_begin_from_stay_on_disk(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for kept in (STATES_KEPT, STATES_AUDITED):
        disk.states_kept = kept
        for round_ in range(1, 8):
            disk.save_state(round_, "run", torch.zeros(4), torch.zeros(4))
        assert [state.round for state in disk.states()] == list(range(7, 7 - kept, -1))
    disk.close()
