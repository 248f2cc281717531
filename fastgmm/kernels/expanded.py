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
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import float64

from fastgmm.kernels import forms
from fastgmm.kernels._jit import (
    FLOAT64,
    FLOATS_1D,
    FLOATS_2D,
    TILE_ROWS,
    TILE_STRIDE,
    DeclaredKernel,
    declared_kernel,
    kernel,
)
from fastgmm.kernels.forms import (
    HEAD,
    LARGEST_SPREAD,
    Moments,
    about_reference,
    accumulate,
    is_near,
    log_constant,
    log_densities,
    set_about_reference,
    suits_single,
)
from fastgmm.kernels.linalg import dot, subtract_multiple
from fastgmm.kernels.products import add_products, multiply, multiply_quadratic, pack_rows
from fastgmm.kernels.tiles import scale, scale_components, sum_squares
from fastgmm.kernels.triangles import BLOCK_ROWS, add_scatter, pack_triangles, subtract_squares
from fastgmm.kernels.vectors import rest

_FLOAT32 = np.dtype(np.float32)

# n rows, d features, k components, p features of the expansion, b = TILE_ROWS rows in a tile


class ExpandedTied(NamedTuple):
    """φ = x, then -|F x|² / 2, whose coefficient is 1 for all."""

    constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    coefficients: np.ndarray  # (k, p), packed for `multiply`
    factor: np.ndarray  # (packed,): over √2, by `pack_triangles`
    zeros: np.ndarray  # (d,)

    def prepare_renewal(self, centres: np.ndarray, *parameters: np.ndarray) -> Callable[[], bool]:
        """A call that sets this form by its parameters."""
        renew, factor = _prepare_renewal(self, _expand_tied, parameters), parameters[-1]

        def renew_all() -> bool:
            self.factor[:] = _pack_over_root(factor)
            return renew()

        return renew_all

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
        first = HEAD + k
        rows = first + k * d  # their sum, which follows from the first moments
        # About one centre for all, the scatter does not depend on the responsibilities.
        scatter = sums[rows + d :].reshape(d, d)
        return _centres(self), sums[HEAD:first], sums[first:rows].reshape(k, d), scatter


class ExpandedDiagonal(NamedTuple):
    """φ = x, then x_j²."""

    constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    coefficients: np.ndarray  # (k, p), packed for `multiply_quadratic`

    def prepare_renewal(self, centres: np.ndarray, *parameters: np.ndarray) -> Callable[[], bool]:
        """A call that sets this form by its parameters."""
        return _prepare_renewal(self, _expand_diagonal, parameters)

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

    def prepare_renewal(self, centres: np.ndarray, *parameters: np.ndarray) -> Callable[[], bool]:
        """A call that sets this form by its parameters."""
        return _prepare_renewal(self, _expand_isotropic, parameters)

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
    """The reference for every component, as a view."""
    return np.ndarray(form.means.shape, FLOAT64, form.reference, 0, (0, FLOAT64.itemsize))


