"""Forms that expand the squares about one reference for all components, and so become two matrix products a tile.

A log-density is a linear function of a row's features φ(x), which all components share, and the moments are sums of
responsibilities times the same features:

    log-densities = A φ + constants        moments = R φᵀ

with φ(x) = x and, of x xᵀ, what the structure needs. It costs nothing to centre, to weigh or to square a row once
per component; with many features x xᵀ is too long to be shared, but F x - F μ and moments of x xᵀ save the centring.

What it costs is digits: x xᵀ is as large as the spread of the means is wide, and the difference that counts as small as
a component is narrow. The spread, `forms.triangular_spreads` and its like, says how many digits. A few narrow
components of a full mixture are centred in the same pass, and do not take the rest with them.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastgmm.kernels._jit import SUMS, TILE_ROWS, TILE_STRIDE, kernel
from fastgmm.kernels.centred import SMALL_SIZES, pack_factors, triangular_log_constants
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
    triangular_spreads,
    working_features,
)
from fastgmm.kernels.products import (
    SCATTER_ROWS,
    add_products,
    add_scatter,
    add_squares,
    multiply,
    pack_rows,
)
from fastgmm.kernels.tiles import clear, scale, scale_and_shift, scale_components

# Beyond so many features, the products of pairs outgrow the second-level cache and centring is cheap beside them.
LARGEST_FULL = 16
# Below so many components, building the products costs more than sharing them saves.
FEWEST_COMPONENTS = 3
# Largest spread, by the type of the tile. A log-density then has an error of some eps * spread * max(1, |log-density|)
# and a covariance one of eps * spread in units of its own width: 1e-10 in float64 and 1e-4 in float32.
LARGEST_SPREAD = {np.dtype(np.float64): 1e6, np.dtype(np.float32): 1e3}
# Share of the components that may be centred within an expanded form: one takes two to three times an expanded one's
# time, and a wholly centred form 1.6 to 1.9 times an expanded form's, so that they meet beyond a quarter.
LARGEST_NARROW_SHARE = 0.25
# A mean may be so many widths, squared, from the reference: a tenth of what has `maximise` ask for moments about it.
FARTHEST_MEAN = 1e3

# n rows, d features, k components, p features of the expansion, b = TILE_ROWS rows in a tile


class ExpandedFull(NamedTuple):
    """φ = x, then x_j x_m for m <= j; but a narrow component's log-density is its constant - |F (x - μ)|² / 2."""

    constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    coefficients: np.ndarray  # (k, p), packed for `multiply`
    narrow: np.ndarray  # (m,): which components are narrow; none as a rule
    factors: np.ndarray  # (m, d, d): theirs over √2, so that squares come halved


class ExpandedTriangular(NamedTuple):
    """For many features, or few components: log-density = constant - |F x - F μ|² / 2, moments of x xᵀ."""

    constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    factors: np.ndarray  # (k, packed)
    shifts: np.ndarray  # (k, d): -F μ


class ExpandedTied(NamedTuple):
    """φ = x, then |F x|², whose coefficient is the same for all."""

    constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    coefficients: np.ndarray  # (k, p), packed for `multiply`
    factor: np.ndarray  # (1, packed)
    zeros: np.ndarray  # (1, d)


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


@kernel(inline=True)
def _centred_density(tile, mean, factor, constant, y, out):
    """out = constant - |F (x - μ)|² of one component, for F lower triangular; `y` holds a feature."""
    _fill(constant, out)
    for r in range(mean.size):
        _fill(0.0, y)
        for j in range(r + 1):
            f, m = factor[r, j], mean[j]
            for i in range(TILE_ROWS):
                y[i] += f * (tile[j * TILE_STRIDE + i] - m)
        for i in range(TILE_ROWS):
            out[i] -= y[i] * y[i]


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
    work = tile[(count + 1) * TILE_STRIDE :]
    for n in range(form.narrow.size):
        c = form.narrow[n]
        _centred_density(tile, form.means[c], form.factors[n], form.constants[c], work, out[c * TILE_STRIDE :])


@log_densities.body(ExpandedTriangular)
@kernel
def _log_densities_triangular(form, tile, out):
    k = form.means.shape[0]
    for c in range(k):
        clear(out[c * TILE_STRIDE :])
    add_squares(form.factors, form.shifts, tile, out)
    for c in range(k):
        scale_and_shift(out[c * TILE_STRIDE :], -0.5, form.constants[c])


