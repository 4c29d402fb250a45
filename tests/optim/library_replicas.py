"""Replicas of a small network in threads, for the tests of the library face."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from optim_vectors import integers_to_floats
from torch import Tensor, nn

from atoll.optim import DiLoCo, LocalGroup
from atoll.optim.codecs import codec
from atoll.optim.codecs.base import Buffer, Payload
from atoll.optim.exchanges import Exchange
from atoll.optim.layout import Layout

LR = 0.05
Batch = tuple[Tensor, Tensor]
Optimizer = torch.optim.Optimizer


def network(seed: int = 0) -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    layout_of(model).scatter(integers_to_floats(layout_of(model).numel, seed), model.named_parameters())
    return model


def layout_of(model: nn.Module) -> Layout:
    return Layout.of((name, parameter.shape) for name, parameter in model.named_parameters())


def flat(model: nn.Module) -> Tensor:
    return layout_of(model).gather(model.named_parameters())


def batch(seed: int, rows: int = 8) -> Batch:
    inputs = integers_to_floats(rows * 6, 100 + seed).view(rows, 6)
    return inputs, inputs.sum(dim=1, keepdim=True).sin()


def batches(place: int, count: int, rows: int = 8) -> list[Batch]:
    return [batch(1000 * place + step, rows) for step in range(count)]


def inner_step(model: nn.Module, optimizer: Optimizer, one: Batch) -> float:
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(one[0]), one[1])
    loss.backward()
    optimizer.step()
    return loss.item()


def sgd(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LR)


def adamw(model: nn.Module) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


class LargestEighth:
    """A codec that leaves most out, and so needs error feedback: the largest eighth in fp32, zeros else."""

    name, block, feedback = "largest eighth", 1, True
    _fp32 = codec("fp32")

    def payload_bytes(self, numel: int) -> int:
        return self._fp32.payload_bytes(numel)

    def encode(self, x: Tensor) -> bytes:
        kept = torch.zeros_like(x)
        places = x.abs().topk(-(-x.numel() // 8)).indices
        kept[places] = x[places]
        return self._fp32.encode(kept)

    def encode_into(self, x: Tensor, out: Buffer) -> None:
        memoryview(out)[:] = self.encode(x)

    def decode(self, payload: Payload, numel: int, out: Tensor | None = None) -> Tensor:
        return self._fp32.decode(payload, numel, out)

    def pieces(self, payload: Payload, numel: int) -> Iterator[tuple[slice, Tensor]]:
        return self._fp32.pieces(payload, numel)


class Replica:
    """One replica's model, optimizer and outer loop, and what it saw."""

    def __init__(
        self,
        exchange: Exchange,
        place: int,
        inner: Callable[[nn.Module], Optimizer] = sgd,
        wrap: Callable[..., Any] = DiLoCo,
        **settings: Any,
    ) -> None:
        self.place, self.model = place, network()
        self.optimizer = inner(self.model)
        self.outer = wrap(self.model, self.optimizer, exchange, **settings)
        self.digests: list[str] = []
        self.losses: list[float] = []

    def train(self, steps: range) -> None:
        data = batches(self.place, steps.stop)
        for step in steps:
            self.losses.append(inner_step(self.model, self.optimizer, data[step]))
            self.digests.append(self.outer.digest())


def trained(replicas: int, steps: int, **settings: Any) -> list[Replica]:
    """So many replicas, trained so many inner steps in a group of their own."""

    def train(place: int, exchange: Exchange) -> Replica:
        replica = Replica(exchange, place, **settings)
        replica.train(range(steps))
        return replica

    return LocalGroup(replicas, timeout_s=20).run(train)
