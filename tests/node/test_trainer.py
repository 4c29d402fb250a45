"""The trainer as the daemon sees it: a real process that trains, stops, dies and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from atoll.node.trainer import Progress, Trainer, TrainerConfig, TrainerDied
from atoll.node.trainer_process import _device
from atoll.protocol.errors import ConfigError
from atoll.workload import model as models
from atoll.workload import vector
from atoll.workload.config import DataConfig, InnerConfig, ModelConfig
from atoll.workload.data import Corpus
from atoll.workload.evaluate import heldout_loss
from atoll.workload.inner import InnerLoop
from atoll.workload.tokens import ByteTokens

DEADLINE_S = 60
CONFIG = TrainerConfig(
    model={
        "architecture": "llama",
        "config": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 128,
        },
    },
    data={"sequence_tokens": 64, "bytes_max": 500_000},
    inner={"steps": 10, "batch_sequences": 4, "learning_rate": 3e-3, "warmup_steps": 4, "total_steps": 200},
    run_seed=b"seed",
)


class Island:
    """A trainer on its own event loop, called without await; every call has a deadline."""

    def __init__(self, config: TrainerConfig) -> None:
        self.loop = asyncio.new_event_loop()
        self.progress: list[Progress] = []
        self.config = config
        self.trainer = self.start()

    def start(self) -> Trainer:
        return self.run(Trainer.start(self.config, self.progress.append))

    def run(self, awaited: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(awaited, DEADLINE_S))

    def train(self, round: int, steps: int = 10) -> Any:
        return self.run(self.trainer.train(round, steps, 0, 2, round * 10))

    async def started_training(self, round: int, steps: int) -> asyncio.Task[Any]:
        """Begin a round and come back after its first step."""
        self.progress.clear()
        task = asyncio.ensure_future(self.trainer.train(round, steps, 0, 2, round * 10))
        while not self.progress and not task.done():
            await asyncio.sleep(0.005)
        return task

    def close(self) -> None:
        self.run(self.trainer.close())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Island]:
    """One trainer for all tests that leave it well."""
    island = Island(replace(CONFIG, log=tmp_path_factory.mktemp("trainer") / "trainer.log"))
    yield island
    island.close()


@pytest.fixture
def island(shared: Island) -> Island:
    shared.progress.clear()
    shared.run(shared.trainer.initial_vector())
    return shared


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        os.sched_yield()


def gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def test_it_equals_training_in_this_process(island: Island, tmp_path: Path) -> None:
    """Same anchor, same moments, one thread: the child's delta is anchor - local, to the bit."""
    trainer = island.trainer
    model = models.build(ModelConfig.from_mapping(CONFIG.model, ""))
    inner = InnerConfig.from_mapping(CONFIG.inner, "")
    corpus = Corpus.load(DataConfig.from_mapping(CONFIG.data, ""), ByteTokens())
    oracle = InnerLoop(model, corpus, inner, CONFIG.run_seed)
    anchor = torch.empty(vector.numel(model))
    vector.write(model, anchor)
    assert torch.equal(trainer.shared.anchor, anchor)
    assert trainer.slots == tuple((slot.name, slot.shape) for slot in vector.slots(model))
    assert (trainer.corpus_digest, trainer.windows) == (corpus.digest, corpus.windows)
    assert island.run(trainer.evaluate(8)) == heldout_loss(model, corpus, 8)

    for round in range(2):  # the second starts from the same anchor with the first one's moments
        result = island.train(round)
        vector.load(model, anchor)
        wanted = oracle.train(round, 10, 0, 2, round * 10, lambda: False, lambda step, loss: None)
        local = torch.empty_like(anchor)
        vector.write(model, local)
        assert torch.equal(trainer.shared.delta, anchor - local)
        assert torch.equal(trainer.shared.anchor, anchor)
        assert (result.steps, result.tokens, result.finite) == (10, 10 * 4 * 64, True)
        assert (result.mean_loss, result.last_loss) == (wanted.mean_loss, wanted.last_loss)
    assert [step.step for step in island.progress] == [*range(1, 11), *range(1, 11)]
    assert island.progress[-1].loss == result.last_loss
    assert island.progress[-1].tokens_per_s > 0


def test_rounds_lower_the_heldout_loss(island: Island) -> None:
    before = island.run(island.trainer.evaluate(16))
    for round in range(4):
        island.train(round)
        island.trainer.shared.anchor.sub_(island.trainer.shared.delta)
    after = island.run(island.trainer.evaluate(16))
    assert after < before * 0.8
    text = island.run(island.trainer.sample("def ", 20))
    assert text
    assert text == island.run(island.trainer.sample("def ", 20))


def test_a_round_can_be_stopped_early_and_the_next_one_is_whole(island: Island) -> None:
    async def scene() -> Any:
        island.trainer.stop_early()  # nothing runs: no effect on what comes
        task = await island.started_training(0, 1_000_000)
        island.trainer.stop_early()
        return await task

    result = island.run(scene())
    assert 1 <= result.steps < 10_000
    assert result.tokens == result.steps * 4 * 64
    assert island.trainer.shared.delta.abs().sum() > 0
    assert island.train(1).steps == 10


def test_the_anchor_may_be_written_while_a_round_runs(island: Island) -> None:
    async def scene() -> Any:
        task = await island.started_training(0, 1_000_000)
        with island.trainer.shared.writing():
            island.trainer.shared.anchor.fill_(1e6)
        island.trainer.stop_early()
        return await task

    assert island.run(scene()).finite
    assert island.trainer.shared.delta.abs().max() < 1


