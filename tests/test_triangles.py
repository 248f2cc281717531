"""Squared lengths and scatter of triangles against NumPy, and that nothing is written beside what is theirs."""

import numpy as np
import pytest
from reference import as_tile, exact
from test_products import GUARD, drawn, guarded_tile, only_features_written, within_rounding

from fastgmm.kernels import triangles
from fastgmm.kernels._jit import TILE_ROWS, TILE_STRIDE

# Every number of rows that is left behind whole blocks, and more than one block.
DIMENSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 18)
both_precisions = pytest.mark.parametrize("dtype", [np.float64, np.float32])
every_dimension = pytest.mark.parametrize("d", DIMENSIONS)


@pytest.mark.parametrize("d", range(1, 41))
def test_packed_triangles_unpack(d):
    factors = np.tril(drawn(2, 3, d, d, dtype=np.float64))
    packed = triangles.pack_triangles(factors + np.triu(np.full((d, d), GUARD), 1))
    assert packed.shape == (2, 3, d * (d + 1) // 2)
    assert np.array_equal(triangles.unpack_triangles(packed, d), factors)


@both_precisions
@every_dimension
def test_squares_of_a_triangle_times_features(d, dtype):
    factor, shift = np.tril(drawn(d, d, dtype=dtype)), drawn(d, dtype=dtype, seed=1)
    x, constant = drawn(TILE_ROWS, d, dtype=dtype), drawn(1, dtype=dtype)
    out = guarded_tile(1, dtype)
    triangles.subtract_squares(triangles.pack_triangles(factor), shift, constant, as_tile(x, dtype), d, out)
    assert only_features_written(out, 1)
    expected = exact(constant) - ((exact(x) @ exact(factor).T + exact(shift)) ** 2).sum(axis=1)
    sizes = np.abs(constant) + ((np.abs(x) @ np.abs(factor).T + np.abs(shift)) ** 2).sum(axis=1)
    assert within_rounding(out[:TILE_ROWS], expected, sizes, dtype, 2 * d + 3)


@both_precisions
@every_dimension
def test_scatter_of_weighted_features(d, dtype):
    x, share = drawn(TILE_ROWS, d, dtype=dtype), np.abs(drawn(TILE_ROWS, dtype=dtype))
    first, second = drawn(d + 1, dtype=np.float64), drawn(d + 1, d, dtype=np.float64, seed=1)
    before = first.copy(), second.copy()
    work = guarded_tile(triangles.BLOCK_ROWS, dtype)
    triangles.add_scatter(as_tile(x, dtype), d, share, work, first, second.ravel())
    assert only_features_written(work, triangles.BLOCK_ROWS)
    lower = np.tril(np.ones((d, d), bool))
    assert first[d] == before[0][d] and np.array_equal(second[d], before[1][d])
    assert np.array_equal(second[:d][~lower], before[1][:d][~lower])
    for found, initial, a in ((first[:d], before[0][:d], np.ones((TILE_ROWS, 1))), (second[:d], before[1][:d], x)):
        initial = initial.reshape(d, -1)
        expected = initial + (exact(x) * exact(share)[:, None]).T @ exact(a)
        sizes = np.abs(initial) + (np.abs(x) * share[:, None]).T @ np.abs(a)
        good = np.abs(found.reshape(d, -1) - expected) <= 16 * np.finfo(dtype).eps * sizes
        assert good.all() if a is not x else good[lower].all()


@both_precisions
def test_features_about_a_centre(dtype):
    x, centre, out = drawn(TILE_ROWS, 3, dtype=dtype), drawn(3, dtype=dtype), guarded_tile(3, dtype)
    triangles.subtract_centre(as_tile(x, dtype), centre, len(centre), out)
    assert only_features_written(out, 3)
    assert np.array_equal(out.reshape(-1, TILE_STRIDE)[:3, :TILE_ROWS].T, x - centre)
