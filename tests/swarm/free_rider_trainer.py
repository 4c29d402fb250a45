"""A trainer that claims its steps at once, and moves the parameters a little, anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from atoll.node import trainer_process
from atoll.workload.inner import InnerLoop, InnerResult

LENGTH = 0.05
"""Of each parameter's standard deviation: about as far as a few steps go."""
STEP_S = 0.02
LOSS = 5.0


def pretend(
    self: Any,
    round: int,
    steps: int,
    should_stop: Callable[[], bool],
    progress: Callable[[int, float], None],
    taken: int = 0,
    **_: Any,
) -> InnerResult:
    """As InnerLoop.train, without a gradient."""
    done = 0
    while done < steps and not should_stop():
        time.sleep(STEP_S)
        done += 1
        progress(taken + done, LOSS)
    with torch.no_grad():
        for parameter in self._model.parameters():
            parameter.add_(LENGTH * parameter.std() * torch.randn_like(parameter))
    tokens = done * self._inner.batch_sequences * self._corpus.sequence_tokens
    return InnerResult(done, tokens, LOSS, LOSS, True)


if __name__ == "__main__":
    InnerLoop.train = pretend  # type: ignore[method-assign,assignment]
    trainer_process.main()
