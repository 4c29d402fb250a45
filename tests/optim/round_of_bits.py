"""A program: three outer rounds on fixed numbers, under one thread and under two. Prints the digests.

Run in a process of its own by test_same_bits.py, since a process keeps the instruction set it began with.
"""

from __future__ import annotations

import json

import torch
from optim_vectors import integers_to_floats

from atoll.optim.codecs import codec
from atoll.optim.digest import tensor_digest
from atoll.optim.feedback import Residual
from atoll.optim.mean import weighted_mean
from atoll.optim.nesterov import NesterovRule, step_
from atoll.optim.pseudo_gradient import pseudo_gradient

NUMEL = 300_001
PEERS = 3


def digests() -> dict[str, str]:
    int8 = codec("int8")
    anchor, momentum = integers_to_floats(NUMEL, 1), torch.zeros(NUMEL)
    residuals = [Residual(NUMEL) for _ in range(PEERS)]
    found: dict[str, str] = {}
    for round_ in range(3):
        payloads = []
        for peer, residual in enumerate(residuals):
            local = anchor - integers_to_floats(NUMEL, 10 * round_ + peer + 2, exponent=-30)
            payloads.append(int8.encode(residual.offer(pseudo_gradient(anchor, local))))
            residual.accepted(int8.decode(payloads[-1], NUMEL))
        update = weighted_mean(zip((8191, 77777, 100003), payloads, strict=True), int8, NUMEL)
        assert update is not None
        step_(anchor, momentum, int8.decode(int8.encode(update), NUMEL), NesterovRule(0.7, 0.9))
        named = {"update": update, "anchor": anchor, "momentum": momentum, "residual": residuals[0].buffer}
        found |= {f"{name} {round_}": tensor_digest(tensor) for name, tensor in named.items()}
    return found


def fused() -> str:
    """Two operations in one instruction where the machine has it: what the rules above avoid."""
    a, b = integers_to_floats(NUMEL, 50), integers_to_floats(NUMEL, 51)
    return tensor_digest(torch.add(a, b, alpha=0.7))


if __name__ == "__main__":
    under = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        under[torch.get_num_threads()] = digests()
    print(
        json.dumps({"capability": torch.backends.cpu.get_cpu_capability(), "fused": fused(), "under": under})
    )
