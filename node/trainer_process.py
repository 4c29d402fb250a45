"""The trainer: torch in a process of its own, driven by the daemon over one inherited socket.

Lines of JSON go both ways. The daemon asks {"id", "command", …}; the trainer answers {"id", "result"} or
{"id", "error"}, and reports {"id", "progress"} after each inner step. Parameters and pseudo-gradients never
pass through the socket: both sides map the same memory (shared_round.py).

A thread reads the socket, so that "stop" reaches a running round and the end of the daemon ends the
trainer; another one writes, as the daemon that is woken up may take the processor. Commands themselves run
one after the other on the main thread, so the daemon may order the next round while one runs. Only the
writing of a file that was copied before is left to a third thread.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atoll.node.arrangement import arranged
from atoll.node.effort import Effort
from atoll.node.local_model import LocalModel
from atoll.node.shared_round import SharedRound
from atoll.node.spent import Kind, Stopwatch
from atoll.protocol.errors import ConfigError
from atoll.workload import model as models
from atoll.workload import tokens as token_sets
from atoll.workload import vector
from atoll.workload.config import DataConfig, InnerConfig, ModelConfig
from atoll.workload.data import Corpus
from atoll.workload.evaluate import heldout_loss
from atoll.workload.falls import Measure, Work
from atoll.workload.inner import InnerLoop, InnerResult
from atoll.workload.sample import sample

log = logging.getLogger("atoll.trainer")

NICENESS = 5
STOPS_KEPT = 8
PR_SET_PDEATHSIG = 1

Message = dict[str, Any]


class Link:
    """The socket to the daemon. Its end is the daemon's end, and then the trainer's, at once."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.commands: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._stopped: deque[int] = deque(maxlen=STOPS_KEPT)
        self._told: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._teller = threading.Thread(target=self._tell, name="teller", daemon=True)
        self._teller.start()
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def _read(self) -> None:
        try:
            with self._connection.makefile("rb") as lines:
                for line in lines:
                    self._take(json.loads(line))
        except Exception:
            log.exception("the link to the daemon broke")
            os._exit(1)
        os._exit(0)

    def _take(self, message: Message) -> None:
        if message["command"] == "stop":
            self._stopped.append(message["id"])
        else:
            self.commands.put(message)

    def stopped(self, request: int) -> bool:
        """Tell whether the daemon asked this request to end early."""
        return request in self._stopped

    def send(self, message: Message) -> None:
        """From any thread. What waits to be sent is bounded by what was asked."""
        self._told.put(message)

    def flush(self) -> None:
        """Wait until all was sent; nothing can be sent afterwards."""
        self._told.put(None)
        self._teller.join()

    def _tell(self) -> None:
        try:
            while (message := self._told.get()) is not None:
                self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            os._exit(0)
        except Exception:
            log.exception("the trainer ends: it cannot answer")
            os._exit(1)


