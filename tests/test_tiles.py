"""Rows into tiles, and what is done with a tile's rows one by one."""

import numpy as np
import pytest
import reference
from reference import as_tile, from_tile

from fastgmm.kernels import tiles
from fastgmm.kernels._jit import TILE_ROWS, TILE_STRIDE, kernel

both_precisions = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def eps(dtype):
    return float(np.finfo(dtype).eps)


def loaded(rows, start, count, origin, dtype=np.float64):
    tile = np.full(rows.shape[1] * TILE_STRIDE, np.nan, dtype)
    tiles.load_tile(np.broadcast_to(rows[:, :, None], (*rows.shape, 2)), start, count, origin, tile)
    return from_tile(tile, rows.shape[1])


@both_precisions
@pytest.mark.parametrize("count", [1, 255, TILE_ROWS])
def test_a_tile_holds_its_rows_and_repeats_the_last(dtype, count):
    rows = np.random.default_rng(count).normal(size=(300, 3)).astype(dtype)
    tile = loaded(rows, 7, count, np.zeros(3))
    assert np.array_equal(tile[:count], rows[7 : 7 + count])
    assert (tile[count:] == rows[7 + count - 1]).all()


@both_precisions
def test_a_tile_is_relative_to_its_reference(dtype):
    # A float32 tile of rows far from zero: the difference is rounded, not the reference.
    origin = np.array([1e6 + 2.0**-20, -3.0, 0.1])
    rows = (np.random.default_rng(0).normal(size=(TILE_ROWS, 3)) + origin).astype(dtype)
    tile = loaded(rows, 0, TILE_ROWS, origin, dtype)
    assert np.array_equal(tile, (rows.astype(float) - origin).astype(dtype))


@pytest.mark.parametrize("features", [1, 2, 5, 8])
@pytest.mark.parametrize("count", [7, 8, 29, TILE_ROWS])
@both_precisions
def test_rows_of_any_strides_are_the_same_tile(features, count, dtype):
    random = np.random.default_rng(features)
    wide = random.normal(size=(2 * TILE_ROWS + 6, 2 * features)).astype(dtype)
    origin = random.normal(size=features)
    rows = np.ascontiguousarray(wide[::2, ::2])
    layouts = {
        "contiguous": rows,
        "every other row": np.repeat(rows, 2, axis=0)[::2],
        "reversed": rows[::-1].copy()[::-1],
        "a part of wider rows": np.concatenate([rows, rows], axis=1)[:, features:],
        "Fortran": np.asfortranarray(rows),
        "every other feature": wide[::2, ::2],
    }
    expected = (rows[3 : 3 + count].astype(float) - origin).astype(dtype)
    for name, layout in layouts.items():
        assert np.array_equal(layout, rows), name
        assert np.array_equal(loaded(layout, 3, count, origin, dtype)[:count], expected), name


def test_weights_are_those_of_the_rows_and_nothing_beyond_them():
    row_weights, weights = np.random.default_rng(0).uniform(size=40), np.full(TILE_ROWS, np.nan)
    tiles.load_weights(row_weights, 5, 30, weights)
    assert np.array_equal(weights[:30], row_weights[5:35])
    assert not weights[30:].any()


def test_rows_without_weights_weigh_one():
    weights = np.full(TILE_ROWS, np.nan)
    tiles.load_weights(np.empty(0), 5, 30, weights)
    assert np.array_equal(weights, np.arange(TILE_ROWS) < 30)


@both_precisions
def test_products_are_rounded_once(dtype):
    a, b = np.random.default_rng(0).uniform(1, 2, size=(2, TILE_ROWS)).astype(dtype)
    out = np.empty(TILE_ROWS, dtype)
    tiles.scale(a, b, out)
    assert np.array_equal(out, a * b)


def test_a_multiple_is_subtracted():
    a, b = np.random.default_rng(0).integers(-9, 9, size=(2, TILE_ROWS)).astype(float)
    out = b.copy()
    tiles.subtract_multiple(a, 3.0, out)
    assert np.array_equal(out, b - 3 * a)


@both_precisions
def test_values_are_scaled_and_shifted_in_their_own_type(dtype):
    a = np.random.default_rng(0).normal(size=TILE_ROWS).astype(dtype)
    expected = reference.exact(a) * dtype(-0.3) + dtype(1.7)
    tiles.scale_and_shift(a, -0.3, 1.7)
    assert a.dtype == dtype
    assert (np.abs(a - expected) <= eps(dtype) * (np.abs(expected) + 3)).all()


@both_precisions
def test_scaled_components_add_to_their_weights(dtype):
    random = np.random.default_rng(0)
    values, scale = random.normal(size=(TILE_ROWS, 3)).astype(dtype), random.uniform(size=TILE_ROWS).astype(dtype)
    flat, weight = as_tile(values, dtype), np.array([1.0, 2.0, 3.0])
    tiles.scale_components(flat, 3, scale, weight)
    assert np.array_equal(from_tile(flat, 3), values * scale[:, None])
    terms = reference.exact(values) * scale[:, None]
    assert (np.abs(weight - [1, 2, 3] - terms.sum(axis=0)) <= 8 * eps(dtype) * np.abs(terms).sum(axis=0)).all()


@pytest.mark.parametrize("d", [4, 8])
def test_squared_distances_of_a_tile(d):
    rows, mean = np.random.default_rng(0).normal(size=(TILE_ROWS, d)), np.arange(d) / 4
    out = np.full(TILE_ROWS, np.nan)
    tiles.squared_distances(as_tile(rows), mean, d, out)
    expected = reference.squared_distances(reference.exact(rows), mean[None])[:, 0]
    assert np.allclose(out, expected.astype(float), rtol=d * reference.EPS, atol=0)


@kernel
def _sum_squares(tile, features, out):
    tiles.sum_squares(tile, features, out)


@both_precisions
@pytest.mark.parametrize("d", [1, 3, 8, 17])
def test_the_squares_of_a_tile_are_summed(d, dtype):
    rows = np.random.default_rng(d).normal(size=(TILE_ROWS, d)).astype(dtype)
    out = np.full(TILE_STRIDE, np.nan, dtype)
    _sum_squares(as_tile(rows, dtype), d, out)
    expected = reference.squared_distances(reference.exact(rows), np.zeros((1, d)))[:, 0]
    assert np.allclose(out[:TILE_ROWS], expected.astype(float), rtol=d * eps(dtype), atol=0)
    assert np.isnan(out[TILE_ROWS:]).all()
