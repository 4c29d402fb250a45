"""Eigenvalues and eigenvectors of a small symmetric matrix, with the same bits on every machine.

LAPACK's last bits follow the library, the vector width and the threads. Cyclic Jacobi is a fixed list of
rotations, each a few operations on pairs of elements, so a compiled loop without fast-math has one result.
(Jacobi 1846; Golub and Van Loan, Matrix Computations, section 8.5)
"""

from __future__ import annotations

from math import frexp

import numpy as np

from atoll.optim.compiled import compiled
from atoll.optim.sums import Doubles

SIZE_MAX = 1024
"""A round's contributors, not its parameters: the time grows with the cube."""
SWEEPS_MAX = 40
"""Convergence is quadratic; matrices of this size need about ten."""
NEGLIGIBLE = 2.0**-60
"""An element this small against the largest moves the largest eigenvalue by less than its last place."""
ELEMENT_MAX = 2.0**1000


def eigen_symmetric(matrix: Doubles) -> tuple[Doubles, Doubles]:
    """(values, vectors) of a symmetric fp64 [n, n]: values descending [n], their unit vectors columns [n, n].

    The first of the largest elements of each vector is positive, so that vectors have one sign. Elements
    above the diagonal are not read. ValueError for another shape or type, n above SIZE_MAX, or an element
    that is not finite or beyond 2^1000.
    """
    if matrix.dtype != np.float64 or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix must be fp64 [n, n], not {matrix.dtype} {list(matrix.shape)}")
    size = matrix.shape[0]
    if size > SIZE_MAX:
        raise ValueError(f"matrix must have at most {SIZE_MAX} rows, not {size}")
    lower = np.tril(matrix)
    most = float(np.abs(lower).max(initial=0.0))
    if not most <= ELEMENT_MAX:
        raise ValueError(f"an element of matrix is {most}")
    exponent = frexp(most)[1]
    full = np.ldexp(lower + np.tril(lower, -1).T, -exponent)
    vectors = np.eye(size)
    _rotate(full, vectors)
    values = np.ldexp(np.diagonal(full), exponent)
    order = np.argsort(-values, kind="stable")
    return values[order], np.ascontiguousarray(_oriented(vectors[order]).T)


def _oriented(rows: Doubles) -> Doubles:
    """Each row with the first of its largest elements positive."""
    for row in rows:
        if row[np.argmax(np.abs(row))] < 0:
            row *= -1.0
    return rows


@compiled
def _rotate(matrix: Doubles, vectors: Doubles) -> int:
    """Make `matrix` diagonal (its largest element is near 1); turn the rows of `vectors` too. Sweeps made."""
    size = matrix.shape[0]
    for sweep in range(SWEEPS_MAX):
        turned = 0
        for p in range(size - 1):
            for q in range(p + 1, size):
                if abs(matrix[p, q]) > NEGLIGIBLE:
                    _turn(matrix, vectors, p, q)
                    turned += 1
        if turned == 0:
            return sweep
    return SWEEPS_MAX


@compiled
def _turn(matrix: Doubles, vectors: Doubles, p: int, q: int) -> None:
    """One rotation in the plane of p and q, by the smaller of the two angles that make element p, q zero."""
    across = matrix[p, q]
    theta = (matrix[q, q] - matrix[p, p]) / (2.0 * across)
    tangent = 1.0 / (abs(theta) + np.sqrt(theta * theta + 1.0))
    if theta < 0:
        tangent = -tangent
    cosine = 1.0 / np.sqrt(tangent * tangent + 1.0)
    sine = tangent * cosine
    matrix[p, p] -= tangent * across
    matrix[q, q] += tangent * across
    matrix[p, q] = 0.0
    matrix[q, p] = 0.0
    for k in range(matrix.shape[0]):
        if k not in (p, q):
            one, other = matrix[p, k], matrix[q, k]
            matrix[p, k] = cosine * one - sine * other
            matrix[q, k] = sine * one + cosine * other
            matrix[k, p] = matrix[p, k]
            matrix[k, q] = matrix[q, k]
        first, second = vectors[p, k], vectors[q, k]
        vectors[p, k] = cosine * first - sine * second
        vectors[q, k] = sine * first + cosine * second