class Worker:
    """One model with its data, moments and shared vectors; each method is one command."""

    def __init__(self, start: Message, files: tuple[int, int], watch: Stopwatch) -> None:
        model = ModelConfig.from_mapping(start["model"], "[model]")
        data = DataConfig.from_mapping(start["data"], "[data]")
        inner = InnerConfig.from_mapping(start["inner"], "[inner]")
        device = _device(start["device"])
        self._tokens = token_sets.load(model.tokenizer, model.tokenizer_sha256)
        self._corpus = Corpus.load(data, self._tokens)
        self._model = models.build(model)
        models.check_sequence(self._model.config, data.sequence_tokens)
        named = [(slot.name, slot.shape) for slot in vector.slots(self._model)]
        self._order, pieces = arranged(named, start["fragments"], start["partition"])
        shared = SharedRound(files, vector.numel(self._model), len(pieces))
        self._local = LocalModel(self._model, shared, self._order, pieces, start["mixing"])
        self._first = model
        self._model.to(device)
        seed = bytes.fromhex(start["run_seed"])
        self._loop = InnerLoop(self._model, self._corpus, inner, seed)
        self._audited: tuple[str, float] = ("", 0.0)
        self._measure = Measure(self._model, self._corpus, inner, seed, order=self._order)
        self._step_tokens = inner.batch_sequences * data.sequence_tokens
        self._watch, self._effort = watch, Effort(start["effort"])

    def facts(self) -> Message:
        return {
            "numel": vector.numel(self._model),
            "slots": [[slot.name, list(slot.shape)] for slot in vector.slots(self._model, self._order)],
            "corpus": self._corpus.digest,
            "windows": self._corpus.windows,
            "step_tokens": self._step_tokens,
        }

    def initial(self) -> None:
        """Write the first parameters, from seed or checkpoint, into the anchor, whatever ran before."""
        vector.write(models.build(self._first), self._local.shared.anchor, self._order)

    def train(
        self, round: Message, should_stop: Callable[[], bool], report: Callable[[Message], None]
    ) -> Message:
        """Train, from the anchor or on, and leave the round's fragment of anchor - local in `delta`.

        Where the anchor of a fragment moves meanwhile, the model takes it in after the step in progress.
        """
        fragment, wanted = round.pop("fragment"), round.pop("steps")
        started, watch, effort = time.monotonic(), self._watch, self._effort
        self._local.begin(round.pop("fresh"))
        watch.lap("merge_s")
        between: Kind = "other_s"

        def progress(step: int, loss: float) -> None:
            nonlocal between
            watch.lap("steps_s")
            effort.end()
            between = "steps_s"
            rate = step * self._step_tokens / max(time.monotonic() - started, 1e-9)
            report({"round": round["round"], "step": step, "loss": loss, "tokens_per_s": rate})

        def ends() -> bool:
            return self._local.waits or should_stop()

        def pause() -> bool:
            watch.lap(between)
            effort.rest(ends)
            watch.lap("rest_s")
            effort.begin()
            return ends()

        train = self._loop.train
        result = train(**round, steps=wanted, should_stop=pause, progress=progress)
        while result.finite and result.steps < wanted and not should_stop():
            self._local.merge()
            watch.lap("merge_s")
            between = "other_s"
            steps, taken = wanted - result.steps, result.steps
            result = _joined(
                result, train(**round, steps=steps, taken=taken, should_stop=pause, progress=progress)
            )
        finite = self._local.hand_over(fragment) and result.finite
        watch.lap("hand_over_s")
        return {**asdict(result), "finite": finite, "seconds": time.monotonic() - started}

    def evaluate(self, windows: int) -> float:
        self._local.load()
        return heldout_loss(self._model, self._corpus, windows)

    def sample(self, prompt: str, count: int, seed: int) -> str:
        self._local.load()
        return sample(self._model, self._tokens, prompt, count, seed)

    def falls(self, anchor: str, offset: int, step: str, work: Message) -> list[float]:
        """What a step from an anchor lowers the loss by: both are fp32 in files. A round begins anew then."""
        numel = vector.numel(self._model)
        before = torch.from_numpy(np.fromfile(anchor, "<f4", numel, offset=offset))
        after = before - torch.from_numpy(np.fromfile(step, "<f4", numel))
        self._effort.begin()
        if self._audited[:1] != (anchor,):
            self._audited = (anchor, self._measure.heldout(before))
        found = self._measure.falls(before, after, Work(**work), self._audited[1])
        self._effort.end()
        self._effort.rest(lambda: False)
        return [found.heldout, found.assigned, found.control]

    def save_inner(self, path: str) -> Callable[[], None]:
        """Copy the moments; what is returned writes the copy, while training goes on."""
        write = self._loop.saving(Path(path))
        self._watch.lap("save_s")
        return write

    def load_inner(self, path: str) -> None:
        self._loop.load(Path(path))


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda but torch finds none", "", 'device "cpu", or torch built for CUDA')
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"device is {name!r}", "", '"cpu" or "cuda"')
    return torch.device(name)


