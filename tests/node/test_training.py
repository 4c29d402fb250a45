"""A volunteer wants its machine back: the trainer stops at once, hands over what it did, goes on later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import torch
from test_trainer import CONFIG

from atoll.node.shared_round import SharedRound
from atoll.node.training import Training
from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.workload import model as models
from atoll.workload import vector
from atoll.workload.config import ModelConfig

DEADLINE_S, POLL_S = 60.0, 0.01
ENDLESS = 1_000_000
"""Inner steps that no machine does before the deadline of a test."""


class Side:
    """The daemon's side of a real trainer; `events` are what it tells the protocol."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.worker = ThreadPoolExecutor(1)
        numel = vector.numel(models.build(ModelConfig.from_mapping(CONFIG.model, "[model]")))
        self.numbers = SimpleNamespace(
            numel=numel, anchor=torch.zeros(numel), fragments=1, pieces=(slice(0, numel),), share=self.share
        )
        numbers: Any = self.numbers
        self.training = Training(CONFIG, numbers, self.worker, self.events.append)

    def share(self, shared: SharedRound) -> None:
        """As numbers.py does."""
        self.shared = shared

    def train(self, round_: int) -> None:
        self.training.train(a.Train(round_, ENDLESS, (0, 1)), 0)

    def steps_of(self, round_: int) -> list[int]:
        return [event.steps for event in self.events if event == e.Progress(round_, event.steps)]

    def trained(self, round_: int) -> list[e.Trained]:
        return [event for event in self.events if isinstance(event, e.Trained) and event.round == round_]


async def until(holds: Callable[[], object]) -> None:
    end_s = asyncio.get_running_loop().time() + DEADLINE_S
    while not holds():
        assert asyncio.get_running_loop().time() < end_s, "the condition never came true"
        await asyncio.sleep(POLL_S)


async def rest_and_go_on(side: Side) -> None:
    side.train(1)
    await until(lambda: len(side.steps_of(1)) >= 2)
    before = max(side.steps_of(1))
    side.training.rest(True)
    await until(lambda: side.trained(1))
    (done,) = side.trained(1)
    assert before <= done.steps <= before + 2
    assert done.tokens == done.steps * 4 * 64
    side.train(2)
    await until(lambda: side.training._wanted is not None and not side.training._wake.is_set())
    assert side.training._running == 0
    assert not side.steps_of(2)
    side.training.rest(False)
    await until(lambda: side.steps_of(2))


def test_a_rest_ends_the_round_and_lets_none_begin() -> None:
    async def story() -> None:
        side = Side()
        await side.training.start(None)
        try:
            await rest_and_go_on(side)
        finally:
            await side.training.close()
            side.worker.shutdown()

    asyncio.run(story())
