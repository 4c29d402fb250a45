"""Held-out loss: the figure that says whether training helped."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from atoll.workload.data import Corpus
from atoll.workload.loss import next_token_loss

BATCH_WINDOWS = 8


def heldout_loss(model: PreTrainedModel, corpus: Corpus, windows: int) -> float:
    """Give the mean nats per token over at most `windows` held-out windows.

    The windows, their order and the batches are fixed and dropout is off, so equal parameters give equal
    numbers on one machine.
    """
    chosen = corpus.heldout(windows)
    model.eval()
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(chosen), BATCH_WINDOWS):
            total += float(next_token_loss(model, chosen[start : start + BATCH_WINDOWS], "sum"))
    return total / (len(chosen) * corpus.sequence_tokens)
