"""A replica that follows a run of scalars: the same bits whatever the order in which bytes arrive.

Updates are applied in the order of (step, peer). So a byte that comes late takes the replica back to its last
backup and through the steps since once more: some passes over memory, against a transfer of the model.
"""

from __future__ import annotations

from torch import Tensor

from atoll.optim.digest import tensor_digest
from atoll.optim.flat import floats
from atoll.optim.rules.base import at_least_one
from atoll.optim.scalars import ScalarRule, gradient_of

PEERS_MAX = 4096
"""Codes of one step that a replica keeps."""


class Replica:
    """Parameters fp32 [n] after some steps, and the bytes of the steps since the last backup.

    The backup moves every `backup_steps` steps (a span) and lies one to two spans back: a byte may be a span
    late. Replicas agree while every byte reaches all of them by then, and their digests show when not. A
    replica holds two vectors and the codes of three spans, never more.
    """

    def __init__(self, rule: ScalarRule, parameters: Tensor, backup_steps: int = 16) -> None:
        at_least_one("backup steps", backup_steps)
        floats("parameters", parameters)
        self._rule = rule
        self._span = backup_steps
        self._backup = parameters.clone()
        self._backup_step = 0
        self._codes: dict[int, dict[str, int]] = {}
        self._now = parameters.clone()
        self._step = 0

    @property
    def step(self) -> int:
        """Steps that `parameters` hold: those before this one."""
        return self._step

    @property
    def parameters(self) -> Tensor:
        """Parameters after the steps so far, fp32 [n]; valid until the next call, not to be written."""
        return self._now

    @property
    def digest(self) -> str:
        """Of the parameters, for peers to compare."""
        return tensor_digest(self._now)

    def take(self, step: int, peer: str, code: int) -> bool:
        """Keep a peer's byte; False if it comes too late, too early, twice, or as one too many of its step.

        Raises RemoteProtocolError for a byte that is no code.
        """
        gradient_of(code)
        if not self._backup_step <= step <= self._step + self._span:
            return False
        codes = self._codes.setdefault(step, {})
        if peer in codes or len(codes) >= PEERS_MAX:
            return False
        codes[peer] = code
        if step < self._step:
            self._replay()
        return True

    def advance(self) -> Tensor:
        """Take the next step with the bytes that are in, and return the parameters after it."""
        if self._step == self._backup_step + 2 * self._span:
            self._new_backup()
        self._apply(self._now, self._step)
        self._step += 1
        return self._now

    def _replay(self) -> None:
        self._now.copy_(self._backup)
        for step in range(self._backup_step, self._step):
            self._apply(self._now, step)

    def _new_backup(self) -> None:
        """Move the backup a span ahead; what came for these steps is settled."""
        for step in range(self._backup_step, self._backup_step + self._span):
            self._apply(self._backup, step)
            self._codes.pop(step, None)
        self._backup_step += self._span

    def _apply(self, parameters: Tensor, step: int) -> None:
        self._rule.step_(parameters, step, sorted(self._codes.get(step, {}).items()))