@log_densities.body(ExpandedTied)
@kernel
def _log_densities_tied(form, tile, out):
    d = form.means.shape[1]
    square = tile[d * TILE_STRIDE :]
    clear(square)
    add_squares(form.factor, form.zeros, tile, square)
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
def _share(values, k, inverse, weights):
    """Turn `values * inverse` into responsibilities times the rows' weights."""
    scale(inverse, weights, inverse)
    for c in range(k):
        scale(values[c * TILE_STRIDE :], inverse, values[c * TILE_STRIDE :])


@kernel(inline=True)
def _add_features(form, tile, values, sums):
    """Add the moments of all features and, as one more, of the ones."""
    k = form.means.shape[0]
    count = form.coefficients.size // k + 1
    add_products(values, k, tile, count, sums[HEAD:], count)


@kernel(flags=SUMS)
def _move_moments(tile, centre, share, weighted, sums):
    """Add one component's moments about its centre, in the order of the features, and clear its responsibilities."""
    d = centre.size
    at = d
    for j in range(d):
        first = np.float64(0.0)
        for i in range(TILE_ROWS):
            product = share[i] * (tile[j * TILE_STRIDE + i] - centre[j])
            weighted[i] = product
            first += product
        sums[j] += first
        for m in range(j + 1):
            second = np.float64(0.0)
            for i in range(TILE_ROWS):
                second += weighted[i] * (tile[m * TILE_STRIDE + i] - centre[m])
            sums[at] += second
            at += 1
    weight = np.float64(0.0)
    for i in range(TILE_ROWS):
        weight += share[i]
        share[i] = 0.0
    sums[at] += weight


@accumulate.body(ExpandedFull)
@kernel
def _accumulate_full(form, tile, values, inverse, weights, centres, sums):
    k = form.means.shape[0]
    count = form.coefficients.size // k + 1
    _share(values, k, inverse, weights)
    for n in range(form.narrow.size):
        c = form.narrow[n]
        _move_moments(
            tile, centres[c], values[c * TILE_STRIDE :], tile[count * TILE_STRIDE :], sums[HEAD + c * count :]
        )
    _add_features(form, tile, values, sums)


