"""A peer's own part of a round: H steps of AdamW on its shard. (DiLoCo, Douillard et al. 2023)"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_
from transformers import PreTrainedModel

from atoll.workload import inner_state, shards
from atoll.workload.config import InnerConfig
from atoll.workload.data import Corpus
from atoll.workload.loss import next_token_loss
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


def learning_rate(inner: InnerConfig, step: int) -> float:
    """Warm up linearly, then follow a cosine down to the minimum ratio, by the run's global step."""
    if step < inner.warmup_steps:
        return inner.learning_rate * (step + 1) / inner.warmup_steps
    span = inner.total_steps - inner.warmup_steps
    done = min(1.0, (step - inner.warmup_steps) / span)
    low = inner.min_learning_rate_ratio
    return inner.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


class InnerLoop:
    """Train one model, round after round. AdamW's moments stay here: they outlive a round, never travel."""

    def __init__(self, model: PreTrainedModel, corpus: Corpus, inner: InnerConfig, run_seed: bytes) -> None:
        self._model, self._corpus, self._inner, self._run_seed = model, corpus, inner, run_seed
        self._optimizer = torch.optim.AdamW(
            _groups(model, inner.weight_decay), lr=inner.learning_rate, betas=inner.betas
        )

    def train(
        self,
        round: int,
        steps: int,
        member: int,
        members: int,
        first_step: int,
        should_stop: Callable[[], bool],
        progress: Callable[[int, float], None],
    ) -> InnerResult:
        """Take at most `steps` steps from the model's present parameters, the anchor.

        `first_step` is the run's global step at which the round starts. `progress` gets each step's number
        in the round, from 1, and its loss. `should_stop` is asked before each step.
        """
        torch.manual_seed(_dropout_seed(self._run_seed, round, member))
        self._model.train()
        losses: list[float] = []
        finite = True
        while len(losses) < steps and not should_stop():
            windows = self._windows(round, member, members, len(losses))
            loss = self._step(windows, learning_rate(self._inner, first_step + len(losses)))
            finite = loss is not None
            if loss is None:
                break
            losses.append(loss)
            progress(len(losses), loss)
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
        self._optimizer.zero_grad(set_to_none=True)
        loss = next_token_loss(self._model, windows, "mean")
        loss.backward()
        norm = clip_grad_norm_(self._model.parameters(), self._inner.clip_norm)
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            return None
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        return value

    def _result(self, losses: list[float], finite: bool) -> InnerResult:
        tokens = len(losses) * self._inner.batch_sequences * self._corpus.sequence_tokens
        mean = math.fsum(losses) / len(losses) if losses else math.nan
        return InnerResult(len(losses), tokens, mean, losses[-1] if losses else math.nan, finite)

    def save(self, path: Path) -> None:
        """Write the moments to a file. Raises OSError."""
        inner_state.save(self._optimizer, self._model, path)

    def load(self, path: Path) -> None:
        """Read the moments from a file. Raises ConfigError if it is damaged or another model's."""
        inner_state.load(self._optimizer, self._model, path)


def _groups(model: PreTrainedModel, weight_decay: float) -> list[dict[str, object]]:
    """Decay matrices only; norms and biases have no direction to forget."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]


def _dropout_seed(run_seed: bytes, round: int, member: int) -> int:
    """Dropout differs between members and repeats when a round is trained again."""
    digest = hashlib.blake2b(run_seed + f" dropout {round} {member}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
