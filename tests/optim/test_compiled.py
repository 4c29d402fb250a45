from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from optim_vectors import integers_to_floats

from atoll.optim.codecs import codec
from atoll.optim.compiled import compiled
from atoll.optim.flat import Floats

PROGRAM = Path(__file__).with_name("decoded_bits.py")


@compiled
def multiplied_and_added(a: Floats, b: Floats, c: Floats, out: Floats) -> None:
    for place in range(out.size):
        out[place] = a[place] * b[place] + c[place]


@compiled
def summed(values: Floats) -> float:
    total = np.float32(0)
    for value in values:
        total += value
    return float(total)


@compiled
def doubled(value: int) -> int:
    """Twice the value."""
    return 2 * value


@compiled
def quadrupled(values: NDArray[np.int64]) -> None:
    for place in range(values.size):
        values[place] = doubled(doubled(values[place]))


def test_a_product_and_a_sum_are_two_roundings() -> None:
    a, b, c = (integers_to_floats(10_000, seed).numpy() for seed in (1, 2, 3))
    out = np.empty_like(a)
    multiplied_and_added(a, b, c, out)
    assert np.array_equal(out, a * b + c)
    fused = (a.astype(np.float64) * b + c).astype(np.float32)
    assert not np.array_equal(out, fused), "one rounding gives the same: this compared nothing"


def test_sums_run_in_order() -> None:
    values = integers_to_floats(10_000, 4, exponent=0).numpy()
    total = np.float32(0)
    for value in values:
        total += value
    assert summed(values) == float(total)
    assert float(values.astype(np.float64).sum()) != float(total), "any order gives the same"


def test_kernels_call_kernels() -> None:
    values = np.arange(5)
    quadrupled(values)
    assert values.tolist() == [0, 4, 8, 12, 16]
    assert doubled.plain(3) == doubled(3) == 6
    assert doubled.__doc__ == "Twice the value."


def test_another_instruction_set_decodes_the_same_bits() -> None:
    numel = 3 * 4096 + 200
    payloads = {name: codec(name).encode(integers_to_floats(numel, 5)) for name in ("topk", "dct")}
    here = {name: codec(name).decode(payload, numel).numpy().tobytes() for name, payload in payloads.items()}
    given = {"numel": numel, "payloads": {name: payload.hex() for name, payload in payloads.items()}}
    process = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM)],
        input=json.dumps(given),
        env={**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    assert found["decoded"] == {name: decoded.hex() for name, decoded in here.items()}
    assert not found["numba imported"], "naming a codec must not cost the import of numba"
