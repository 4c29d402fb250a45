"""The outer rules by the name that a run manifest gives. A new rule is a module here and a line below."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from atoll.optim.rules.adaptive import AdaptiveRule
from atoll.optim.rules.base import OuterRule
from atoll.optim.rules.co2 import Co2Rule
from atoll.optim.rules.delayed_nesterov import DelayedNesterovRule
from atoll.optim.rules.eager import EagerRule
from atoll.optim.rules.nesterov import NesterovRule
from atoll.optim.rules.plain import AverageRule, SgdRule
from atoll.protocol.errors import ConfigError

__all__ = [
    "RULES",
    "AdaptiveRule",
    "AverageRule",
    "Co2Rule",
    "DelayedNesterovRule",
    "EagerRule",
    "NesterovRule",
    "OuterRule",
    "SgdRule",
    "outer_rule",
]

RULES: dict[str, type[OuterRule]] = {
    each.name: each
    for each in (NesterovRule, AverageRule, SgdRule, Co2Rule, DelayedNesterovRule, EagerRule, AdaptiveRule)
}


def outer_rule(name: str, knobs: Mapping[str, float | str], where: str = "") -> OuterRule:
    """The rule of that name with these knobs, its defaults for the others.

    Raises ConfigError, with the nearest name, for a name or a knob that does not exist, and with the reason
    for a knob of another type or out of its bounds.
    """
    if name not in RULES:
        near = get_close_matches(name, RULES, n=1, cutoff=0.0)[0]
        known = ", ".join(RULES)
        raise ConfigError(f"unknown outer rule {name!r}", where, f"did you mean {near!r}? One of: {known}")
    kind: Any = RULES[name]
    fields = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    for key, value in knobs.items():
        _check_knob(name, fields, key, value, where)
    try:
        rule: OuterRule = kind(**knobs)
    except ValueError as error:
        raise ConfigError(str(error), where, f"a knob of the rule {name!r} within its bounds") from None
    return rule


def _check_knob(rule: str, fields: Mapping[str, str], key: str, value: object, where: str) -> None:
    if key not in fields:
        known = ", ".join(fields) or "no knobs"
        raise ConfigError(f"unknown knob {key!r}", where, f"the rule {rule!r} has {known}")
    types = {"float": (int, float), "int": (int,), "str": (str,)}[fields[key]]
    if not isinstance(value, types) or isinstance(value, bool):
        raise ConfigError(f"{key} = {value!r}", where, f"{key} is of type {fields[key]}")
