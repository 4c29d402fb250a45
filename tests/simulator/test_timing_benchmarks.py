"""What the two benchmarks print, with short parameters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
POLICIES = ["wait_all", "quorum", "dbw", "dynamic", "compass", "merge", "frc", "sr_sgc", "m_sgc"]
TRACES = ["none", "random", "bursty", "persistent", "mix"]


def ran(script: str, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.long
def test_stragglers(tmp_path: Path) -> None:
    plot = tmp_path / "stragglers.png"
    found = ran("stragglers.py", "--quick", "--rounds", "3", "--kinds", "iid", "--plot", str(plot))
    assert found["policies"] == POLICIES
    assert found["seeds"] == [0]
    assert list(found["waiting_share"]) == list(found["time_to_target"]) == POLICIES
    assert all(0 <= share < 1 for share in found["waiting_share"].values())
    assert found["waiting_share"]["wait_all"] > 0.5 > found["waiting_share"]["compass"]
    for policy in POLICIES:
        assert list(found["time_to_target"][policy]["iid"]) == TRACES
    times = {trace: found["time_to_target"]["wait_all"]["iid"][trace]["mean"] for trace in TRACES}
    assert times["none"] < min(times[trace] for trace in TRACES[1:])
    assert len(found["rows"]) == len(POLICIES) * len(TRACES)
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_churn(tmp_path: Path) -> None:
    plot = tmp_path / "churn.png"
    found = ran("churn.py", "--scale", "0.1", "--seeds", "0", "--plot", str(plot))
    assert found["parameters"]["islands"]["quorum"] == 0.5
    rows = {row["name"]: row for row in found["rows"]}
    published = rows["1.2M machines, 8 islands"]
    assert published["published"] == {"atoll": 0.88, "elastic": 0.58, "saved": 0.27}
    assert published["atoll"] > 0.8 > 0.6 > published["elastic_data_parallel"] > 0.55
    assert all(0 < row["atoll"] <= 1.001 for row in found["rows"])
    assert plot.read_bytes().startswith(b"\x89PNG")
