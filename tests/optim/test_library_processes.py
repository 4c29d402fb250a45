"""examples/diloco_training.py for real: two processes, gloo over loopback."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
PLAIN, DILOCO = EXAMPLES / "plain_training.py", EXAMPLES / "diloco_training.py"


def test_a_plain_script_becomes_diloco_in_fifteen_lines() -> None:
    texts = [path.read_text().splitlines() for path in (PLAIN, DILOCO)]
    changes = list(difflib.ndiff(*texts))
    added = [line for line in changes if line.startswith("+ ")]
    removed = [line for line in changes if line.startswith("- ")]
    assert 0 < len(added) <= 15
    assert len(removed) < len(added)


@pytest.mark.long
@pytest.mark.swarm
def test_two_processes_learn_and_end_with_the_same_bits() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(DILOCO), "--steps", "40"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first = dict(re.findall(r"rank (\d) step 1: loss ([\d.]+)", done.stdout))
    last = dict(re.findall(r"rank (\d) step 40: loss ([\d.]+)", done.stdout))
    ends = re.findall(r"held-out loss ([\d.]+) ([0-9a-f]{64})", done.stdout)
    assert sorted(first) == sorted(last) == ["0", "1"]
    assert first["0"] != first["1"]  # they read different text
    assert len(ends) == 2
    assert ends[0] == ends[1]
    assert float(ends[0][0]) < 0.7 * min(map(float, first.values()))
