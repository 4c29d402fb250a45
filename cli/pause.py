"""`atoll pause` and `atoll resume`: the volunteer has its machine for itself for a while."""

from __future__ import annotations

import typer

from atoll.cli import places
from atoll.cli.options import StateOption


def pause(state: StateOption = None) -> None:
    """Let a running daemon rest: it trains no more, and goes on to vote and to keep up.

    The trainer stops after the inner step in progress, and the others do not wait for it. The pause
    outlives a restart of the daemon, until `atoll resume`. Memory stays taken: `atoll stop` gives it back.
    """
    _tell(state, True)


def resume(state: StateOption = None) -> None:
    """Let a daemon that was paused train again, from the next round on."""
    _tell(state, False)


def _tell(state: StateOption, on: bool) -> None:
    state_dir = places.running(state)
    from atoll.cli.admin import Admin

    with Admin(state_dir) as daemon:
        typer.echo(f"{state_dir}: {daemon.pause(on)}")
