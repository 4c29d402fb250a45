"""Next-token cross entropy, the one loss that training and evaluation share."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from atoll.workload.tokens import Ids


def next_token_loss(model: PreTrainedModel, windows: Ids, reduction: str) -> torch.Tensor:
    """Give nats per token ("mean") or in all ("sum") over windows, int64 [n, sequence_tokens + 1]."""
    ids = torch.from_numpy(windows).to(model.device)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
    return functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction=reduction)
