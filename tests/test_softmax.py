"""Log-densities of a tile into responsibilities and log-likelihoods."""

import math

import mpmath
import numpy as np
import pytest
import reference
from reference import as_tile, from_tile

from fastgmm.kernels import softmax
from fastgmm.kernels._jit import TILE_ROWS, TILE_STRIDE

both_precisions = pytest.mark.parametrize("dtype", [np.float64, np.float32])
# Exponentials are taken one by one of two components, and of all where there are more.
both_ways = pytest.mark.parametrize("k", [2, 3])
SMALLEST = {np.float64: -600.0, np.float32: -69.0}
NOWHERE = (0, 0)  # to be fetched meanwhile


def eps(dtype):
    return float(np.finfo(dtype).eps)


def exp(arguments, dtype, k):
    """e**x of arguments that are not positive, as a row's second component of log-density x beside zeros."""
    arguments = np.asarray(arguments, dtype)
    results = np.empty_like(arguments)
    largest, total, inverse = np.empty((3, TILE_ROWS), dtype)
    for first in range(0, len(arguments), TILE_ROWS):
        part = arguments[first : first + TILE_ROWS]
        densities = np.zeros((TILE_ROWS, k), dtype)
        densities[: len(part), 1] = part
        values = as_tile(densities, dtype)
        with np.errstate(invalid="ignore"):
            softmax.exponentiate(values, k, largest, total, inverse, NOWHERE)
        results[first : first + TILE_ROWS] = from_tile(values, k)[: len(part), 1]
    return results


@both_ways
def test_exp_is_within_one_and_a_half_units(k):
    random = np.random.default_rng(0)
    halves = (np.arange(-865, 0) + 0.5) * math.log(2)  # where the reduced argument is largest, or
    halves = np.append(halves, (random.choice(np.arange(-865 * 16, 0), 1000) + 0.5) * math.log(2) / 16)  # with a table
    arguments = np.concatenate(
        [random.uniform(-600, 0, 2000), random.uniform(-1, 0, 1000), -(10.0 ** random.uniform(-20, 2.7, 1000)), halves]
    )
    with mpmath.workdps(50):
        exact = [mpmath.exp(mpmath.mpf(float(x))) for x in arguments]
        errors = [
            float(abs(mpmath.mpf(float(y)) - e)) / math.ulp(float(e))
            for y, e in zip(exp(arguments, np.float64, k), exact, strict=True)
        ]
    assert max(errors) <= 1.5


@both_ways
def test_exp_of_float32_is_within_two_units(k):
    random = np.random.default_rng(2)
    halves = (np.arange(-99, 0) + 0.5) * math.log(2)  # where the reduced argument is largest, or
    halves = np.append(halves, (np.arange(-99 * 16, 0) + 0.5) * math.log(2) / 16)  # with a table
    arguments = np.concatenate([random.uniform(-69, 0, 3000), random.uniform(-1, 0, 1000), halves]).astype(np.float32)
    expected = np.exp(arguments.astype(np.longdouble))
    errors = np.abs(exp(arguments, np.float32, k) - expected) / np.spacing(expected.astype(np.float32))
    assert errors.max() <= 2.0


@both_precisions
@both_ways
def test_exp_is_zero_below_its_smallest_argument(dtype, k):
    smallest = dtype(SMALLEST[dtype])
    beyond = [np.nextafter(smallest, dtype(-np.inf)), smallest - 1, 2 * smallest, np.finfo(dtype).min, -np.inf]
    assert not exp(beyond, dtype, k).any()
    least = exp([smallest], dtype, k)[0]
    assert least == pytest.approx(math.exp(smallest), rel=2 * eps(dtype))
    assert least * eps(dtype) > np.finfo(dtype).tiny  # products with what is tiny are normal: others take long


@both_precisions
@both_ways
def test_exp_of_next_to_nothing_is_one(dtype, k):
    assert (exp([0.0, -0.0, -eps(dtype) / 8, -np.finfo(dtype).smallest_subnormal], dtype, k) == 1.0).all()


def labels(densities):
    """Each row's largest log-density and the component it is of, by the kernel, from log-densities (b, k)."""
    k, dtype = densities.shape[1], densities.dtype
    largest, where = np.full(TILE_ROWS, np.nan, dtype), np.full(TILE_ROWS, -1, np.int64)
    softmax.find_largest(as_tile(densities, dtype), k, largest, where)
    return largest, where


@both_precisions
@pytest.mark.parametrize("k", [1, 2, 7, 300])
def test_the_largest_and_its_component_the_first_of_equals(dtype, k):
    densities = np.random.default_rng(k).integers(-4, 4, size=(TILE_ROWS, k)).astype(dtype)  # many are equal
    densities[::3] = -np.inf
    largest, where = labels(densities)
    assert np.array_equal(largest, densities.max(axis=1))
    assert np.array_equal(where, densities.argmax(axis=1))


