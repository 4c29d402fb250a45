"""Real processes that hold data of their own: with one of them stopped in each round, the same anchors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CODED = Path(__file__).parents[2] / "benchmarks" / "coded.py"


@pytest.mark.long
def test_losing_one_of_two_holders_loses_no_data() -> None:
    command = [sys.executable, str(CODED), "--json", "--code", "shards", "--workers", "4", "--rounds", "3"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ran.stdout, ran.stderr
    found = json.loads(ran.stdout)
    assert found["identical"], found
    assert len(set(found["anchors"])) == found["rounds"] == 3
    assert not any("skipped" in fault for fault in found["faults"]), found["faults"]