def test_a_cancelled_round_ends_in_the_child_too(island: Island) -> None:
    async def scene() -> float:
        task = await island.started_training(0, 1_000_000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await island.trainer.evaluate(2)  # answered only when the round is over

    assert island.run(scene()) > 0


def test_a_pseudo_gradient_that_is_not_finite_is_marked(island: Island) -> None:
    island.trainer.shared.anchor[-1] = float("nan")
    result = island.train(0)
    assert (result.steps, result.finite) == (0, False)
    island.run(island.trainer.initial_vector())
    assert island.train(0).finite


def test_ctrl_c_is_left_to_the_daemon(island: Island) -> None:
    os.kill(island.trainer.pid, signal.SIGINT)
    assert island.train(0).steps == 10


def test_a_killed_trainer_is_noticed_and_a_new_one_resumes_exactly(island: Island, tmp_path: Path) -> None:
    """The last of those that share a trainer: it ends the shared one, and the one that takes its place."""
    saved = tmp_path / "inner.safetensors"
    island.train(0)
    island.run(island.trainer.save_inner(saved))
    island.train(1)
    wanted = island.trainer.shared.delta.clone()

    async def killed() -> TrainerDied:
        task = await island.started_training(2, 1_000_000)
        os.kill(island.trainer.pid, signal.SIGKILL)
        with pytest.raises(TrainerDied) as caught:
            await task
        return caught.value

    assert island.run(killed()).returncode == -signal.SIGKILL
    with pytest.raises(TrainerDied):
        island.run(island.trainer.evaluate(1))
    dead = island.trainer
    dead.stop_early()
    island.trainer = island.start()
    island.trainer.shared.anchor.copy_(dead.shared.anchor)
    island.run(dead.close())
    island.run(island.trainer.load_inner(saved))
    island.train(1)
    assert torch.equal(island.trainer.shared.delta, wanted)

    saved.write_bytes(saved.read_bytes()[:-7])
    with pytest.raises(ConfigError, match=r"inner\.safetensors: this inner state is damaged.*delete it"):
        island.run(island.trainer.load_inner(saved))
    with pytest.raises(OSError, match="No such file or directory") as missing:
        island.run(island.trainer.save_inner(tmp_path / "nowhere" / "inner"))
    assert "nowhere" in str(missing.value)
    island.train(1)  # neither harmed it

    async def unheard() -> TrainerDied:
        task = await island.started_training(2, 1_000_000)
        island.trainer._writer.close()
        with pytest.raises(TrainerDied) as caught:
            await task
        return caught.value

    assert island.run(unheard()).returncode == 0  # the end of its socket ended it, nobody killed it
    island.run(island.trainer.close())
    assert gone(island.trainer.pid)
    assert island.config.log is not None
    island_log = island.config.log.read_text()
    assert "ready" in island_log
    assert "Traceback" not in island_log


def test_what_it_saves_resumes_to_the_bit_whatever_optimizer_and_however_it_ended(tmp_path: Path) -> None:
    """Schedule-Free keeps the most beside its moments; test_inner_optimizers.py has each of them."""
    config = replace(CONFIG, log=tmp_path / "log", inner={**CONFIG.inner, "optimizer": "schedule-free"})
    island = Island(config)
    saved = tmp_path / "inner.safetensors"
    island.run(island.trainer.initial_vector())
    island.train(0, steps=4)
    island.run(island.trainer.save_inner(saved))
    anchor = island.trainer.shared.anchor.clone()
    result = island.train(1, steps=4)
    wanted = island.trainer.shared.delta.clone()
    island.run(island.started_training(2, 1_000_000))
    os.kill(island.trainer.pid, signal.SIGKILL)
    island.close()

    model = models.build(ModelConfig.from_mapping(CONFIG.model, ""))
    corpus = Corpus.load(DataConfig.from_mapping(CONFIG.data, ""), ByteTokens())
    loop = InnerLoop(model, corpus, InnerConfig.from_mapping(config.inner, ""), CONFIG.run_seed)
    loop.load(saved)
    vector.load(model, anchor)
    again = loop.train(1, 4, 0, 2, 10, lambda: False, lambda step, loss: None)
    local = torch.empty_like(anchor)
    vector.write(model, local)
    assert torch.equal(anchor - local, wanted)
    assert wanted.any()
    assert again.last_loss == result.last_loss


def test_a_configuration_error_in_the_child_is_the_callers(tmp_path: Path) -> None:
    config = replace(CONFIG, log=tmp_path / "log", inner={"lerning_rate": 1})
    with pytest.raises(ConfigError) as caught:
        asyncio.run(Trainer.start(config, print))
    with pytest.raises(ConfigError) as wanted:
        InnerConfig.from_mapping(config.inner, "[inner]")
    assert str(caught.value) == str(wanted.value)
    assert caught.value.right == "did you mean `learning_rate`?"


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="device is 'tpu'"):
        _device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="torch finds none"):
            _device("cuda")


DAEMON = """
import asyncio, sys
from tests_config import CONFIG
from atoll.node.trainer import Trainer

async def main():
    trainer = await Trainer.start(CONFIG, lambda step: print(trainer.pid, flush=True))
    await trainer.initial_vector()
    await trainer.train(0, 1_000_000, 0, 2, 0)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_even_a_stopped_trainer_dies_with_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "tests_config.py").write_text(
        f"from atoll.node.trainer import TrainerConfig\nCONFIG = {CONFIG!r}\n"
    )
    (tmp_path / "daemon.py").write_text(DAEMON)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "daemon.py")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as daemon:
        assert daemon.stdout is not None
        child = int(daemon.stdout.readline())
        assert not gone(child)
        os.kill(child, signal.SIGSTOP)  # so it cannot read that its socket ended
        daemon.kill()
    until(lambda: gone(child))
