"""`atoll key`: the identity that a run's allowlist names, before there is a run to join."""

from __future__ import annotations

from pathlib import Path

import typer

from atoll.cli import places
from atoll.cli.options import StateOption
from atoll.protocol.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Make or show this machine's identity.")


@app.command()
def new(state: StateOption = None) -> None:
    """Make an Ed25519 key and print its peer id.

    Without --state it is the key that `atoll join` gives to each new state folder of this user. A
    coordinator lists such peer ids under [membership] allow. An existing key is never replaced.
    """
    from atoll.node.identity import KEY_FILE, load_or_create

    folder = state or places.of_key()
    if (folder / KEY_FILE).exists():
        raise ConfigError(
            "there is a key already", str(folder / KEY_FILE), "`atoll key show` prints its peer id"
        )
    typer.echo(load_or_create(folder).peer)


@app.command()
def show(state: StateOption = None) -> None:
    """Print the peer id of a key, made by `atoll key new` or by a daemon."""
    from atoll.node.identity import KEY_FILE, load_key

    path = (state or places.of_key()) / KEY_FILE
    if not path.exists():
        raise ConfigError("there is no key", str(path), "`atoll key new` makes one")
    typer.echo(load_key(path).peer)


def adopt(state_dir: Path) -> None:
    """Give a new state folder this user's key, if there is one."""
    from atoll.node.identity import KEY_FILE, load_key, save_key

    ours, its = places.of_key() / KEY_FILE, state_dir / KEY_FILE
    if ours.exists() and not its.exists():
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        save_key(its, load_key(ours))
