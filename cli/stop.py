"""`atoll stop`: end a daemon, at once or after the round in progress."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from atoll.cli import places
from atoll.cli.boundary import PromiseBroken
from atoll.cli.options import StateOption

STOP_S, FINISH_S, POLL_S = 60.0, 1800.0, 0.1


def stop(
    state: StateOption = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="Contribute to the round in progress first, then leave.")
    ] = False,
) -> None:
    """Stop a running daemon and wait until it has ended.

    Nothing is lost either way: a daemon started again with the same --state goes on where it was. With
    --finish the others hear that this peer leaves, and its work of this round is in the update.
    """
    state_dir = places.running(state)
    from atoll.cli.admin import Admin

    with Admin(state_dir) as daemon:
        typer.echo(f"{state_dir}: {daemon.stop(finish)}", err=True)
    _wait(state_dir, FINISH_S if finish else STOP_S)
    typer.echo(f"{state_dir}: ended")


def _wait(state_dir: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while places.answers(state_dir):
        if time.monotonic() > until:
            raise PromiseBroken(f"the daemon in {state_dir} still runs after {seconds:.0f} s")
        time.sleep(POLL_S)
