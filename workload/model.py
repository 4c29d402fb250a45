"""Build a causal language model from what a manifest says, and refuse what it cannot mean.

Configurations come from strangers, so no remote code is ever loaded: an architecture is one that the
installed `transformers` has, a checkpoint is safetensors only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from atoll.protocol.errors import ConfigError
from atoll.workload import tokens as token_sets
from atoll.workload.config import ModelConfig
from atoll.workload.fields import nearest
from atoll.workload.tokens import Tokens

transformers_logging.disable_progress_bar()

# These say where a model came from or how it is stored, not what it is; the vector is always fp32.
NOT_SETTABLE = frozenset(
    {
        "model_type",
        "architectures",
        "auto_map",
        "transformers_version",
        "_name_or_path",
        "dtype",
        "torch_dtype",
    }
)
ROPE_ALIASES = frozenset({"rope_theta", "rope_scaling"})


def build(model: ModelConfig, where: str = "[model]") -> PreTrainedModel:
    """Build the model with its first parameters, in fp32 on the CPU. Raises ConfigError.

    One forward pass over two tokens finds shapes that do not fit together before any peer trains.
    """
    tokens = token_sets.load(model.tokenizer, model.tokenizer_sha256)
    if model.checkpoint:
        built = _from_checkpoint(model, where)
    else:
        built = _from_seed(transformers_config(model, tokens, where), model.seed, where)
    check_vocabulary(built.config, tokens, where)
    _refusals(lambda: _try(built, tokens), where)
    return built


def resolve(model: ModelConfig, where: str = "[model]") -> ModelConfig:
    """Give the configuration to publish: complete without the checkpoint's folder, tokenizer pinned."""
    pinned = dataclasses.replace(model, tokenizer_sha256=token_sets.digest(model.tokenizer))
    if not model.checkpoint:
        return pinned
    config = _checkpoint_config(model, where)
    known = settable_keys(config.model_type, where)
    kept = {key: value for key, value in config.to_diff_dict().items() if key in known}
    kept["vocab_size"] = config.vocab_size
    return dataclasses.replace(pinned, architecture=config.model_type, config=kept, checkpoint="")


def check_sequence(config: PretrainedConfig, sequence_tokens: int, where: str = "[data]") -> None:
    """Refuse windows that are longer than the model has positions."""
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and sequence_tokens > positions:
        what = f"`sequence_tokens` is {sequence_tokens} but the model has {positions} positions"
        raise ConfigError(what, where, f"at most {positions}, or a larger max_position_embeddings in [model]")


def check_vocabulary(config: PretrainedConfig, tokens: Tokens, where: str) -> None:
    """Refuse a vocabulary that lacks ids of the tokenizer, or has many more."""
    low, high = tokens.vocabulary, tokens.vocabulary + tokens.spare
    if not low <= config.vocab_size <= high:
        what = f"`vocab_size` is {config.vocab_size} but the tokenizer has {low} ids"
        raise ConfigError(what, where, f"vocab_size = {low}, or leave it out")


def settable_keys(architecture: str, where: str) -> dict[str, Any]:
    """List an architecture's configuration keys with their defaults. Raises ConfigError if unknown."""
    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        right = nearest(architecture, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        raise ConfigError(f"unknown architecture `{architecture}`", where, right)
    default = _refusals(lambda: CONFIG_MAPPING[architecture](), where)
    keys = dict(default.to_dict())
    keys.update({alias: keys.get(name) for alias, name in default.attribute_map.items()})
    keys.update(dict.fromkeys(ROPE_ALIASES if "rope_parameters" in keys else ()))
    return {key: value for key, value in keys.items() if key not in NOT_SETTABLE}


def transformers_config(model: ModelConfig, tokens: Tokens, where: str) -> PretrainedConfig:
    """Give the `transformers` configuration, with the tokenizer's vocabulary and end token filled in."""
    known = settable_keys(model.architecture, where)
    for key, value in model.config.items():
        _check_key(key, value, known, f"{where} config")
    filled = {"vocab_size": tokens.vocabulary, "bos_token_id": tokens.end, "eos_token_id": tokens.end}
    chosen = {**filled, **model.config}
    return _refusals(lambda: AutoConfig.for_model(model.architecture, **chosen), where)


def _check_key(key: str, value: Any, known: dict[str, Any], where: str) -> None:
    if key not in known:
        raise ConfigError(f"unknown key `{key}`", where, nearest(key, known))
    default = known[key]
    if isinstance(default, bool | int | float | str) and not _same_kind(value, default):
        raise ConfigError(f"`{key}` is {value!r}", where, f"such as {key} = {default!r}")


def _same_kind(value: Any, default: bool | int | float | str) -> bool:
    if value is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default)) or (isinstance(default, int) and isinstance(value, list))


def _from_seed(config: PretrainedConfig, seed: int, where: str) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _refusals(lambda: AutoModelForCausalLM.from_config(config).float(), where)


def _from_checkpoint(model: ModelConfig, where: str) -> PreTrainedModel:
    _checkpoint_config(model, where)
    folder = str(Path(model.checkpoint).expanduser())
    options = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
    return _refusals(lambda: AutoModelForCausalLM.from_pretrained(folder, **options).float(), where)


def _checkpoint_config(model: ModelConfig, where: str) -> PretrainedConfig:
    folder = Path(model.checkpoint).expanduser()
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        right = "a folder with config.json and *.safetensors"
        raise ConfigError(f"`checkpoint` {model.checkpoint} is not a checkpoint", where, right)
    config = _refusals(lambda: AutoConfig.from_pretrained(str(folder), trust_remote_code=False), where)
    if model.architecture and model.architecture != config.model_type:
        what = f"`architecture` is {model.architecture!r} but the checkpoint is {config.model_type!r}"
        raise ConfigError(what, where, f'architecture = "{config.model_type}", or leave it out')
    return config


def _try(model: PreTrainedModel, tokens: Tokens) -> None:
    model.eval()
    with torch.no_grad():
        model(input_ids=torch.tensor([[0, tokens.end]]), use_cache=False)


def _refusals(make: Callable[[], Any], where: str) -> Any:
    """Call into `transformers`; whatever it raises over a configuration is the user's to mend."""
    try:
        return make()
    except Exception as error:  # its validators raise bare subclasses of Exception
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"transformers refuses this model: {reason}", where) from error
