"""Compiled codecs on fixed numbers: digests of payloads and values. As a program it prints them.

One of each kind of loop, as compiling all of them for a second processor takes half a minute.

test_codec_bits.py runs it in a process of its own, since a process keeps the instruction set it began with.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import torch
from optim_vectors import integers_to_floats

from atoll.optim.codecs import codec
from atoll.optim.digest import tensor_digest

DENSE = ("int8", "int8-mean", "e3m0", "2bit")
NUMEL = 70_003


def digests() -> dict[str, str]:
    found = {}
    for name in DENSE:
        for exponent in (-140, -34):
            x = integers_to_floats(NUMEL, 7, exponent) * integers_to_floats(NUMEL, 8)
            payload = codec(name).encode(x)
            found[f"{name} {exponent} payload"] = hashlib.sha256(payload).hexdigest()
            found[f"{name} {exponent} values"] = tensor_digest(codec(name).decode(payload, NUMEL))
    return found


def fused() -> str:
    """A product and a sum in one instruction where the machine has it: what kernels must not do."""
    from numba import njit

    @njit(fastmath={"contract"})
    def product_and_sum(a: Any, b: Any, out: Any) -> None:
        for place in range(a.size):
            out[place] = a[place] * b[place] + b[place]

    a, b, out = integers_to_floats(NUMEL, 50), integers_to_floats(NUMEL, 51), torch.zeros(NUMEL)
    product_and_sum(a.numpy(), b.numpy(), out.numpy())
    return tensor_digest(out)


if __name__ == "__main__":
    early = "numba" in sys.modules
    capability = torch.backends.cpu.get_cpu_capability()
    print(json.dumps({"early": early, "capability": capability, "digests": digests(), "fused": fused()}))
