"""The methods by the `algorithm` that a [[method]] names. A new family is a module here and a line below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from atoll.protocol.errors import ConfigError
from atoll.simulator.lab.methods import asynchronous, eager, gossip, rounds, sync
from atoll.simulator.lab.methods.base import Method, Recipe
from atoll.workload.fields import nearest

__all__ = ["ALGORITHMS", "Method", "Recipe", "recipe"]

ALGORITHMS: dict[str, Callable[[Mapping[str, Any], str], Recipe]] = {
    "sync": sync.recipe,
    "diloco": rounds.diloco,
    "streaming": rounds.streaming,
    "sparseloco": rounds.sparseloco,
    "co2": rounds.co2,
    "eager": eager.recipe,
    "async": asynchronous.recipe,
    "noloco": gossip.recipe,
}


def recipe(section: Mapping[str, Any], where: str) -> Recipe:
    """What a [[method]] says besides its name and inner optimizer. Raises ConfigError."""
    rest = dict(section)
    algorithm = rest.pop("algorithm", None)
    if algorithm not in ALGORITHMS:
        what = "missing key `algorithm`" if algorithm is None else f"unknown algorithm {algorithm!r}"
        raise ConfigError(what, where, nearest(str(algorithm), ALGORITHMS))
    return ALGORITHMS[algorithm](rest, where)
