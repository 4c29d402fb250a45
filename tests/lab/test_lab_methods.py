"""The methods against what they are known to equal, and their bytes against the payloads that were made."""

from __future__ import annotations

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
from atoll.workload import shards, vector
from atoll.workload.data import Corpus
from atoll.workload.inner import InnerLoop
from atoll.workload.loss import next_token_loss


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
    made, step = method.recipe.build(replicas, chosen.steps), 0
    while step < chosen.steps:
        step = made.advance(step, chosen.steps)
    made.finish(step)
    return made, replicas


def plain(chosen: Lab, corpus: Corpus, batch: int) -> torch.Tensor:
    """What one inner loop makes of the first parameters, with `batch` sequences a step, and no rounds."""
    model = trial.first_model(chosen, 0)
    inner = chosen.methods[0].inner.__replace__(batch_sequences=batch) if False else chosen.methods[0].inner
    from dataclasses import replace

    loop = InnerLoop(model, corpus, replace(inner, batch_sequences=batch), run_seed(0))
    loop.train(0, chosen.steps, 0, 1, 0, lambda: False, lambda step, loss: None)
    flat = torch.empty(vector.numel(model))
    vector.write(model, flat)
    return flat


def test_one_replica_with_outer_rate_one_is_plain_training(corpus: Corpus) -> None:
    alone = {"name": "d", "algorithm": "diloco", "steps": 4, "outer": {"rule": "nesterov", "lr": 1.0, "momentum": 0.0}}
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
    assert chosen.steps == 1
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
    monkeypatch.setattr("atoll.simulator.lab.methods.sending.codec_of", lambda *arguments: spy)
    chosen = lab(SYNC, {"name": "d", "algorithm": "diloco", "steps": 4, "codec": name})
    _, replicas = trained(chosen, corpus)
    rounds, parts = 3, REPLICAS
    assert len(spy.lengths) == rounds * parts * (REPLICAS + 1)
    sent = 0
    for start in range(0, len(spy.lengths), REPLICAS + 1):
        *contributions, result = spy.lengths[start : start + REPLICAS + 1]
        sent += sum(contributions[1:]) + (REPLICAS - 1) * result  # an owner has its own, and keeps the mean
    assert replicas.traffic.total == sent
    sizes = [stop - start for start, stop in part_bounds(replicas.numel, parts, codec(name).block)]
    expected = sum(2 * (REPLICAS - 1) * codec(name).payload_bytes(size) for size in sizes)
    assert sent == rounds * expected


def test_sparse_bytes_are_those_of_the_payloads(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy("topk")
    monkeypatch.setattr("atoll.simulator.lab.methods.sending.codec_of", lambda *arguments: spy)
    _, replicas = trained(lab(SYNC, {"name": "s", "algorithm": "sparseloco", "steps": 4}), corpus)
    assert len(spy.lengths) == 3 * REPLICAS
    assert replicas.traffic.total == (REPLICAS - 1) * sum(spy.lengths)


def test_the_baseline_sends_a_ring_all_reduce_in_every_step(corpus: Corpus) -> None:
    _, replicas = trained(lab(), corpus, place=0)
    by_one = 2 * (REPLICAS - 1) / REPLICAS * 4 * replicas.numel * STEPS
    assert replicas.traffic.total / REPLICAS == pytest.approx(by_one)


@pytest.mark.parametrize("place", range(1, 8))
def test_a_last_round_is_exchanged_if_training_ends_within_it(place: int, corpus: Corpus) -> None:
    """Twelve steps and rounds of five: without the last two, what is evaluated would be two steps old."""
    method = {**ALL[place], "steps": 6 if ALL[place]["algorithm"] == "streaming" else 5}
    short, _ = trained(lab(SYNC, method, lab={"tokens": REPLICAS * 10 * BATCH * SEQUENCE}), corpus)
    made, replicas = trained(lab(SYNC, method), corpus)
    assert not torch.equal(made.anchor, short.anchor)
    assert sum(replicas.tokens) == REPLICAS * STEPS * BATCH * SEQUENCE


@pytest.mark.parametrize("place", range(len(ALL) - 2))
def test_churn_and_stragglers(place: int, corpus: Corpus) -> None:
    """Fewer tokens are trained on, late contributions are not lost, and the loss still falls."""
    churn = {"every_steps": 2, "leave": 0.3, "away": 1, "miss": 0.3}
    chosen = lab(*ALL, churn=churn, stragglers={"speeds": [1.0, 0.5]})
    made, replicas = trained(chosen, corpus, place)
    assert bool(torch.isfinite(made.anchor).all())
    assert 0 < replicas.tokens[1] < replicas.tokens[0] == STEPS * BATCH * SEQUENCE
    _, calm = trained(lab(*ALL), corpus, place)
    assert 0 < replicas.traffic.total != calm.traffic.total


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
    assert not any(bool(each.any()) for name, each in dropped.tensors().items() if name.startswith("residual."))


def test_shards_by_topic_are_equal_parts_and_the_baseline_reads_them_all(corpus: Corpus) -> None:
    from atoll.simulator.lab.shards import Union, by_topics

    made = by_topics(corpus, 3, 4, 0.1, seed=7)
    rows = [{tuple(row) for row in shard.batch(range(shard.windows)).tolist()} for shard in made]
    assert {shard.windows for shard in made} == {corpus.windows // 3}
    everything = {tuple(row) for row in corpus.batch(range(corpus.windows)).tolist()}
    assert set.union(*rows) <= everything
    common = [np.bincount(shard.batch(range(shard.windows)).ravel(), minlength=257) for shard in made]
    shares = np.array([each / each.sum() for each in common])
    alike = by_topics(corpus, 3, 4, 1e6, seed=7)
    other = np.array(
        [np.bincount(s.batch(range(s.windows)).ravel(), minlength=257) / (s.windows * (SEQUENCE + 1)) for s in alike]
    )
    assert np.ptp(shares, axis=0).sum() > 2 * np.ptp(other, axis=0).sum(), "a small concentration tells shards apart"
    union = Union(made)
    together = union.batch([0, 1, 2, 3, 4, 5])
    assert together.tolist() == np.concatenate([s.batch(w) for s, w in zip(made, ([0, 1], [2, 3], [4, 5]))]).tolist()
    union.present = [True, False, True]
    assert len(union.batch(range(6))) == 4
