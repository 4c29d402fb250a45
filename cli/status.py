"""`atoll status`: what a daemon does, why, and what it has cost so far."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from atoll.cli import places
from atoll.cli.options import StateOption


def status(
    state: StateOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object, or one a line with --watch.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the daemon ends, or Ctrl-C.")] = False,
) -> None:
    """Show what a running daemon does: round, phase and why, members, loss, bytes.

    Without --state it shows the one daemon of this user that runs. Exits with 4 if none answers, and says
    which round was saved last.
    """
    state_dir = places.running(state)
    from atoll.cli.admin import Admin

    with Admin(state_dir) as daemon:
        if watch:
            _watch(daemon.watch(), as_json)
        else:
            _show({**daemon.status(), "invite": places.invite(state_dir)}, as_json)


def _show(status: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(status))
        return
    from rich.console import Console

    from atoll.cli.status_view import view

    Console().print(view(status))
    if status.get("invite"):
        typer.echo(f"\n{status['invite']}")


def _watch(statuses: Iterator[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for status in statuses:
            typer.echo(json.dumps(status))
        return
    from rich.live import Live

    from atoll.cli.status_view import view

    with Live(auto_refresh=False) as live:
        for status in statuses:
            live.update(view(status), refresh=True)
