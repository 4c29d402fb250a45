"""Every inner optimizer: in rounds the same training as without, and saved and resumed to the bit."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from schedulefree import AdamWScheduleFree

from atoll.protocol.errors import ConfigError
from atoll.workload import model as models
from atoll.workload import optimizers, vector
from atoll.workload.config import InnerConfig, ModelConfig
from atoll.workload.data import Corpus
from atoll.workload.evaluate import heldout_loss
from atoll.workload.inner import InnerLoop, InnerResult, uses_bf16
from atoll.workload.loss import next_token_loss
from atoll.workload.muon import Muon, orthogonal
from atoll.workload.schedule import learning_rate

NAMES = ("adamw", "muon", "schedule-free")
STEPS = 4


def config(optimizer: str, **more: Any) -> InnerConfig:
    section = {"steps": STEPS, "batch_sequences": 2, "learning_rate": 3e-3, "warmup_steps": 2, **more}
    return InnerConfig.from_mapping({"optimizer": optimizer, "total_steps": 100, **section}, "[inner]")


def train(loop: InnerLoop, round: int, steps: int = STEPS, taken: int = 0) -> InnerResult:
    return loop.train(round, steps, 0, 1, round * STEPS, lambda: False, lambda step, loss: None, taken)


def flat(model: Any) -> torch.Tensor:
    values = torch.empty(vector.numel(model))
    vector.write(model, values)
    return values


def rounds(loop: InnerLoop, model: Any, anchor: torch.Tensor, which: range) -> torch.Tensor:
    """Outer SGD with lr 1: the anchor becomes local, up to the rounding of a difference."""
    for round in which:
        vector.load(model, anchor)
        train(loop, round)
        anchor = anchor - (anchor - flat(model))
        vector.load(model, torch.zeros_like(anchor))  # nothing of a replica stays in the model
    return anchor


@pytest.mark.parametrize("name", NAMES)
def test_one_worker_in_rounds_is_plain_training(name: str, tiny_model: Any, corpus: Corpus) -> None:
    start = flat(tiny_model)
    plain = InnerLoop(tiny_model, corpus, config(name), b"seed")
    train(plain, 0, steps=3 * STEPS)
    wanted = flat(tiny_model)
    in_rounds = rounds(InnerLoop(tiny_model, corpus, config(name), b"seed"), tiny_model, start, range(3))
    moved = (wanted - start).abs().max()
    assert (in_rounds - wanted).abs().max() < moved * 1e-3
    afresh = start
    for round in range(3):  # moments that do not outlive a round are another training
        loop = InnerLoop(tiny_model, corpus, config(name), b"seed")
        afresh = rounds(loop, tiny_model, afresh, range(round, round + 1))
    assert (afresh - wanted).abs().max() > moved * 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_round_may_be_trained_in_pieces(name: str, tiny_model: Any, corpus: Corpus) -> None:
    start = flat(tiny_model)
    train(InnerLoop(tiny_model, corpus, config(name), b"seed"), 1)
    wanted = flat(tiny_model)
    vector.load(tiny_model, start)
    loop = InnerLoop(tiny_model, corpus, config(name), b"seed")
    results = [train(loop, 1, steps=1), train(loop, 1, steps=3, taken=1)]
    assert [result.steps for result in results] == [1, 3]
    assert (flat(tiny_model) - wanted).abs().max() < (wanted - start).abs().max() * 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_loops_that_share_a_model_do_not_share_moments(name: str, tiny_model: Any, corpus: Corpus) -> None:
    start = flat(tiny_model)
    alone = rounds(InnerLoop(tiny_model, corpus, config(name), b"seed"), tiny_model, start, range(2))
    first, second = (InnerLoop(tiny_model, corpus, config(name), b"seed") for _ in range(2))
    one = rounds(first, tiny_model, start, range(1))
    other = rounds(second, tiny_model, start, range(5, 7))
    one = rounds(first, tiny_model, one, range(1, 2))
    assert torch.equal(one, alone)
    assert not torch.equal(other, alone)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_resumes_to_the_bit(
    name: str, tiny: ModelConfig, corpus: Corpus, tmp_path: Path
) -> None:
    model = models.build(tiny)
    loop = InnerLoop(model, corpus, config(name), b"seed")
    anchor = rounds(loop, model, flat(model), range(2))
    loop.save(tmp_path / "inner")
    wanted = rounds(loop, model, anchor, range(2, 4))
    resumed = models.build(tiny)
    again = InnerLoop(resumed, corpus, config(name), b"seed")
    again.load(tmp_path / "inner")
    assert torch.equal(rounds(again, resumed, anchor, range(2, 4)), wanted)
    without = InnerLoop(resumed, corpus, config(name), b"seed")
    assert not torch.equal(rounds(without, resumed, anchor, range(2, 4)), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_refused_by_every_other_optimizer_and_model(
    name: str, tiny: ModelConfig, corpus: Corpus, tmp_path: Path
) -> None:
    model = models.build(tiny)
    loop = InnerLoop(model, corpus, config(name), b"seed")
    train(loop, 0, steps=1)
    loop.save(tmp_path / "inner")
    for other in set(NAMES) - {name}:
        with pytest.raises(ConfigError, match=f"inner state is of '{name}'.*'{other}'.*delete it"):
            InnerLoop(model, corpus, config(other), b"seed").load(tmp_path / "inner")
    for change in ({"intermediate_size": 64}, {"num_hidden_layers": 1}):
        smaller = models.build(dataclasses.replace(tiny, config={**tiny.config, **change}))
        with pytest.raises(ConfigError, match="another model's"):
            InnerLoop(smaller, corpus, config(name), b"seed").load(tmp_path / "inner")
    before = [copy.deepcopy(part.state_dict()["state"]) for part in loop._optimizer.parts]
    (tmp_path / "inner").write_bytes((tmp_path / "inner").read_bytes()[:-3])
    with pytest.raises(ConfigError, match="damaged"):
        loop.load(tmp_path / "inner")
    for part, state in zip(loop._optimizer.parts, before, strict=True):
        torch.testing.assert_close(part.state_dict()["state"], state, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_it_learns(name: str, tiny_model: Any, corpus: Corpus) -> None:
    inner = config(name, steps=24, batch_sequences=4)
    before = heldout_loss(tiny_model, corpus, 16)
    result = train(InnerLoop(tiny_model, corpus, inner, b"seed"), 0, steps=24)
    assert result.tokens == 24 * 4 * 64
    assert heldout_loss(tiny_model, corpus, 16) < before - 1.0


def test_an_anchor_that_is_not_finite_leaves_schedule_free_whole(tiny_model: Any, corpus: Corpus) -> None:
    loop = InnerLoop(tiny_model, corpus, config("schedule-free"), b"seed")
    anchor = rounds(loop, tiny_model, flat(tiny_model), range(1))
    other = copy.deepcopy(loop)
    bad = anchor.clone()
    bad[7] = math.inf
    vector.load(tiny_model, bad)
    assert train(loop, 1) == InnerResult(
        0, 0, pytest.approx(math.nan, nan_ok=True), pytest.approx(math.nan, nan_ok=True), False
    )
    wanted = rounds(other, other._model, anchor, range(1, 2))
    assert torch.equal(rounds(loop, tiny_model, anchor, range(1, 2)), wanted)


def test_schedule_free_moves_z_with_the_anchor_and_keeps_its_sums(tiny_model: Any, corpus: Corpus) -> None:
    """After a sync x is the anchor and z as far from it as before. (Schedule-Free, Defazio et al. 2024)"""
    loop = InnerLoop(tiny_model, corpus, config("schedule-free"), b"seed")
    train(loop, 0)
    (optimizer,) = loop._optimizer.parts
    assert isinstance(optimizer, AdamWScheduleFree)
    local, (_, parameter) = flat(tiny_model), next(iter(tiny_model.named_parameters()))
    x, offset = parameter.detach().clone(), optimizer.state[parameter]["z"].clone()
    sums = [group["weight_sum"] for group in optimizer.param_groups]
    assert offset.abs().max() > 0
    vector.load(tiny_model, local + 0.25)
    loop._optimizer.begin()
    torch.testing.assert_close(optimizer.state[parameter]["z"], x + 0.25 + offset)
    beta = optimizer.param_groups[0]["betas"][0]
    torch.testing.assert_close(parameter.detach(), x + 0.25 + (1 - beta) * offset)
    loop._optimizer.end()
    torch.testing.assert_close(parameter.detach(), x + 0.25)
    torch.testing.assert_close(optimizer.state[parameter]["z"], offset, rtol=1e-4, atol=1e-6)
    assert [group["weight_sum"] for group in optimizer.param_groups] == sums


def test_muon_trains_hidden_matrices_only(tiny: ModelConfig) -> None:
    for tied in (True, False):
        model = models.build(dataclasses.replace(tiny, config={**tiny.config, "tie_word_embeddings": tied}))
        muon, adamw = optimizers.build(config("muon"), model).parts
        names = {parameter: name for name, parameter in model.named_parameters()}
        by_muon = [names[p] for group in muon.param_groups for p in group["params"]]
        by_adamw = [names[p] for group in adamw.param_groups for p in group["params"]]
        assert sorted(by_muon + by_adamw) == sorted(names.values())
        assert all("_proj.weight" in name for name in by_muon)
        assert len(by_muon) == 7 * 2
        assert ("lm_head.weight" in by_adamw) is not tied
        assert [group["weight_decay"] for group in adamw.param_groups] == [0.1, 0.0]


def test_muon_is_torchs_muon_with_more_digits() -> None:
    """Tall, wide and square, over steps with decay: as near as bf16 lets torch's own come."""
    starts = [
        torch.sin(torch.arange(48.0 * n) ** 1.5).view(shape) for n, shape in ((1, (6, 8)), (2, (12, 8)))
    ]
    starts.append(torch.cos(torch.arange(64.0) ** 1.3).view(8, 8))
    outcomes = []
    for kind in ("ours", "torchs"):
        parameters = [torch.nn.Parameter(start.clone()) for start in starts]
        given = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9}
        if kind == "ours":
            optimizer: torch.optim.Optimizer = Muon(parameters, **given)
        else:
            optimizer = torch.optim.Muon(parameters, adjust_lr_fn="match_rms_adamw", **given)
        for step in range(5):
            for parameter in parameters:
                parameter.grad = (parameter.detach() * (step + 1)).sin()
            optimizer.step()
        outcomes.append([parameter.detach() for parameter in parameters])
    for start, ours, torchs in zip(starts, *outcomes, strict=True):
        assert (ours - torchs).norm() < 0.02 * (torchs - start).norm()
    singular = torch.linalg.svdvals(orthogonal(starts[1], optimizer.param_groups[0]))
    assert singular.min() > 0.6
    assert singular.max() < 1.3


