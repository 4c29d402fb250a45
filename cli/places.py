"""Where state lies: one folder for each daemon, under one root for each user.

A daemon is found by the unix socket in its folder. Socket paths are limited to about 100 characters, so a
daemon in a deep folder puts its socket elsewhere and writes the place into `admin.path`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import platformdirs

from atoll.cli.boundary import NotRunning
from atoll.protocol.errors import ConfigError

SOCKET, SOCKET_PATH, INVITE = "admin.sock", "admin.path", "invite"
KEY_FOLDER = "key"
SOCKET_PATH_BYTES_MAX = 4096

_STATE = re.compile(r"state-(\d{1,18})\.safetensors", re.ASCII)


def root() -> Path:
    """The folder of all daemons of this user, unless `--state` says otherwise."""
    return Path(platformdirs.user_state_dir("atoll"))


def of_run(run_id: str) -> Path:
    return root() / run_id[:12]


def of_coordinator(name: str) -> Path:
    return root() / f"coordinator-{name}"


def of_key() -> Path:
    """The key that new state folders take, made by `atoll key new`."""
    return root() / KEY_FOLDER


def socket_of(state_dir: Path) -> Path:
    """The admin socket of the daemon in `state_dir`."""
    try:
        with open(state_dir / SOCKET_PATH, "rb") as file:
            named = file.read(SOCKET_PATH_BYTES_MAX).decode(errors="replace").strip()
    except OSError:
        named = ""
    return Path(named) if named else state_dir / SOCKET


def answers(state_dir: Path) -> bool:
    """Whether a daemon listens for this folder."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(socket_of(state_dir)))
        except OSError:
            return False
    return True


def states(state_dir: Path) -> list[tuple[int, Path]]:
    """The saved states of a folder as (round, file), newest first."""
    try:
        found = [(_STATE.fullmatch(path.name), path) for path in state_dir.iterdir()]
    except OSError:
        return []
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def last_round(state_dir: Path) -> int | None:
    return next((round_ for round_, _ in states(state_dir)), None)


def invite(state_dir: Path) -> str | None:
    """The invite that the coordinator in this folder printed last."""
    try:
        return (state_dir / INVITE).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def chosen(given: Path | None) -> Path | None:
    """The state folder that was given, else that of the one daemon that runs, else the one saved run.

    None if there is nothing at all. Raises ConfigError where the user has to choose.
    """
    return given or _only("running daemon", answers) or _only("saved run", _has_state)


def running(given: Path | None) -> Path:
    """The state folder, as `chosen` finds it, of a daemon that answers; NotRunning if there is none."""
    state_dir = chosen(given)
    if state_dir is None or not answers(state_dir):
        raise not_running(state_dir, "no socket")
    return state_dir


def not_running(state_dir: Path | None, reason: str) -> NotRunning:
    """The error that says which daemon does not answer, and how far it had come."""
    if state_dir is None:
        return NotRunning(f"no daemon is running, and nothing is saved below {root()}")
    round_ = last_round(state_dir)
    known = "nothing is saved there" if round_ is None else f"the last round saved there is {round_}"
    return NotRunning(f"no daemon answers in {state_dir} ({reason}); {known}")


def _has_state(state_dir: Path) -> bool:
    return last_round(state_dir) is not None


def _only(what: str, fits: Callable[[Path], bool]) -> Path | None:
    try:
        folders = sorted(path for path in root().iterdir() if path.is_dir())
    except OSError:
        return None
    found = [folder for folder in folders if fits(folder)]
    if len(found) > 1:
        names = ", ".join(str(folder) for folder in found)
        raise ConfigError(f"more than one {what}: {names}", "--state", "name one of them")
    return found[0] if found else None
