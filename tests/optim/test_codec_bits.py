"""Every dense codec's payloads and values are the same bits whatever the threads and the instruction set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bits_of_codecs import DENSE, digests, fused

PROGRAM = Path(__file__).with_name("bits_of_codecs.py")
VECTORED = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
PLAIN = {"ATEN_CPU_CAPABILITY": "default", "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}


@pytest.mark.long
@pytest.mark.skipif(not VECTORED, reason="this machine has one instruction set only")
def test_codecs_give_equal_bits_on_different_instruction_sets() -> None:
    command = [sys.executable, "-W", "error", str(PROGRAM)]
    process = subprocess.Popen(command, env={**os.environ, **PLAIN}, stdout=subprocess.PIPE, text=True)
    wide = digests()
    plain = json.loads(process.communicate(timeout=170)[0])
    assert plain["capability"] == "DEFAULT"
    assert plain["fused"] != fused(), "even a fused operation agrees: this run compared nothing"
    assert not plain["early"], "naming a codec imported numba"
    assert plain["digests"] == wide
    assert len(set(wide.values())) > 3 * len(DENSE)


def test_codecs_give_equal_bits_under_two_threads() -> None:
    alone = digests()
    torch.set_num_threads(2)
    try:
        assert digests() == alone
    finally:
        torch.set_num_threads(1)