def test_muon_steps_are_as_large_as_adamws(tiny: ModelConfig, corpus: Corpus) -> None:
    """So that one learning rate serves both: the root mean square of a step is about 0.2 of the rate."""
    model = models.build(tiny)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    inner = config("muon", warmup_steps=0, weight_decay=0.0)
    train(InnerLoop(model, corpus, inner, b"seed"), 0, steps=1)
    for name, parameter in model.named_parameters():
        if "_proj.weight" in name:
            size = ((parameter - before[name]) ** 2).mean().sqrt().item() / learning_rate(inner, 0)
            assert 0.08 < size < 0.25, name


def test_a_batch_in_pieces_is_the_same_step(tiny: ModelConfig, corpus: Corpus) -> None:
    outcomes = []
    for accumulate in (1, 4):
        model = models.build(tiny)
        inner = config("adamw", batch_sequences=4, accumulate=accumulate)
        outcomes.append((train(InnerLoop(model, corpus, inner, b"seed"), 0), flat(model)))
    (whole, one), (pieces, other) = outcomes
    assert pieces.tokens == whole.tokens
    assert pieces.mean_loss == pytest.approx(whole.mean_loss, rel=1e-5)
    torch.testing.assert_close(other, one, rtol=0, atol=2e-4)


def test_bf16_runs_where_it_is_asked_for(tiny: ModelConfig, corpus: Corpus) -> None:
    seen = []
    losses = []
    for precision in ("fp32", "bf16", "auto"):
        model = models.build(tiny)
        hook = lambda module, given, result: seen.append(result.dtype)  # noqa: E731
        model.model.layers[0].mlp.up_proj.register_forward_hook(hook)
        result = train(InnerLoop(model, corpus, config("adamw", precision=precision), b"seed"), 0, steps=1)
        losses.append(result.last_loss)
        assert flat(model).dtype == torch.float32
    assert seen == [torch.float32, torch.bfloat16, torch.float32]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert losses[1] != losses[0] == losses[2]
    cpu = torch.device("cpu")
    assert [uses_bf16(p, cpu) for p in ("auto", "fp32", "bf16")] == [False, False, True]


