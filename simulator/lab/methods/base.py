"""What a method is to a trial, and the keys that several methods share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from atoll.optim.codecs import CODECS
from atoll.optim.layout import Layout
from atoll.optim.rules import OuterRule, outer_rule
from atoll.protocol.combinations import Choices, check_combinations
from atoll.protocol.errors import ConfigError
from atoll.simulator.lab.methods.sending import Packing
from atoll.workload.fields import custom, nearest

if TYPE_CHECKING:
    from atoll.simulator.lab.replicas import Replicas


class Method(Protocol):
    """Trains replicas, and decides when they exchange what."""

    def advance(self, step: int, until: int) -> int:
        """Train from global step `step` on, to the next exchange but not past `until`; make the exchange,
        and give the global step that was reached."""

    def finish(self, step: int) -> None:
        """Exchange and apply what is still on its way: training ends at that step."""

    @property
    def turns(self) -> int:
        """How many inner loops take each step one after another: replicas, or 1 if all step as one."""

    @property
    def anchor(self) -> Tensor:
        """What is evaluated: the parameters that all agree on, fp32 [numel]."""

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that a trial has to remember besides the replicas', by name."""

    def counters(self) -> dict[str, Any]:
        """The same for what is not a tensor, fit for JSON."""

    def restore(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        """Go on from what another object of the same recipe had to remember."""


class Recipe(Protocol):
    """What a LAB.toml says of one method, checked; makes the method for one trial."""

    @property
    def algorithm(self) -> str: ...

    def check(self, layout: Layout, where: str) -> None:
        """Raise ConfigError if the method cannot train a model of this layout."""

    def build(self, replicas: Replicas) -> Method:
        """The method at the start of a trial, from the parameters that all replicas hold."""


@dataclass(frozen=True, slots=True)
class Outer:
    """An outer rule by its name, with its knobs."""

    rule: str
    knobs: Mapping[str, Any]

    def build(self) -> OuterRule:
        return outer_rule(self.rule, self.knobs)


def _outer(value: Any, key: str, where: str) -> Outer:
    if not isinstance(value, Mapping) or not isinstance(value.get("rule"), str):
        right = 'a table, such as outer = { rule = "nesterov", lr = 0.7, momentum = 0.9 }'
        raise ConfigError(f"`{key}` is {value!r}", where, right)
    knobs = {name: knob for name, knob in value.items() if name != "rule"}
    outer_rule(value["rule"], knobs, f"{where}: {key}")
    return Outer(value["rule"], knobs)


OUTER = {"read": _outer}
"""The metadata of a field that holds an outer rule."""


def codec_name(default: str) -> Any:
    return custom(_codec, default=default)


def _codec(value: Any, key: str, where: str) -> str:
    if value not in CODECS:
        raise ConfigError(f"`{key}` is {value!r}", where, nearest(str(value), CODECS))
    return str(value)


def one_of(*names: str) -> Any:
    """One of these words; the first is the default."""

    def read(value: Any, key: str, where: str) -> str:
        if value not in names:
            raise ConfigError(f"`{key}` is {value!r}", where, nearest(str(value), names))
        return str(value)

    return custom(read, default=names[0])


def together(outer: Outer, packing: Packing, where: str) -> None:
    """Raise ConfigError if these choices lose what each was made for."""
    check_combinations(
        Choices(
            rule=outer.rule,
            aggregation=packing.aggregation,
            codec=packing.codec,
            feedback=packing.feedback,
            exchange=packing.exchange,
            ledger=False,
        ),
        where,
    )


def only(section: Mapping[str, Any], keys: Sequence[str], algorithm: str, where: str) -> None:
    """Refuse keys that mean nothing to an algorithm."""
    for key in section:
        if key not in keys:
            raise ConfigError(f"unknown key `{key}` of {algorithm!r}", where, nearest(str(key), keys))
