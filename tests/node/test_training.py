"""A volunteer wants its machine back: the trainer stops at once, hands over what it did, goes on later.

And one that streams: it has the order for the next round before it is done with the present one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from test_trainer import CONFIG

from atoll.node.shared_round import SharedRound
from atoll.node.spent import Kind
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
        shared.anchor.copy_(self.numbers.anchor)
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
    assert before <= done.steps < ENDLESS
    assert done.tokens == done.steps * 4 * 64
    side.train(2)
    await until(lambda: side.training._wanted is not None and not side.training._wake.is_set())
    assert side.training._running == 0
    assert not side.steps_of(2)
    side.training.rest(False)
    await until(lambda: side.steps_of(2))


async def come_late(side: Side) -> None:
    """Updates move the anchor while a round is trained, and later rounds ask for what it gave."""
    again: list[bool] = []

    def encode(round_: int, delta: torch.Tensor, parts: int, done: bool) -> list[bytes]:
        again.append(done)
        return [delta.numpy().tobytes()]

    side.numbers.encode = encode
    for _ in range(2):
        with side.shared.writing(0):
            side.shared.anchor.add_(1.0)
    before = max(side.steps_of(2))
    await until(lambda: max(side.steps_of(2)) > before + 1)
    side.training.rest(True)
    await until(lambda: side.trained(2))
    orders = [a.Encode(round_, 1, False, 2) for round_ in (4, 5)]
    first, second = await asyncio.gather(*map(side.training.encode, orders))
    assert first == second, "the one for the round that is over by now is not lost on the next"
    assert again == [False, True]
    delta = torch.frombuffer(bytearray(first[0]), dtype=torch.float32)
    assert 0 < float(delta.abs().max()) < 1, "measured against the anchor that it began with"


def test_a_rest_ends_the_round_and_lets_none_begin_and_late_work_is_kept() -> None:
    async def story() -> None:
        side = Side()
        side.numbers.anchor.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
        await side.training.start(None)
        try:
            await rest_and_go_on(side)
            await come_late(side)
        finally:
            await side.training.close()
            side.worker.shutdown()

    asyncio.run(story())


STEPS = 12
KINDS = get_args(Kind)
PIECES = (slice(0, 10_000), slice(10_000, None))


class Stream(Side):
    """Two fragments, one round ahead; whatever was trained is followed by the order for the next round.

    One trainer serves all tests here, one after the other: each begins with the round after the last one.
    """

    def __init__(self, inner: Path) -> None:
        super().__init__()
        self.loop, self.inner = asyncio.new_event_loop(), inner
        self.first = self.last = 0
        self.orders: list[tuple[int, bool]] = []
        numel = self.numbers.numel
        self.numbers.anchor.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
        self.numbers.fragments, self.numbers.pieces = 2, tuple(slice(*p.indices(numel)[:2]) for p in PIECES)
        self.numbers.encode = lambda round_, delta, parts, again=False: [delta.numpy().tobytes()]
        self.training = Training(
            replace(CONFIG, fragments=2, effort=0.5), self.numbers, self.worker, self.take
        )
        self.loop.run_until_complete(self.start())

    def take(self, event: e.Event) -> None:
        self.events.append(event)
        if isinstance(event, e.Trained) and event.round < self.last:
            self.train(event.round + 1)

    def train(self, round_: int) -> None:
        self.training.train(a.Train(round_, STEPS, (0, 1)), 0)

    async def start(self) -> None:
        await self.training.start(self.inner)
        trainer = self.training.trainer
        assert trainer is not None
        train = trainer.train

        def told(round: int, *given: Any) -> Any:
            self.orders.append((round - self.first, given[-1]))
            return train(round, *given)

        trainer.train = told  # type: ignore[method-assign]

    def run(self, rounds: int, story: Callable[[Stream], Any]) -> None:
        """Train `rounds` rounds while the story goes on; `first` is what the first of them is called."""
        self.first, self.last = self.last + 1, self.last + rounds
        self.orders.clear()

        async def told() -> None:
            self.train(self.first)
            await story(self)

        self.loop.run_until_complete(told())

    def close(self) -> None:
        self.loop.run_until_complete(self.training.close())
        self.worker.shutdown()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stream]:
    stream = Stream(tmp_path_factory.mktemp("stream") / "inner")
    yield stream
    stream.close()


def test_the_next_round_is_ordered_before_this_one_is_done(stream: Stream) -> None:
    """And each second of the three rounds is counted by what it was spent on."""

    async def story(stream: Stream) -> None:
        first, before = stream.first, stream.training.spent
        await until(lambda: stream.trained(first))
        assert max(stream.steps_of(first)) < STEPS, "announced before its end"
        await until(lambda: len(stream.orders) == 2)
        assert stream.training._running == first
        assert stream.training._promise is not None
        order = a.Encode(first, 1, False, first)
        (payload,) = await stream.training.encode(order)  # waits until it is handed over
        trainer = stream.training.trainer
        assert trainer is not None
        assert payload == trainer.shared.delta[stream.numbers.pieces[1]].numpy().tobytes()
        assert any(payload)
        await until(lambda: STEPS in stream.steps_of(stream.last))
        await until(lambda: stream.inner.exists())
        spent = stream.training.spent
        gone = {kind: getattr(spent, kind) - getattr(before, kind) for kind in KINDS}
        assert abs(sum(gone.values()) - (spent.at_s - before.at_s)) < 1e-3
        assert min(gone["steps_s"], gone["hand_over_s"], gone["save_s"]) > 0
        assert gone["rest_s"] > 0.6 * gone["steps_s"], "as long as it trained, at half of its effort"

    stream.run(3, story)
    assert stream.orders == [(0, True), (1, False), (2, False)]
    for round_ in range(stream.first, stream.first + 3):
        assert stream.steps_of(round_) == list(range(1, STEPS + 1))
        (done,) = stream.trained(round_)
        assert (done.steps, done.tokens) == (STEPS, STEPS * 4 * 64)


def test_a_rest_lets_the_announced_round_end_and_not_the_next_one_begin(stream: Stream) -> None:
    async def story(stream: Stream) -> None:
        await until(lambda: len(stream.orders) == 2)
        stream.training.rest(True)
        await until(lambda: stream.training._running == 0)
        assert max(stream.steps_of(stream.first)) == STEPS
        stream.training.rest(False)
        await until(lambda: STEPS in stream.steps_of(stream.last))

    stream.run(2, story)
    assert stream.steps_of(stream.last) == list(range(1, STEPS + 1))


def test_what_was_ordered_ahead_is_void_if_the_state_is_replaced(stream: Stream) -> None:
    async def story(stream: Stream) -> None:
        await until(lambda: len(stream.orders) == 2)
        stream.training.replaced()
        await until(lambda: stream.trained(stream.last))

    stream.run(2, story)
    assert stream.orders[1:] == [(1, False), (1, True)]
