"""A small language model that is really trained: four characters in, the next one out.

What a unit of work gives is a function of (shard, round, anchor, steps) alone: the batches are drawn by a
counter from (seed, shard, round), and the inner optimizer starts anew in each unit. So two workers that do
the same unit get the same pseudo-gradient, which is what straggler codes need. Units are trained side by
side in one array.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from atoll.simulator.timing.text import VOCABULARY, Symbols, Text

Vector = npt.NDArray[np.float32]

CONTEXT, EMBEDDING, HIDDEN = 4, 8, 32
SHAPES = {
    "embedding": (VOCABULARY, EMBEDDING),
    "hidden": (CONTEXT * EMBEDDING, HIDDEN),
    "hidden_bias": (1, HIDDEN),
    "output": (HIDDEN, VOCABULARY),
    "output_bias": (1, VOCABULARY),
}
BATCH = 32
APART = 20
"""Every so many characters of a held-out window one is predicted."""

NUMEL = sum(rows * columns for rows, columns in SHAPES.values())


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """So many inner steps on a shard, for a job, which is most often a round; replicas of a unit are equal.

    `part` tells units of one shard and job apart: each draws batches of its own, of so many examples.
    """

    shard: int
    job: int
    steps: int
    part: int = 0
    batch: int = BATCH

    @property
    def work(self) -> float:
        """What it takes, in steps with the usual batch: a step takes as long as its batch is large."""
        return self.steps * self.batch / BATCH


@dataclass(frozen=True, slots=True)
class Inner:
    """AdamW within a unit, from moments of zero. (Kingma and Ba 2015)"""

    lr: float = 6e-3
    beta1: float = 0.9
    beta2: float = 0.99


@dataclass(frozen=True)
class Learner:
    """Trains units of a text; `seed` decides the first parameters and all batches.

    `labels`, if given, says what is learned in place of each symbol: poison.
    """

    text: Text
    seed: int
    inner: Inner = field(default_factory=Inner)
    labels: Symbols | None = None
    _means: dict[bytes, Vector] = field(default_factory=dict)
    _losses: dict[bytes, tuple[float, ...]] = field(default_factory=dict)
    _latest: dict[bytes, dict[Unit, Vector]] = field(default_factory=dict)

    def first(self) -> Vector:
        """The parameters to begin with, fp32 [NUMEL]."""
        draws = np.random.default_rng(self.seed)
        parts = []
        for name, (rows, columns) in SHAPES.items():
            scale = 0.0 if name.endswith("bias") else 1.0 if name == "embedding" else rows**-0.5
            parts.append(scale * draws.standard_normal((rows, columns)).ravel())
        return np.concatenate(parts).astype(np.float32)

    def losses(self, anchor: Vector) -> tuple[float, ...]:
        """The mean cross-entropy on each shard's held-out windows, nats per character."""
        key = _digest(anchor, ())
        if key not in self._losses:
            self._losses[key] = tuple(self._loss(anchor, windows) for windows in self.text.heldout)
        return self._losses[key]

    def losses_on(self, models: Vector, looked_at: Mapping[Unit, Sequence[int]]) -> Vector:
        """A model's mean cross-entropy for each unit, on what the unit trains on in as many of its steps.

        [models, NUMEL] and [models].
        """
        taken = []
        for unit, steps in looked_at.items():
            rows, columns = (picked[list(steps)] for picked in self._picks(unit))
            taken.append(self.text.training[unit.shard][rows[:, :, None], columns].reshape(-1, CONTEXT + 1))
        windows = np.stack(taken)
        return _cross_entropy(models, windows[:, :, :CONTEXT], windows[:, :, CONTEXT:])

    def mean(self, anchor: Vector, weights: Mapping[Unit, float]) -> Vector:
        """The weighted sum of the units' pseudo-gradients, in the units' order, in fp64; fp32 [NUMEL].

        It is remembered: a code that decodes exactly repeats what somebody else has trained from this anchor.
        """
        items = sorted((unit, weight) for unit, weight in weights.items() if weight)
        key = _digest(anchor, items)
        if key not in self._means:
            deltas = self.deltas(anchor, [unit for unit, _ in items])
            total = np.zeros(NUMEL)
            for unit, weight in items:
                total += weight * deltas[unit].astype(np.float64)
            self._means[key] = total.astype(np.float32)
        return self._means[key]

    def _loss(self, anchor: Vector, windows: Symbols) -> float:
        contexts = np.lib.stride_tricks.sliding_window_view(windows[:, :-1], CONTEXT, axis=1)
        contexts = contexts[:, ::APART].reshape(1, -1, CONTEXT)
        targets = windows[:, CONTEXT::APART].reshape(1, -1, 1)
        return float(_cross_entropy(anchor[None], contexts, targets)[0])

    def deltas(self, anchor: Vector, units: Sequence[Unit]) -> dict[Unit, Vector]:
        """The pseudo-gradients (anchor - local) of distinct units, fp32 [NUMEL] each; the latest are kept."""
        key = _digest(anchor, [(unit, 1.0) for unit in sorted(units)])
        if key in self._latest:
            return self._latest[key]
        found: dict[Unit, Vector] = {}
        for batch in sorted({unit.batch for unit in units}):
            alike = [unit for unit in units if unit.batch == batch]
            found |= self._trained(anchor, sorted(alike, key=lambda unit: -unit.steps))
        self._latest.clear()
        self._latest[key] = found
        return found

    def _trained(self, anchor: Vector, ordered: Sequence[Unit]) -> dict[Unit, Vector]:
        """Units of one batch size side by side; those with most steps come first."""
        local = np.repeat(anchor[None], len(ordered), 0)
        first, second = np.zeros_like(local), np.zeros_like(local)
        picks = [self._picks(unit) for unit in ordered]
        for step in range(ordered[0].steps):
            busy = sum(unit.steps > step for unit in ordered)
            taken = [
                self.text.training[unit.shard][rows[step][:, None], columns[step]]
                for unit, (rows, columns) in zip(ordered[:busy], picks, strict=False)
            ]
            batch = np.stack(taken)
            targets = batch[:, :, CONTEXT] if self.labels is None else self.labels[batch[:, :, CONTEXT]]
            gradient = _gradient(_views(local[:busy]), batch[:, :, :CONTEXT], targets)
            self._adam(local[:busy], first[:busy], second[:busy], gradient, step + 1)
        return {unit: anchor - mine for unit, mine in zip(ordered, local, strict=True)}

    def _picks(self, unit: Unit) -> tuple[Symbols, Symbols]:
        """Rows [steps, batch] and columns [steps, batch, CONTEXT + 1] of the shard. More steps begin with
        the same ones."""
        draws = np.random.Generator(
            np.random.Philox(key=[self.seed << 8 | unit.part, unit.shard << 32 | unit.job])
        )
        shard = self.text.training[unit.shard]
        numbers = draws.random((unit.steps, 2, unit.batch))
        rows = (numbers[:, 0] * len(shard)).astype(np.int64)
        starts = (numbers[:, 1] * (shard.shape[1] - CONTEXT)).astype(np.int64)
        return rows, starts[:, :, None] + np.arange(CONTEXT + 1)

    def _adam(self, local: Vector, first: Vector, second: Vector, gradient: Vector, step: int) -> None:
        inner = self.inner
        first += (1 - inner.beta1) * (gradient - first)
        second += (1 - inner.beta2) * (gradient * gradient - second)
        rate = inner.lr * (1 - inner.beta2**step) ** 0.5 / (1 - inner.beta1**step)
        local -= np.float32(rate) * first / (np.sqrt(second) + np.float32(1e-6))


