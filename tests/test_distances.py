"""Squared distances and Lloyd passes against the twin."""

import numpy as np
import pytest
import reference
from reference import EPS

from fastgmm.kernels._jit import COMPILED, TILE_ROWS
from fastgmm.kernels.distances import distances_to, lloyd_pass
from fastgmm.kernels.forms import pad

DIMENSIONS = range(1, 41) if COMPILED else (1, 4, 6)
ROWS = (1, 255, 256, 257, 600) if COMPILED else (1, 257)


def workspace(centres):
    padded = pad(centres, -(-centres.shape[1] // 4) * 4)
    return padded, np.full(padded.shape[1] * TILE_ROWS, np.nan), np.empty(TILE_ROWS)


def distances(rows, centres):
    out = np.full((len(centres), len(rows)), np.nan)
    distances_to(rows[:, :, None], *workspace(centres), out)
    return out.T


def lloyd(rows, centres):
    padded, tile, buffer = workspace(centres)
    counts, first, nearest = np.empty(len(centres)), np.empty_like(padded), np.empty(len(rows))
    lloyd_pass(rows[:, :, None], padded, tile, buffer, counts, first, nearest)
    return counts, first[:, : rows.shape[1]], nearest


@pytest.mark.parametrize("d", DIMENSIONS)
def test_distances_in_any_dimension(d):
    random = np.random.default_rng(d)
    rows, centres = random.normal(size=(ROWS[-1], d)), random.normal(size=(3, d))
    expected = reference.squared_distances(reference.exact(rows), centres)
    # Every term is positive, so the error is relative: one rounding each for difference, square and partial sums.
    assert (np.abs(distances(rows, centres) - expected) <= (d / 4 + 4) * EPS * expected).all()


@pytest.mark.parametrize("n", ROWS)
@pytest.mark.parametrize("k", [1, 2, 7])
def test_a_lloyd_pass(n, k):
    random = np.random.default_rng(n + k)
    rows, centres = random.normal(size=(n, 3)), random.normal(size=(k, 3))
    counts, first, nearest = lloyd(rows, centres)
    expected = reference.lloyd_pass(rows, centres)
    assert np.array_equal(counts, expected[0])
    assert np.allclose(first, expected[1], rtol=0, atol=4 * EPS * n)
    assert np.allclose(nearest, expected[2], rtol=8 * EPS)


def test_a_row_between_two_centres_belongs_to_the_first():
    counts, _, nearest = lloyd(np.array([[0.0]]), np.array([[3.0], [1.0], [-1.0]]))
    assert counts.tolist() == [0, 1, 0]
    assert nearest.tolist() == [1.0]


def test_distances_far_from_zero_keep_their_digits():
    # All differences are whole numbers, so every distance is exact.
    random = np.random.default_rng(0)
    rows, centres = random.integers(-9, 9, size=(300, 3)).astype(float), np.array([[1.0, 2.0, 3.0], [-4.0, 0.0, 4.0]])
    assert np.array_equal(distances(rows + 1e15, centres + 1e15), reference.squared_distances(rows, centres))
    assert all(map(np.array_equal, lloyd(rows + 1e15, centres + 1e15), reference.lloyd_pass(rows, centres)))
