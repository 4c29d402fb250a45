from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from atoll.cli import boundary
from atoll.cli.main import app


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    def refused(self, code: int, *said: str) -> None:
        """It said one clear line on stderr, nothing on stdout, and has this exit code."""
        assert self.code == code, self
        assert self.out == "", self
        assert self.err.startswith("atoll: "), self
        assert self.err.count("\n") == 1, self
        assert "Traceback" not in self.err, self
        assert all(part in self.err for part in said), self


Atoll = Callable[..., Ran]


@pytest.fixture(autouse=True)
def own_state_root(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the daemons of whoever runs it."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    return home / "atoll"


@pytest.fixture
def atoll(capsys: pytest.CaptureFixture[str]) -> Atoll:
    """Run a command in this process, through the same error boundary as `main`."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        code = boundary.run(lambda: app(list(arguments), prog_name="atoll", standalone_mode=False))
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


@pytest.fixture
def atoll_process() -> Atoll:
    """Run a command as a process of its own."""

    def run(*arguments: str) -> Ran:
        command = [sys.executable, "-m", "atoll.cli.main", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
        return Ran(done.returncode, done.stdout, done.stderr)

    return run
