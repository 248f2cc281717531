"""Cholesky factor and triangular inverse of one small matrix."""

import numpy as np

from fastgmm.kernels._jit import SUMS, kernel
from fastgmm.kernels.vectors import rest

_EPS = float(np.finfo(np.float64).eps)


@kernel(flags=SUMS)
def dot(a, b, size):
    """Σ_j a_j b_j of the first `size` entries."""
    total = 0.0
    for j in range(size):
        total += a[j] * b[j]
    return total


@kernel(flags=SUMS)
def subtract_multiple(factor, row, out, size):
    """out -= factor * row, for the first `size` entries."""
    for j in range(size):
        out[j] -= factor * row[j]


@kernel
def cholesky(matrix, lower):
    """Set `lower` to L with L Lᵀ = matrix (its lower triangle is read) and say whether matrix is positive-definite.

    A pivot that is lost in the rounding of its diagonal element, or not above its floor, which `lower` has in its
    place, counts as zero: a singular matrix must not pass because rounding left 1e-33 in place of 0.
    """
    d = matrix.shape[0]
    for i in range(d):
        row = rest(lower, i * d)
        for j in range(i):
            row[j] = (matrix[i, j] - dot(row, rest(lower, j * d), j)) / lower[j, j]
            lower[j, i] = 0.0
        pivot = matrix[i, i] - dot(row, row, i)
        if not (row[i] < pivot < np.inf and (i + 1) * _EPS * matrix[i, i] < pivot):
            return False
        row[i] = np.sqrt(pivot)
    return True


@kernel
def invert_lower(matrix):
    """Put the inverse of a lower triangular matrix in its place, row by row."""
    d = matrix.shape[0]
    # What a row was, right of the first row's only element.
    before = rest(matrix, 1)
    for i in range(d):
        row = rest(matrix, i * d)
        diagonal = row[i]
        for m in range(i):
            before[m] = row[m]
        for j in range(d):
            row[j] = 0.0
        row[i] = 1.0
        for m in range(i):
            subtract_multiple(before[m], rest(matrix, m * d), row, m + 1)
        for j in range(i + 1):
            row[j] /= diagonal
    for j in range(1, d):
        matrix[0, j] = 0.0
