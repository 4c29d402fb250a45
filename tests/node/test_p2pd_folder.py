"""What a killed process leaves in the temporary directory is removed by the next; what is in use stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from atoll.node.p2pd import PrivateFolder

HOLD = """\
from atoll.node.p2pd import PrivateFolder
folder = PrivateFolder()
print(folder.path, flush=True)
input()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_killed_process_s_folder_goes_and_a_living_one_s_stays(temporary: Path) -> None:
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        held = Path(process.stdout.readline().strip())
        assert held.parent == temporary
        first = PrivateFolder()
        assert held.is_dir()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert held.is_dir()
    second = PrivateFolder()
    assert not held.exists()
    assert first.path.is_dir()
    for folder in (first, second):
        folder.remove()
        assert not folder.path.exists()


def test_a_folder_without_a_lock_is_not_ours_to_remove(temporary: Path) -> None:
    (temporary / "atoll-p2pd-just-made").mkdir()
    PrivateFolder().remove()
    assert (temporary / "atoll-p2pd-just-made").is_dir()
