"""`atoll init`: a RUN.toml to start from, with every key explained."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from atoll.protocol.errors import ConfigError

FILE = "RUN.toml"


def init(
    place: Annotated[Path, typer.Argument(metavar="[DIR|FILE]", help="Where to write it.")] = Path(FILE),
) -> None:
    """Write a commented RUN.toml: a small Llama-style model on the standard library's source.

    Change what you like, then run `atoll coordinator RUN.toml`. An existing file is never overwritten.
    """
    path = place if place.suffix == ".toml" and not place.is_dir() else place / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(template())
    except FileExistsError:
        raise ConfigError("there is a file already", str(path), "another name, or remove it") from None
    typer.echo(path)


def template() -> str:
    """The text of a new RUN.toml."""
    return (resources.files("atoll.coordinator") / "template.toml").read_text("utf-8")