def normalised(densities):
    """Log-likelihoods (b,) and responsibilities (b, k) by the kernels, from log-densities (b, k)."""
    k, dtype = densities.shape[1], densities.dtype
    values = as_tile(densities, dtype)
    largest, total, inverse, sums = np.empty((4, TILE_ROWS), dtype)
    softmax.exponentiate(values, k, largest, total, inverse, NOWHERE)
    softmax.log_sum(largest, total, inverse, sums)
    assert np.isnan(values.reshape(k, TILE_STRIDE)[:, TILE_ROWS:]).all()
    return sums, from_tile(values, k) * inverse[:, None]


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
@pytest.mark.parametrize("k", [1, 2, 3, 5, 20])
def test_sums_need_no_exponential_of_the_largest(k, dtype):
    densities = np.random.default_rng(k).integers(-40, 40, size=(TILE_ROWS, k)).astype(dtype)  # some are equal
    densities[::7, : k - 1] = -np.inf
    values, others = as_tile(densities, dtype), as_tile(densities, dtype)
    expected, found = np.empty((2, 3, TILE_ROWS), dtype)
    softmax.exponentiate(values, k, *expected, NOWHERE)
    softmax.sum_exponentials(others, k, *found, NOWHERE)
    assert np.array_equal(found[0], densities.max(axis=1))
    np.testing.assert_allclose(found, expected, rtol=k * eps(dtype))
    assert np.isnan(others.reshape(k, TILE_STRIDE)[:, TILE_ROWS:]).all()


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
    found = softmax.sum_log_likelihoods(largest, total, 1 / total, ones, False, count)
    # Both sums are float64, for float32 tiles as well; 32 products of eight totals are rounded seven times each.
    products = 32 * 7 * np.finfo(dtype).eps / 2
    assert abs(found - terms.sum()) <= 32 * reference.EPS * (np.abs(largest[:count]).sum() + 4 * count) + products


@both_precisions
def test_a_tile_adds_weighted_log_likelihoods(dtype):
    random = np.random.default_rng(0)
    largest, total, weights = (v.astype(dtype) for v in random.uniform(1, 20, size=(3, TILE_ROWS)))
    weights[::3] = 0.0
    terms = reference.exact(weights) * (reference.exact(largest) + np.log(reference.exact(total)))
    found = softmax.sum_log_likelihoods(largest, total, 1 / total, weights, True, TILE_ROWS)
    assert abs(found - terms.sum()) <= 32 * reference.EPS * np.abs(terms).sum()


def test_the_product_of_totals_holds_for_a_quintillion_components():
    largest, total = np.zeros(TILE_ROWS), np.full(TILE_ROWS, 1e18)
    found = softmax.sum_log_likelihoods(largest, total, 1 / total, np.ones(TILE_ROWS), False, TILE_ROWS)
    assert found == pytest.approx(TILE_ROWS * np.log(1e18), rel=1e-14)


@both_precisions
def test_lost_rows_are_counted_among_the_tiles_own(dtype):
    largest, total = np.zeros(TILE_ROWS, dtype), np.ones(TILE_ROWS, dtype)
    largest[[1, 5, 9]] = np.nan, np.inf, -np.inf
    assert softmax.count_lost(largest, total, TILE_ROWS) == 3
    assert softmax.count_lost(largest, total, 9) == 2
    total[[5, 20]] = np.nan
    assert softmax.count_lost(largest, total, TILE_ROWS) == 4


@both_precisions
@pytest.mark.parametrize("lost", [np.nan, -np.inf, np.inf])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("add", [softmax.exponentiate, softmax.sum_exponentials], ids=["kept", "summed"])
@pytest.mark.parametrize(
    ("k", "components"), [(3, [0, 1, 2]), (3, [0]), (3, [1]), (3, [2]), (2, [0, 1]), (2, [0]), (2, [1])]
)
def test_a_lost_row_makes_its_tiles_log_likelihood_no_number(dtype, lost, weighted, add, k, components):
    # The passes count lost rows only in tiles whose sum is not finite.
    if lost == -np.inf and len(components) < k:
        pytest.skip("a component may be infinitely far")
    densities = np.zeros((TILE_ROWS, k), dtype)
    densities[17, components] = lost
    values = as_tile(densities, dtype)
    largest, total, inverse = np.empty((3, TILE_ROWS), dtype)
    with np.errstate(invalid="ignore"):
        add(values, k, largest, total, inverse, NOWHERE)
        ones = np.ones(TILE_ROWS, dtype)
        found = softmax.sum_log_likelihoods(largest, total, inverse, ones, weighted, TILE_ROWS)
    assert not np.isfinite(found)
    assert softmax.count_lost(largest, total, TILE_ROWS) == 1


@both_precisions
@pytest.mark.parametrize("k", [1, 2, 3, 5, 7, 8, 9, 16, 21])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 200, TILE_ROWS])
def test_responsibilities_are_written_row_by_row(k, count, dtype):
    random = np.random.default_rng(k)
    values, inverse = random.uniform(size=(TILE_ROWS, k)).astype(dtype), random.uniform(size=TILE_ROWS).astype(dtype)
    values[:, -1] = np.nan if k > 1 else 0.5  # shows wherever it is written
    out = np.full(count * k + 9, -1.0)
    softmax.write_responsibilities(as_tile(values, dtype)[: (k - 1) * TILE_STRIDE + TILE_ROWS], k, inverse, count, out)
    np.testing.assert_array_equal(out[: count * k].reshape(count, k), (values * inverse[:, None])[:count])
    assert (out[count * k :] == -1.0).all()
