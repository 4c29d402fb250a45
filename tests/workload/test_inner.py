"""The inner loop learns, keeps its moments, and can be stopped, saved and resumed exactly."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from atoll.protocol.errors import ConfigError
from atoll.workload import model as models
from atoll.workload import vector
from atoll.workload.config import InnerConfig, ModelConfig
from atoll.workload.data import Corpus
from atoll.workload.evaluate import heldout_loss
from atoll.workload.inner import InnerLoop, InnerResult, learning_rate
from atoll.workload.loss import next_token_loss
from atoll.workload.sample import sample
from atoll.workload.tokens import ByteTokens


def train(loop: InnerLoop, round: int, steps: int = 8, **more: Any) -> InnerResult:
    given = {"should_stop": lambda: False, "progress": lambda step, loss: None, **more}
    return loop.train(round, steps, 0, 2, round * 8, **given)


def flat(model: Any) -> torch.Tensor:
    values = torch.empty(vector.numel(model))
    vector.write(model, values)
    return values


def test_the_schedule_is_a_function_of_the_global_step() -> None:
    section = {"learning_rate": 1.0, "warmup_steps": 10, "total_steps": 110, "min_learning_rate_ratio": 0.1}
    inner = InnerConfig.from_mapping(section, "")
    assert learning_rate(inner, 0) == pytest.approx(0.1)
    assert learning_rate(inner, 9) == learning_rate(inner, 10) == 1.0
    assert learning_rate(inner, 60) == pytest.approx(0.55)
    assert learning_rate(inner, 110) == learning_rate(inner, 10_000) == pytest.approx(0.1)
    rates = [learning_rate(inner, step) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


def test_training_lowers_the_heldout_loss(tiny_model: Any, corpus: Corpus, inner: InnerConfig) -> None:
    loop = InnerLoop(tiny_model, corpus, inner, b"seed")
    before = heldout_loss(tiny_model, corpus, 32)
    seen: list[tuple[int, float]] = []
    results = [train(loop, r, progress=lambda *pair: seen.append(pair)) for r in range(6)]
    after = heldout_loss(tiny_model, corpus, 32)
    assert before == pytest.approx(math.log(257), abs=0.6)
    assert after < before * 0.75
    assert [r.steps for r in results] == [8] * 6
    assert results[0].tokens == 8 * 4 * 64
    assert [step for step, _ in seen[:8]] == list(range(1, 9))
    assert results[-1].last_loss == seen[-1][1]
    assert results[-1].mean_loss == pytest.approx(sum(loss for _, loss in seen[-8:]) / 8)


def test_the_first_step_is_adamw_by_hand(tiny_model: Any, corpus: Corpus, inner: InnerConfig) -> None:
    """Clip, decay matrices only, move by the bias-corrected sign-like first step of Adam."""
    anchor = flat(tiny_model)
    loop = InnerLoop(tiny_model, corpus, inner, b"seed")
    tiny_model.train()
    next_token_loss(tiny_model, loop._windows(0, 0, 2, 0), "mean").backward()
    gradients = [p.grad.clone() for p in tiny_model.parameters()]
    norm = torch.sqrt(sum((g**2).sum() for g in gradients))
    rate = learning_rate(inner, 0)
    wanted = []
    for p, g in zip(tiny_model.parameters(), gradients, strict=True):
        clipped = g * min(1.0, inner.clip_norm / (norm.item() + 1e-6))
        decayed = p.detach() * (1 - rate * (inner.weight_decay if p.dim() >= 2 else 0))
        wanted.append((decayed - rate * clipped / (clipped.abs() + 1e-8)).flatten())
    train(loop, 0, steps=1)
    assert norm.item() > inner.clip_norm
    torch.testing.assert_close(flat(tiny_model), torch.cat(wanted), rtol=1e-4, atol=1e-6)
    assert not torch.equal(flat(tiny_model), anchor)


def test_a_round_stops_between_steps(tiny_model: Any, corpus: Corpus, inner: InnerConfig) -> None:
    loop = InnerLoop(tiny_model, corpus, inner, b"seed")
    done: list[int] = []
    result = train(loop, 0, should_stop=lambda: len(done) == 3, progress=lambda step, loss: done.append(step))
    assert (result.steps, result.tokens) == (3, 3 * 4 * 64)
    before = flat(tiny_model)
    nothing = train(loop, 1, should_stop=lambda: True)
    assert (nothing.steps, nothing.tokens, nothing.finite) == (0, 0, True)
    assert math.isnan(nothing.mean_loss)
    assert torch.equal(flat(tiny_model), before)


def test_members_and_rounds_read_different_text(tiny_model: Any, corpus: Corpus, inner: InnerConfig) -> None:
    loop = InnerLoop(tiny_model, corpus, inner, b"seed")
    batches = [loop._windows(r, m, 2, s).tobytes() for r in range(3) for m in range(2) for s in range(8)]
    assert len(set(batches)) == len(batches)


def test_a_step_that_is_not_finite_leaves_no_trace(
    tiny_model: Any, corpus: Corpus, inner: InnerConfig
) -> None:
    loop = InnerLoop(tiny_model, corpus, inner, b"seed")
    train(loop, 0)
    good = flat(tiny_model)
    bad = good.clone()
    bad[-1] = math.inf
    vector.load(tiny_model, bad)
    result = train(loop, 1)
    assert (result.steps, result.finite) == (0, False)
    vector.load(tiny_model, good)
    again = train(loop, 1)
    assert again.finite
    assert torch.isfinite(flat(tiny_model)).all()


def saved_after_one_round(tiny: ModelConfig, corpus: Corpus, inner: InnerConfig, path: Path) -> torch.Tensor:
    model = models.build(tiny)
    loop = InnerLoop(model, corpus, inner, b"seed")
    train(loop, 0)
    loop.save(path)
    anchor = flat(model)
    train(loop, 1)
    after = flat(model)
    vector.load(model, anchor)
    return torch.stack([anchor, after])


def test_saved_moments_resume_exactly(
    tiny: ModelConfig, corpus: Corpus, inner: InnerConfig, tmp_path: Path
) -> None:
    anchor, wanted = saved_after_one_round(tiny, corpus, inner, tmp_path / "inner.safetensors")
    outcomes = []
    for resume in (True, False):
        model = models.build(tiny)
        loop = InnerLoop(model, corpus, inner, b"seed")
        if resume:
            loop.load(tmp_path / "inner.safetensors")
        vector.load(model, anchor)
        train(loop, 1)
        outcomes.append(flat(model))
    assert torch.equal(outcomes[0], wanted)
    assert not torch.equal(outcomes[1], wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["inner.safetensors"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "schedule-free"])
def test_a_round_of_state_that_is_bound_to_the_unit_forgets_the_rounds_before(
    tiny: ModelConfig, corpus: Corpus, optimizer: str
) -> None:
    """What replicas train must not depend on what each of them trained before."""
    for state, alike in (("unit", True), ("kept", False)):
        given = {"steps": 4, "batch_sequences": 2, "optimizer": optimizer, "state": state}
        inner = InnerConfig.from_mapping(given, "[inner]")
        model = models.build(tiny)
        anchor = flat(model)
        found = []
        for before in ((), (0, 1)):
            loop = InnerLoop(model, corpus, inner, b"seed")
            for round_ in before:
                train(loop, round_, 4)
            vector.load(model, anchor)
            train(loop, 2, 4)
            found.append(flat(model))
            vector.load(model, anchor)
        assert torch.equal(*found) is alike


def test_moments_are_saved_as_they_were_while_training_goes_on(
    tiny: ModelConfig, corpus: Corpus, inner: InnerConfig, tmp_path: Path
) -> None:
    loop = InnerLoop(models.build(tiny), corpus, inner, b"seed")
    train(loop, 0)
    loop.save(tmp_path / "then")
    write = loop.saving(tmp_path / "later")
    train(loop, 1)
    write()
    loop.save(tmp_path / "now")
    then, later, now = (load_file(tmp_path / name) for name in ("then", "later", "now"))
    assert later.keys() == then.keys() == now.keys()
    assert all(torch.equal(later[name], then[name]) for name in then)
    assert not any(torch.equal(now[name], then[name]) for name in then)


def test_damaged_moments_are_refused_and_change_nothing(
    tiny: ModelConfig, corpus: Corpus, inner: InnerConfig, tmp_path: Path
) -> None:
    path = tmp_path / "inner.safetensors"
    anchor, wanted = saved_after_one_round(tiny, corpus, inner, path)
    model = models.build(tiny)
    loop = InnerLoop(model, corpus, inner, b"seed")
    loop.load(path)
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[-1000] ^= 1
    for damaged in (good[: len(good) // 2], bytes(flipped), b"", b"\xff" * 4096):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"inner\.safetensors: this inner state is damaged.*delete it"):
            loop.load(path)
    with pytest.raises(ConfigError, match="no such file"):
        loop.load(tmp_path / "missing")
    vector.load(model, anchor)
    train(loop, 1)
    assert torch.equal(flat(model), wanted)


def test_moments_of_another_model_are_refused(
    tiny: ModelConfig, corpus: Corpus, inner: InnerConfig, tmp_path: Path
) -> None:
    saved_after_one_round(tiny, corpus, inner, tmp_path / "inner")
    for change in ({"intermediate_size": 64}, {"num_hidden_layers": 1}):
        other = models.build(dataclasses.replace(tiny, config={**tiny.config, **change}))
        with pytest.raises(ConfigError, match="another model's"):
            InnerLoop(other, corpus, inner, b"seed").load(tmp_path / "inner")


def test_a_failed_save_leaves_the_old_file(
    tiny_model: Any, corpus: Corpus, inner: InnerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = InnerLoop(tiny_model, corpus, inner, b"seed")
    path = tmp_path / "inner"
    loop.save(path)
    old = path.read_bytes()
    train(loop, 0, steps=1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("atoll.workload.inner_state.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        loop.save(path)
    assert path.read_bytes() == old
    assert [found.name for found in tmp_path.iterdir()] == ["inner"]


def test_heldout_loss_equals_the_mean_over_single_windows(tiny_model: Any, corpus: Corpus) -> None:
    windows = corpus.heldout(11)
    single = [next_token_loss(tiny_model, windows[i : i + 1], "mean").item() for i in range(11)]
    assert heldout_loss(tiny_model, corpus, 11) == pytest.approx(sum(single) / 11, rel=1e-5)
    assert heldout_loss(tiny_model, corpus, 11) == heldout_loss(tiny_model, corpus, 11)


def test_a_sample_repeats_under_its_seed_and_fits_the_positions(tiny_model: Any) -> None:
    tokens = ByteTokens()
    state = torch.random.get_rng_state()
    one = sample(tiny_model, tokens, "def ", 40)
    assert one == sample(tiny_model, tokens, "def ", 40)
    assert one != sample(tiny_model, tokens, "def ", 40, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sample(tiny_model, tokens, "x" * 1000, 500)
    assert isinstance(sample(tiny_model, tokens, "", 5), str)
    assert sample(tiny_model, tokens, "a", 0) == ""
