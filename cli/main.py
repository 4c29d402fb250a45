"""The `atoll` command: its verbs, and the way in.

Each verb is a function in a module of its own; its docstring is what `--help` shows.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from atoll import __version__
from atoll.cli import boundary, keys
from atoll.cli.coordinator import coordinator
from atoll.cli.demo.command import demo
from atoll.cli.export import export
from atoll.cli.init import init
from atoll.cli.join import join
from atoll.cli.pause import pause, resume
from atoll.cli.recover import recover
from atoll.cli.status import status
from atoll.cli.stop import stop

START, RUN, TOOLS = "Start here", "A run", "Tools"
_ANY_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"atoll {__version__}")
        raise typer.Exit


@app.callback()
def atoll(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train one model on many poorly connected machines.

    Every peer trains on its own; once a round all agree on one update and apply it. No server is in the
    data path, and any peer may die at any time.

    **To see it work:** atoll demo

    **To do it yourself:** atoll init, then atoll coordinator RUN.toml, and on every other machine
    atoll join with the line that it prints.

    **Exit codes:** 0 done, 1 something promised did not happen, 2 wrong input, 4 nobody answers,
    130 interrupted.
    """


app.command(rich_help_panel=START)(demo)
app.command(rich_help_panel=START)(init)
app.command(rich_help_panel=RUN)(coordinator)
app.command(rich_help_panel=RUN)(join)
app.command(rich_help_panel=RUN)(status)
app.command(rich_help_panel=RUN)(pause)
app.command(rich_help_panel=RUN)(resume)
app.command(rich_help_panel=RUN)(stop)
app.command(rich_help_panel=RUN)(export)
app.command(rich_help_panel=RUN)(recover)
app.add_typer(keys.app, name="key", rich_help_panel=TOOLS)


@app.command(rich_help_panel=TOOLS, context_settings=_ANY_ARGUMENTS, add_help_option=False)
def simulate(context: typer.Context) -> object:
    """Run the protocol under faults (`atoll simulate network --help`), or compare training methods
    (`atoll simulate training --help`)."""
    from atoll.cli.simulate import app as simulations

    return simulations(args=context.args or ["--help"], prog_name="atoll simulate", standalone_mode=False)


def main() -> None:
    """Run the command line of this process.

    A process that loaded torch leaves without tearing it down: that takes seconds of a busy machine, and
    whatever was to be closed is closed when the verb returns.
    """
    code = boundary.run(lambda: app(prog_name="atoll", standalone_mode=False))
    if "torch" not in sys.modules:
        sys.exit(code)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
