"""What a contribution is good for: how far it lowers the loss on three texts. An auditor's measurement.

protocol/audit.py says who measures whose, at which steps, and what follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from atoll.workload import shards, vector
from atoll.workload.config import InnerConfig
from atoll.workload.data import Corpus
from atoll.workload.evaluate import heldout_loss
from atoll.workload.loss import next_token_loss

NOBODYS = 1 << 40
"""So many rounds ahead are the steps that nobody is dealt: no run has as many."""


@dataclass(frozen=True, slots=True)
class Work:
    """Whose work it was, and at which of its steps an auditor looks."""

    round: int
    member: int
    members: int
    steps: Sequence[int]


@dataclass(frozen=True, slots=True)
class Falls:
    """Of the mean loss, in nats per token; below 0 where it rises.

    `assigned` is on the steps that a member was dealt, `control` on as many that nobody was. Training on the
    former gives more there, and everything else as much in both places. (Gauntlet, Lidin et al. 2025)
    """

    heldout: float
    assigned: float
    control: float


@dataclass(frozen=True)
class Measure:
    """Loads vectors into `model`, and leaves the last one there."""

    model: PreTrainedModel
    corpus: Corpus
    inner: InnerConfig
    run_seed: bytes
    heldout_windows: int = 16
    order: Sequence[str] = ()

    def falls(
        self, anchor: torch.Tensor, stepped: torch.Tensor, work: Work, heldout: float | None = None
    ) -> Falls:
        """From the anchor to where a contribution alone would have led, both fp32 vectors in this order.

        `heldout` is the anchor's held-out loss, where that is known of another contribution.
        """
        before, after = self._losses(anchor, work, heldout), self._losses(stepped, work)
        return Falls(*(b - a for b, a in zip(before, after, strict=True)))

    def heldout(self, parameters: torch.Tensor) -> float:
        vector.load(self.model, parameters, self.order)
        return heldout_loss(self.model, self.corpus, self.heldout_windows)

    def _losses(
        self, parameters: torch.Tensor, work: Work, heldout: float | None = None
    ) -> tuple[float, float, float]:
        if heldout is None:
            heldout = self.heldout(parameters)
        else:
            vector.load(self.model, parameters, self.order)
            self.model.eval()
        return heldout, self._loss(work, work.round), self._loss(work, work.round + NOBODYS)

    def _loss(self, work: Work, round: int) -> float:
        """The mean over the steps that are looked at, of this or another round; dropout is off."""
        inner, total = self.inner, 0.0
        with torch.inference_mode():
            for step in work.steps:
                at = (work.member, work.members, step, inner.batch_sequences, inner.steps)
                windows = self.corpus.batch(shards.batch(self.run_seed, round, *at, self.corpus.windows))
                total += float(next_token_loss(self.model, windows, "mean"))
        return total / len(work.steps)
