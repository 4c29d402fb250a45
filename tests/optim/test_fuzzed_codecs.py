"""The fuzzer of benchmarks/, a few hundred payloads for each codec, and whether it notices a bad one."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from atoll.optim.codecs import CODECS, Payload, codec
from atoll.optim.codecs.identity import Identity
from atoll.protocol.errors import RemoteProtocolError

PAYLOADS = 700


def program() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz_codecs.py"
    spec = importlib.util.spec_from_file_location("fuzz_codecs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


FUZZER = program()


@pytest.mark.parametrize("name", CODECS)
def test_damaged_payloads_decode_or_are_refused(name: str) -> None:
    found = FUZZER.fuzz(codec(name), PAYLOADS, seed=7)
    assert found.accepted.total() + found.refused.total() == PAYLOADS
    assert found.accepted["untouched"] == PAYLOADS // 7
    assert found.refused["resized"] == found.refused["lying"] == PAYLOADS // 7
    assert 0 < found.memory_most <= 1


@dataclass(frozen=True, slots=True)
class Careless(Identity):
    """fp32, with a fault to find."""

    fault: str = ""

    def decode(self, payload: Payload, numel: int, out: Tensor | None = None) -> Tensor:
        try:
            return Identity.decode(self, payload, numel, out)
        except RemoteProtocolError as error:
            if "header" in str(error) and self.fault == "allocates":
                np.empty(int.from_bytes(bytes(payload[8:12]), "little") % 2**22 + 2**22, dtype=np.uint8)
            elif self.fault == "raises":
                raise KeyError(0) from error
            elif self.fault == "returns":
                return torch.full((numel,), float("inf"))
            raise


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("allocates", AssertionError, "bytes held for"),
        ("raises", KeyError, "^0$"),
        ("returns", AssertionError, "a value beyond"),
    ],
)
def test_the_fuzzer_notices(fault: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        FUZZER.fuzz(Careless(fault=fault), PAYLOADS, seed=7)
