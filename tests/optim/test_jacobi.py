"""Eigenvalues and eigenvectors by rotations, against LAPACK and against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from atoll.optim.jacobi import ELEMENT_MAX, SWEEPS_MAX, _rotate, _turn, eigen_symmetric

SIZES = st.integers(1, 12)


@st.composite
def matrices(draw: st.DrawFn) -> NDArray[np.float64]:
    """Symmetric, often of low rank or with equal eigenvalues, of any scale."""
    size, rank = draw(SIZES), draw(SIZES)
    noise = np.random.default_rng(draw(st.integers(0, 10**6)))
    kind = draw(st.sampled_from(["any", "gram", "whole", "diagonal"]))
    if kind == "any":
        found = noise.standard_normal((size, size))
    elif kind == "gram":
        rows = noise.standard_normal((size, rank))
        found = rows @ rows.T
    elif kind == "whole":
        found = noise.integers(-1, 2, (size, size)).astype(np.float64)
    else:
        found = np.diag(noise.integers(-3, 4, size).astype(np.float64))
    symmetric: NDArray[np.float64] = np.tril(found) + np.tril(found, -1).T
    return symmetric * 2.0 ** draw(st.integers(-300, 300))


@given(matrices())
def test_it_is_what_an_eigen_decomposition_is(matrix: NDArray[np.float64]) -> None:
    size, most = len(matrix), np.abs(matrix).max()
    values, vectors = eigen_symmetric(matrix)
    assert values.shape == (size,)
    assert (np.diff(values) <= 0).all()
    assert np.abs(vectors.T @ vectors - np.eye(size)).max() < 1e-13 * size
    assert np.abs(matrix @ vectors - vectors * values).max() <= 1e-13 * size * most
    assert np.abs(values - np.linalg.eigvalsh(matrix)[::-1]).max() <= 1e-13 * size * most
    for column in vectors.T:
        assert column[np.argmax(np.abs(column))] > 0


@given(matrices(), st.integers(-200, 200))
def test_a_power_of_two_changes_the_values_alone(matrix: NDArray[np.float64], exponent: int) -> None:
    values, vectors = eigen_symmetric(matrix)
    scaled, same = eigen_symmetric(np.ldexp(matrix, exponent))
    assert (scaled == np.ldexp(values, exponent)).all()
    assert (same == vectors).all()


@given(matrices())
def test_compiled_code_and_plain_python_give_the_same_bits(matrix: NDArray[np.float64]) -> None:
    scaled = matrix / max(1e-300, np.abs(matrix).max())
    fast, fast_vectors = scaled.copy(), np.eye(len(matrix))
    slow, slow_vectors = scaled.copy(), np.eye(len(matrix))
    sweeps = _rotate(fast, fast_vectors)
    assert sweeps < SWEEPS_MAX
    with np.errstate(all="ignore"):
        assert plain_rotate(slow, slow_vectors) == sweeps
    assert fast.tobytes() == slow.tobytes()
    assert fast_vectors.tobytes() == slow_vectors.tobytes()


def plain_rotate(matrix: NDArray[np.float64], vectors: NDArray[np.float64]) -> int:
    for sweep in range(SWEEPS_MAX):
        turned = [
            _turn.plain(matrix, vectors, p, q)
            for p in range(len(matrix) - 1)
            for q in range(p + 1, len(matrix))
            if abs(matrix[p, q]) > 2.0**-60
        ]
        if not turned:
            return sweep
    return SWEEPS_MAX


def test_by_hand() -> None:
    values, vectors = eigen_symmetric(np.array([[2.0, np.nan], [1.0, 2.0]]))  # above the diagonal: not read
    assert values.tolist() == [3.0, 1.0]
    assert np.abs(vectors) == pytest.approx(np.sqrt(0.5))
    assert vectors[0, 0] > 0
    values, vectors = eigen_symmetric(np.zeros((3, 3)))
    assert values.tolist() == [0.0] * 3
    assert (vectors == np.eye(3)).all()
    values, vectors = eigen_symmetric(np.zeros((0, 0)))
    assert values.shape == (0,)


@pytest.mark.parametrize("size", range(1, 20))
def test_every_size(size: int) -> None:
    """Of one size alone, 8, a library's in-place operation on columns once wrote to its neighbours."""
    noise = np.random.default_rng(size).standard_normal((size, size))
    matrix = noise + noise.T
    values, vectors = eigen_symmetric(matrix)
    assert np.abs(vectors.T @ vectors - np.eye(size)).max() < 1e-13
    assert np.abs(matrix @ vectors - vectors * values).max() < 1e-12


def test_a_large_one_converges() -> None:
    rows = np.random.default_rng(1).standard_normal((150, 400))
    matrix = rows @ rows.T
    values, _ = eigen_symmetric(matrix)
    assert values == pytest.approx(np.linalg.eigvalsh(matrix)[::-1], rel=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 3)),
        np.zeros(4),
        np.zeros((2, 2), dtype=np.float32),
        np.array([[np.nan]]),
        np.array([[np.inf]]),
        np.array([[2 * ELEMENT_MAX]]),
        np.zeros((1025, 1025)),
    ],
)
def test_what_is_no_such_matrix(wrong: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="matrix"):
        eigen_symmetric(wrong)
