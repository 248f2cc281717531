"""Forms that expand the squares about one reference for all components, and so become two matrix products a tile.

A log-density is a linear function of a row's features φ(x), which all components share, and the moments are sums of
responsibilities times the same features:

    log-densities = A φ + constants        moments = R φᵀ

with φ(x) = x and, of x xᵀ, what the structure needs. It costs nothing to centre, to weigh or to square a row once
per component.

What it costs is digits: x xᵀ is as large as the spread of the means is wide, and the difference that counts as small as
a component is narrow. The spread, see `forms.LARGEST_SPREAD`, says how many digits.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastgmm.kernels._jit import TILE_ROWS, TILE_STRIDE, kernel
from fastgmm.kernels.forms import (
    HEAD,
    LARGEST_SPREAD,
    Moments,
    about_reference,
    accumulate,
    is_near,
    log_densities,
    make_log_constants,
    suits_single,
)
from fastgmm.kernels.products import add_products, multiply, multiply_quadratic, pack_rows
from fastgmm.kernels.tiles import scale, scale_components, sum_squares
from fastgmm.kernels.triangles import BLOCK_ROWS, add_scatter, pack_triangles, subtract_squares
from fastgmm.kernels.vectors import rest

# n rows, d features, k components, p features of the expansion, b = TILE_ROWS rows in a tile


class ExpandedTied(NamedTuple):
    """φ = x, then -|F x|² / 2, whose coefficient is 1 for all."""

    constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    coefficients: np.ndarray  # (k, p), packed for `multiply`
    factor: np.ndarray  # (packed,): over √2, by `pack_triangles`
    zeros: np.ndarray  # (d,)

    @property
    def working_features(self) -> int:
        """Features' room that a tile needs."""
        return _n_features(self) + BLOCK_ROWS

    @property
    def n_moments(self) -> int:
        """Length of the sums after their head."""
        k, d = self.means.shape
        return k * (1 + d) + d + d * d

    def cut(self, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
        """Cut sums into moments."""
        k, d = self.means.shape
        weight, first, _, scatter = np.split(sums[HEAD:], np.cumsum((k, k * d, d)))
        # About one centre for all, the scatter does not depend on the responsibilities.
        return _centres(self), weight, first.reshape(k, d), scatter.reshape(d, d)


class ExpandedDiagonal(NamedTuple):
    """φ = x, then x_j²."""

    constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    coefficients: np.ndarray  # (k, p), packed for `multiply_quadratic`

    @property
    def working_features(self) -> int:
        """Features' room that a tile needs."""
        return _n_features(self)

    @property
    def n_moments(self) -> int:
        """Length of the sums after their head."""
        return len(self.means) * (1 + _n_features(self))

    def cut(self, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
        """Cut sums into moments."""
        return _cut(self, sums)


class ExpandedIsotropic(NamedTuple):
    """φ = x, then |x|²."""

    constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    coefficients: np.ndarray  # (k, p), packed for `multiply`

    @property
    def working_features(self) -> int:
        """Features' room that a tile needs."""
        return _n_features(self)

    @property
    def n_moments(self) -> int:
        """Length of the sums after their head."""
        return len(self.means) * (1 + _n_features(self))

    def cut(self, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
        """Cut sums into moments."""
        about, weight, first, squares = _cut(self, sums)
        return about, weight, first, squares[:, 0]


@kernel
def _square(x, out):
    for i in range(TILE_ROWS):
        out[i] = x[i] * x[i]


@log_densities.body(ExpandedTied)
@kernel
def _log_densities_tied(form, tile, out, ahead):
    k, d = form.means.shape
    subtract_squares(form.factor, form.zeros, form.zeros, tile, d, rest(tile, d * TILE_STRIDE))
    multiply(form.coefficients, form.constants, tile, k, d + 1, out, ahead)


@log_densities.body(ExpandedDiagonal)
@kernel
def _log_densities_diagonal(form, tile, out, ahead):
    k, d = form.means.shape
    multiply_quadratic(form.coefficients, form.constants, tile, k, d, out, ahead)


@log_densities.body(ExpandedIsotropic)
@kernel
def _log_densities_isotropic(form, tile, out, ahead):
    k, d = form.means.shape
    sum_squares(tile, d, rest(tile, d * TILE_STRIDE))
    multiply(form.coefficients, form.constants, tile, k, d + 1, out, ahead)


@kernel(inline=True)
def _add_features(form, tile, count, values, inverse, weights, sums):
    """Turn `values * inverse` into responsibilities and add weights, and the moments of the first features."""
    k = form.means.shape[0]
    scale(inverse, weights, inverse)
    scale_components(values, k, inverse, rest(sums, HEAD))
    add_products(values, k, tile, count, rest(sums, HEAD + k), count)


@accumulate.body(ExpandedTied)
@kernel
def _accumulate_tied(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    _add_features(form, tile, d, values, inverse, weights, sums)
    # Of all rows together. The sum of the rows follows from the first moments, but comes along.
    first = rest(sums, HEAD + k + k * d)
    add_scatter(tile, d, weights, rest(tile, (d + 1) * TILE_STRIDE), first, rest(first, d))


@accumulate.body(ExpandedDiagonal)
@kernel
def _accumulate_diagonal(form, tile, values, inverse, weights, centres, sums):
    d = form.means.shape[1]
    for j in range(d):
        _square(rest(tile, j * TILE_STRIDE), rest(tile, (d + j) * TILE_STRIDE))
    _add_features(form, tile, 2 * d, values, inverse, weights, sums)


@accumulate.body(ExpandedIsotropic)
@kernel
def _accumulate_isotropic(form, tile, values, inverse, weights, centres, sums):
    _add_features(form, tile, form.means.shape[1] + 1, values, inverse, weights, sums)


def _n_features(form: Any) -> int:
    """Features of the expansion."""
    return form.coefficients.size // len(form.means)


def _centres(form: Any) -> np.ndarray:
    return np.tile(form.reference, (len(form.means), 1))


def _cut(form: Any, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centres, weight and first moments, and per component the rest of the features."""
    k, d = form.means.shape
    weight, features = np.split(sums[HEAD:], (k,))
    features = features.reshape(k, -1)
    return _centres(form), weight, features[:, :d].copy(), features[:, d:]


def _choose_type(spread: float, variances: np.ndarray, centred: np.ndarray, single: bool) -> np.dtype | None:
    """The narrowest type whose digits suffice, or None; variances and means about the reference by feature."""
    if not is_near(variances, centred).all():
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
    return constants.astype(dtype), means.astype(dtype, order="C"), reference, packed.astype(dtype)


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
    coefficients = np.concatenate([whitened @ factor, np.ones((k, 1))], axis=1)
    fields = _fields(dtype, constants, centred, reference, coefficients)
    return ExpandedTied(*fields, pack_triangles(math.sqrt(0.5) * factor).astype(dtype), np.zeros(d, dtype))


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
