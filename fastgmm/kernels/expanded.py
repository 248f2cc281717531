"""Forms that expand the squares about one reference for all components, and so become two matrix products a tile.

A log-density is a linear function of a row's features φ(x), which all components share, and the moments are sums of
responsibilities times the same features:

    log-densities = A φ + constants        moments = R φᵀ

with φ(x) = x and, of x xᵀ, what the structure needs. It costs nothing to centre, to weigh or to square a row once
per component. What it costs is digits: x xᵀ is as large as the spread of the means is wide, and the difference that
counts as small as a component is narrow. The spread, `forms.triangular_spread` and its like, says how many digits.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastgmm.kernels._jit import TILE_ROWS, TILE_STRIDE, kernel
from fastgmm.kernels.centred import SMALL_SIZES, triangular_log_constants
from fastgmm.kernels.forms import (
    HEAD,
    Moments,
    about_reference,
    accumulate,
    cut_moments,
    log_densities,
    make_log_constants,
    n_moments,
    suits_single,
    triangular_spread,
    working_features,
)
from fastgmm.kernels.products import (
    SCATTER_ROWS,
    add_products,
    add_scatter,
    add_squares,
    multiply,
    pack_rows,
    pack_triangle,
    packed_triangle_size,
)
from fastgmm.kernels.tiles import clear, scale

# Beyond so many features, the products of pairs outgrow the second-level cache and centring is cheap beside them.
LARGEST_FULL = 16
# Below so many components, building the products costs more than sharing them saves.
FEWEST_COMPONENTS = 3
# Largest spread, by the type of the tile. A log-density then has an error of some eps * spread * max(1, |log-density|)
# and a covariance one of eps * spread in units of its own width: 1e-10 in float64 and 1e-4 in float32.
LARGEST_SPREAD = {np.dtype(np.float64): 1e6, np.dtype(np.float32): 1e3}
# A mean may be so many widths, squared, from the reference: a tenth of what has `maximise` ask for moments about it.
FARTHEST_MEAN = 1e3

# n rows, d features, k components, p features of the expansion, b = TILE_ROWS rows in a tile


class ExpandedFull(NamedTuple):
    """φ = x, then x_j x_m for m <= j."""

    constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    coefficients: np.ndarray  # (k, p), packed for `multiply`


class ExpandedTied(NamedTuple):
    """φ = x, then |F x|², whose coefficient is the same for all."""

    constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    coefficients: np.ndarray  # (k, p), packed for `multiply`
    factor: np.ndarray  # packed for `add_squares`


class ExpandedDiagonal(NamedTuple):
    """φ = x, then x_j²."""

    constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    coefficients: np.ndarray  # (k, p), packed for `multiply`


class ExpandedIsotropic(NamedTuple):
    """φ = x, then |x|²."""

    constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    coefficients: np.ndarray  # (k, p), packed for `multiply`


@kernel
def _multiply_rows(a, b, out):
    for i in range(TILE_ROWS):
        out[i] = a[i] * b[i]


@kernel
def _add_square(x, out):
    for i in range(TILE_ROWS):
        out[i] += x[i] * x[i]


@kernel
def _fill(value, out):
    for i in range(TILE_ROWS):
        out[i] = value


@kernel(inline=True)
def _finish_densities(form, count, tile, out):
    """Append a feature of ones, whose moment is the weight, and multiply by the coefficients."""
    k = form.means.shape[0]
    _fill(1.0, tile[count * TILE_STRIDE :])
    multiply(form.coefficients, form.constants, tile, k, count, out)


@log_densities.body(ExpandedFull)
@kernel
def _log_densities_full(form, tile, out):
    d = form.means.shape[1]
    count = d
    for j in range(d):
        for m in range(j + 1):
            _multiply_rows(tile[j * TILE_STRIDE :], tile[m * TILE_STRIDE :], tile[count * TILE_STRIDE :])
            count += 1
    _finish_densities(form, count, tile, out)


@log_densities.body(ExpandedTied)
@kernel
def _log_densities_tied(form, tile, out):
    d = form.means.shape[1]
    square = tile[d * TILE_STRIDE :]
    clear(square)
    add_squares(form.factor, tile, d, square)
    _finish_densities(form, d + 1, tile, out)


@log_densities.body(ExpandedDiagonal)
@kernel
def _log_densities_diagonal(form, tile, out):
    d = form.means.shape[1]
    for j in range(d):
        _multiply_rows(tile[j * TILE_STRIDE :], tile[j * TILE_STRIDE :], tile[(d + j) * TILE_STRIDE :])
    _finish_densities(form, 2 * d, tile, out)


@log_densities.body(ExpandedIsotropic)
@kernel
def _log_densities_isotropic(form, tile, out):
    d = form.means.shape[1]
    square = tile[d * TILE_STRIDE :]
    clear(square)
    for j in range(d):
        _add_square(tile[j * TILE_STRIDE :], square)
    _finish_densities(form, d + 1, tile, out)


@kernel(inline=True)
def _accumulate_features(tile, values, k, count, inverse, weights, sums):
    """Add the moments of the first `count` features and, as one more, of the ones."""
    scale(inverse, weights, inverse)
    for c in range(k):
        scale(values[c * TILE_STRIDE :], inverse, values[c * TILE_STRIDE :])
    add_products(values, k, tile, count + 1, sums[HEAD:], count + 1)


@accumulate.body(ExpandedFull)
@kernel
def _accumulate_full(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    _accumulate_features(tile, values, k, d + d * (d + 1) // 2, inverse, weights, sums)


@accumulate.body(ExpandedTied)
@kernel
def _accumulate_tied(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    _accumulate_features(tile, values, k, d + 1, inverse, weights, sums)
    add_scatter(tile, d, weights, tile[(d + 2) * TILE_STRIDE :], sums[HEAD + k * (d + 2) :])


@accumulate.body(ExpandedDiagonal)
@kernel
def _accumulate_diagonal(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    _accumulate_features(tile, values, k, 2 * d, inverse, weights, sums)


@accumulate.body(ExpandedIsotropic)
@kernel
def _accumulate_isotropic(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    _accumulate_features(tile, values, k, d + 1, inverse, weights, sums)


def _n_full(d: int) -> int:
    """Features of the full expansion, with the ones."""
    return d + d * (d + 1) // 2 + 1


@working_features.register
def _(form: ExpandedFull) -> int:
    return _n_full(form.means.shape[1])


@working_features.register
def _(form: ExpandedTied) -> int:
    return form.means.shape[1] + 2 + SCATTER_ROWS


@working_features.register
def _(form: ExpandedDiagonal) -> int:
    return 2 * form.means.shape[1] + 1


@working_features.register
def _(form: ExpandedIsotropic) -> int:
    return form.means.shape[1] + 2


@n_moments.register
def _(form: ExpandedFull) -> int:
    k, d = form.means.shape
    return k * _n_full(d)


@n_moments.register
def _(form: ExpandedTied) -> int:
    k, d = form.means.shape
    return k * (d + 2) + d * d


@n_moments.register
def _(form: ExpandedDiagonal) -> int:
    k, d = form.means.shape
    return k * (2 * d + 1)


@n_moments.register
def _(form: ExpandedIsotropic) -> int:
    k, d = form.means.shape
    return k * (d + 2)


def _centres(form: Any) -> np.ndarray:
    return np.tile(form.reference, (len(form.means), 1))


@lru_cache(maxsize=32)
def _pairs(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows j and columns m <= j in the order of the products."""
    return np.tril_indices(d)


