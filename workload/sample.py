"""Text from a model, for a person to look at."""

from __future__ import annotations

import torch
from transformers import GenerationConfig, PreTrainedModel

from atoll.workload.tokens import Tokens

TEMPERATURE = 0.8
TOP_K = 40


def sample(model: PreTrainedModel, tokens: Tokens, prompt: str, count: int, seed: int = 0) -> str:
    """Give the text of at most `count` new tokens after `prompt`, the prompt left out.

    An empty prompt starts after the end of a text. A prompt that leaves too few positions loses its
    beginning. Rows of the vocabulary that mean nothing are never drawn. Equal seeds give equal text.
    """
    positions = getattr(model.config, "max_position_embeddings", None) or count + 1_000_000
    count = min(count, positions - 1)
    if count < 1:
        return ""
    ids = (tokens.encode(prompt).tolist() or [tokens.end])[-(positions - count) :]
    given = torch.tensor([ids], device=model.device)
    model.eval()
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        drawn = model.generate(
            given, generation_config=_settings(model, tokens, count), attention_mask=torch.ones_like(given)
        )
    return tokens.decode(drawn[0, len(ids) :].tolist())


def _settings(model: PreTrainedModel, tokens: Tokens, count: int) -> GenerationConfig:
    unused = list(range(tokens.vocabulary, model.config.vocab_size))
    return GenerationConfig(
        max_new_tokens=count,
        do_sample=True,
        temperature=TEMPERATURE,
        top_k=TOP_K,
        eos_token_id=tokens.end,
        pad_token_id=tokens.end,
        suppress_tokens=unused or None,
    )