def _digest(anchor: Vector, items: Sequence[tuple[Unit, float]]) -> bytes:
    return hashlib.blake2b(anchor.tobytes() + repr(items).encode(), digest_size=16).digest()


def _views(stacked: Vector) -> dict[str, Vector]:
    """Each parameter as [models, rows, columns], in the memory of [models, NUMEL]."""
    views, start = {}, 0
    for name, (rows, columns) in SHAPES.items():
        views[name] = stacked[:, start : start + rows * columns].reshape(len(stacked), rows, columns)
        start += rows * columns
    return views


def _product(left: Vector, right: Vector) -> Vector:
    """Matrices side by side; by torch, whose threads the caller sets."""
    product: Vector = torch.bmm(torch.from_numpy(left), torch.from_numpy(right)).numpy()
    return product


def _forward(model: dict[str, Vector], contexts: Symbols) -> tuple[Vector, Vector, Vector]:
    """Embeddings, hidden activations and logits of contexts, [models, batch, CONTEXT]."""
    models, batch, _ = contexts.shape
    embedded = model["embedding"][np.arange(models)[:, None, None], contexts].reshape(models, batch, -1)
    hidden = np.tanh(_product(embedded, model["hidden"]) + model["hidden_bias"])
    return embedded, hidden, _product(hidden, model["output"]) + model["output_bias"]


def _cross_entropy(models: Vector, contexts: Symbols, targets: Symbols) -> Vector:
    """Each model's mean over its contexts, [models]; targets are [models, contexts, 1]."""
    _, _, logits = _forward(_views(models), contexts)
    logits -= logits.max(2, keepdims=True)
    chosen = np.take_along_axis(logits, targets, 2)[:, :, 0]
    means: Vector = (np.log(np.exp(logits).sum(2)) - chosen).mean(1)
    return means


def _gradient(model: dict[str, Vector], contexts: Symbols, targets: Symbols) -> Vector:
    """The mean cross-entropy's gradient, [models, NUMEL]."""
    models, batch, _ = contexts.shape
    embedded, hidden, logits = _forward(model, contexts)
    logits -= logits.max(2, keepdims=True)
    errors = np.exp(logits, out=logits)
    errors /= errors.sum(2, keepdims=True)
    each = np.arange(models)[:, None]
    errors[each, np.arange(batch), targets] -= 1
    errors /= np.float32(batch)
    back = _product(errors, model["output"].transpose(0, 2, 1)) * (1 - hidden * hidden)
    inputs = _product(back, model["hidden"].transpose(0, 2, 1)).reshape(-1, EMBEDDING)
    places = (each[:, :, None] * VOCABULARY + contexts).ravel()
    sums = [np.bincount(places, inputs[:, at], models * VOCABULARY) for at in range(EMBEDDING)]
    parts = [
        np.stack(sums, 1).astype(np.float32).reshape(models, -1),
        _product(embedded.transpose(0, 2, 1), back).reshape(models, -1),
        back.sum(1),
        _product(hidden.transpose(0, 2, 1), errors).reshape(models, -1),
        errors.sum(1),
    ]
    return np.concatenate(parts, 1)
