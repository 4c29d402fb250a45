"""The outer loop as a whole, on problems whose answer is known. (DiLoCo, Douillard et al. 2023)"""

from __future__ import annotations

import torch
from optim_vectors import integers_to_floats
from torch import Tensor

from atoll.optim.codecs import codec
from atoll.optim.layout import Layout
from atoll.optim.mean import weighted_mean
from atoll.optim.pseudo_gradient import pseudo_gradient
from atoll.optim.rules.nesterov import NesterovRule, step_

FP32 = codec("fp32")
PLAIN = NesterovRule(lr=1.0, momentum=0.0)
LR = 0.05
Batch = tuple[Tensor, Tensor]


def network(seed: int = 0) -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    layout = layout_of(model)
    layout.scatter(integers_to_floats(layout.numel, seed), model.named_parameters())
    return model


def layout_of(model: torch.nn.Module) -> Layout:
    return Layout.of((name, parameter.shape) for name, parameter in model.named_parameters())


def batch(seed: int, rows: int = 8) -> Batch:
    inputs = integers_to_floats(rows * 6, 100 + seed).view(rows, 6)
    return inputs, inputs.sum(dim=1, keepdim=True).sin()


def train(model: torch.nn.Module, batches: list[Batch]) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)
    for inputs, wanted in batches:
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(model(inputs), wanted).backward()
        optimiser.step()


def outer_rounds(workers: list[list[list[Batch]]], weights: list[int]) -> Tensor:
    """`workers[m][t]` are the batches of worker m in round t. The anchor after all rounds."""
    model = network()
    layout = layout_of(model)
    anchor = layout.gather(model.named_parameters())
    momentum = torch.zeros_like(anchor)
    for per_worker in zip(*workers, strict=True):
        payloads = []
        for batches in per_worker:
            layout.scatter(anchor, model.named_parameters())
            train(model, batches)
            payloads.append(FP32.encode(pseudo_gradient(anchor, layout.gather(model.named_parameters()))))
        update = weighted_mean(zip(weights, payloads, strict=True), FP32, layout.numel)
        assert update is not None
        step_(anchor, momentum, update, PLAIN)
    return anchor


def trained_alone(batches: list[Batch]) -> Tensor:
    model = network()
    train(model, batches)
    return layout_of(model).gather(model.named_parameters())


def test_one_inner_step_is_large_batch_sgd() -> None:
    shards = [[batch(10 * worker + round_) for round_ in range(5)] for worker in range(4)]
    together = [
        (torch.cat([shard[t][0] for shard in shards]), torch.cat([shard[t][1] for shard in shards]))
        for t in range(5)
    ]
    anchor = outer_rounds([[[one] for one in shard] for shard in shards], [8] * 4)
    assert torch.allclose(anchor, trained_alone(together), rtol=0, atol=2e-6)
    assert not torch.allclose(anchor, trained_alone(shards[0]), rtol=0, atol=1e-4)


def test_weights_are_the_rows_that_each_worker_saw() -> None:
    small, large = batch(1, rows=4), batch(2, rows=12)
    anchor = outer_rounds([[[small]], [[large]]], [4, 12])
    both = (torch.cat([small[0], large[0]]), torch.cat([small[1], large[1]]))
    assert torch.allclose(anchor, trained_alone([both]), rtol=0, atol=2e-6)
    assert not torch.allclose(outer_rounds([[[small]], [[large]]], [1, 1]), anchor, rtol=0, atol=1e-5)


def test_one_worker_is_plain_inner_training() -> None:
    batches = [batch(seed) for seed in range(12)]
    anchor = outer_rounds([[batches[0:4], batches[4:8], batches[8:12]]], [1])
    assert torch.allclose(anchor, trained_alone(batches), rtol=0, atol=1e-6)