def _cut(form: Any, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centres, weight and first moments, and per component the rest of the features."""
    k, d = form.means.shape
    features = sums[HEAD + k :].reshape(k, -1)
    return _centres(form), sums[HEAD : HEAD + k], features[:, :d], features[:, d:]


def _declare_expansion(covariances: Any) -> Callable[[Callable[..., Any]], DeclaredKernel]:
    """Compile a kernel for `_expand`, of covariances and factors of this type."""
    parameters = FLOATS_1D, FLOATS_2D, covariances, covariances
    return declared_kernel(*parameters, float64, FLOATS_1D, FLOATS_2D, FLOATS_1D, short=True)


@_declare_expansion(FLOATS_2D)
def _expand_tied(weights, means, covariance, factor, farthest, constants, coefficients, packed):
    k, d = means.shape
    log_determinant = spread = 0.0
    for j in range(d):
        largest = 0.0
        for c in range(k):
            if not is_near(means[c, j], covariance[j, j], farthest):
                return np.nan
            square = means[c, j] * means[c, j]
            largest = square if square > largest else largest
        for r in range(j, d):
            spread += factor[r, j] * factor[r, j] * (covariance[j, j] + largest)
        log_determinant += np.log(factor[j, j])
    for c in range(k):
        linear, squares = rest(coefficients, c * (d + 1)), 0.0
        for j in range(d):
            linear[j] = 0.0
        linear[d] = 1.0
        for r in range(d):
            row = rest(factor, r * d)
            whitened = dot(row, rest(means, c * d), r + 1)
            subtract_multiple(-whitened, row, linear, r + 1)
            squares += whitened * whitened
        constants[c] = log_constant(weights[c], log_determinant, d) - 0.5 * squares
    pack_rows(coefficients, packed)
    return spread


@_declare_expansion(FLOATS_2D)
def _expand_diagonal(weights, means, variances, scales, farthest, constants, coefficients, packed):
    k, d = means.shape
    spread = 0.0
    for c in range(k):
        log_determinant = size = squares = 0.0
        for j in range(d):
            if not is_near(means[c, j], variances[c, j], farthest):
                return np.nan
            square, precision = means[c, j] * means[c, j], scales[c, j] * scales[c, j]
            log_determinant += np.log(scales[c, j])
            size += precision * (variances[c, j] + square)
            squares += precision * square
            coefficients[c, j] = precision * means[c, j]
            coefficients[c, d + j] = -0.5 * precision
        constants[c] = log_constant(weights[c], log_determinant, d) - 0.5 * squares
        spread = spread if size <= spread else size
    pack_rows(coefficients, packed)
    return spread


@_declare_expansion(FLOATS_1D)
def _expand_isotropic(weights, means, variances, scales, farthest, constants, coefficients, packed):
    k, d = means.shape
    spread = 0.0
    for c in range(k):
        precision, squares = scales[c] * scales[c], 0.0
        for j in range(d):
            if not is_near(means[c, j], variances[c], farthest):
                return np.nan
            squares += means[c, j] * means[c, j]
            coefficients[c, j] = precision * means[c, j]
        coefficients[c, d] = -0.5 * precision
        constants[c] = log_constant(weights[c], d * np.log(scales[c]), d) - 0.5 * precision * squares
        size = precision * (d * variances[c] + squares)
        spread = spread if size <= spread else size
    pack_rows(coefficients, packed)
    return spread


def _expand(
    body: DeclaredKernel, parameters: tuple[np.ndarray, ...], features: int, variances: np.ndarray, single: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """The fields that these forms begin with, of so many features, in the narrowest type whose digits suffice, or None.

    `variances` are those by feature. The kernel is called as body(weights, means, covariances, factors, farthest,
    constants, coefficients, packed), with means about the reference. It sets the last three, coefficients (k, features)
    once more as `multiply` walks them, and returns the spread: NaN if a mean is not near by `forms.is_near`.
    """
    weights, means, covariances, factors = (np.ascontiguousarray(part, FLOAT64) for part in parameters)
    k = len(means)
    reference, centred = about_reference(weights, means)
    constants, coefficients, packed = np.empty(k), np.empty((k, features)), np.empty(k * features)
    spread = body.call(weights, centred, covariances, factors, forms.FARTHEST_MEAN, constants, coefficients, packed)
    if single and spread <= LARGEST_SPREAD[_FLOAT32] and suits_single(variances, centred):
        # Rows are read relative to a reference in float64.
        return constants.astype(_FLOAT32), centred.astype(_FLOAT32), reference, packed.astype(_FLOAT32)
    return (constants, centred, reference, packed) if spread <= LARGEST_SPREAD[FLOAT64] else None


def _prepare_renewal(form: Any, body: DeclaredKernel, parameters: tuple[np.ndarray, ...]) -> Callable[[], bool]:
    """A call that sets the fields of `_expand` as it does, for a form in float64, and says whether they will not do."""
    weights, means, covariances, factors = parameters
    centre = set_about_reference.prepare(weights, means, form.reference, form.means)
    coefficients = np.empty((len(means), _n_features(form)))
    fields = form.constants, coefficients, form.coefficients
    expand = body.prepare(weights, form.means, covariances, factors, forms.FARTHEST_MEAN, *fields)

    def renew() -> bool:
        centre()
        return not expand() <= LARGEST_SPREAD[FLOAT64]

    return renew


def _pack_over_root(factor: np.ndarray) -> np.ndarray:
    return pack_triangles(math.sqrt(0.5) * factor)


def tied(
    weights: np.ndarray, means: np.ndarray, covariance: np.ndarray, factor: np.ndarray, single: bool
) -> ExpandedTied | None:
    """Form for one factor (d, d) shared by all components; None where centring is needed."""
    d = len(factor)
    fields = _expand(_expand_tied, (weights, means, covariance, factor), d + 1, covariance.diagonal(), single)
    if fields is None:
        return None
    dtype = fields[0].dtype
    return ExpandedTied(*fields, _pack_over_root(factor).astype(dtype), np.zeros(d, dtype))


def diagonal(
    weights: np.ndarray, means: np.ndarray, variances: np.ndarray, scales: np.ndarray, single: bool
) -> ExpandedDiagonal | None:
    """Form for the reciprocal standard deviations (k, d); None where centring is needed."""
    parameters = weights, means, variances, scales
    fields = _expand(_expand_diagonal, parameters, 2 * means.shape[1], variances, single)
    return None if fields is None else ExpandedDiagonal(*fields)


def isotropic(
    weights: np.ndarray, means: np.ndarray, variances: np.ndarray, scales: np.ndarray, single: bool
) -> ExpandedIsotropic | None:
    """Form for one reciprocal standard deviation (k,) per component; None where centring is needed."""
    parameters = weights, means, variances, scales
    fields = _expand(_expand_isotropic, parameters, means.shape[1] + 1, variances[:, None], single)
    return None if fields is None else ExpandedIsotropic(*fields)
