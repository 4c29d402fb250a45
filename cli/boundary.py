"""Where errors end: one line on stderr, and an exit code that a script can tell apart.

0 done; 1 something promised did not happen; 2 the user can mend it; 4 nobody answers; 130 Ctrl-C. An error
that is none of these is a fault of Atoll and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable

import typer

from atoll.protocol.errors import ConfigError, RemoteProtocolError

OK, BROKEN, USER, UNREACHABLE, INTERRUPTED = 0, 1, 2, 4, 130

_UsageError = typer.BadParameter.__mro__[1]
_USERS_ERRNO = frozenset(
    {
        errno.EACCES,
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.EDQUOT,
        errno.EISDIR,
        errno.EMFILE,
        errno.ENAMETOOLONG,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)


class PromiseBroken(Exception):
    """A command did its work, and something that it promises did not happen."""


class NotRunning(Exception):
    """No daemon answers where one was asked for."""


def run(command: Callable[[], object]) -> int:
    """Run a command; the exit code of its end or of its error, which is said in one line."""
    try:
        code = command()
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        return OK
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        known = verdict(error)
        if known is None:
            raise
        return say(*known)
    return code if isinstance(code, int) else OK


def say(code: int, line: str) -> int:
    """One line on stderr, whatever the text holds; the code is handed back."""
    with contextlib.suppress(BrokenPipeError):
        print("atoll: " + " ".join(line.split()), file=sys.stderr, flush=True)
    return code


def verdict(error: Exception) -> tuple[int, str] | None:
    """Exit code and text of an error that has nothing to do with a fault in Atoll, else None."""
    match error:
        case PromiseBroken():
            return BROKEN, str(error)
        case ConfigError() | RemoteProtocolError():
            return USER, str(error)
        case NotRunning():
            return UNREACHABLE, str(error)
        case OSError() if error.errno in _USERS_ERRNO:
            place = f"{error.filename}: " if error.filename else ""
            return USER, f"{place}{error.strerror}"
        case _ if isinstance(error, _UsageError):
            return USER, error.format_message()  # type: ignore[attr-defined]
        case _:
            return _unreachable(error)


def _unreachable(error: Exception) -> tuple[int, str] | None:
    from atoll.node.transport import BootstrapFailed, Unreachable

    return (UNREACHABLE, str(error)) if isinstance(error, Unreachable | BootstrapFailed) else None


def _drop_stdout() -> None:
    """The reader of our output has gone; nothing is left to flush into."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
