"""LAB.toml: which methods are compared, on what, and with how many tokens.

Every refusal names file, section and key, and what was probably meant: the file is written by hand.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atoll.protocol.errors import ConfigError
from atoll.simulator.lab.attendance import Churn, Stragglers
from atoll.simulator.lab.methods import Recipe, recipe
from atoll.workload.config import DataConfig, InnerConfig, ModelConfig
from atoll.workload.fields import custom, nearest, parse, real, whole
from atoll.workload.toml_files import check_sections, read_toml

SECTIONS = ("lab", "model", "start", "data", "shards", "inner", "churn", "stragglers", "method")
METHODS_MAX = 256
STEPS_MAX = 1_000_000_000
SEED_MAX = 2**31
DEVICES = ("auto", "cpu", "cuda")
SHARDS = ("iid", "topics")
SYNC = "sync"


def _seeds(value: Any, key: str, where: str) -> tuple[int, ...]:
    right = f"whole numbers from 0 to {SEED_MAX}, none twice, such as [0, 1, 2]"
    numbers = isinstance(value, list) and all(type(seed) is int and 0 <= seed <= SEED_MAX for seed in value)
    if not numbers or not value or len(set(value)) != len(value):
        raise ConfigError(f"`{key}` is {value!r}", where, right)
    return tuple(value)


def _one_of(*names: str) -> Any:
    def read(value: Any, key: str, where: str) -> str:
        if value not in names:
            raise ConfigError(f"`{key}` is {value!r}", where, nearest(str(value), names))
        return str(value)

    return custom(read, default=names[0])


@dataclass(frozen=True, slots=True)
class LabSection:
    """How much is trained and measured. `tokens` are those of all replicas together, for each method.

    The held-out loss is measured `evaluations` times, at equal distances. A trial's state is saved every
    `save_seconds`, at the next exchange; 0 saves at each.
    """

    replicas: int = whole(8, 1, 1024)
    tokens: int = whole(1_000_000, 1, 1 << 50)
    seeds: tuple[int, ...] = custom(_seeds, default=(0,))
    evaluations: int = whole(10, 1, 10_000)
    device: str = _one_of(*DEVICES)
    save_seconds: float = real(30.0, 0.0, 86_400.0)


@dataclass(frozen=True, slots=True)
class StartSection:
    """What one machine trains before the swarm begins: all methods start from the same checkpoint.

    It takes `tokens` in steps as large as a step of the baseline, with [inner]'s optimizer and a schedule of
    its own. They are in no method's tokens or bytes. (DiLoCo starts from 24,000 of 88,000 steps so.)
    """

    tokens: int = whole(0, 0, 1 << 50)


@dataclass(frozen=True, slots=True)
class ShardsSection:
    """Who reads what: `iid` windows for all, or shards by `topics`, drawn from a Dirichlet distribution.

    The smaller `concentration`, the more each replica's text is its own. Topics are found by clustering.
    """

    kind: str = _one_of(*SHARDS)
    topics: int = whole(8, 2, 1024)
    concentration: float = real(0.3, 1e-3, 1e6)


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """One row of the table: a recipe, and the inner optimizer that it trains with."""

    name: str
    recipe: Recipe
    inner: InnerConfig

    @property
    def steps(self) -> int:
        """Inner steps of a trial; methods with larger batches take fewer, at equal tokens."""
        return self.inner.total_steps


@dataclass(frozen=True, slots=True)
class Lab:
    """A whole, valid LAB.toml. `start_inner` is what one machine trains with first, if there is a [start]."""

    path: Path
    lab: LabSection
    model: ModelConfig
    start_inner: InnerConfig | None
    data: DataConfig
    shards: ShardsSection
    churn: Churn
    stragglers: Stragglers
    methods: tuple[MethodConfig, ...]

    @property
    def on(self) -> str:
        """Where it trains: on one GPU where there is one."""
        if self.lab.device != "auto":
            return self.lab.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def digest(self, method: MethodConfig) -> str:
        """What the numbers of a method's trials depend on: states of another digest are not resumed."""
        lab = {"replicas": self.lab.replicas, "evaluations": self.lab.evaluations, "device": self.on}
        sections = (self.shards, self.churn, self.stragglers, method)
        what = [self.start_digest, lab, *(dataclasses.asdict(section) for section in sections)]
        return _digest([*what, type(method.recipe).__name__])

    @property
    def start_digest(self) -> str:
        """What the parameters depend on that all methods start from, under one seed."""
        start = None if self.start_inner is None else dataclasses.asdict(self.start_inner)
        return _digest([self.on, dataclasses.asdict(self.model), dataclasses.asdict(self.data), start])


def _digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def read(path: Path, tokens: int | None = None, seeds: tuple[int, ...] | None = None) -> Lab:
    """Read and check a LAB.toml. Raises ConfigError at the first thing that is wrong.

    `tokens` and `seeds` take the place of those of the file; the warm-up shrinks or grows with the tokens.
    """
    return of(read_toml(path, "a LAB.toml, such as examples/lab-small.toml"), path, tokens, seeds)


