"""LAB.toml: which methods are compared, on what, and with how many tokens.

Every refusal names file, section and key, and what was probably meant: the file is written by hand.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atoll.protocol.errors import ConfigError
from atoll.simulator.lab.attendance import Churn, Stragglers
from atoll.simulator.lab.methods import Recipe, recipe
from atoll.workload.config import DataConfig, InnerConfig, ModelConfig
from atoll.workload.fields import custom, is_number, nearest, parse, real, whole

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SECTIONS = ("lab", "model", "data", "shards", "inner", "churn", "stragglers", "method")
FILE_BYTES_MAX = 1 << 20
METHODS_MAX = 256
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


@dataclass(frozen=True, slots=True)
class Lab:
    """A whole, valid LAB.toml. `inner.total_steps` of every method is the number of steps of the lab."""

    path: Path
    lab: LabSection
    model: ModelConfig
    data: DataConfig
    shards: ShardsSection
    churn: Churn
    stragglers: Stragglers
    methods: tuple[MethodConfig, ...]
    steps: int

    @property
    def on(self) -> str:
        """Where it trains: on one GPU where there is one."""
        if self.lab.device != "auto":
            return self.lab.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def tokens_per_step(self) -> int:
        """Of all replicas together."""
        return self.lab.replicas * self.methods[0].inner.batch_sequences * self.data.sequence_tokens

    def digest(self, method: MethodConfig) -> str:
        """What the numbers of a method's trials depend on: states of another digest are not resumed."""
        lab = {"replicas": self.lab.replicas, "evaluations": self.lab.evaluations, "device": self.on}
        sections = (self.model, self.data, self.shards, self.churn, self.stragglers, method)
        what = [lab, self.steps, *(dataclasses.asdict(section) for section in sections)]
        return hashlib.sha256(json.dumps([what, type(method.recipe).__name__]).encode()).hexdigest()


def read(path: Path, tokens: int | None = None, seeds: tuple[int, ...] | None = None) -> Lab:
    """Read and check a LAB.toml. Raises ConfigError at the first thing that is wrong.

    `tokens` and `seeds` take the place of those of the file; the warm-up shrinks or grows with the tokens.
    """
    return of(_table(path), path, tokens, seeds)


def of(
    table: Mapping[str, Any], path: Path, tokens: int | None = None, seeds: tuple[int, ...] | None = None
) -> Lab:
    """Check what stands in a LAB.toml; `path` is named in errors."""
    for name, content in table.items():
        if name not in SECTIONS:
            kind = "section" if isinstance(content, Mapping | list) else "key outside of a section"
            raise ConfigError(f"unknown {kind} `{name}`", str(path), nearest(name, SECTIONS))
    if "model" not in table:
        raise ConfigError("no section [model]", str(path), '[model] and architecture = "llama"')
    lab = parse(LabSection, table.get("lab", {}), f"{path}: [lab]")
    data = DataConfig.from_mapping(table.get("data", {}), f"{path}: [data]")
    inner = _Inner(table.get("inner", {}), f"{path}: [inner]", lab, data, tokens or lab.tokens)
    chosen = dataclasses.replace(lab, tokens=tokens or lab.tokens, seeds=seeds or lab.seeds)
    return Lab(
        path=path,
        lab=chosen,
        model=ModelConfig.from_mapping(table["model"], f"{path}: [model]"),
        data=data,
        shards=parse(ShardsSection, table.get("shards", {}), f"{path}: [shards]"),
        churn=parse(Churn, table.get("churn", {}), f"{path}: [churn]"),
        stragglers=_stragglers(table.get("stragglers", {}), lab.replicas, f"{path}: [stragglers]"),
        methods=_methods(table.get("method", []), path, inner),
        steps=inner.steps,
    )


def _table(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        right = "a LAB.toml, such as examples/lab-small.toml"
        raise ConfigError(f"cannot read it: {error.strerror}", str(path), right) from None
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"larger than {FILE_BYTES_MAX} bytes", str(path), "a LAB.toml")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text at byte {error.start}", str(path), "a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}", str(path), "key = value lines under [section]s") from None


class _Inner:
    """The [inner] section, under each method's own; steps and warm-up follow from the lab's tokens."""

    def __init__(self, section: Any, where: str, lab: LabSection, data: DataConfig, tokens: int) -> None:
        self._section, self._where = _inner_keys(section, where), where
        batch = InnerConfig.from_mapping(self._section, where).batch_sequences
        per_step = lab.replicas * batch * data.sequence_tokens
        self._planned = max(1, lab.tokens // per_step)
        self.steps = max(1, tokens // per_step)
        self.of({}, where)

    def of(self, section: Any, where: str) -> InnerConfig:
        """The inner optimizer of a method whose own `inner` table is `section`."""
        own = _inner_keys(section, where)
        if "batch_sequences" in own and own["batch_sequences"] != self._section.get("batch_sequences"):
            raise ConfigError("`batch_sequences` of one method", where, "one for all, in [inner]")
        keys = {**self._section, **own, "steps": 1, "total_steps": self.steps}
        if self.steps != self._planned:
            keys["warmup_steps"] = self._scaled(keys.get("warmup_steps", InnerConfig().warmup_steps), where)
        return InnerConfig.from_mapping(keys, where)

    def _scaled(self, warmup: Any, where: str) -> int:
        if not is_number(warmup):
            return int(InnerConfig.from_mapping({"warmup_steps": warmup}, where).warmup_steps)
        return int(warmup * self.steps // self._planned)


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
