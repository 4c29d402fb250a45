"""Reading one section of a researcher's file into a frozen dataclass.

Every refusal names the key and says what would be right, because these sections are written by hand.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, field, fields
from typing import Any, TypeVar

from atoll.protocol.errors import ConfigError

T = TypeVar("T")
Read = Callable[[Any, str, str], Any]  # (value, key, where) -> the value to keep


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, else list them all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else "known: " + ", ".join(names)


def whole(default: int, low: int, high: int) -> Any:
    """A whole number from `low` to `high`."""

    def read(value: Any, key: str, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(f"`{key}` is {value!r}", where, f"a whole number from {low} to {high}")
        return value

    return field(default=default, metadata={"read": read})


def real(default: float, low: float, high: float) -> Any:
    """A finite number from `low` to `high`."""

    def read(value: Any, key: str, where: str) -> float:
        if not is_number(value) or not low <= value <= high:
            raise ConfigError(f"`{key}` is {value!r}", where, f"a number from {low:g} to {high:g}")
        return float(value)

    return field(default=default, metadata={"read": read})


def text(default: str, example: str) -> Any:
    """A string; `example` is shown to whoever wrote something else."""

    def read(value: Any, key: str, where: str) -> str:
        if not isinstance(value, str):
            raise ConfigError(f"`{key}` is {value!r}", where, f'text in quotes, such as "{example}"')
        return value

    return field(default=default, metadata={"read": read})


def choice(default: str, *others: str) -> Any:
    """One of a few names, the default first."""
    names = (default, *others)

    def read(value: Any, key: str, where: str) -> str:
        if not isinstance(value, str) or value not in names:
            raise ConfigError(f"`{key}` is {value!r}", where, "one of " + ", ".join(f'"{n}"' for n in names))
        return value

    return field(default=default, metadata={"read": read})


def custom(read: Read, default: Any = MISSING, default_factory: Any = MISSING) -> Any:
    """A value that needs its own reader."""
    return field(default=default, default_factory=default_factory, metadata={"read": read})


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def parse(kind: type[T], section: Mapping[str, Any], where: str) -> T:
    """Read `section` as a `kind`. Raises ConfigError at the first key that is unknown or wrong."""
    if not isinstance(section, Mapping):
        raise ConfigError(f"{section!r} is not a section", where, "key = value lines")
    readers = {spec.name: spec.metadata["read"] for spec in fields(kind)}  # type: ignore[arg-type]
    for key in section:
        if key not in readers:
            raise ConfigError(f"unknown key `{key}`", where, nearest(str(key), readers))
    return kind(**{key: readers[key](value, key, where) for key, value in section.items()})
