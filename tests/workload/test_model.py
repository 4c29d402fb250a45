"""A model is built as the manifest says or refused with the key that is wrong."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from atoll.protocol.errors import ConfigError
from atoll.workload import model as models
from atoll.workload import vector
from atoll.workload.config import ModelConfig

GPT2 = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}


def flat(model: Any) -> torch.Tensor:
    values = torch.empty(vector.numel(model))
    vector.write(model, values)
    return values


def config(architecture: str, **keys: Any) -> ModelConfig:
    return ModelConfig.from_mapping({"architecture": architecture, "config": keys}, "[model]")


def test_the_seed_decides_and_the_global_generator_is_left_alone(tiny: ModelConfig) -> None:
    before = torch.random.get_rng_state()
    one = flat(models.build(tiny))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one, flat(models.build(tiny)))
    assert not torch.equal(one, flat(models.build(dataclasses.replace(tiny, seed=1))))


def test_tied_weights_count_once_and_the_vector_comes_back(tiny_model: Any) -> None:
    places = vector.slots(tiny_model)
    assert "lm_head.weight" not in [slot.name for slot in places]
    assert sum(slot.numel for slot in places) == vector.numel(tiny_model)
    assert [slot.start + slot.numel for slot in places[:-1]] == [slot.start for slot in places[1:]]
    wanted = torch.arange(vector.numel(tiny_model), dtype=torch.float32)
    vector.load(tiny_model, wanted)
    assert torch.equal(flat(tiny_model), wanted)
    assert torch.equal(tiny_model.lm_head.weight.flatten(), wanted[: 257 * 64])
    anchor = wanted + 3
    vector.subtract(tiny_model, anchor, anchor)
    assert torch.equal(anchor, torch.full_like(anchor, 3))


def test_other_architectures_build_and_end_at_our_token() -> None:
    built = models.build(config("gpt2", **GPT2))
    assert built.config.vocab_size == 257
    assert (built.config.bos_token_id, built.config.eos_token_id) == (256, 256)
    assert {parameter.dtype for parameter in built.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("architecture", "keys", "words"),
    [
        ("lama", {}, ["unknown architecture `lama`", "did you mean `llama`?"]),
        ("clip", {}, ["unknown architecture `clip`"]),
        (
            "llama",
            {"hiden_size": 8},
            ["[model] config: unknown key `hiden_size`", "did you mean `hidden_size`?"],
        ),
        ("llama", {"auto_map": {"AutoModelForCausalLM": "evil.py"}}, ["unknown key `auto_map`"]),
        ("llama", {"hidden_size": "large"}, ["`hidden_size` is 'large'", "hidden_size = 4096"]),
        ("llama", {"attention_bias": 1}, ["`attention_bias` is 1"]),
        ("llama", {"vocab_size": 256}, ["`vocab_size` is 256 but the tokenizer has 257 ids"]),
        ("llama", {"vocab_size": 32000}, ["`vocab_size` is 32000", "vocab_size = 257, or leave it out"]),
        ("gpt2", {**GPT2, "n_embd": 33}, ["transformers refuses this model"]),
    ],
)
def test_what_cannot_be_built_is_refused(architecture: str, keys: dict[str, Any], words: list[str]) -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with pytest.raises(ConfigError) as caught:
        models.build(config(architecture, **{**(small if architecture == "llama" else {}), **keys}))
    for word in words:
        assert word in str(caught.value)


def test_windows_longer_than_the_positions_are_refused(tiny_model: Any) -> None:
    models.check_sequence(tiny_model.config, 128)
    with pytest.raises(ConfigError, match="128 positions"):
        models.check_sequence(tiny_model.config, 129)


def test_a_checkpoint_gives_its_weights_and_a_config_that_needs_no_folder(tmp_path: Path) -> None:
    source = models.build(dataclasses.replace(config("gpt2", **GPT2), seed=5))
    source.save_pretrained(tmp_path)
    given = ModelConfig.from_mapping({"checkpoint": str(tmp_path)}, "[model]")
    assert torch.equal(flat(models.build(given)), flat(source))
    published = models.resolve(given)
    assert (published.architecture, published.checkpoint) == ("gpt2", "")
    rebuilt = models.build(published)
    assert vector.slots(rebuilt) == vector.slots(source)
    vector.load(rebuilt, flat(source))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(ids).logits, source.eval()(ids).logits)


def test_checkpoints_that_cannot_be_trusted_are_refused(tmp_path: Path) -> None:
    given = ModelConfig.from_mapping({"checkpoint": str(tmp_path)}, "[model]")
    with pytest.raises(ConfigError, match="is not a checkpoint"):
        models.build(given)
    source = models.build(config("gpt2", **GPT2))
    source.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="the checkpoint is 'gpt2'"):
        models.build(dataclasses.replace(given, architecture="llama"))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="transformers refuses"):
        models.build(given)
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="is not a checkpoint"):
        models.build(given)


def test_finite_is_no_element_infinite_or_nan() -> None:
    values = torch.full((1000,), 3e38)
    assert vector.finite(values), "though its sum is not"
    for wrong in (math.inf, -math.inf, math.nan):
        for first in (1.0, math.inf):
            values[0], values[-1] = first, wrong
            assert not vector.finite(values)
