"""TOML files that people write: RUN.toml and LAB.toml. What cannot be read is one clear line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.protocol.errors import ConfigError
from atoll.workload.fields import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_BYTES_MAX = 1 << 20


def read_toml(path: Path, right: str) -> dict[str, Any]:
    """The tables of a file of at most FILE_BYTES_MAX bytes.

    Raises ConfigError, with `right` for where such a file comes from.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read it: {error.strerror}", str(path), right) from None
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"larger than {FILE_BYTES_MAX} bytes", str(path), right)
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text at byte {error.start}", str(path), "a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}", str(path), "key = value lines under [section]s") from None


def check_sections(table: Mapping[str, Any], known: tuple[str, ...], path: Path) -> None:
    """Raises ConfigError for a section that is not known, and for a file without [model], which all need."""
    for name, content in table.items():
        if name not in known:
            kind = "section" if isinstance(content, Mapping | list) else "key outside of a section"
            raise ConfigError(f"unknown {kind} `{name}`", str(path), nearest(name, known))
    if "model" not in table:
        raise ConfigError("no section [model]", str(path), '[model] and architecture = "llama"')