def test_the_schedules(tiny_model: Any) -> None:
    shape = {"learning_rate": 1.0, "warmup_steps": 10, "total_steps": 110, "min_learning_rate_ratio": 0.2}
    wsd = InnerConfig.from_mapping({**shape, "schedule": "wsd", "decay_steps": 40}, "")
    assert [learning_rate(wsd, step) for step in (0, 9, 10, 70)] == [0.1, 1.0, 1.0, 1.0]
    assert learning_rate(wsd, 90) == pytest.approx(0.6)
    assert learning_rate(wsd, 110) == learning_rate(wsd, 1000) == pytest.approx(0.2)
    constant = InnerConfig.from_mapping({**shape, "schedule": "constant"}, "")
    assert [learning_rate(constant, step) for step in (4, 10, 110, 10_000)] == [0.5, 1.0, 1.0, 1.0]
    free = InnerConfig.from_mapping({**shape, "optimizer": "schedule-free"}, "")
    assert (free.schedule, free.betas) == ("constant", (0.9, 0.999))
    assert InnerConfig.from_mapping({"optimizer": "schedule-free", "betas": [0.5, 0.9]}, "").betas == (
        0.5,
        0.9,
    )
    assert InnerConfig.from_mapping(dataclasses.asdict(free), "") == free


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"optimizer": "adam"}, ["`optimizer` is 'adam'", '"adamw", "muon", "schedule-free"']),
        ({"optimizer": ["adamw"]}, ["`optimizer` is ['adamw']"]),
        ({"schedule": "linear"}, ["`schedule` is 'linear'", '"cosine", "wsd", "constant"']),
        ({"precision": "fp16"}, ["`precision` is 'fp16'", '"auto", "fp32", "bf16"']),
        ({"accumulate": 3}, ["`accumulate` is 3", "divides batch_sequences = 8"]),
        ({"schedule": "wsd"}, ["`decay_steps` is 0", 'schedule = "wsd" from 1 to 9900']),
        ({"schedule": "wsd", "decay_steps": 9901}, ["`decay_steps` is 9901"]),
        ({"decay_steps": 5}, ["`decay_steps` is 5", 'schedule = "wsd"']),
        ({"optimizer": "schedule-free", "schedule": "cosine"}, ['`schedule` is "cosine"', '"constant"']),
        ({"optimizer": "schedule-free", "betas": [0, 0.9]}, ["`betas` begins with 0", "above 0"]),
    ],
)
def test_what_does_not_fit_is_one_clear_line(section: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        InnerConfig.from_mapping(section, "RUN.toml: [inner]")
    assert str(caught.value).startswith("RUN.toml: [inner]: ")
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_the_gradient_is_clipped_once_over_all_pieces(tiny: ModelConfig, corpus: Corpus) -> None:
    model = models.build(tiny)
    loop = InnerLoop(model, corpus, config("adamw", accumulate=2, clip_norm=0.01), b"seed")
    train(loop, 0, steps=1)
    norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
    assert norm.item() == pytest.approx(0.01, rel=1e-3)
    assert next_token_loss(model, corpus.batch([0]), "mean").isfinite()
