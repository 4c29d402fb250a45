"""A peer's own part of a round: H inner steps on its shard. (DiLoCo, Douillard et al. 2023)"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel

from atoll.protocol.errors import ConfigError
from atoll.workload import inner_state, optimizers, shards, vector
from atoll.workload.config import InnerConfig
from atoll.workload.data import Corpus
from atoll.workload.loss import next_token_loss
from atoll.workload.schedule import learning_rate
from atoll.workload.tokens import Ids


@dataclass(frozen=True, slots=True)
class InnerResult:
    """What was really done. Losses are nats per token before each step, NaN after no step.

    Not `finite`: a loss or gradient was infinite or NaN. That step was not taken and training ended there.
    """

    steps: int
    tokens: int
    mean_loss: float
    last_loss: float
    finite: bool


class InnerLoop:
    """Train one model, round after round. The moments stay here, never travel, and outlive a round if kept.

    Several loops may share one model, each with its own moments: a replica is then a flat vector and a loop,
    and whoever holds them loads the vector before `train` and writes it after.
    """

    def __init__(self, model: PreTrainedModel, corpus: Corpus, inner: InnerConfig, run_seed: bytes) -> None:
        self._model, self._corpus, self._inner, self._run_seed = model, corpus, inner, run_seed
        self._optimizer = optimizers.build(inner, model)
        self._bf16 = uses_bf16(inner.precision, model.device)

    def train(
        self,
        round: int,
        steps: int,
        member: int,
        members: int,
        first_step: int,
        should_stop: Callable[[], bool],
        progress: Callable[[int, float], None],
        taken: int = 0,
    ) -> InnerResult:
        """Take at most `steps` steps from the model's present parameters, the anchor.

        `first_step` is the run's global step at which the round starts. `progress` gets each step's number
        in the round, from 1, and its loss. `should_stop` is asked before each step. An earlier call took
        `taken` steps of this round already: data and schedule go on after them.
        """
        if self._inner.state == "unit" and not taken:
            self._optimizer = optimizers.build(self._inner, self._model)
        torch.manual_seed(_dropout_seed(self._run_seed, round, member, taken))
        losses: list[float] = []
        if not all(vector.finite(parameter.detach()) for parameter in self._model.parameters()):
            return self._result(losses, finite=False)
        self._model.train()
        self._optimizer.begin()
        finite = True
        while len(losses) < steps and not should_stop():
            step = taken + len(losses)
            loss = self._step(
                self._windows(round, member, members, step), learning_rate(self._inner, first_step + step)
            )
            finite = loss is not None
            if loss is None:
                break
            losses.append(loss)
            progress(step + 1, loss)
        self._optimizer.end()
        return self._result(losses, finite)

    def _windows(self, round: int, member: int, members: int, step: int) -> Ids:
        inner = self._inner
        return self._corpus.batch(
            shards.batch(
                self._run_seed,
                round,
                member,
                members,
                step,
                inner.batch_sequences,
                inner.steps,
                self._corpus.windows,
            )
        )

    def _step(self, windows: Ids, rate: float) -> float | None:
        """Take one step; None, and nothing changed, if its loss or gradient is not finite.

        One such step inside AdamW would leave NaN in the moments of every later round.
        """
        self._optimizer.zero_grad()
        value = self._gradient(windows)
        norm = clip_grad_norm_(self._model.parameters(), self._inner.clip_norm)
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            return None
        self._optimizer.step(rate)
        return value

    def _gradient(self, windows: Ids) -> float:
        """Add up the gradient of the mean loss piece by piece, and give that loss."""
        total = 0.0
        for piece in np.split(windows, self._inner.accumulate):
            with torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._bf16):
                loss = next_token_loss(self._model, piece, "mean") / self._inner.accumulate
            loss.backward()
            total += loss.item()
        return total

    def _result(self, losses: list[float], finite: bool) -> InnerResult:
        tokens = len(losses) * self._inner.batch_sequences * self._corpus.sequence_tokens
        mean = math.fsum(losses) / len(losses) if losses else math.nan
        return InnerResult(len(losses), tokens, mean, losses[-1] if losses else math.nan, finite)

    def save(self, path: Path) -> None:
        """Write the moments to a file. Raises OSError."""
        self.saving(path)()

    def saving(self, path: Path) -> Callable[[], None]:
        """Copy the moments as they are now; what is returned writes the copy. It raises OSError.

        Another thread may write while this one trains on, for as long as writing takes.
        """
        copied = inner_state.copied(self._optimizer, self._model)
        return lambda: inner_state.write(copied, path)

    def load(self, path: Path) -> None:
        """Read the moments from a file. Raises ConfigError if it is damaged or another model's."""
        inner_state.load(self._optimizer, self._model, path)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether the forward pass runs in bf16. Raises ConfigError if that is demanded of a GPU without it."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and device.type == "cuda" and not able:
        raise ConfigError("this GPU has no bf16", "[inner] precision", '"auto" or "fp32"')
    return precision == "bf16" or (precision == "auto" and able)


def _dropout_seed(run_seed: bytes, round: int, member: int, taken: int) -> int:
    """Dropout differs between members and repeats when a round is trained again."""
    text = f" dropout {round} {member} {taken}".encode()
    return int.from_bytes(hashlib.blake2b(run_seed + text, digest_size=8).digest(), "big") >> 1
