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
def cholesky(matrix, floors, lower):
    """Set `lower` to L with L Lᵀ = matrix (its lower triangle is read) and say whether matrix is positive-definite.

    A pivot that is lost in the rounding of its diagonal element, or not above its floor, counts as zero: a singular
    matrix must not pass because rounding left 1e-33 in place of 0.
    """
    d = matrix.shape[0]
    for i in range(d):
        row = rest(lower, i * d)
        for j in range(i):
            row[j] = (matrix[i, j] - dot(row, rest(lower, j * d), j)) / lower[j, j]
            lower[j, i] = 0.0
        pivot = matrix[i, i] - dot(row, row, i)
        if not (floors[i] < pivot < np.inf and (i + 1) * _EPS * matrix[i, i] < pivot):
            return False
        lower[i, i] = np.sqrt(pivot)
    return True


@kernel
def invert_lower(lower, inverse):
    """Set `inverse` to the inverse of a lower triangular matrix, row by row."""
    d = lower.shape[0]
    for i in range(d):
        for j in range(d):
            inverse[i, j] = 0.0
        inverse[i, i] = 1.0
        for m in range(i):
            subtract_multiple(lower[i, m], rest(inverse, m * d), rest(inverse, i * d), m + 1)
        for j in range(i + 1):
            inverse[i, j] /= lower[i, i]
