"""Every robust rule on fixed numbers, and digests of what it gives. As a program it prints them.

test_robust_bits.py runs it in a process of its own, since a process keeps the instruction set it began with.
"""

from __future__ import annotations

import json

import torch
from bits_of_codecs import fused
from optim_vectors import integers_to_floats

from atoll.optim.codecs import codec
from atoll.optim.digest import tensor_digest
from atoll.optim.robust import RULES, Flag, aggregate, performance
from atoll.optim.robust.gram import Rows, gram

NUMEL = 150_003
"""Two pieces of the codec, and a rest that fills no run."""
WEIGHTS = (8191, 77777, 3, 100003, 50000, 65536, 1)


def digests() -> dict[str, str]:
    int8 = codec("int8")
    common = integers_to_floats(NUMEL, 1)
    vectors = [common + integers_to_floats(NUMEL, peer + 2) for peer in range(len(WEIGHTS))]
    vectors[2] = -30 * vectors[2]
    payloads = [int8.encode(vector) for vector in vectors]
    contributions = list(zip(WEIGHTS, payloads, strict=True))
    found = {}
    rules = {**RULES, "flag of pairs": Flag(rank=2, pairs=3.0)}
    for name, rule in rules.items():
        for clip in (True, False):
            update = aggregate(
                rule,
                contributions,
                int8,
                NUMEL,
                faulty=2,
                clip=clip,
                previous=vectors[1] if clip else None,
                seed=b"parent",
            )
            assert update is not None
            found[f"{name} {clip}"] = tensor_digest(update)
    matrix = gram(Rows(payloads, int8, NUMEL))
    found["gram"] = tensor_digest(torch.from_numpy(matrix.copy()).view(torch.float32).flatten())
    found["performance"] = performance([0.31, 0.5, 0.7], [0.6, 0.45, 0.9]).hex()
    return found


if __name__ == "__main__":
    capability = torch.backends.cpu.get_cpu_capability()
    print(json.dumps({"capability": capability, "digests": digests(), "fused": fused()}))
