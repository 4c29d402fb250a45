"""The held-out loss after each update, in a trainer process of its own: the round waits for nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog
import torch

from atoll.node.trainer import Trainer, TrainerConfig, TrainerDied
from atoll.protocol.errors import ConfigError

log = structlog.get_logger("atoll.evaluator")


class Evaluator:
    """Evaluates the newest state that it was told of; those that come while it is busy replace each other.

    `copy` writes the newest anchor to a vector and tells its round. The process starts in the background:
    nobody waits for it either.
    """

    def __init__(
        self, config: TrainerConfig, windows: int, copy: Callable[[torch.Tensor], Awaitable[int]]
    ) -> None:
        self._config, self._windows, self._copy = config, windows, copy
        self._next: int | None = None
        self._wake = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())
        self.losses: list[dict[str, float]] = []
        self.busy = False

    @property
    def idle(self) -> bool:
        return not self.busy and self._next is None

    def evaluate(self, round_: int) -> None:
        self._next = round_
        self._wake.set()

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        try:
            trainer = await Trainer.start(self._config, lambda progress: None)
        except (ConfigError, OSError, TrainerDied) as error:
            log.error("no held-out losses: the evaluator did not start", reason=str(error))
            return
        try:
            while True:
                await self._evaluate_next(trainer)
        except TrainerDied as error:
            log.error("no more held-out losses: the evaluator died", status=error.returncode)
        finally:
            await trainer.close()

    async def _evaluate_next(self, trainer: Trainer) -> None:
        await self._wake.wait()
        self._wake.clear()
        if self._next is None:
            return
        self.busy = True
        try:
            round_ = await self._copy(trainer.shared.anchor)
            if self._next is not None and self._next <= round_:
                self._next = None
            loss = await trainer.evaluate(self._windows)
        finally:
            self.busy = False
        self.losses.append({"round": round_, "loss": loss})
        log.info("held-out", round=round_, loss=round(loss, 4))
