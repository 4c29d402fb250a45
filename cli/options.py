"""The options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

StateOption = Annotated[
    Optional[Path],  # noqa: UP045  typer reads this at run time, also on Python 3.10
    typer.Option("--state", metavar="DIR", help="State folder of the daemon.", show_default=False),
]
MetricsOption = Annotated[
    str, typer.Option("--metrics", metavar="HOST:PORT", help="Where Prometheus may ask.", show_default=False)
]
LogJsonOption = Annotated[bool, typer.Option("--log-json", help="Write the log to stderr as JSON lines.")]
