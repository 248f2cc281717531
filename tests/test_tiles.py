"""Rows into tiles, and tiles of log-densities into responsibilities."""

import numpy as np
import pytest
import reference
from reference import as_tile, from_tile

from fastgmm.kernels import tiles
from fastgmm.kernels._jit import TILE_ROWS, TILE_STRIDE

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
    k, dtype = densities.shape[1], densities.dtype
    values = as_tile(densities, dtype)
    largest, total, sums = (np.empty(TILE_ROWS, dtype) for _ in range(3))
    tiles.exponentiate(values, k, largest, total)
    tiles.log_sum(largest, total, sums)
    assert np.isnan(values.reshape(k, TILE_STRIDE)[:, TILE_ROWS:]).all()
    return sums, from_tile(values, k) / total[:, None]


@both_precisions
@pytest.mark.parametrize("k", [1, 2, 3, 5, 20])
def test_log_densities_become_responsibilities(k, dtype):
    densities = np.random.default_rng(k).normal(scale=30, size=(TILE_ROWS, k)).astype(dtype)
    sums, shares = normalised(densities)
    exact = reference.exact(densities)
    expected = reference.log_likelihoods(exact)
    # The last addition rounds to half a unit; the sum's logarithm adds less than two.
    assert (np.abs(sums - expected) <= 2.5 * eps(dtype) * (np.abs(densities).max(axis=1) + 1)).all()
    assert np.abs(shares - reference.responsibilities(exact)).max() <= 4 * eps(dtype)
    assert np.abs(shares.sum(axis=1) - 1).max() <= k * eps(dtype)


@both_precisions
def test_responsibilities_survive_log_densities_that_would_underflow(dtype):
    far = dtype(2.0**40 if dtype == np.float64 else 2.0**20)
    densities = np.random.default_rng(0).integers(-40, 0, size=(TILE_ROWS, 3)).astype(dtype)
    sums, shares = normalised(densities)
    far_sums, far_shares = normalised(densities - far)
    assert np.array_equal(far_shares, shares)
    assert np.allclose(far_sums + far, sums, rtol=0, atol=far * eps(dtype))


@both_precisions
def test_a_component_without_weight_has_no_share(dtype):
    densities = np.random.default_rng(0).normal(size=(TILE_ROWS, 3)).astype(dtype)
    densities[:, 1] = -np.inf
    sums, shares = normalised(densities)
    others = normalised(densities[:, [0, 2]])
    assert not shares[:, 1].any()
    assert np.array_equal(sums, others[0]) and np.array_equal(shares[:, [0, 2]], others[1])


@both_precisions
@pytest.mark.parametrize("count", [1, 15, 16, 17, 33, 255, TILE_ROWS])
def test_a_tile_adds_its_own_rows_log_likelihoods(dtype, count):
    random = np.random.default_rng(count)
    largest, total = random.normal(scale=50, size=TILE_ROWS), random.uniform(1, 20, TILE_ROWS)
    # Rows beyond the count only fill the tile.
    largest[count:], total[count:] = np.nan, np.inf
    largest, total, ones = largest.astype(dtype), total.astype(dtype), np.ones(TILE_ROWS, dtype)
    terms = reference.exact(largest[:count]) + np.log(reference.exact(total[:count]))
    found = tiles.sum_log_likelihoods(largest, total, ones, False, count, np.empty_like(total))
    # Both sums are float64, for float32 tiles as well; 32 products of eight totals are rounded seven times each.
    products = 32 * 7 * np.finfo(dtype).eps / 2
    assert abs(found - terms.sum()) <= 32 * reference.EPS * (np.abs(largest[:count]).sum() + 4 * count) + products


@both_precisions
def test_a_tile_adds_weighted_log_likelihoods(dtype):
    random = np.random.default_rng(0)
    largest, total, weights = (v.astype(dtype) for v in random.uniform(1, 20, size=(3, TILE_ROWS)))
    weights[::3] = 0.0
    terms = reference.exact(weights) * (reference.exact(largest) + np.log(reference.exact(total)))
    found = tiles.sum_log_likelihoods(largest, total, weights, True, TILE_ROWS, np.empty_like(total))
    assert abs(found - terms.sum()) <= 32 * reference.EPS * np.abs(terms).sum()


