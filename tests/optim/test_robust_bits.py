"""Every robust rule gives the same bits whatever the threads and the instruction set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bits_of_codecs import fused
from bits_of_robust import digests

PROGRAM = Path(__file__).with_name("bits_of_robust.py")
VECTORED = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
PLAIN = {"ATEN_CPU_CAPABILITY": "default", "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}


@pytest.mark.long
@pytest.mark.skipif(not VECTORED, reason="this machine has one instruction set only")
def test_robust_rules_give_equal_bits_on_different_instruction_sets() -> None:
    command = [sys.executable, "-W", "error", str(PROGRAM)]
    process = subprocess.Popen(command, env={**os.environ, **PLAIN}, stdout=subprocess.PIPE, text=True)
    wide = digests()
    plain = json.loads(process.communicate(timeout=170)[0])
    assert plain["capability"] == "DEFAULT"
    assert plain["fused"] != fused(), "even a fused operation agrees: this run compared nothing"
    assert plain["digests"] == wide
    assert len(set(wide.values())) >= len(wide) - 3  # Krum chooses the same with the clip and without


def test_robust_rules_give_equal_bits_under_two_threads() -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(digests())
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]
