"""The methods against what they are known to equal, and their bytes against the payloads that were made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labs import ALL, BATCH, REPLICAS, SEQUENCE, STEPS, SYNC, lab, numbers, run
from torch.nn.utils import clip_grad_norm_

from atoll.optim.codecs import codec
from atoll.optim.parts import part_bounds
from atoll.simulator.lab import trial
from atoll.simulator.lab.attendance import Attendance, run_seed
from atoll.simulator.lab.config import Lab
from atoll.simulator.lab.methods import Method
from atoll.simulator.lab.replicas import Replicas
from atoll.simulator.lab.shards import Shard, Union, by_topics
from atoll.workload import shards, vector
from atoll.workload.data import Corpus
from atoll.workload.evaluate import heldout_loss
from atoll.workload.inner import InnerLoop
from atoll.workload.loss import next_token_loss

PER_STEP = REPLICAS * BATCH * SEQUENCE
ALL_OF_FOUR = [{**method, "steps": 4} for method in ALL]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return trial.load_corpus(lab())


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(chosen: Lab, corpus: Corpus, place: int = 1) -> tuple[Method, Replicas]:
    """A method of the lab, trained to its end."""
    attendance = Attendance(0, chosen.lab.replicas, chosen.churn, chosen.stragglers)
    method = chosen.methods[place]
    corpora = [corpus] * chosen.lab.replicas
    replicas = Replicas(trial.first_model(chosen, 0), corpora, method.inner, attendance)
    made, step = method.recipe.build(replicas), 0
    while step < method.steps:
        step = made.advance(step, method.steps)
    made.finish(step)
    return made, replicas


def plain(chosen: Lab, corpus: Corpus, batch: int) -> torch.Tensor:
    """What one inner loop makes of the first parameters, with `batch` sequences a step, and no rounds."""
    model = trial.first_model(chosen, 0)
    inner = replace(chosen.methods[0].inner, batch_sequences=batch)
    loop = InnerLoop(model, corpus, inner, run_seed(0))
    loop.train(0, chosen.methods[0].steps, 0, 1, 0, lambda: False, lambda step, loss: None)
    flat = torch.empty(vector.numel(model))
    vector.write(model, flat)
    return flat


def test_one_replica_with_outer_rate_one_is_plain_training(corpus: Corpus) -> None:
    alone = {
        "name": "d",
        "algorithm": "diloco",
        "steps": 4,
        "outer": {"rule": "nesterov", "lr": 1.0, "momentum": 0.0},
    }
    chosen = lab(SYNC, alone, lab={"replicas": 1, "tokens": STEPS * BATCH * SEQUENCE})
    made, _ = trained(chosen, corpus)
    expected = plain(chosen, corpus, BATCH)
    start = torch.empty_like(expected)
    vector.write(trial.first_model(chosen, 0), start)
    assert (expected - start).abs().max() > 1e-3
    torch.testing.assert_close(made.anchor, expected, rtol=0, atol=2e-6)


def test_the_baseline_is_one_large_batch(corpus: Corpus) -> None:
    made, _ = trained(lab(), corpus, place=0)
    assert torch.equal(made.anchor, plain(lab(), corpus, REPLICAS * BATCH))


def test_the_baseline_steps_by_the_mean_gradient_of_all_replicas(corpus: Corpus) -> None:
    """Its first step, from the gradients that each replica would send: mean, clip, AdamW."""
    chosen = lab(lab={"tokens": REPLICAS * BATCH * SEQUENCE}, inner={"warmup_steps": 0})
    assert chosen.methods[0].steps == 1
    made, _ = trained(chosen, corpus, place=0)
    model = trial.first_model(chosen, 0)
    inner = chosen.methods[0].inner
    for replica in range(REPLICAS):
        windows = shards.batch(run_seed(0), 0, replica, REPLICAS, 0, BATCH, 1, corpus.windows)
        (next_token_loss(model, corpus.batch(windows), "mean") / REPLICAS).backward()
    clip_grad_norm_(model.parameters(), inner.clip_norm)
    decayed = {True: inner.weight_decay, False: 0.0}
    groups = [{"params": [p], "weight_decay": decayed[p.dim() >= 2]} for p in model.parameters()]
    torch.optim.AdamW(groups, lr=inner.learning_rate, betas=inner.betas).step()
    flat = torch.empty(vector.numel(model))
    vector.write(model, flat)
    torch.testing.assert_close(made.anchor, flat, rtol=1e-4, atol=1e-5)


def test_streaming_one_fragment_at_once_is_diloco_to_the_bit(corpus: Corpus) -> None:
    outer = {"rule": "nesterov", "lr": 0.7, "momentum": 0.9}
    keys = {"steps": 5, "codec": "int8", "outer": outer}
    still = {"fragments": 1, "overlap": 0, "mixing": 0.0}
    one, _ = trained(lab(SYNC, {"name": "a", "algorithm": "diloco", **keys}), corpus)
    two, _ = trained(lab(SYNC, {"name": "b", "algorithm": "streaming", **keys, **still}), corpus)
    assert torch.equal(one.anchor, two.anchor)


def test_equal_seeds_give_equal_numbers_and_others_do_not(tmp_path: Path) -> None:
    methods = (SYNC, *ALL[1:3])
    one, two = run(lab(*methods), tmp_path / "1"), run(lab(*methods), tmp_path / "2")
    other = run(lab(*methods, lab={"seeds": [1]}), tmp_path / "3")
    for name, result in one.items():
        assert numbers(result) == numbers(two[name])
        assert result["loss"] != other[name]["loss"]
        assert result["tokens"] == REPLICAS * STEPS * BATCH * SEQUENCE
    first = {result["curve"][0][3] for result in one.values()}
    assert len(first) == 1, "all methods start from the same parameters"


class Spy:
    """A codec that keeps the length of every payload that it makes."""

    def __init__(self, name: str) -> None:
        self._codec, self.lengths = codec(name), []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def encode(self, x: torch.Tensor) -> bytes:
        payload = self._codec.encode(x)
        self.lengths.append(len(payload))
        return payload


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_dense_bytes_are_those_of_the_payloads(
    name: str, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(name)
    monkeypatch.setattr("atoll.simulator.lab.methods.sending.codec", lambda name: spy)
    chosen = lab(SYNC, {"name": "d", "algorithm": "diloco", "steps": 4, "codec": name})
    _, replicas = trained(chosen, corpus)
    rounds, parts = 3, REPLICAS
    assert len(spy.lengths) == rounds * parts * (REPLICAS + 1)
    sent = 0
    for start in range(0, len(spy.lengths), parts * (REPLICAS + 1)):
        middle = start + parts * REPLICAS
        pieces, results = spy.lengths[start:middle], spy.lengths[middle:]
        for part in range(parts):
            _, *others = pieces[part * REPLICAS : (part + 1) * REPLICAS]
            sent += sum(others) + (REPLICAS - 1) * results[part]  # an owner has its own, and keeps the mean
    assert replicas.traffic.total == sent
    sizes = [stop - start for start, stop in part_bounds(replicas.numel, parts, codec(name).block)]
    expected = sum(2 * (REPLICAS - 1) * codec(name).payload_bytes(size) for size in sizes)
    assert sent == rounds * expected


def test_sparse_bytes_are_those_of_the_payloads(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy("topk")
    monkeypatch.setattr("atoll.simulator.lab.methods.sending.codec", lambda name: spy)
    _, replicas = trained(lab(SYNC, {"name": "s", "algorithm": "sparseloco", "steps": 4}), corpus)
    assert len(spy.lengths) == 3 * REPLICAS
    assert replicas.traffic.total == (REPLICAS - 1) * sum(spy.lengths)


def test_the_baseline_sends_a_ring_all_reduce_in_every_step(corpus: Corpus) -> None:
    _, replicas = trained(lab(), corpus, place=0)
    by_one = 2 * (REPLICAS - 1) / REPLICAS * 4 * replicas.numel * STEPS
    assert replicas.traffic.total / REPLICAS == pytest.approx(by_one)


@pytest.mark.parametrize("place", [1, 2, 5, 7])
def test_a_last_round_is_exchanged_if_training_ends_within_it(place: int, corpus: Corpus) -> None:
    """Six steps and rounds of four: without the last two, what is evaluated would be two steps old."""
    short, whole = (lab(SYNC, ALL_OF_FOUR[place], lab={"tokens": PER_STEP * steps}) for steps in (4, 6))
    early, _ = trained(short, corpus)
    made, replicas = trained(whole, corpus)
    assert not torch.equal(made.anchor, early.anchor)
    assert sum(replicas.tokens) == 6 * PER_STEP


@pytest.mark.parametrize("place", range(len(ALL) - 2))
def test_churn_and_stragglers(place: int, corpus: Corpus) -> None:
    """Who is slow or away trains on less, and the parameters stay numbers."""
    churn = {"every_steps": 2, "leave": 0.3, "away": 1, "miss": 0.1}
    chosen = lab(*ALL, churn=churn, stragglers={"speeds": [1.0, 0.5]}, lab={"tokens": 8 * PER_STEP})
    made, replicas = trained(chosen, corpus, place)
    assert bool(torch.isfinite(made.anchor).all())
    assert 0 < replicas.tokens[1] < replicas.tokens[0] == 8 * BATCH * SEQUENCE
    assert replicas.traffic.total > 0


def test_a_late_contribution_waits_in_the_residual(corpus: Corpus) -> None:
    """With every contribution late, nothing moves; what was trained is offered in the next round."""
    method = {"name": "d", "algorithm": "diloco", "steps": 4}
    made, replicas = trained(lab(SYNC, method, churn={"miss": 1.0}), corpus)
    start = torch.empty(replicas.numel)
    vector.write(trial.first_model(lab(), 0), start)
    assert torch.equal(made.anchor, start)
    assert replicas.traffic.total == 0
    residuals = {name: each for name, each in made.tensors().items() if name.startswith("residual.")}
    assert all(bool(each.any()) for each in residuals.values())
    dropped, _ = trained(lab(SYNC, method, churn={"miss": 1.0, "late": "drop"}), corpus)
    assert not any(
        bool(each.any()) for name, each in dropped.tensors().items() if name.startswith("residual.")
    )


def test_shards_by_topic_are_equal_parts_that_differ(corpus: Corpus) -> None:
    own, alike = (by_topics(corpus, 3, 4, concentration, seed=7) for concentration in (0.1, 1e6))
    windows = {tuple(row) for row in corpus.batch(range(corpus.windows)).tolist()}
    for shards_ in (own, alike):
        rows = [tuple(row) for shard in shards_ for row in shard.batch(range(shard.windows)).tolist()]
        assert {shard.windows for shard in shards_} == {corpus.windows // 3}
        assert set(rows) <= windows
    assert difference(own) > 2 * difference(alike)


def difference(shards_: list[Shard]) -> float:
    """How far the shards' shares of each id lie apart, summed over ids."""
    counts = [np.bincount(s.batch(range(s.windows)).ravel(), minlength=257) for s in shards_]
    return float(np.ptp([count / count.sum() for count in counts], axis=0).sum())


