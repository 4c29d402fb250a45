"""Equal inputs give equal bits whatever the threads and the instruction set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

PROGRAM = Path(__file__).with_name("round_of_bits.py")
VECTORED = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def numpy_features() -> str:
    """The instruction sets that numpy found here beyond those it cannot do without."""
    return " ".join(np.show_config(mode="dicts")["SIMD Extensions"].get("found", []))


def start(capability: str, numpy_without: str) -> subprocess.Popen[str]:
    chosen = {"ATEN_CPU_CAPABILITY": capability, "NPY_DISABLE_CPU_FEATURES": numpy_without}
    environment = {**os.environ, **{name: value for name, value in chosen.items() if value}}
    command = [sys.executable, "-W", "error", str(PROGRAM)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.long
@pytest.mark.skipif(not VECTORED, reason="this machine has one instruction set only")
def test_bits_are_equal_under_threads_and_instruction_sets() -> None:
    running = [start("default", numpy_features()), start("avx2", "")]
    plain, wide = (json.loads(process.communicate(timeout=120)[0]) for process in running)
    assert (plain["capability"], wide["capability"]) == ("DEFAULT", "AVX2")
    assert plain["fused"] != wide["fused"], "even a fused operation agrees: this run compared nothing"
    assert list(plain["under"]) == list(wide["under"]) == ["1", "2"]
    assert len(plain["under"]["1"]) == 12 + 19 + 6
    assert len(set(plain["under"]["1"].values())) == 37, "two of them hash the same: one compared nothing"
    for digests in (plain["under"]["2"], *wide["under"].values()):
        assert digests == plain["under"]["1"]