@cut_moments.register
def _(form: ExpandedFull, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    k, d = form.means.shape
    parts = sums.reshape(k, _n_full(d))
    second = np.zeros((k, d, d))
    rows, columns = _pairs(d)
    second[:, rows, columns] = parts[:, d:-1]
    return Moments(_centres(form), parts[:, -1].copy(), parts[:, :d].copy(), second)


@cut_moments.register
def _(form: ExpandedTied, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    k, d = form.means.shape
    parts = sums[: k * (d + 2)].reshape(k, d + 2)
    # About one centre for all, the scatter does not depend on the responsibilities.
    return Moments(_centres(form), parts[:, -1], parts[:, :d], sums[k * (d + 2) :].reshape(d, d))


@cut_moments.register
def _(form: ExpandedDiagonal, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    k, d = form.means.shape
    parts = sums.reshape(k, 2 * d + 1)
    return Moments(_centres(form), parts[:, -1], parts[:, :d], parts[:, d:-1])


@cut_moments.register
def _(form: ExpandedIsotropic, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    k, d = form.means.shape
    parts = sums.reshape(k, d + 2)
    return Moments(_centres(form), parts[:, -1], parts[:, :d], parts[:, d])


@kernel
def _expand_full(means, factors, constants, coefficients):
    """Set coefficients (k, p) to those of -|F (x - μ)|² / 2 and add the constant term to `constants`."""
    k, d = means.shape
    precision = np.empty((d, d))
    for c in range(k):
        factor, mean = factors[c], means[c]
        for j in range(d):
            for m in range(d):
                precision[j, m] = 0.0
        for r in range(d):
            for j in range(r + 1):
                f = factor[r, j]
                for m in range(j + 1):
                    precision[j, m] += f * factor[r, m]
        for j in range(d):
            for m in range(j):
                precision[m, j] = precision[j, m]
        at = d
        square = 0.0
        for j in range(d):
            linear = 0.0
            for m in range(d):
                linear += precision[j, m] * mean[m]
            coefficients[c, j] = linear
            square += linear * mean[j]
            for m in range(j):
                coefficients[c, at] = -precision[j, m]
                at += 1
            coefficients[c, at] = -0.5 * precision[j, j]
            at += 1
        constants[c] -= 0.5 * square


def _choose_type(spread: float, variances: np.ndarray, centred: np.ndarray, single: bool) -> np.dtype | None:
    """The narrowest type whose digits suffice, or None; variances and means about the reference by feature."""
    if not (centred**2 <= FARTHEST_MEAN * variances).all():
        return None
    single = single and suits_single(variances, centred)
    types = (np.dtype(np.float32), np.dtype(np.float64)) if single else (np.dtype(np.float64),)
    return next((dtype for dtype in types if spread <= LARGEST_SPREAD[dtype]), None)


def _fields(
    dtype: np.dtype, constants: np.ndarray, means: np.ndarray, reference: np.ndarray, coefficients: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The fields that all these forms begin with, in the type of the tile; rows are read relative to float64."""
    packed = np.empty(coefficients.size)
    pack_rows(coefficients, packed)
    return constants.astype(dtype), means.astype(dtype), reference, packed.astype(dtype)


def full(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, factors: np.ndarray, single: bool
) -> ExpandedFull | None:
    """Form for one factor (k, d, d) per component; None where centring is faster or needed.

    In float32 if the rows are `single` and their digits suffice.
    """
    k, d = means.shape
    if not SMALL_SIZES[-1] < d <= LARGEST_FULL or k < FEWEST_COMPONENTS:
        return None
    reference, centred = about_reference(weights, means)
    spread = triangular_spread(factors, covariances, centred)
    dtype = _choose_type(spread, np.einsum("cjj->cj", covariances), centred, single)
    if dtype is None:
        return None
    constants = triangular_log_constants(weights, factors)
    coefficients = np.empty((k, _n_full(d) - 1))
    _expand_full(centred, factors, constants, coefficients)
    return ExpandedFull(*_fields(dtype, constants, centred, reference, coefficients))


def tied(
    weights: np.ndarray, means: np.ndarray, covariance: np.ndarray, factor: np.ndarray, single: bool
) -> ExpandedTied | None:
    """Form for one factor (d, d) shared by all components; None where centring is needed."""
    k, d = means.shape
    reference, centred = about_reference(weights, means)
    variances = np.diag(covariance)
    spread = (factor**2 @ (variances + (centred**2).max(axis=0))).sum()
    dtype = _choose_type(spread, variances, centred, single)
    if dtype is None:
        return None
    whitened = centred @ factor.T
    constants = make_log_constants(weights, np.log(np.diag(factor)).sum(), d) - 0.5 * (whitened**2).sum(axis=1)
    coefficients = np.concatenate([whitened @ factor, np.full((k, 1), -0.5)], axis=1)
    packed = np.empty(packed_triangle_size(d))
    pack_triangle(factor, packed)
    return ExpandedTied(*_fields(dtype, constants, centred, reference, coefficients), packed.astype(dtype))


def diagonal(
    weights: np.ndarray, means: np.ndarray, variances: np.ndarray, scales: np.ndarray, single: bool
) -> ExpandedDiagonal | None:
    """Form for the reciprocal standard deviations (k, d); None where centring is needed."""
    reference, centred = about_reference(weights, means)
    precisions = scales**2
    spread = (precisions * (variances + centred**2)).sum(axis=1).max()
    dtype = _choose_type(spread, variances, centred, single)
    if dtype is None:
        return None
    linear = precisions * centred
    constants = make_log_constants(weights, np.log(scales).sum(1), means.shape[1]) - 0.5 * (linear * centred).sum(1)
    coefficients = np.concatenate([linear, -0.5 * precisions], axis=1)
    return ExpandedDiagonal(*_fields(dtype, constants, centred, reference, coefficients))


def isotropic(
    weights: np.ndarray, means: np.ndarray, variances: np.ndarray, scales: np.ndarray, single: bool
) -> ExpandedIsotropic | None:
    """Form for one reciprocal standard deviation (k,) per component; None where centring is needed."""
    d = means.shape[1]
    reference, centred = about_reference(weights, means)
    precisions = scales**2
    squares = (centred**2).sum(axis=1)
    spread = (precisions * (d * variances + squares)).max()
    dtype = _choose_type(spread, variances[:, None], centred, single)
    if dtype is None:
        return None
    constants = make_log_constants(weights, d * np.log(scales), d) - 0.5 * precisions * squares
    coefficients = np.concatenate([precisions[:, None] * centred, -0.5 * precisions[:, None]], axis=1)
    return ExpandedIsotropic(*_fields(dtype, constants, centred, reference, coefficients))
