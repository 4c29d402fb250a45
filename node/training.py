"""The daemon's side of training: one trainer process, what it hands over, and what becomes of that.

The protocol says `Train`, `Encode` and later `Settle`. Between them lie a trainer that may die, a round that
may be over before the trainer is done, and an encoding that takes a while; whatever the order, each round's
pseudo-gradient is offered once, and what no update took goes into the residual (or is dropped, by rule).
Where a run has fragments the trainer's model trains on: what no update took is still in the model then, but
for the share that an update of others took out of it. There the trainer is never to wait for this side:
shortly before a round's last step is done, the protocol is told that it is trained, and what it wants next
is ordered while the trainer is still busy. Whoever asks for the pseudo-gradient meanwhile waits for it.

A pseudo-gradient is offered and waits for its outcome where the trainer left it, in shared memory; the memory
is given back then, and before the trainer may write there again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch

from atoll.node.inner_saver import InnerSaver
from atoll.node.numbers import Numbers
from atoll.node.spent import Spent, Utilisation
from atoll.node.trainer import Progress, Trainer, TrainerConfig, TrainerDied, TrainResult
from atoll.protocol import actions as a
from atoll.protocol import events as e
from atoll.protocol.errors import ConfigError
from atoll.protocol.fragments import fragment_of

RESTARTS_MAX = 20
SETTLED_MAX = 64
AHEAD_S = 0.5
"""How long before its end a round is announced; at its last step, if that takes longer."""
log = structlog.get_logger("atoll.training")


@dataclass(frozen=True, slots=True)
class Contribution:
    """What was encoded for a round, and of what, until the round says what became of it."""

    round: int
    delta: torch.Tensor
    payloads: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Pending:
    """A pseudo-gradient that was handed over and is not encoded yet."""

    round: int
    delta: torch.Tensor


@dataclass(frozen=True, slots=True)
class Promise:
    """A round that the protocol was told is trained, while its last steps are taken: it is not cut short."""

    round: int
    kept: asyncio.Event


@dataclass(frozen=True, slots=True)
class Ahead:
    """A round that the trainer was told to begin as soon as it is done with the one before."""

    round: int
    result: asyncio.Task[TrainResult]


class Training:
    """Runs the newest `Train`; feeds `Progress` and `Trained` back. `became` counts what became of it."""

    def __init__(
        self,
        config: TrainerConfig,
        numbers: Numbers,
        worker: Executor,
        feed: Callable[[e.Event], None],
    ) -> None:
        self._config, self._numbers = config, numbers
        self._worker, self._feed = worker, feed
        self.trainer: Trainer | None = None
        self.progress: Progress | None = None
        self.round = 0
        self.steps = 0
        self.loss: float | None = None
        self.inner_path: Path | None = None
        self.machine = asyncio.Lock()
        """Whoever has it has the trainer: a round, or an audit between two rounds."""
        self._wanted: tuple[a.Train, int] | None = None
        self._wake = asyncio.Event()
        self._pending: dict[int, Pending] = {}
        self._contributions: dict[int, Contribution] = {}
        self._last: int | None = None
        self._saver: InnerSaver | None = None
        self._before, self._utilisation = Spent(), Utilisation()
        self.became: Counter[str] = Counter()
        self._promise: Promise | None = None
        self._ahead: Ahead | None = None
        self._since_s = 0.0
        self._settled: dict[int, tuple[a.Settle, bool]] = {}
        self._restarts = 0
        self._running = 0
        self._rests = False
        self._unsettled: deque[tuple[int, Callable[..., None], tuple[object, ...]]] = deque()
        self._reading: dict[int, asyncio.Future[Any]] = {}
        self._encoding = asyncio.Lock()
        self.task: asyncio.Task[None] | None = None

    async def start(self, inner: Path | None) -> None:
        """Start the trainer process; ConfigError if the run's model or data cannot be had here."""
        if self._config.inner.get("state") == "unit":
            inner = None  # it outlives no round
        self.inner_path, self._loop = inner, asyncio.get_running_loop()
        self._saver = None if inner is None else InnerSaver(inner, self._numbers.fragments == 1)
        self.trainer = await Trainer.start(self._config, self._on_progress)
        if self.trainer.numel != self._numbers.numel:
            what = (
                f"the model has {self.trainer.numel} parameters here, {self._numbers.numel} in the manifest"
            )
            await self.trainer.close()
            raise ConfigError(what, "[model]", "the transformers version that the researcher uses")
        await self._share(self.trainer)
        if inner is not None and inner.exists():
            try:
                await self.trainer.load_inner(inner)
            except ConfigError as error:
                log.warning("the inner optimiser starts anew", reason=str(error))
        self.task = asyncio.ensure_future(self._run())

    @property
    def spent(self) -> Spent:
        """Where the trainer's seconds went, to this moment: while a round runs, it is in a step."""
        told = self.trainer.spent if self.trainer is not None else Spent()
        return told.after(self._before).until(time.monotonic(), "steps_s" if self._running else "wait_s")

    @property
    def utilisation(self) -> float | None:
        """The share of the last minutes in which inner steps ran."""
        return self._utilisation.share(self.spent)

    async def close(self) -> None:
        ahead = self._ahead.result if self._ahead is not None else None
        saving = self._saver.task if self._saver is not None else None
        tasks = [task for task in (self.task, saving, ahead) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self.trainer is not None:
            await self.trainer.close()

    # ---- what the protocol wants ----------------------------------------------------------------

    def train(self, train: a.Train, first_step: int) -> None:
        """Train this round next; one still running is cut short and its work kept for later."""
        self._wanted = (train, first_step)
        self._wake.set()
        self._cut_short(train.round)
        promised = self._promise is not None and self._promise.round == train.round - 1 == self._last
        if promised and self._ahead is None and not self._rests and train.round not in self._settled:
            result = asyncio.ensure_future(self._ask(train, first_step, fresh=False))
            self._ahead = Ahead(train.round, result)

    def settle(self, settle: a.Settle, moved: bool) -> None:
        """Learn what became of a round; it may still be in training. `moved` if it was an update."""
        self._settled[settle.round] = (settle, moved)
        if len(self._settled) > SETTLED_MAX:
            del self._settled[min(self._settled)]
        self.became["included" if settle.included else "missed"] += 1
        self._cut_short(settle.round + 1)
        pending = self._pending.pop(settle.round, None)
        contribution = self._contributions.pop(settle.round, None)
        if contribution is not None:
            self._soon(settle.round, self._settle_contribution, contribution, settle, moved)
        elif pending is not None:
            self._soon(settle.round, self._carry, pending, settle, moved)

    async def _share(self, trainer: Trainer) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._worker, self._numbers.share, trainer.shared)

    @property
    def rests(self) -> bool:
        """Whether the machine is left to its owner."""
        return self._rests

    def replaced(self) -> None:
        """The whole state is another one: what the trainer's model trained on from is of no use."""
        self._last = None

    def rest(self, on: bool) -> None:
        """Leave the machine to its owner after the inner step in progress, or go on.

        What was trained of the round by then is handed over as it is; nothing new begins before the rest
        is over.
        """
        self._rests = on
        if not on:
            self._wake.set()
        elif self._running or self._ahead is not None:
            self._stop_early()

    def _cut_short(self, before_round: int) -> None:
        if 0 < self._running < before_round:
            self._stop_early()

    def _stop_early(self) -> None:
        """End the round in training; if that was promised whole, the one that was ordered behind it."""
        if self.trainer is not None and (self._promise is None or self._ahead is not None):
            self.trainer.stop_early()

    def _settle_contribution(self, contribution: Contribution, settle: a.Settle, moved: bool) -> None:
        if settle.included:
            self._numbers.accepted(contribution.round, contribution.payloads)
        else:
            self._numbers.missed(contribution.round, settle.late, moved)
        self._release(contribution.round)

    def _carry(self, pending: Pending, settle: a.Settle, moved: bool) -> None:
        self._numbers.carry(pending.round, pending.delta, settle.late, moved)
        self._release(pending.round)

    def _release(self, round_: int) -> None:
        if self.trainer is not None:
            self.trainer.shared.release(self._numbers.pieces[self._fragment(round_)])

    def _fragment(self, round_: int) -> int:
        return fragment_of(round_, self._numbers.fragments)

    def _soon(self, round_: int, function: Callable[..., None], *args: object) -> None:
        """Settle behind what else this moment asks of the worker: the outer step, which others wait for."""
        self._unsettled.append((round_, function, args))
        asyncio.get_running_loop().call_later(0, self._settle_now)

    def _settle_now(self) -> None:
        """At the latest before the residual is offered again."""
        while self._unsettled:
            round_, function, args = self._unsettled.popleft()
            self._in_worker(round_, function, *args).add_done_callback(
                lambda done: done.exception() and log.error("lost", error=repr(done.exception()))
            )

    def _in_worker(self, round_: int, function: Callable[..., Any], *args: object) -> asyncio.Future[Any]:
        """Have the worker do what reads the round's pseudo-gradient."""
        future = asyncio.get_running_loop().run_in_executor(self._worker, function, *args)
        self._reading[self._fragment(round_)] = future
        return future

    async def _free(self, fragment: int) -> None:
        """Wait until nothing reads this fragment's last pseudo-gradient any more."""
        self._settle_now()
        while (reading := self._reading.get(fragment)) is not None and not reading.done():
            await asyncio.wait({reading})

    # ---- the loop -------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            async with self.machine:
                if self._rests or self._wanted is None:
                    continue
                wanted, self._wanted = self._wanted, None
                try:
                    await self._round(*wanted)
                except TrainerDied as error:
                    await self._restart(error, wanted)

    async def _round(self, train: a.Train, first_step: int) -> None:
        trainer = self.trainer
        assert trainer is not None
        begun = await self._begun(train, first_step)
        if begun is None:
            return
        self._running, self._last, self._since_s = train.round, train.round, self._loop.time()
        if train.round in self._settled:
            self._stop_early()
        try:
            result = await begun
            self._running = 0
            if not result.finite:
                self._last = None
            if result.finite and not result.tokens and train.round not in self._settled:
                self._want_again(train, first_step)
                return
            piece = self._numbers.pieces[self._fragment(train.round)]
            await self._hand_over(train, result, trainer.shared.delta[piece])
        finally:
            self._running = 0
            if self._promise is not None:
                self._promise.kept.set()
                self._promise = None
        if self._saver is not None:
            self._saver.save(trainer)

    async def _begun(self, train: a.Train, first_step: int) -> Awaitable[TrainResult] | None:
        """The round as it was ordered ahead, or ordered now; None if there is nothing to train."""
        assert self.trainer is not None
        ahead, self._ahead = self._ahead, None
        self.round, self.steps, self.progress = train.round, train.steps, None
        if ahead is not None and (ahead.round, self._last) == (train.round, train.round - 1):
            return ahead.result
        if ahead is not None:
            self.trainer.stop_early()
            await ahead.result
        fresh = self._numbers.fragments == 1 or ahead is not None or self._last != train.round - 1
        if train.round in self._settled:
            return None
        if self._rests:
            self._want_again(train, first_step)
            return None
        return self._ask(train, first_step, fresh)

    async def _ask(self, train: a.Train, first_step: int, fresh: bool) -> TrainResult:
        assert self.trainer is not None
        index, count = train.shard
        fragment = self._fragment(train.round)
        await self._free(fragment)
        return await self.trainer.train(train.round, train.steps, index, count, first_step, fragment, fresh)

    def _want_again(self, train: a.Train, first_step: int) -> None:
        """Nothing was done for a round, because of a rest: train it after that unless a newer one waits."""
        self._wanted = self._wanted or (train, first_step)
        self._wake.set()

    async def _hand_over(self, train: a.Train, result: TrainResult, delta: torch.Tensor) -> None:
        if not result.finite or not result.tokens:
            log.warning(
                "nothing to contribute", round=train.round, finite=result.finite, tokens=result.tokens
            )
            return
        self.loss = result.mean_loss
        pending = Pending(train.round, delta)
        if late := self._settled.get(train.round):
            self._settle_now()
            await self._in_worker(train.round, self._carry, pending, *late)
            return
        self._pending[train.round] = pending
        if self._promise is None:
            self._feed(e.Trained(train.round, result.tokens, result.steps, _ms(result.seconds)))

    async def encode(self, order: a.Encode) -> tuple[bytes, ...]:
        """Encode what was handed over, part by part; nothing if its round is over, or ends meanwhile.

        What was encoded before its round began may be asked for again, in other parts, and so may what comes
        late and is for the next round now: one after the other.
        """
        async with self._encoding:
            return await self._encode(order)

    async def _encode(self, order: a.Encode) -> tuple[bytes, ...]:
        if self._promise is not None and self._promise.round == order.begun:
            await self._promise.kept.wait()
        done = self._contributions.pop(order.begun, None)
        pending = self._pending.pop(order.begun, None) or done
        if pending is None:
            return ()
        self._settle_now()
        try:
            payloads = tuple(
                await self._in_worker(
                    order.round,
                    self._numbers.encode,
                    order.round,
                    pending.delta,
                    order.parts,
                    done is not None,
                )
            )
        except ValueError as error:
            log.warning("nothing to contribute", round=order.round, reason=str(error))
            return ()
        contribution = Contribution(order.begun, pending.delta, payloads)
        if late := self._settled.get(order.begun):
            self._soon(order.begun, self._settle_contribution, contribution, *late)
            self._settle_now()
            return ()
        self._contributions[order.begun] = contribution
        return payloads

    async def _restart(self, error: TrainerDied, wanted: tuple[a.Train, int]) -> None:
        """Start the trainer again from the anchor, and train the same round unless a newer one waits."""
        self._restarts += 1
        self._last = None
        if self._ahead is not None:
            await asyncio.wait({self._ahead.result})
            self._ahead.result.exception()
            self._ahead = None
        if self.trainer is not None:
            self._before = self.trainer.spent.after(self._before)
        log.error("the trainer died; it starts again", status=error.returncode, restarts=self._restarts)
        if self._restarts > RESTARTS_MAX:
            raise ConfigError(f"the trainer died {self._restarts} times", "trainer", "see trainer.log")
        await asyncio.sleep(min(30.0, 0.2 * 2 ** min(self._restarts, 8)))
        self.trainer = await Trainer.start(self._config, self._on_progress)
        await self._share(self.trainer)
        if self.inner_path is not None and self.inner_path.exists():
            with contextlib.suppress(ConfigError):
                await self.trainer.load_inner(self.inner_path)
        if self._wanted is None:
            self._wanted = wanted
        self._wake.set()

    def _on_progress(self, progress: Progress) -> None:
        self.progress = progress
        self._feed(e.Progress(progress.round, progress.step))
        self._utilisation.share(self.spent)
        if self._numbers.fragments > 1 and progress.round == self._running and self._promise is None:
            left = self.steps - progress.step
            left_s = left * (self._loop.time() - self._since_s) / progress.step
            if left == 1 or 0 < left_s <= AHEAD_S:
                self._announce(progress.round, self._loop.time() - self._since_s + left_s)

    def _announce(self, round_: int, seconds: float) -> None:
        assert self.trainer is not None
        self._promise = Promise(round_, asyncio.Event())
        self._feed(e.Trained(round_, self.steps * self.trainer.step_tokens, self.steps, _ms(seconds)))


def _ms(seconds: float) -> int:
    """At least one: none says that it was not measured."""
    return max(1, round(seconds * 1000))
