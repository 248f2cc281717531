"""Rows into tiles, and tiles of log-densities into responsibilities."""

import numpy as np
import pytest
import reference
from reference import EPS

from fastgmm.kernels import tiles
from fastgmm.kernels._jit import TILE_ROWS


def loaded(rows, start, count):
    tile = np.full(rows.shape[1] * TILE_ROWS, np.nan)
    tiles.load_tile(np.broadcast_to(rows[:, :, None], (*rows.shape, 2)), start, count, tile)
    return tile.reshape(rows.shape[1], TILE_ROWS).T


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("count", [1, 255, TILE_ROWS])
def test_a_tile_holds_its_rows_and_repeats_the_last(dtype, count):
    rows = np.random.default_rng(count).normal(size=(300, 3)).astype(dtype)
    tile = loaded(rows, 7, count)
    assert np.array_equal(tile[:count], rows[7 : 7 + count])
    assert (tile[count:] == rows[7 + count - 1]).all()


def test_weights_are_those_of_the_rows_and_nothing_beyond_them():
    row_weights, weights = np.random.default_rng(0).uniform(size=40), np.full(TILE_ROWS, np.nan)
    tiles.load_weights(row_weights, 5, 30, weights)
    assert np.array_equal(weights[:30], row_weights[5:35])
    assert not weights[30:].any()


def test_rows_without_weights_weigh_one():
    weights = np.full(TILE_ROWS, np.nan)
    tiles.load_weights(np.empty(0), 5, 30, weights)
    assert np.array_equal(weights, np.arange(TILE_ROWS) < 30)


def normalised(densities):
    """Log-likelihoods (b,) and responsibilities (b, k) by the kernels, from log-densities (b, k)."""
    k = densities.shape[1]
    flat = densities.T.ravel().copy()
    largest, total, sums = np.empty(TILE_ROWS), np.empty(TILE_ROWS), np.empty(TILE_ROWS)
    tiles.exponentiate(flat, k, largest, total)
    tiles.log_sum(largest, total, sums)
    return sums, (flat.reshape(k, TILE_ROWS) / total).T


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_log_densities_become_responsibilities(k):
    densities = np.random.default_rng(k).normal(scale=30, size=(TILE_ROWS, k))
    sums, shares = normalised(densities)
    exact = reference.exact(densities)
    expected = reference.log_likelihoods(exact)
    # The last addition rounds to half a unit; the sum's logarithm adds less than two.
    assert (np.abs(sums - expected) <= 2.5 * EPS * (np.abs(densities).max(axis=1) + 1)).all()
    assert np.abs(shares - reference.responsibilities(exact)).max() <= 4 * EPS
    assert np.abs(shares.sum(axis=1) - 1).max() <= k * EPS


def test_responsibilities_survive_log_densities_that_would_underflow():
    densities = np.random.default_rng(0).integers(-40, 0, size=(TILE_ROWS, 3)).astype(float)
    sums, shares = normalised(densities)
    far_sums, far_shares = normalised(densities - 2.0**40)
    assert np.array_equal(far_shares, shares)
    assert np.allclose(far_sums + 2.0**40, sums, rtol=0, atol=2.0**-12)


def test_a_component_without_weight_has_no_share():
    densities = np.random.default_rng(0).normal(size=(TILE_ROWS, 3))
    densities[:, 1] = -np.inf
    sums, shares = normalised(densities)
    others = normalised(densities[:, [0, 2]])
    assert not shares[:, 1].any()
    assert np.array_equal(sums, others[0]) and np.array_equal(shares[:, [0, 2]], others[1])


def test_lost_rows_are_counted_among_the_tiles_own():
    values = np.zeros(TILE_ROWS)
    values[[1, 5, 9]] = np.nan, np.inf, -np.inf
    assert tiles.count_lost(values, TILE_ROWS) == 3
    assert tiles.count_lost(values, 9) == 2


def test_a_scaled_sum_is_good_to_the_size_of_its_terms():
    a, b = np.random.default_rng(0).normal(size=(2, TILE_ROWS))
    terms = reference.exact(a) * b
    assert abs(tiles.scale_and_sum(a, b) - terms.sum()) <= 8 * EPS * np.abs(terms).sum()
    assert np.array_equal(a, terms.astype(float))


def test_quotients_are_rounded_once():
    a, b = np.random.default_rng(0).uniform(1, 2, size=(2, TILE_ROWS))
    out = np.empty(TILE_ROWS)
    tiles.divide(a, b, out)
    assert np.array_equal(out, a / b)


def test_scaled_components_add_to_their_weights():
    values, scale = np.random.default_rng(0).uniform(size=(3, TILE_ROWS)), np.linspace(0, 1, TILE_ROWS)
    flat, weight = values.ravel().copy(), np.array([1.0, 2.0, 3.0])
    tiles.scale_components(flat, 3, scale, weight)
    assert np.array_equal(flat.reshape(3, TILE_ROWS), values * scale)
    assert np.allclose(weight - [1, 2, 3], (values * scale).sum(axis=1), rtol=0, atol=1e3 * EPS)


def test_a_centre_is_subtracted_feature_by_feature():
    rows, centre = np.random.default_rng(0).normal(size=(TILE_ROWS, 4)), np.arange(4.0)
    out = np.full(4 * TILE_ROWS, np.nan)
    tiles.subtract_centre(rows.T.ravel(), centre, 4, out)
    assert np.array_equal(out.reshape(4, TILE_ROWS).T, rows - centre)