def test_the_product_of_totals_holds_for_a_quintillion_components():
    largest, total = np.zeros(TILE_ROWS), np.full(TILE_ROWS, 1e18)
    found = tiles.sum_log_likelihoods(largest, total, np.ones(TILE_ROWS), False, TILE_ROWS, np.empty_like(total))
    assert found == pytest.approx(TILE_ROWS * np.log(1e18), rel=1e-14)


@both_precisions
def test_lost_rows_are_counted_among_the_tiles_own(dtype):
    largest, total = np.zeros(TILE_ROWS, dtype), np.ones(TILE_ROWS, dtype)
    largest[[1, 5, 9]] = np.nan, np.inf, -np.inf
    assert tiles.count_lost(largest, total, TILE_ROWS) == 3
    assert tiles.count_lost(largest, total, 9) == 2
    total[[5, 20]] = np.nan
    assert tiles.count_lost(largest, total, TILE_ROWS) == 4


@both_precisions
@pytest.mark.parametrize("lost", [np.nan, -np.inf, np.inf])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("k", "components"), [(3, [0, 1, 2]), (3, [0]), (3, [1]), (3, [2]), (2, [0, 1]), (2, [0]), (2, [1])]
)
def test_a_lost_row_makes_its_tiles_log_likelihood_no_number(dtype, lost, weighted, k, components):
    # The passes count lost rows only in tiles whose sum is not finite.
    if lost == -np.inf and len(components) < k:
        pytest.skip("a component may be infinitely far")
    densities = np.zeros((TILE_ROWS, k), dtype)
    densities[17, components] = lost
    values = as_tile(densities, dtype)
    largest, total = np.empty(TILE_ROWS, dtype), np.empty(TILE_ROWS, dtype)
    with np.errstate(invalid="ignore"):
        tiles.exponentiate(values, k, largest, total)
        ones, work = np.ones(TILE_ROWS, dtype), np.empty(TILE_ROWS, dtype)
        found = tiles.sum_log_likelihoods(largest, total, ones, weighted, TILE_ROWS, work)
    assert not np.isfinite(found)
    assert tiles.count_lost(largest, total, TILE_ROWS) == 1


@both_precisions
def test_a_scaled_sum_is_good_to_the_size_of_its_terms(dtype):
    a, b = np.random.default_rng(0).normal(size=(2, TILE_ROWS)).astype(dtype)
    terms, rounded = reference.exact(a) * b, a * b
    assert abs(tiles.scale_and_sum(a, b) - terms.sum()) <= 8 * eps(dtype) * np.abs(terms).sum()
    assert np.array_equal(a, rounded)


@both_precisions
def test_quotients_and_products_are_rounded_once(dtype):
    a, b = np.random.default_rng(0).uniform(1, 2, size=(2, TILE_ROWS)).astype(dtype)
    out = np.empty(TILE_ROWS, dtype)
    tiles.divide(a, b, out)
    assert np.array_equal(out, a / b)
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


def test_scaled_components_add_to_their_weights():
    values, scale = np.random.default_rng(0).uniform(size=(TILE_ROWS, 3)), np.linspace(0, 1, TILE_ROWS)
    flat, weight = as_tile(values), np.array([1.0, 2.0, 3.0])
    tiles.scale_components(flat, 3, scale, weight)
    expected = values * scale[:, None]
    assert np.array_equal(from_tile(flat, 3), expected)
    assert np.allclose(weight - [1, 2, 3], expected.sum(axis=0), rtol=0, atol=1e3 * reference.EPS)


def test_a_feature_is_centred_and_weighed_in_one_sweep():
    x, r = np.random.default_rng(0).normal(size=(2, TILE_ROWS))
    deviation, weighted = np.empty((2, TILE_ROWS))
    found = tiles.centre_and_weigh(x, 0.25, r, deviation, weighted)
    assert np.array_equal(deviation, x - 0.25)
    assert np.array_equal(weighted, r * (x - 0.25))
    assert abs(found - reference.exact(weighted).sum()) <= 8 * reference.EPS * np.abs(weighted).sum()


@pytest.mark.parametrize("d", [4, 8])
def test_squared_distances_of_a_tile(d):
    rows, mean = np.random.default_rng(0).normal(size=(TILE_ROWS, d)), np.arange(d) / 4
    out = np.full(TILE_ROWS, np.nan)
    tiles.squared_distances(as_tile(rows), mean, d, out)
    expected = reference.squared_distances(reference.exact(rows), mean[None])[:, 0]
    assert np.allclose(out, expected.astype(float), rtol=d * reference.EPS, atol=0)