def test_the_baseline_reads_what_all_replicas_read(corpus: Corpus) -> None:
    made = by_topics(corpus, 3, 4, 0.1, seed=7)
    union = Union(made)
    each = [shard.batch(windows) for shard, windows in zip(made, ([0, 1], [2, 3], [4, 5]), strict=True)]
    assert np.array_equal(union.batch(range(6)), np.concatenate(each))
    union.present = [True, False, True]
    assert np.array_equal(union.batch(range(6)), np.concatenate([each[0], each[2]]))


def test_all_methods_start_from_what_one_machine_trained(tmp_path: Path, corpus: Corpus) -> None:
    chosen = lab(*ALL[:2], start={"tokens": 5 * PER_STEP})
    results = run(chosen, tmp_path)
    cold = run(lab(*ALL[:2]), tmp_path / "cold")
    first = {result["curve"][0][3] for result in results.values()}
    assert len(first) == 1
    assert min(first) < cold["sync"]["curve"][0][3]
    model = trial.first_model(chosen, 0)
    inner = replace(chosen.methods[0].inner, batch_sequences=REPLICAS * BATCH, total_steps=5)
    loop = InnerLoop(model, corpus, inner, b"start " + run_seed(0))
    loop.train(0, 5, 0, 1, 0, lambda: False, lambda step, loss: None)
    assert heldout_loss(model, corpus, chosen.data.heldout_windows) == min(first)
    assert {result["tokens"] for result in results.values()} == {STEPS * PER_STEP}


def test_a_method_with_larger_batches_takes_fewer_steps(corpus: Corpus) -> None:
    large = {**ALL[1], "inner": {"batch_sequences": 2 * BATCH}}
    chosen = lab(SYNC, large)
    assert [method.steps for method in chosen.methods] == [STEPS, STEPS // 2]
    _, replicas = trained(chosen, corpus, place=1)
    assert sum(replicas.tokens) == STEPS * PER_STEP
