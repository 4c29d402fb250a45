"""Many trials, several at a time: one process for each core, which takes one trial after another.

A process has one torch thread, so numbers do not depend on how many processes there are. They hear of each
other through the parent alone: lines of JSON through a pipe. What trains is imported where it is needed: the
model library takes seconds to load, and the parent does not need it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from atoll.protocol.errors import ConfigError
from atoll.simulator.lab.config import Lab
from atoll.simulator.lab.disk import StartFolder, TrialFolder
from atoll.workload.quick_imports import quick_imports

TELL_EVERY = 0.002
"""Of a trial: how far it goes between two messages about its progress."""
END_SECONDS = 5.0

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """One trial: the place of its method in the lab, from 0, and a seed."""

    method: int
    seed: int


OnNews = Callable[[Job, float, float], None]  # (which, steps done, newest held-out loss)
OnResult = Callable[[Job, Result], None]


class TrialDied(Exception):
    """A process of the lab ended without a result: killed, or out of memory."""


def run(lab: Lab, out: Path, workers: int, resume: bool, news: OnNews, done: OnResult) -> dict[Job, Result]:
    """Run all trials of a lab, the first seed of every method first; their results, as `done` gets them.

    Raises ConfigError and TrialDied. On these, and when interrupted, all processes end at once; the states
    of their trials stay on disk.
    """
    jobs = [Job(place, seed) for seed in lab.lab.seeds for place in range(len(lab.methods))]
    if not resume:
        StartFolder(out, "").clear()
        for job in jobs:
            _folder(lab, out, job).clear()
    results: dict[Job, Result] = {}

    def finished(job: Job, result: Result) -> None:
        results[job] = result
        done(job, result)

    if workers == 1 or len(jobs) == 1:
        _here(lab, out, jobs, news, finished)
    else:
        _Processes(lab, out, min(workers, len(jobs)), news, finished).run(jobs)
    return results


def workers_by_default(lab: Lab) -> int:
    """One for each core; one alone on a GPU, which trials would only share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if lab.on == "cuda" else cores


def _folder(lab: Lab, out: Path, job: Job) -> TrialFolder:
    method = lab.methods[job.method]
    return TrialFolder(out, job.method + 1, method.name, job.seed, lab.digest(method))


def _trials(lab: Lab, out: Path, news: OnNews) -> Callable[[Job], Result]:
    """What runs one trial after another, all on the same text. Raises ConfigError if it cannot be."""
    with quick_imports():
        from atoll.simulator.lab import trial

    torch.set_num_threads(1)
    trial.check(lab)
    corpus = trial.load_corpus(lab)

    def run(job: Job) -> Result:
        method = lab.methods[job.method]
        place = trial.Place(_folder(lab, out, job), StartFolder(out, lab.start_digest))
        progress = _now_and_then(method.steps, lambda steps, loss: news(job, steps, loss))
        return trial.run(lab, method, job.seed, corpus, place, progress)

    return run


def _now_and_then(steps_all: int, news: Callable[[float, float], None]) -> Callable[[float, float], None]:
    """Pass on what is told of a trial when it has gone on by `TELL_EVERY` of it."""
    told = -1.0

    def progress(steps: float, loss: float) -> None:
        nonlocal told
        if steps - told >= TELL_EVERY * steps_all:
            told = steps
            news(steps, loss)

    return progress


def _here(lab: Lab, out: Path, jobs: Sequence[Job], news: OnNews, done: OnResult) -> None:
    """One after another, in this process."""
    threads = torch.get_num_threads()
    try:
        run = _trials(lab, out, news)
        for job in jobs:
            done(job, run(job))
    finally:
        torch.set_num_threads(threads)


class _Processes:
    """The parent's side. Every process is given a job whenever it has none."""

    def __init__(self, lab: Lab, out: Path, count: int, news: OnNews, done: OnResult) -> None:
        self._news, self._done = news, done
        spawn = multiprocessing.get_context("spawn")
        self._pipes: dict[Connection, Any] = {}
        for _ in range(count):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_work, args=(theirs, lab, out), daemon=True)
            process.start()
            theirs.close()
            self._pipes[ours] = process

    def run(self, jobs: Sequence[Job]) -> None:
        waiting = list(jobs)
        try:
            idle = list(self._pipes)
            while waiting or len(idle) < len(self._pipes):
                while idle and waiting:
                    _send(idle.pop(), [waiting[0].method, waiting.pop(0).seed])
                for pipe in wait(list(self._pipes)):
                    assert isinstance(pipe, Connection)
                    if self._hear(pipe):
                        idle.append(pipe)
        finally:
            self._end()

    def _hear(self, pipe: Connection) -> bool:
        """Take one message; whether the process is done with its job."""
        try:
            kind, method, seed, *rest = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            process = self._pipes[pipe]
            process.join(END_SECONDS)
            raise TrialDied(f"a process of the lab died with status {process.exitcode}") from None
        job = Job(method, seed)
        match kind:
            case "news":
                self._news(job, *rest)
            case "done":
                self._done(job, *rest)
            case "refused":
                raise ConfigError(*rest)
            case _:
                raise TrialDied(f"a process of the lab failed:\n{rest[0]}")
        return bool(kind == "done")

    def _end(self) -> None:
        for pipe, process in self._pipes.items():
            process.terminate()
            pipe.close()
        for process in self._pipes.values():
            process.join(END_SECONDS)


def _send(pipe: Connection, message: Sequence[object]) -> None:
    pipe.send_bytes(json.dumps(message).encode())


def _work(pipe: Connection, lab: Lab, out: Path) -> None:
    """A process: do jobs as they come. It ends with its parent, whose end of the pipe then closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal interrupts all; the parent ends us
    run: Callable[[Job], Result] | None = None
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job = Job(*json.loads(pipe.recv_bytes()))
            try:
                run = run or _trials(lab, out, lambda job, *rest: _tell(pipe, "news", job, *rest))
                _tell(pipe, "done", job, run(job))
            except ConfigError as error:
                _tell(pipe, "refused", job, error.what, error.where, error.right)
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception:  # noqa: BLE001 - the outermost loop of a process: the parent shows it and ends
                _tell(pipe, "failed", job, traceback.format_exc())


def _tell(pipe: Connection, kind: str, job: Job, *rest: object) -> None:
    _send(pipe, [kind, job.method, job.seed, *rest])
