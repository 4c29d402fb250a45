"""Rounds for the tests of robust rules: strategies, and honest peers with liars among them."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
import torch
from numpy.typing import NDArray
from optim_vectors import integers_to_floats
from torch import Tensor

from atoll.optim.codecs import Codec, codec
from atoll.optim.robust import Evidence, Rows
from atoll.optim.robust.gram import gram

FP32 = codec("fp32")
Doubles = NDArray[np.float64]

SCALES = (2.0**-40, 2.0**-6, 1.0, 1000.0)


@st.composite
def rounds(
    draw: st.DrawFn, peers_min: int = 1, peers_max: int = 9, spread: float = 0.5
) -> tuple[list[int], list[Tensor]]:
    """Weights and vectors: a common part and one of its own for each, now and then a zero or a copy."""
    peers, numel = draw(st.integers(peers_min, peers_max)), draw(st.integers(12, 40))
    seed, scale = draw(st.integers(0, 10_000)), draw(st.sampled_from(SCALES))
    weights = draw(st.lists(st.integers(1, 10**6), min_size=peers, max_size=peers))
    kinds = draw(st.lists(st.sampled_from("oooooozcl"), min_size=peers, max_size=peers))
    vectors: list[Tensor] = []
    for peer, kind in enumerate(kinds):
        own = integers_to_floats(numel, seed + 100 * peer) * spread
        vector = scale * (integers_to_floats(numel, seed + 77_777) + own)
        if kind == "z":
            vector = torch.zeros(numel)
        elif kind == "l":
            vector = -30 * vector
        elif kind == "c" and vectors:
            vector = vectors[-1]
        vectors.append(vector.contiguous())
    return weights, vectors


def honest(numel: int, peers: int, seed: int = 1, spread: float = 0.5) -> list[Tensor]:
    """Vectors that share a part."""
    common = integers_to_floats(numel, 10_000 + seed)
    return [common + spread * integers_to_floats(numel, 31 * seed + peer) for peer in range(peers)]


def encoded(weights: Sequence[int], vectors: Sequence[Tensor], each: Codec = FP32) -> list[tuple[int, bytes]]:
    return [(weight, each.encode(vector)) for weight, vector in zip(weights, vectors, strict=True)]


def rows_of(vectors: Sequence[Tensor], previous: Tensor | None = None, each: Codec = FP32) -> Rows:
    return Rows([each.encode(vector) for vector in vectors], each, vectors[0].numel(), previous)


def evidence(
    vectors: Sequence[Tensor],
    weights: Sequence[int] | None = None,
    faulty: int = 0,
    previous: Tensor | None = None,
    seed: bytes = b"",
) -> Evidence:
    return Evidence(gram(rows_of(vectors, previous)), tuple(weights or [1] * len(vectors)), faulty, seed)


def doubles(vectors: Sequence[Tensor]) -> list[Doubles]:
    return [vector.double().numpy() for vector in vectors]


def near(found: Tensor | None, expected: Doubles, size: float, share: float = 2e-6) -> bool:
    """Whether two vectors agree to a share of the size of what went in."""
    assert found is not None
    return bool(np.abs(found.double().numpy() - expected).max(initial=0) <= share * size + 1e-37)


def size_of(vectors: Sequence[Tensor]) -> float:
    return max(float(vector.abs().max()) for vector in vectors)
