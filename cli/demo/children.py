"""The demo's processes: started here, ended here, and never left behind.

A child gets a session of its own, so that Ctrl-C reaches only the demo, which then ends them in order. If
the demo itself is killed, the kernel ends the children (Linux, PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STOP_S = 6.0
_LAST_WORDS = 4096
_TIED = """\
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.executable, [sys.executable, "-m", "atoll.cli.main", *sys.argv[2:]])
"""


@dataclass(frozen=True, slots=True)
class Child:
    """One daemon: its name in the demo, its state folder, its process."""

    name: str
    state_dir: Path
    process: subprocess.Popen[bytes]

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def last_words(self) -> str:
        """The last line that it wrote to stderr."""
        with open(self.state_dir / "stderr.txt", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_WORDS))
            lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def start(name: str, folder: Path, arguments: Sequence[str]) -> Child:
    """Start `atoll <arguments> --state <folder>/<name>`; what it writes lies in that folder.

    Call it from the main thread: the kernel ends a tied child with the thread that started it.
    """
    state_dir = folder / name
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [sys.executable, "-c", _TIED, str(os.getpid()), *arguments, "--state", str(state_dir)]
    with open(state_dir / "stdout.txt", "ab") as out, open(state_dir / "stderr.txt", "ab") as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
    return Child(name, state_dir, process)


def kill(child: Child) -> None:
    """SIGKILL, and wait until it is gone."""
    child.process.send_signal(signal.SIGKILL)
    child.process.wait()


def stop(children: Sequence[Child]) -> None:
    """End all of them: SIGTERM, then SIGKILL for those that have not gone in time."""
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            child.process.terminate()
    until = time.monotonic() + STOP_S
    for child in children:
        try:
            child.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            kill(child)
