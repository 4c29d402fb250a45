"""What both systems average: one vector for each peer, drawn from its number; and how peers are talked to.

It needs numpy alone, since peers of either system import it in environments of their own.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def drawn(peer: int, numel: int) -> Floats:
    """A peer's vector, fp32 [numel]: as large as pseudo-gradients are."""
    vector = np.random.default_rng(1000 + peer).standard_normal(numel, dtype=np.float32)
    vector *= np.float32(1e-3)
    return vector


def exact_mean(peers: int, numel: int) -> NDArray[np.float64]:
    total = np.zeros(numel)
    for peer in range(peers):
        total += drawn(peer, numel)
    return total / peers


def relative_error(mean: Floats, exact: NDArray[np.float64]) -> float:
    """Root mean square of the difference, in units of the exact mean's."""
    return float(np.linalg.norm(mean - exact) / np.linalg.norm(exact))


def say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()
