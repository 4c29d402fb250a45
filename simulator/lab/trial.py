"""One method under one seed, from the first parameters to the last held-out loss.

A trial that is killed goes on from its newest state and ends with the same numbers to the bit: nothing it
does depends on the clock, and all that it knows is in the state.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from atoll.simulator.lab.attendance import Attendance, run_seed
from atoll.simulator.lab.config import Lab, MethodConfig
from atoll.simulator.lab.disk import StartFolder, TrialFolder, load_tensors, save_tensors
from atoll.simulator.lab.methods import Method
from atoll.simulator.lab.replicas import Replicas, load_into
from atoll.simulator.lab.shards import Shard, by_topics
from atoll.workload import model as models
from atoll.workload import tokens as token_sets
from atoll.workload import vector
from atoll.workload.config import InnerConfig
from atoll.workload.data import Corpus
from atoll.workload.evaluate import heldout_loss
from atoll.workload.inner import InnerLoop

OnProgress = Callable[[float, float], None]  # (steps done, newest held-out loss)


@dataclass(frozen=True, slots=True)
class Point:
    """The held-out loss after so many steps, and what had been trained on and sent by then."""

    step: int
    tokens: int
    bytes_per_replica: float
    loss: float


@dataclass(slots=True)
class Log:
    """What a trial has measured so far."""

    curve: list[Point] = field(default_factory=list)
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        return {"curve": [list(dataclasses.astuple(point)) for point in self.curve], "seconds": self.seconds}

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Log:
        return cls([Point(*values) for values in facts["curve"]], facts["seconds"])


def check(lab: Lab) -> None:
    """Raise ConfigError if the model, or a method's way to cut it, is none; before anything is trained."""
    layout = Replicas.layout_of(first_model(lab, lab.lab.seeds[0]))
    for method in lab.methods:
        method.recipe.check(layout, f"{lab.path}: {method.name!r}")


def load_corpus(lab: Lab) -> Corpus:
    """The lab's text. Raises ConfigError."""
    return Corpus.load(lab.data, token_sets.load(lab.model.tokenizer), f"{lab.path}: [data]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a trial's files are, and the parameters that all trials of a lab start from."""

    trial: TrialFolder
    start: StartFolder


def run(
    lab: Lab, method: MethodConfig, seed: int, corpus: Corpus, place: Place, progress: OnProgress
) -> dict[str, Any]:
    """Run the trial, or what is left of it; its result is on disk when it returns. Raises ConfigError."""
    done = place.trial.result()
    if done is None:
        done = _Trial(lab, method, seed, corpus, place, progress).run()
        place.trial.finish(done)
    return done


class _Trial:
    def __init__(
        self, lab: Lab, method: MethodConfig, seed: int, corpus: Corpus, place: Place, progress: OnProgress
    ) -> None:
        self._lab, self._corpus, self._folder, self._progress = lab, corpus, place.trial, progress
        attendance = Attendance(seed, lab.lab.replicas, lab.churn, lab.stragglers)
        model = started(lab, seed, corpus, place.start)
        self._replicas = Replicas(model, _corpora(lab, corpus, seed), method.inner, attendance)
        self._steps_all = method.steps
        self._method: Method = method.recipe.build(self._replicas)
        self._log = Log()
        self._step = 0

    def run(self) -> dict[str, Any]:
        """Train to the last step, with evaluations and saves on the way."""
        self._resume()
        began, saved = time.perf_counter() - self._log.seconds, time.perf_counter()
        if not self._log.curve:
            self._evaluate()
        while self._step < self._steps_all:
            self._replicas.on_steps = self._stepped()
            due = self._due()
            self._step = self._method.advance(self._step, self._steps_all)
            self._log.seconds = time.perf_counter() - began
            if self._step == self._steps_all:
                self._method.finish(self._step)
            if self._step >= due:
                self._evaluate()
            if self._step < self._steps_all and time.perf_counter() - saved >= self._lab.lab.save_seconds:
                self._save()
                saved = time.perf_counter()
        self._log.seconds = time.perf_counter() - began
        last = self._log.curve[-1]
        result = {"loss": last.loss, "tokens": last.tokens, "bytes_per_replica": last.bytes_per_replica}
        return {**result, **self._log.facts()}

    def _due(self) -> int:
        """The step after which the next evaluation is due: there are `evaluations`, at equal distances."""
        count, steps = min(self._lab.lab.evaluations, self._steps_all), self._steps_all
        return next(at for at in (-(-steps * k // count) for k in range(1, count + 1)) if at > self._step)

    def _evaluate(self) -> None:
        model = load_into(self._replicas.model, self._method.anchor)
        loss = heldout_loss(model, self._corpus, self._lab.data.heldout_windows)
        sent = self._replicas.traffic.total / len(self._replicas)
        self._log.curve.append(Point(self._step, sum(self._replicas.tokens), sent, loss))
        self._progress(self._step, loss)

    def _stepped(self) -> Callable[[int], None]:
        """Tell how far this stretch is: replicas train one after another, so each step is a share of one."""
        done, share = float(self._step), 1 / self._method.turns

        def on_steps(steps: int) -> None:
            nonlocal done
            done += steps * share
            self._progress(done, self._log.curve[-1].loss)

        return on_steps

    # ---- on disk --------------------------------------------------------------------------------

    def _save(self) -> None:
        folder = self._folder.begin_state(self._step)
        save_tensors(self._method.tensors(), folder / "method.safetensors")
        facts = {"replicas": self._replicas.save(folder), "method": self._method.counters()}
        self._folder.commit_state(self._step, {**facts, "log": self._log.facts()})

    def _resume(self) -> None:
        found = self._folder.state()
        if found is None:
            return
        facts, folder = found
        self._step, self._log = facts["step"], Log.of(facts["log"])
        self._replicas.load(folder, facts["replicas"])
        self._method.restore(load_tensors(folder / "method.safetensors"), facts["method"])


def first_model(lab: Lab, seed: int) -> Any:
    """The model with its first parameters under a seed, where the lab trains. Raises ConfigError."""
    model = models.build(dataclasses.replace(lab.model, seed=lab.model.seed + seed), f"{lab.path}: [model]")
    models.check_sequence(model.config, lab.data.sequence_tokens, f"{lab.path}: [data]")
    return model.to(lab.on)


def started(lab: Lab, seed: int, corpus: Corpus, folder: StartFolder) -> Any:
    """The model as all methods start from it: its first parameters, or what one machine made of them."""
    model = first_model(lab, seed)
    if lab.start_inner is None:
        return model
    start = folder.load(seed)
    if start is None:
        _train_alone(model, lab.start_inner, corpus, seed)
        start = torch.empty(vector.numel(model))
        vector.write(model, start)
        folder.save(seed, start)
    vector.load(model, start)
    return model


def _train_alone(model: Any, inner: InnerConfig, corpus: Corpus, seed: int) -> None:
    loop = InnerLoop(model, corpus, inner, b"start " + run_seed(seed))
    loop.train(0, inner.total_steps, 0, 1, 0, lambda: False, lambda step, loss: None)


def _corpora(lab: Lab, corpus: Corpus, seed: int) -> Sequence[Corpus | Shard]:
    """What each replica reads."""
    if lab.shards.kind == "iid":
        return [corpus] * lab.lab.replicas
    return by_topics(corpus, lab.lab.replicas, lab.shards.topics, lab.shards.concentration, seed)
