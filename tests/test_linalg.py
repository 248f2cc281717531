"""Cholesky factor and triangular inverse of one small matrix."""

import numpy as np
import pytest
from reference import EPS

from fastgmm.kernels._jit import COMPILED
from fastgmm.kernels.linalg import cholesky, invert_lower

DIMENSIONS = range(1, 41) if COMPILED else (1, 2, 3, 8, 13)


def random_covariance(d):
    root = np.random.default_rng(d).normal(size=(d, d + 2))
    return root @ root.T


def factorised(matrix, floors=None):
    lower = np.full(matrix.shape, np.nan)
    np.fill_diagonal(lower, 0.0 if floors is None else floors)
    sound = cholesky(matrix, lower)
    return sound, lower


@pytest.mark.parametrize("d", DIMENSIONS)
def test_the_factor_multiplies_back(d):
    matrix = random_covariance(d)
    sound, lower = factorised(matrix)
    assert sound
    assert np.array_equal(lower, np.tril(lower))
    # |L Lᵀ - A| <= (d + 1) eps |L| |L|ᵀ element by element (Higham 2002, theorem 10.3)
    assert (np.abs(lower @ lower.T - matrix) <= (d + 1) * EPS * (np.abs(lower) @ np.abs(lower).T)).all()
    condition = np.linalg.cond(matrix)
    assert np.allclose(lower, np.linalg.cholesky(matrix), rtol=0, atol=4 * EPS * condition * np.abs(lower).max())


@pytest.mark.parametrize("d", DIMENSIONS)
def test_the_inverse_multiplies_to_one(d):
    lower = np.linalg.cholesky(random_covariance(d))
    inverse = lower + np.triu(np.full_like(lower, np.nan), 1)
    invert_lower(inverse)
    assert np.array_equal(inverse, np.tril(inverse))
    # |L X - 1| <= d eps |L| |X| (Higham 2002, section 14.2)
    assert (np.abs(lower @ inverse - np.eye(d)) <= (d + 1) * EPS * (np.abs(lower) @ np.abs(inverse))).all()


def test_only_the_lower_triangle_is_read():
    matrix = random_covariance(5)
    torn = np.tril(matrix) + np.triu(np.full((5, 5), np.nan), 1)
    assert np.array_equal(factorised(torn)[1], factorised(matrix)[1])


def test_tiny_and_huge_covariances_factorise():
    matrix = random_covariance(4)
    for scale in (1e-280, 1e280):
        sound, lower = factorised(matrix * scale)
        assert sound and np.allclose(lower / np.sqrt(scale), np.linalg.cholesky(matrix), rtol=1e-12)


@pytest.mark.parametrize(
    "matrix",
    [
        [[0.0]],
        [[-1.0]],
        [[np.nan]],
        [[np.inf]],
        [[1.0, 1.0], [1.0, 1.0]],
        [[1.0, 2.0], [2.0, 1.0]],
        [[1.0, np.nan], [np.nan, 1.0]],
        np.outer([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) + np.outer([0.3, 0.1, 0.7], [0.3, 0.1, 0.7]),
    ],
)
def test_a_matrix_that_is_not_positive_definite_is_refused(matrix):
    assert not factorised(np.array(matrix))[0]


def test_a_variance_at_its_floor_counts_as_zero():
    matrix = np.diag([1.0, 1e-6])
    assert factorised(matrix, np.array([0.0, 0.9e-6]))[0]
    assert not factorised(matrix, np.array([0.0, 1e-6]))[0]
