"""Falls of loss: what training on assigned steps gives there, and nothing else gives."""

from __future__ import annotations

from typing import Any

import torch

from atoll.workload import vector
from atoll.workload.config import InnerConfig
from atoll.workload.data import Corpus
from atoll.workload.evaluate import heldout_loss
from atoll.workload.falls import Measure, Work
from atoll.workload.inner import InnerLoop


def flat(model: Any) -> torch.Tensor:
    values = torch.empty(vector.numel(model))
    vector.write(model, values)
    return values


def test_only_who_trained_on_its_steps_gains_more_on_them(
    tiny_model: Any, corpus: Corpus, inner: InnerConfig
) -> None:
    anchor, ends = flat(tiny_model), []
    for member in range(2):
        vector.load(tiny_model, anchor)
        loop = InnerLoop(tiny_model, corpus, inner, b"seed")
        for _ in range(8):
            loop.train(0, 2, member, 2, 8, lambda: False, lambda step, loss: None)
        ends.append(flat(tiny_model))
    measure = Measure(tiny_model, corpus, inner, b"seed", 8)
    gains = [
        [
            fall.assigned - fall.control
            for fall in (measure.falls(anchor, end, Work(0, m, 2, (0, 1))) for end in ends)
        ]
        for m in range(2)
    ]
    print(gains)
    assert gains[0][0] > gains[0][1] + 0.05
    assert gains[1][1] > gains[1][0] + 0.05


def test_falls_are_differences_of_the_same_texts(tiny_model: Any, corpus: Corpus, inner: InnerConfig) -> None:
    measure = Measure(tiny_model, corpus, inner, b"seed", 8)
    anchor = flat(tiny_model)
    stepped = anchor + 0.01 * torch.randn(anchor.shape, generator=torch.Generator().manual_seed(0))
    there, back = (
        measure.falls(*pair, Work(0, 1, 3, (0, 5))) for pair in ((anchor, stepped), (stepped, anchor))
    )
    assert (there.heldout, there.assigned, there.control) == (-back.heldout, -back.assigned, -back.control)
    assert there.assigned != there.control
    losses = []
    for parameters in (anchor, stepped):
        vector.load(tiny_model, parameters)
        losses.append(heldout_loss(tiny_model, corpus, 8))
    assert there.heldout == losses[0] - losses[1]
