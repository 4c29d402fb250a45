"""An auditor's measurements: between two rounds, from the anchor on disk, one contribution after the other.

The trainer measures, as it has the model and the data; it does nothing else meanwhile, and an audit waits
until it is idle. A vector goes to it as a file, which mostly never leaves the system's memory.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from statistics import median
from typing import Any

import structlog
import torch

from atoll.node.blobs import BlobStore
from atoll.node.disk import Disk, StateFile
from atoll.node.numbers import Numbers
from atoll.node.trainer import TrainerDied
from atoll.node.training import Training
from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol.audit import clamped
from atoll.protocol.errors import ConfigError
from atoll.protocol.fragments import anchor_digest
from atoll.protocol.ids import BlobRef, digest_of

FILE = "audited.f32"
log = structlog.get_logger("atoll.audits")


class Audits:
    """Measures what it is asked to, one order at a time; feeds `Scored` back."""

    def __init__(
        self, training: Training, numbers: Numbers, disk: Disk, store: BlobStore, worker: Executor
    ) -> None:
        self._training, self._numbers, self._disk = training, numbers, disk
        self._store, self._worker = store, worker
        self.seconds = 0.0

    async def audit(self, order: a.Audit, late: Callable[[], bool]) -> e.Scored:
        """Falls of loss of what there was time for: none where the anchor is not here any more."""
        falls: list[e.Fall] = []
        began_s = asyncio.get_running_loop().time()
        try:
            anchor = await self._do(self._anchor, order)
            if anchor is not None:
                factors = await self._do(self._factors, order)
                async with self._training.machine:
                    began_s = asyncio.get_running_loop().time()
                    for work, factor in zip(order.works, factors, strict=True):
                        if late() or self._training.rests:
                            break
                        falls.append(await self._fall(order.round, anchor, work, factor))
        except (TrainerDied, OSError, ConfigError) as error:
            log.warning("an audit ends early", round=order.round, reason=str(error))
        finally:
            self._path.unlink(missing_ok=True)
        took_s = asyncio.get_running_loop().time() - began_s
        self.seconds += took_s
        log.info(
            "audited", round=order.round, measured=len(falls), of=len(order.works), seconds=round(took_s, 2)
        )
        return e.Scored(order.round, tuple(falls))

    @property
    def _path(self) -> Path:
        return self._disk.folder / FILE

    async def _do(self, function: Callable[..., Any], *given: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *given)

    async def _fall(self, round_: int, anchor: StateFile, work: a.Audited, factor: float) -> e.Fall:
        await self._do(self._write, work, factor)
        trainer = self._training.trainer
        assert trainer is not None
        told = await trainer.falls(anchor.path, anchor.offsets[0], self._path, round_, work.shard, work.steps)
        return e.Fall(work.target, *map(clamped, told))

    # ---- in the worker thread -------------------------------------------------------------------

    def _anchor(self, order: a.Audit) -> StateFile | None:
        """The file of the state before the round, if it still is on disk and just what the commit says."""
        found = next((file for file in self._disk.states() if file.round < order.round), None)
        if found is None:
            return None
        size = 4 * self._numbers.numel
        with (
            found.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages,
            memoryview(pages) as view,
        ):
            refs = tuple(BlobRef(digest_of(view[at : at + size]), size) for at in found.offsets)
        return found if anchor_digest(refs) == order.anchor else None

    def _factors(self, order: a.Audit) -> list[float]:
        """How much of each contribution an update of it alone would take: as the clip leaves it."""
        outer = self._numbers.outer
        if outer.clip != "median":
            return [outer.learning_rate] * len(order.works)
        lengths = [float(torch.linalg.vector_norm(self._vector(work))) for work in order.works]
        usual = median(lengths)
        return [outer.learning_rate * min(1.0, usual / max(length, 1e-30)) for length in lengths]

    def _write(self, work: a.Audited, factor: float) -> None:
        step = self._vector(work).mul_(factor)
        step.numpy().astype("<f4", copy=False).tofile(self._path)

    def _vector(self, work: a.Audited) -> torch.Tensor:
        payloads = [self._store.get(ref.digest) for ref in work.parts]
        if None in payloads:
            raise ConfigError("a contribution is held no more", "audit", "a store with room")
        return self._numbers.decoded(payloads)  # type: ignore[arg-type]
