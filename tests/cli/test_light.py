"""The commands that people type to look around must not wait for torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "hivemind", "matplotlib", "numpy", "safetensors", "datasets")
PROBE = """\
import json, sys, time
start = time.process_time()
from atoll.cli import boundary
from atoll.cli.main import app
code = boundary.run(lambda: app(sys.argv[1:], prog_name="atoll", standalone_mode=False))
print(json.dumps([code, time.process_time() - start, sorted(sys.modules)]), file=sys.stderr)
"""


def probe(*arguments: str) -> tuple[int, float, set[str]]:
    """Exit code, CPU seconds and imported modules of a command. The best of three: others use the CPU too."""
    runs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, timeout=60
        )
        code, seconds, modules = json.loads(done.stderr.splitlines()[-1])
        runs.append((seconds, code, set(modules)))
    seconds, code, modules = min(runs, key=lambda run: run[0])
    return code, seconds, modules


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["demo", "--help"], 0), (["status"], 4), (["--version"], 0), (["key", "show"], 2)],
)
def test_a_look_around_is_light(arguments: list[str], code: int) -> None:
    ended, seconds, modules = probe(*arguments)
    assert ended == code
    assert not modules.intersection(HEAVY)
    assert seconds < 0.5


def test_asking_a_daemon_is_light() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, atoll.cli.admin, atoll.cli.status_view; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not set(done.stdout.split()).intersection(HEAVY)
