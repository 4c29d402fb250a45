"""Small matrices in fp64 with the same bits on every machine: a product, and eigenvectors.

BLAS and LAPACK choose their order of operations by processor and threads. These are the plain loops, with
additions, products, quotients and square roots only, each of which rounds correctly everywhere. Matrices
here have a row for each contributor of a round, so the cube of their size is nothing.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from atoll.optim.compiled import compiled
from atoll.optim.sums import Doubles

SWEEPS_MAX = 60
"""Jacobi's method takes 6 to 10 sweeps; the bound only ends what could never end."""
OFF_DIAGONAL = 1e-30
"""Done when the squares off the diagonal are this share of all squares: then values are good to 1e-15."""


@compiled
def product(left: Doubles, right: Doubles) -> Doubles:
    """left [n, k] times right [k, m]; each sum runs over k in ascending order."""
    found = np.zeros((left.shape[0], right.shape[1]))
    for row in range(left.shape[0]):
        for inner in range(left.shape[1]):
            for column in range(right.shape[1]):
                found[row, column] += left[row, inner] * right[inner, column]
    return found


def eigen(symmetric: Doubles) -> tuple[Doubles, Doubles]:
    """Eigenvalues [n] from the largest down, and unit eigenvectors as columns [n, n], of a symmetric matrix.

    Magnitudes are 0 or within 1e-150 and 1e150, as those of inner products of fp32 vectors are. Equal values
    keep the order of their places. An eigenvector's sign is such that its largest entry, the first of equals,
    is positive. (cyclic Jacobi; Golub and Van Loan, Matrix Computations, 8.5)
    """
    work, vectors = symmetric.astype(np.float64), np.eye(len(symmetric))
    for _ in range(SWEEPS_MAX):
        if sweep(work, vectors):
            break
    values = np.array([work[place, place] for place in range(len(work))])
    order = np.argsort(-values, kind="stable")
    vectors = vectors[:, order]
    if len(vectors):
        largest: NDArray[np.intp] = np.abs(vectors).argmax(axis=0)
        vectors *= np.where(vectors[largest, range(len(largest))] < 0, -1.0, 1.0)
    return values[order], np.ascontiguousarray(vectors)


@compiled
def sweep(work: Doubles, vectors: Doubles) -> bool:
    """Rotate each pair of axes once, in place; True, and nothing done, if `work` is diagonal already."""
    size = work.shape[0]
    total, off = 0.0, 0.0
    for row in range(size):
        for column in range(size):
            square = work[row, column] * work[row, column]
            total += square
            if row != column:
                off += square
    if off <= OFF_DIAGONAL * total:
        return True
    for first in range(size):
        for second in range(first + 1, size):
            if work[first, second] != 0.0:
                rotate(work, vectors, first, second)
    return False


@compiled
def rotate(work: Doubles, vectors: Doubles, first: int, second: int) -> None:
    """The rotation that makes the entry of two axes zero, in place."""
    ratio = (work[second, second] - work[first, first]) / (2.0 * work[first, second])
    tangent = 1.0 / (abs(ratio) + sqrt(ratio * ratio + 1.0))
    if ratio < 0.0:
        tangent = -tangent
    cosine = 1.0 / sqrt(tangent * tangent + 1.0)
    sine = tangent * cosine
    for place in range(work.shape[0]):
        one, two = work[place, first], work[place, second]
        work[place, first], work[place, second] = cosine * one - sine * two, sine * one + cosine * two
    for place in range(work.shape[0]):
        one, two = work[first, place], work[second, place]
        work[first, place], work[second, place] = cosine * one - sine * two, sine * one + cosine * two
        one, two = vectors[place, first], vectors[place, second]
        vectors[place, first], vectors[place, second] = cosine * one - sine * two, sine * one + cosine * two
    work[first, second] = work[second, first] = 0.0