def of(
    table: Mapping[str, Any], path: Path, tokens: int | None = None, seeds: tuple[int, ...] | None = None
) -> Lab:
    """Check what stands in a LAB.toml; `path` is named in errors."""
    check_sections(table, SECTIONS, path)
    lab = parse(LabSection, table.get("lab", {}), f"{path}: [lab]")
    data = DataConfig.from_mapping(table.get("data", {}), f"{path}: [data]")
    start = parse(StartSection, table.get("start", {}), f"{path}: [start]")
    share = (tokens or lab.tokens) / lab.tokens
    inner = _Inner(table.get("inner", {}), f"{path}: [inner]", lab, data, share)
    chosen = dataclasses.replace(lab, tokens=tokens or lab.tokens, seeds=seeds or lab.seeds)
    return Lab(
        path=path,
        lab=chosen,
        model=ModelConfig.from_mapping(table["model"], f"{path}: [model]"),
        start_inner=inner.alone(start.tokens, f"{path}: [start]") if start.tokens else None,
        data=data,
        shards=parse(ShardsSection, table.get("shards", {}), f"{path}: [shards]"),
        churn=parse(Churn, table.get("churn", {}), f"{path}: [churn]"),
        stragglers=_stragglers(table.get("stragglers", {}), lab.replicas, f"{path}: [stragglers]"),
        methods=_methods(table.get("method", []), path, inner),
    )


class _Inner:
    """The [inner] section, under each method's own; steps and warm-up follow from the lab's tokens.

    `share` is how much of the file's tokens is trained on: the warm-up is as much shorter, or longer.
    """

    def __init__(self, section: Any, where: str, lab: LabSection, data: DataConfig, share: float) -> None:
        self._section, self._share = _inner_keys(section, where), share
        self._tokens, self._sequences = lab.tokens, lab.replicas * data.sequence_tokens
        self._replicas = lab.replicas
        self.of({}, where)

    def of(self, section: Any, where: str) -> InnerConfig:
        """The inner optimizer of a method whose own `inner` table is `section`."""
        keys = {**self._section, **_inner_keys(section, where)}
        return self._scheduled(keys, int(self._tokens * self._share), where)

    def alone(self, tokens: int, where: str) -> InnerConfig:
        """The one that a single machine trains with: the batch is that of all replicas."""
        inner = self._scheduled(self._section, tokens, where)
        return dataclasses.replace(inner, batch_sequences=inner.batch_sequences * self._replicas)

    def _scheduled(self, keys: dict[str, Any], tokens: int, where: str) -> InnerConfig:
        given = InnerConfig.from_mapping({**keys, "total_steps": STEPS_MAX}, where)
        steps = max(1, tokens // (given.batch_sequences * self._sequences))
        warmup = given.warmup_steps if self._share == 1 else int(given.warmup_steps * self._share)
        return InnerConfig.from_mapping(
            {**keys, "steps": 1, "total_steps": steps, "warmup_steps": warmup}, where
        )


def _inner_keys(section: Any, where: str) -> dict[str, Any]:
    if not isinstance(section, Mapping):
        raise ConfigError(f"{section!r} is not a section", where, "key = value lines")
    for key, right in (("steps", "each [[method]] says its own"), ("total_steps", "[lab] tokens decides")):
        if key in section:
            raise ConfigError(f"`{key}` has no meaning here", where, right)
    return dict(section)


def _stragglers(section: Any, replicas: int, where: str) -> Stragglers:
    given = parse(Stragglers, section, where)
    if len(given.speeds) > replicas:
        right = f"at most {replicas}, one for each replica"
        raise ConfigError(f"`speeds` has {len(given.speeds)} numbers", where, right)
    return given


def _methods(sections: Any, path: Path, inner: _Inner) -> tuple[MethodConfig, ...]:
    if not isinstance(sections, list) or not 0 < len(sections) <= METHODS_MAX:
        raise ConfigError("no [[method]]", str(path), f"from 1 to {METHODS_MAX} of them")
    methods = tuple(
        _method(section, f"{path}: [[method]] {number}", inner) for number, section in enumerate(sections, 1)
    )
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two methods are called {name!r}", str(path), "a name for each")
    if not any(method.recipe.algorithm == SYNC for method in methods):
        right = f'a [[method]] with algorithm = "{SYNC}": what all others are compared to'
        raise ConfigError("no synchronous baseline", str(path), right)
    return methods


def _method(section: Any, where: str, inner: _Inner) -> MethodConfig:
    if not isinstance(section, Mapping):
        raise ConfigError(f"{section!r} is not a section", where, "key = value lines")
    rest = dict(section)
    name = rest.pop("name", "")
    if not isinstance(name, str) or not 0 < len(name) <= 60 or not name.isprintable():
        raise ConfigError(f"`name` is {name!r}", where, "what the table calls it, up to 60 characters")
    own = rest.pop("inner", {})
    return MethodConfig(name, recipe(rest, f"{where} {name!r}"), inner.of(own, f"{where} {name!r}: inner"))