def _joined(first: InnerResult, second: InnerResult) -> InnerResult:
    """Two stretches of one round as one."""
    if not second.steps:
        return replace(first, finite=second.finite)
    steps = first.steps + second.steps
    losses = ((one.steps, one.mean_loss) for one in (first, second) if one.steps)
    mean = sum(count * loss for count, loss in losses) / steps
    return InnerResult(steps, first.tokens + second.tokens, mean, second.last_loss, second.finite)


def _error(error: ConfigError | OSError) -> Message:
    if isinstance(error, ConfigError):
        return {"kind": "config", "what": error.what, "where": error.where, "right": error.right}
    return {"kind": "os", "errno": error.errno, "text": error.strerror, "path": error.filename}


def answer(link: Link, request: Message, run: Callable[[], Any], watch: Stopwatch | None = None) -> bool:
    """Run one command and send its answer. A user's fault and a full disk are answers, a bug is not."""
    try:
        result = run()
        if watch is not None:
            watch.lap("other_s")
        link.send({"id": request["id"], "result": result, **_spent(watch)})
    except (ConfigError, OSError) as error:
        log.error("%s: %s", request["command"], error)
        link.send({"id": request["id"], "error": _error(error)})
        return False
    return True


def _spent(watch: Stopwatch | None) -> Message:
    return {} if watch is None else {"spent": asdict(watch.spent)}


def perform(worker: Worker, link: Link, request: Message, watch: Stopwatch) -> Any:
    """Carry out one command after the start."""
    number, command, given = request["id"], request["command"], request["with"]
    if command == "train":
        return worker.train(
            given,
            lambda: link.stopped(number),
            lambda step: link.send({"id": number, "progress": step, **_spent(watch)}),
        )
    plain: dict[str, Callable[..., Any]] = {
        "initial": worker.initial,
        "evaluate": worker.evaluate,
        "sample": worker.sample,
        "falls": worker.falls,
        "load_inner": worker.load_inner,
    }
    return plain[command](**given)


def serve(link: Link, files: tuple[int, int]) -> None:
    """Start as the first message says, then answer commands until "exit" or a refused start."""
    start = link.commands.get()
    torch.set_num_threads(start["with"]["threads"])
    workers: list[Worker] = []
    watch = Stopwatch()

    def begin() -> Message:
        workers.append(Worker(start["with"], files, watch))
        return workers[0].facts()

    if not answer(link, start, begin, watch):
        return
    log.info("ready: %s", {key: value for key, value in workers[0].facts().items() if key != "slots"})
    with ThreadPoolExecutor(1, "saving") as saver:
        while (request := link.commands.get())["command"] != "exit":
            watch.lap("wait_s")
            if request["command"] == "save_inner":
                saver.submit(written, link, request, workers[0].save_inner(**request["with"]))
            else:
                answer(link, request, lambda: perform(workers[0], link, request, watch), watch)


def written(link: Link, request: Message, write: Callable[[], None]) -> None:
    """Runs in the thread that saves; a bug there ends the process too."""
    try:
        answer(link, request, write)
    except Exception:
        log.exception("the trainer ends: it cannot save")
        os._exit(1)


def outlive_nobody(parent: int) -> None:
    """Die with the daemon, even if stopped or stuck; leave Ctrl-C to it; let it have the processor first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Atoll's trainer. `atoll join` starts it; people do not.")
    for name in ("parent", "socket", "anchor", "delta"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args(arguments)
    outlive_nobody(given.parent)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    link = Link(socket.socket(fileno=given.socket))
    try:
        serve(link, (given.anchor, given.delta))
        link.flush()
    except Exception:
        log.exception("the trainer ends")
        os._exit(1)
    os._exit(0)
