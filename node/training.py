"""The daemon's side of training: one trainer process, one contribution at a time, and what becomes of it.

The protocol says `Train`, `Encode` and later `Settle`. Between them lie a trainer that may die, a round that
may be over before the trainer is done, and an encoding that takes a while; whatever the order, each round's
pseudo-gradient is offered once, and what no update took goes into the residual (or is dropped, by rule).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch

from atoll.node.blobs import BlobStore
from atoll.node.numbers import Numbers
from atoll.node.trainer import Progress, Trainer, TrainerConfig, TrainerDied, TrainResult
from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol.errors import ConfigError
from atoll.protocol.ids import BlobRef

RESTARTS_MAX = 20
log = structlog.get_logger("atoll.training")


@dataclass(frozen=True, slots=True)
class Contribution:
    """What was encoded for a round, until the round says what became of it."""

    round: int
    payloads: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Pending:
    """A pseudo-gradient that was handed over and is not encoded yet."""

    round: int
    delta: torch.Tensor


class Training:
    """Runs the newest `Train`; feeds `Progress` and `Trained` back."""

    def __init__(
        self,
        config: TrainerConfig,
        numbers: Numbers,
        store: BlobStore,
        worker: Executor,
        feed: Callable[[e.Event], None],
    ) -> None:
        self._config, self._numbers, self._store = config, numbers, store
        self._worker, self._feed = worker, feed
        self.trainer: Trainer | None = None
        self.progress: Progress | None = None
        self.round = 0
        self.steps = 0
        self.loss: float | None = None
        self.inner_path: Path | None = None
        self._wanted: tuple[a.Train, int] | None = None
        self._wake = asyncio.Event()
        self._pending: Pending | None = None
        self._contribution: Contribution | None = None
        self._settled: dict[int, a.Settle] = {}
        self._restarts = 0
        self._running = 0
        self._rests = False
        self.task: asyncio.Task[None] | None = None

    async def start(self, inner: Path | None) -> None:
        """Start the trainer process; ConfigError if the run's model or data cannot be had here."""
        self.inner_path = inner
        self.trainer = await Trainer.start(self._config, self._on_progress)
        if self.trainer.numel != self._numbers.numel:
            what = (
                f"the model has {self.trainer.numel} parameters here, {self._numbers.numel} in the manifest"
            )
            await self.trainer.close()
            raise ConfigError(what, "[model]", "the transformers version that the researcher uses")
        if inner is not None and inner.exists():
            try:
                await self.trainer.load_inner(inner)
            except ConfigError as error:
                log.warning("the inner optimiser starts anew", reason=str(error))
        self.task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})
        if self.trainer is not None:
            await self.trainer.close()

    # ---- what the protocol wants ----------------------------------------------------------------

    def train(self, train: a.Train, first_step: int) -> None:
        """Train this round next; one still running is cut short and its work kept for later."""
        self._wanted = (train, first_step)
        self._wake.set()
        self._cut_short(train.round)

    def settle(self, settle: a.Settle) -> None:
        """Learn what became of a round; it may still be in training."""
        self._settled = {settle.round: settle}
        self._cut_short(settle.round + 1)
        pending, contribution = self._pending, self._contribution
        if pending is not None and pending.round == settle.round:
            self._pending = None
        if contribution is not None and contribution.round == settle.round:
            self._contribution = None
            self._in_worker(self._settle_contribution, contribution, settle)
        elif pending is not None and pending.round == settle.round:
            self._in_worker(self._numbers.carry, pending.delta, settle.late)

    def rest(self, on: bool) -> None:
        """Leave the machine to its owner after the inner step in progress, or go on.

        What was trained of the round by then is handed over as it is; nothing new begins before the rest
        is over.
        """
        self._rests = on
        if not on:
            self._wake.set()
        elif self.trainer is not None and self._running:
            self.trainer.stop_early()

    def _cut_short(self, before_round: int) -> None:
        if self.trainer is not None and 0 < self._running < before_round:
            self.trainer.stop_early()

    def _settle_contribution(self, contribution: Contribution, settle: a.Settle) -> None:
        if settle.included:
            self._numbers.accepted(contribution.payloads)
        else:
            self._numbers.missed(settle.late)

    def _in_worker(self, function: Callable[..., None], *args: object) -> None:
        future = asyncio.get_running_loop().run_in_executor(self._worker, function, *args)
        future.add_done_callback(
            lambda done: done.exception() and log.error("lost", error=repr(done.exception()))
        )

    # ---- the loop -------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._rests or self._wanted is None:
                continue
            wanted, self._wanted = self._wanted, None
            try:
                await self._round(*wanted)
            except TrainerDied as error:
                await self._restart(error, wanted)

    async def _round(self, train: a.Train, first_step: int) -> None:
        trainer, loop = self.trainer, asyncio.get_running_loop()
        assert trainer is not None
        await loop.run_in_executor(self._worker, trainer.anchor.copy_, self._numbers.anchor)
        self.round, self.steps, self.progress = train.round, train.steps, None
        if train.round in self._settled:
            return
        if self._rests:
            self._wanted = self._wanted or (train, first_step)
            return
        index, count = train.shard
        self._running = train.round
        try:
            result = await trainer.train(train.round, train.steps, index, count, first_step)
        finally:
            self._running = 0
        if self._rests and not result.tokens:
            self._wanted = self._wanted or (train, first_step)
            return
        await self._hand_over(train, result)
        if self.inner_path is not None:
            await trainer.save_inner(self.inner_path)

    async def _hand_over(self, train: a.Train, result: TrainResult) -> None:
        trainer, loop = self.trainer, asyncio.get_running_loop()
        assert trainer is not None
        if not result.finite or not result.tokens:
            log.warning(
                "nothing to contribute", round=train.round, finite=result.finite, tokens=result.tokens
            )
            return
        self.loss = result.mean_loss
        if late := self._settled.get(train.round):
            await loop.run_in_executor(self._worker, self._numbers.carry, trainer.delta, late.late)
            return
        self._pending = Pending(train.round, trainer.delta)
        self._feed(e.Trained(train.round, result.tokens, result.steps))

    async def encode(self, order: a.Encode) -> None:
        """Encode what was handed over, unless its round is over; the round may end meanwhile."""
        pending = self._pending
        if pending is None or pending.round != order.round:
            return
        self._pending, loop = None, asyncio.get_running_loop()
        encode = self._numbers.encode
        try:
            payloads = tuple(await loop.run_in_executor(self._worker, encode, pending.delta, order.parts))
        except ValueError as error:
            log.warning("nothing to contribute", round=order.round, reason=str(error))
            return
        contribution = Contribution(order.round, payloads)
        if late := self._settled.get(order.round):
            self._in_worker(self._settle_contribution, contribution, late)
            return
        self._contribution = contribution
        parts: tuple[BlobRef, ...] = tuple(
            self._store.put(payload, round=order.round, kind="contribution") for payload in payloads
        )
        self._feed(e.Encoded(order.round, parts))

    async def _restart(self, error: TrainerDied, wanted: tuple[a.Train, int]) -> None:
        """Start the trainer again from the anchor, and train the same round unless a newer one waits."""
        self._restarts += 1
        log.error("the trainer died; it starts again", status=error.returncode, restarts=self._restarts)
        if self._restarts > RESTARTS_MAX:
            raise ConfigError(f"the trainer died {self._restarts} times", "trainer", "see trainer.log")
        await asyncio.sleep(min(30.0, 0.2 * 2 ** min(self._restarts, 8)))
        self.trainer = await Trainer.start(self._config, self._on_progress)
        if self.inner_path is not None and self.inner_path.exists():
            with contextlib.suppress(ConfigError):
                await self.trainer.load_inner(self.inner_path)
        if self._wanted is None:
            self._wanted = wanted
        self._wake.set()

    def _on_progress(self, progress: Progress) -> None:
        self.progress = progress
        self._feed(e.Progress(self.round, progress.step))
