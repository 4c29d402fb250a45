"""What a researcher may say about model, data and inner optimiser.

The three sections travel in the run manifest as plain mappings, so `from_mapping(asdict(x))` gives x
again. Nothing here imports torch: a command that only reads a manifest must start at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.protocol.errors import ConfigError
from atoll.workload.fields import choice, custom, is_number, parse, real, text, whole

BYTES = "bytes"
STDLIB = "stdlib"
TEXT_PREFIX = "text:"

SCHEDULE_FREE = "schedule-free"
SCHEDULE_FREE_DEFAULTS = {"schedule": "constant", "betas": (0.9, 0.999)}
"""What this optimizer takes where a researcher says nothing."""


def _mapping(value: Any, key: str, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"`{key}` is {value!r}", where, f"a table, such as {key} = {{ hidden_size = 128 }}")
    return dict(value)


def _betas(value: Any, key: str, where: str) -> tuple[float, float]:
    right = "two numbers from 0 to below 1, such as [0.9, 0.95]"
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ConfigError(f"`{key}` is {value!r}", where, right)
    if not all(is_number(beta) and 0 <= beta < 1 for beta in value):
        raise ConfigError(f"`{key}` is {value!r}", where, right)
    return float(value[0]), float(value[1])


def _source(value: Any, key: str, where: str) -> str:
    named = isinstance(value, str)
    if not named or not (value == STDLIB or (value.startswith(TEXT_PREFIX) and value != TEXT_PREFIX)):
        raise ConfigError(f"`{key}` is {value!r}", where, '"stdlib", or "text:" and a glob of your files')
    return str(value)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A causal language model of `transformers`, its first parameters and its tokens.

    `config` holds the keys of that architecture's transformers configuration. The first parameters come
    from `seed`, or from `checkpoint`, a folder with safetensors; only the coordinator needs either, since
    the initial anchor is a published blob. `tokenizer` is "bytes" or the path of a tokenizer.json;
    `tokenizer_sha256` pins that file's content, so that no two peers read different ids.
    """

    architecture: str = text("", "llama")
    config: Mapping[str, Any] = custom(_mapping, default_factory=dict)
    seed: int = whole(0, 0, 2**63 - 1)
    checkpoint: str = text("", "models/smollm2-135m")
    tokenizer: str = text(BYTES, BYTES)
    tokenizer_sha256: str = text("", "e3b0c442…")

    @classmethod
    def from_mapping(cls, section: Mapping[str, Any], where: str) -> ModelConfig:
        model = parse(cls, section, where)
        if not model.architecture and not model.checkpoint:
            raise ConfigError("missing key `architecture`", where, 'such as architecture = "llama"')
        if model.checkpoint and model.config:
            raise ConfigError(
                "`config` and `checkpoint` are both given",
                where,
                "a checkpoint brings its own config: drop one",
            )
        return model


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Which text is read, how it is cut into windows, and which share is held out for evaluation.

    `bytes_max` bounds what is read, hence memory and start-up time. `heldout_windows` is how many held-out
    windows an evaluation uses.
    """

    source: str = custom(_source, default=STDLIB)
    sequence_tokens: int = whole(256, 2, 1 << 20)
    heldout_share: float = real(0.02, 1e-6, 0.5)
    heldout_windows: int = whole(64, 1, 1_000_000)
    bytes_max: int = whole(8_000_000, 1_000, 1 << 40)

    @classmethod
    def from_mapping(cls, section: Mapping[str, Any], where: str) -> DataConfig:
        return parse(cls, section, where)


@dataclass(frozen=True, slots=True)
class InnerConfig:
    """The inner optimiser and its schedule. (DiLoCo, Douillard et al. 2023)

    `steps` is H, the inner steps of one round. The learning rate is looked up by the run's global step, never
    restarted, so that a joiner trains at everybody's: it warms up, then follows a cosine over `total_steps`
    of the whole run, or stays ("constant"), or stays and falls in a straight line over the last `decay_steps`
    ("wsd"). The defaults are DiLoCo's, with learning rate and warm-up scaled for models of a few million
    parameters. `optimizer` "muon" trains hidden matrices by Muon at an AdamW-like rate and the rest by AdamW;
    "schedule-free" decays nothing, needs no total, and takes `betas` (0.9, 0.999) unless given.

    A step's `batch_sequences` pass through the model in `accumulate` equal pieces: the same step in less
    memory. `precision` "auto" is bf16 autocast on a GPU that has it and fp32 elsewhere; parameters, moments
    and pseudo-gradients are fp32 always. The optimizer's `state` is kept from round to round, or bound to the
    "unit": it begins anew with each round, so that what is trained does not depend on who trained before.
    """

    steps: int = whole(50, 1, 1_000_000)
    batch_sequences: int = whole(8, 1, 65_536)
    accumulate: int = whole(1, 1, 65_536)
    precision: str = choice("auto", "fp32", "bf16")
    optimizer: str = choice("adamw", "muon", SCHEDULE_FREE)
    state: str = choice("kept", "unit")
    learning_rate: float = real(1e-3, 1e-12, 10.0)
    betas: tuple[float, float] = custom(_betas, default=(0.9, 0.95))
    weight_decay: float = real(0.1, 0.0, 10.0)
    clip_norm: float = real(1.0, 1e-6, 1e6)
    schedule: str = choice("cosine", "wsd", "constant")
    warmup_steps: int = whole(100, 0, 1_000_000_000)
    decay_steps: int = whole(0, 0, 1_000_000_000)
    total_steps: int = whole(10_000, 1, 1_000_000_000)
    min_learning_rate_ratio: float = real(0.1, 0.0, 1.0)

    @classmethod
    def from_mapping(cls, section: Mapping[str, Any], where: str) -> InnerConfig:
        inner = parse(cls, section, where)
        if inner.optimizer == SCHEDULE_FREE:
            inner = parse(cls, {**SCHEDULE_FREE_DEFAULTS, **section}, where)
        check_inner(inner, where)
        return inner


def check_inner(inner: InnerConfig, where: str) -> None:
    """Refuse values that are right one by one and wrong together. Raises ConfigError."""
    if inner.warmup_steps >= inner.total_steps:
        right = f"fewer than total_steps = {inner.total_steps}"
        raise ConfigError(f"`warmup_steps` is {inner.warmup_steps}", where, right)
    if inner.batch_sequences % inner.accumulate:
        right = f"a number that divides batch_sequences = {inner.batch_sequences}"
        raise ConfigError(f"`accumulate` is {inner.accumulate}", where, right)
    if inner.schedule == "wsd" and not 1 <= inner.decay_steps <= inner.total_steps - inner.warmup_steps:
        right = f'with schedule = "wsd" from 1 to {inner.total_steps - inner.warmup_steps}'
        raise ConfigError(f"`decay_steps` is {inner.decay_steps}", where, right)
    if inner.schedule != "wsd" and inner.decay_steps:
        raise ConfigError(f"`decay_steps` is {inner.decay_steps}", where, 'schedule = "wsd", or leave it out')
    if inner.optimizer == SCHEDULE_FREE and inner.schedule != "constant":
        right = f'schedule = "constant", or leave it out: {SCHEDULE_FREE} averages instead of decaying'
        raise ConfigError(f'`schedule` is "{inner.schedule}"', where, right)
    if inner.optimizer == SCHEDULE_FREE and not inner.betas[0]:
        raise ConfigError(
            "`betas` begins with 0", where, f"above 0 with {SCHEDULE_FREE}, such as [0.9, 0.999]"
        )