@accumulate.body(ExpandedTriangular)
@kernel
def _accumulate_triangular(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    weighted = tile[d * TILE_STRIDE :]
    scale(inverse, weights, inverse)
    scale_components(values, k, inverse, sums[HEAD:])
    for c in range(k):
        share = values[c * TILE_STRIDE :]
        add_products(share, 1, tile, d, sums[HEAD + k + c * d :], d)
        add_scatter(tile, d, share, weighted, sums[HEAD + k + k * d + c * d * d :])


@accumulate.body(ExpandedTied)
@kernel
def _accumulate_tied(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    _share(values, k, inverse, weights)
    _add_features(form, tile, values, sums)
    add_scatter(tile, d, weights, tile[(d + 2) * TILE_STRIDE :], sums[HEAD + k * (d + 2) :])


@accumulate.body(ExpandedDiagonal)
@accumulate.body(ExpandedIsotropic)
@kernel
def _accumulate_expanded(form, tile, values, inverse, weights, centres, sums):
    _share(values, form.means.shape[0], inverse, weights)
    _add_features(form, tile, values, sums)


def _n_features(form: Any) -> int:
    """Features of the expansion, with the ones."""
    return form.coefficients.size // len(form.means) + 1


@working_features.register
def _(form: ExpandedFull) -> int:
    # With one more for the work on a narrow component.
    return _n_features(form) + 1


@working_features.register
def _(form: ExpandedTriangular) -> int:
    return form.means.shape[1] + SCATTER_ROWS


@working_features.register
def _(form: ExpandedTied) -> int:
    return _n_features(form) + SCATTER_ROWS


@working_features.register(ExpandedDiagonal)
@working_features.register(ExpandedIsotropic)
def _(form: Any) -> int:
    return _n_features(form)


@n_moments.register(ExpandedFull)
@n_moments.register(ExpandedDiagonal)
@n_moments.register(ExpandedIsotropic)
def _(form: Any) -> int:
    return len(form.means) * _n_features(form)


@n_moments.register
def _(form: ExpandedTriangular) -> int:
    k, d = form.means.shape
    return k * (1 + d + d * d)


@n_moments.register
def _(form: ExpandedTied) -> int:
    k, d = form.means.shape
    return k * _n_features(form) + d * d


def _centres(form: Any) -> np.ndarray:
    return np.tile(form.reference, (len(form.means), 1))


def _cut(form: Any, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centres, weight and first moments, and per component the rest of the features."""
    k, d = form.means.shape
    parts = sums.reshape(k, -1)
    return _centres(form), parts[:, -1].copy(), parts[:, :d].copy(), parts[:, d:-1]


@lru_cache(maxsize=32)
def _pairs(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows j and columns m <= j in the order of the products."""
    return np.tril_indices(d)


@cut_moments.register
def _(form: ExpandedFull, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    k, d = form.means.shape
    about, weight, first, products = _cut(form, sums)
    about[form.narrow] += centres[form.narrow]
    second = np.zeros((k, d, d))
    rows, columns = _pairs(d)
    second[:, rows, columns] = products
    return Moments(about, weight, first, second)


@cut_moments.register
def _(form: ExpandedTriangular, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    k, d = form.means.shape
    first, second = sums[k : k + k * d].reshape(k, d), sums[k + k * d :].reshape(k, d, d)
    return Moments(_centres(form), sums[:k], first, second)


@cut_moments.register
def _(form: ExpandedTied, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    d = form.means.shape[1]
    about, weight, first, _ = _cut(form, sums[: -d * d])
    # About one centre for all, the scatter does not depend on the responsibilities.
    return Moments(about, weight, first, sums[-d * d :].reshape(d, d))


@cut_moments.register
def _(form: ExpandedDiagonal, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    return Moments(*_cut(form, sums))


@cut_moments.register
def _(form: ExpandedIsotropic, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    about, weight, first, squares = _cut(form, sums)
    return Moments(about, weight, first, squares[:, 0])


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


def _is_near(variances: np.ndarray, centred: np.ndarray) -> np.ndarray:
    """Whether a mean is near enough to the reference for moments about it, by component and feature."""
    return centred**2 <= FARTHEST_MEAN * variances


def _choose_type(spread: float, variances: np.ndarray, centred: np.ndarray, single: bool) -> np.dtype | None:
    """The narrowest type whose digits suffice, or None; variances and means about the reference by feature."""
    if not _is_near(variances, centred).all():
        return None
    single = single and suits_single(variances, centred)
    types = (np.dtype(np.float32), np.dtype(np.float64)) if single else (np.dtype(np.float64),)
    return next((dtype for dtype in types if spread <= LARGEST_SPREAD[dtype]), None)


def _find_narrow(spreads: np.ndarray, variances: np.ndarray, centred: np.ndarray) -> np.ndarray | None:
    """Which components must be centred in float64; None where all should be.

    Rows are rounded about the reference, so a centred log-density has an error of eps * sqrt(spread): up to the square
    of the largest spread, no more than an expanded one may have.
    """
    largest = LARGEST_SPREAD[np.dtype(np.float64)]
    narrow = np.flatnonzero(~(_is_near(variances, centred).all(axis=1) & (spreads <= largest)))
    few = narrow.size <= LARGEST_NARROW_SHARE * spreads.size
    return narrow if few and spreads.max() <= largest**2 else None


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
    spreads = triangular_spreads(factors, covariances, centred)
    variances = np.einsum("cjj->cj", covariances)
    narrow = _find_narrow(spreads, variances, centred)
    if narrow is None:
        return None
    dtype = _choose_type(spreads.max(), variances, centred, single)
    constants = triangular_log_constants(weights, factors)
    of_narrow = constants[narrow]
    coefficients = np.empty((k, d + d * (d + 1) // 2))
    _expand_full(centred, factors, constants, coefficients)
    constants[narrow] = of_narrow
    fields = _fields(np.dtype(np.float64) if dtype is None else dtype, constants, centred, reference, coefficients)
    return ExpandedFull(*fields, narrow, (math.sqrt(0.5) * factors[narrow]).astype(fields[0].dtype))


def triangular(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, factors: np.ndarray, single: bool
) -> ExpandedTriangular | None:
    """Form for one factor (k, d, d) per component; None where centring is needed, or good enough for `single` rows."""
    if means.shape[1] <= SMALL_SIZES[-1]:
        return None
    reference, centred = about_reference(weights, means)
    spread = triangular_spreads(factors, covariances, centred).max()
    dtype = _choose_type(spread, np.einsum("cjj->cj", covariances), centred, single)
    if dtype is None or single != (dtype == np.float32):
        return None
    parts = (
        triangular_log_constants(weights, factors),
        centred,
        reference,
        pack_factors(factors),
        -np.einsum("crj,cj->cr", factors, centred),
    )
    return ExpandedTriangular(*(part if part is reference else part.astype(dtype) for part in parts))


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
    fields = _fields(dtype, constants, centred, reference, coefficients)
    return ExpandedTied(*fields, pack_factors(factor[None]).astype(dtype), np.zeros((1, d), dtype))


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
