"""Saves the inner optimiser while training goes on: the trainer stops for a copy of it, not for the disk."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from atoll.node.trainer import Trainer, TrainerDied

SAVE_EVERY_S, SAVE_SHARE = 30.0, 0.002
"""How often that is where training does not wait for rounds, and for what share of the time it may stop."""


class InnerSaver:
    """One save at a time: after `every_round`, or now and then if rounds do not wait for each other."""

    def __init__(self, path: Path, every_round: bool) -> None:
        self._path, self._every_round = path, every_round
        self._saved_s, self._every_s = 0.0, SAVE_EVERY_S
        self.task: asyncio.Task[None] | None = None

    def save(self, trainer: Trainer) -> None:
        """Begin to, if it is time. Raises OSError if the last one could not be written."""
        now_s = asyncio.get_running_loop().time()
        if self.task is not None:
            if not self.task.done():
                return
            self.task.result()
        if self._every_round or now_s > self._saved_s + self._every_s:
            self._saved_s = now_s
            self.task = asyncio.ensure_future(self._save(trainer))

    async def _save(self, trainer: Trainer) -> None:
        """How long the copy takes decides how often it may be."""
        before_s = trainer.spent.save_s
        with contextlib.suppress(TrainerDied):
            await trainer.save_inner(self._path)
        self._every_s = max(SAVE_EVERY_S, (trainer.spent.save_s - before_s) / SAVE_SHARE)
