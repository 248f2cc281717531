"""Forms for a covariance matrix per component: log-density = log_constant - |F (x - μ)|² / 2, F lower triangular.

SmallTriangular    the dimension known to the compiler (d <= 4)
Triangular         any d

A Triangular component is *expanded* where that costs no digits that count: y = F x - F μ and moments of x xᵀ, with x
about a reference amid the means, so that no row is centred once per component. It is *centred*, with deviations from
its own mean, where it is too narrow or too far away for that. Both kinds meet in one pass.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastgmm.kernels._jit import SUMS, TILE_ROWS, TILE_STRIDE, kernel
from fastgmm.kernels.forms import (
    HEAD,
    LARGEST_SPREAD,
    Moments,
    about_reference,
    accumulate,
    cut_moments,
    is_near,
    log_densities,
    n_moments,
    suits_single,
    working_features,
)
from fastgmm.kernels.tiles import scale, scale_components
from fastgmm.kernels.triangles import BLOCK_ROWS, add_scatter, pack_triangles, subtract_centre, subtract_squares
from fastgmm.kernels.vectors import rest

# Dimensions that are compile-time constants: with so few features all moments of a component fit in the registers.
SMALL_SIZES = (1, 2, 3, 4)
# Largest spread, by the type of the tile, with which rows may be read about a reference at all: rounded there, they
# leave a centred log-density with an error of some eps * sqrt(spread), 1e-10 in float64 and 1e-4 in float32.
LARGEST_CENTRED_SPREAD = {np.dtype(np.float64): 1e12, np.dtype(np.float32): 1e6}
_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)

# n rows, d features, k components, b = TILE_ROWS rows in a tile


class SmallTriangular(NamedTuple):
    """y = F (x - μ), log-density = log_constant - |y|² / 2."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    factors: np.ndarray  # (k, d * d)
    size: np.ndarray  # one element and d dimensions: its shape is a tuple whose length the compiler knows


class Triangular(NamedTuple):
    """Factors over √2, so that squares come halved; flat but for the means, as parts of flat arrays cost nothing."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    factors: np.ndarray  # (k * packed,), by `pack_triangles`
    shifts: np.ndarray  # (k * d,): -F μ of what is expanded, 0 of what is centred
    centred: np.ndarray  # (k,) bool


@kernel(flags=SUMS)
def _small_quadratic(tile, mean, factor, log_constant, out, dims):
    d = len(dims)  # a constant to the compiler, which unrolls both feature loops
    for i in range(TILE_ROWS):
        total = 0.0
        for r in range(d):
            y = 0.0
            for j in range(r + 1):
                y += factor[r * d + j] * (tile[j * TILE_STRIDE + i] - mean[j])
            total += y * y
        out[i] = log_constant - 0.5 * total


@log_densities.body(SmallTriangular)
@kernel
def _log_densities_small(form, tile, out):
    for c in range(form.means.shape[0]):
        _small_quadratic(
            tile, form.means[c], form.factors[c], form.log_constants[c], out[c * TILE_STRIDE :], form.size.shape
        )


@kernel(flags=SUMS)
def _small_moments(tile, centre, values, share, weight, first, second, dims):
    """Weight and all moments of d <= 4 features in one sweep, held in registers.

    The responsibilities are values * share. Branches on d are settled at compile time.
    """
    d = len(dims)
    n = f0 = f1 = f2 = f3 = 0.0
    s00 = s10 = s11 = s20 = s21 = s22 = s30 = s31 = s32 = s33 = 0.0
    for i in range(TILE_ROWS):
        v = values[i] * share[i]
        n += v
        x0 = tile[i] - centre[0]
        a0 = v * x0
        f0 += a0
        s00 += a0 * x0
        if d > 1:
            x1 = tile[TILE_STRIDE + i] - centre[1]
            a1 = v * x1
            f1 += a1
            s10 += a1 * x0
            s11 += a1 * x1
        if d > 2:
            x2 = tile[2 * TILE_STRIDE + i] - centre[2]
            a2 = v * x2
            f2 += a2
            s20 += a2 * x0
            s21 += a2 * x1
            s22 += a2 * x2
        if d > 3:
            x3 = tile[3 * TILE_STRIDE + i] - centre[3]
            a3 = v * x3
            f3 += a3
            s30 += a3 * x0
            s31 += a3 * x1
            s32 += a3 * x2
            s33 += a3 * x3
    weight[0] += n
    first[0] += f0
    second[0] += s00
    if d > 1:
        first[1] += f1
        second[d] += s10
        second[d + 1] += s11
    if d > 2:
        first[2] += f2
        second[2 * d] += s20
        second[2 * d + 1] += s21
        second[2 * d + 2] += s22
    if d > 3:
        first[3] += f3
        second[3 * d] += s30
        second[3 * d + 1] += s31
        second[3 * d + 2] += s32
        second[3 * d + 3] += s33


@accumulate.body(SmallTriangular)
@kernel
def _accumulate_small(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    scale(inverse, weights, inverse)
    for c in range(k):
        weight = sums[HEAD + c :]
        first = sums[HEAD + k + c * d :]
        second = sums[HEAD + k + k * d + c * d * d :]
        _small_moments(tile, centres[c], values[c * TILE_STRIDE :], inverse, weight, first, second, form.size.shape)


@log_densities.body(Triangular)
@kernel
def _log_densities(form, tile, out):
    d = form.means.shape[1]
    packed = d * (d + 1) // 2
    for c in range(form.means.shape[0]):
        x = rest(tile, 0)
        if form.centred[c]:
            x = rest(tile, d * TILE_STRIDE)
            subtract_centre(tile, form.means[c], x)
        factor, shift = rest(form.factors, c * packed), rest(form.shifts, c * d)
        subtract_squares(factor, shift, rest(form.log_constants, c), x, d, out[c * TILE_STRIDE :])


@accumulate.body(Triangular)
@kernel
def _accumulate(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    scale(inverse, weights, inverse)
    scale_components(values, k, inverse, sums[HEAD:])
    weighted = rest(tile, 2 * d * TILE_STRIDE)
    for c in range(k):
        x = rest(tile, 0)
        if form.centred[c]:
            x = rest(tile, d * TILE_STRIDE)
            subtract_centre(tile, centres[c], x)
        first, second = rest(sums, HEAD + k + c * d), rest(sums, HEAD + k + k * d + c * d * d)
        add_scatter(x, d, rest(values, c * TILE_STRIDE), weighted, first, second)


@working_features.register
def _(form: SmallTriangular) -> int:
    return form.means.shape[1]


@working_features.register
def _(form: Triangular) -> int:
    return 2 * form.means.shape[1] + BLOCK_ROWS


@n_moments.register(SmallTriangular)
@n_moments.register(Triangular)
def _(form: Any) -> int:
    k, d = form.means.shape
    return k * (1 + d + d * d)


def _cut(form: Any, sums: np.ndarray, centres: np.ndarray) -> Moments:
    k, d = form.means.shape
    first, second = sums[k : k + k * d], sums[k + k * d :]
    return Moments(centres, sums[:k], first.reshape(k, d), second.reshape(k, d, d))


@cut_moments.register
def _(form: SmallTriangular, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    return _cut(form, sums, centres)  # the reference is zero


@cut_moments.register
def _(form: Triangular, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    return _cut(form, sums, form.reference + np.where(form.centred[:, None], centres, 0.0))


@lru_cache(maxsize=len(SMALL_SIZES))
def _size(d: int) -> np.ndarray:
    return np.empty((1,) * d)


@kernel
def triangular_log_constants(weights, factors):
    """log w + log |F| - d/2 log 2π of lower triangular factors (k, d, d); -inf for a component without weight."""
    k, d = factors.shape[:2]
    out = np.empty(k)
    for c in range(k):
        # NumPy would warn of the logarithm of a weight of zero.
        out[c] = (np.log(weights[c]) if weights[c] > 0.0 else -np.inf) - d * _HALF_LOG_2_PI
        for j in range(d):
            out[c] += np.log(factors[c, j, j])
    return out


def triangular_spreads(factors: np.ndarray, covariances: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """How much larger the terms are that are added than their sum, by component with means `offsets` off a reference.

    Σ_rj F_rj² E[x_j²] with x about the reference: the squared distance F (x - μ) but for all cancellation.
    """
    sizes = np.einsum("cjj->cj", covariances) + offsets**2
    return np.einsum("crj,cj->c", factors**2, sizes)


def triangular(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, factors: np.ndarray, single: bool
) -> SmallTriangular | Triangular:
    """Form for one lower triangular factor (k, d, d) per component; Fᵀ F is its precision.

    In float32 if the rows are `single` and their digits suffice. What is narrow is centred, and where that is not
    enough, all is, with rows as they are.
    """
    d = means.shape[1]
    if d <= SMALL_SIZES[-1]:
        return centred_triangular(weights, means, factors)
    reference, offsets = about_reference(weights, means)
    variances = np.einsum("cjj->cj", covariances)
    spreads = triangular_spreads(factors, covariances, offsets)
    single = single and suits_single(variances, offsets)
    types = (np.dtype(np.float32), np.dtype(np.float64)) if single else (np.dtype(np.float64),)
    for dtype in types:
        if spreads.max() <= LARGEST_CENTRED_SPREAD[dtype]:
            expanded = (spreads <= LARGEST_SPREAD[dtype]) & is_near(variances, offsets).all(axis=1)
            return _triangular(weights, offsets, reference, factors, expanded, dtype)
    return centred_triangular(weights, means, factors)


def centred_triangular(weights: np.ndarray, means: np.ndarray, factors: np.ndarray) -> SmallTriangular | Triangular:
    """The form that is good for any parameters, rows and centres of moments: nothing is expanded."""
    k, d = means.shape
    if d <= SMALL_SIZES[-1]:
        log_constants = triangular_log_constants(weights, factors)
        return SmallTriangular(log_constants, means, np.zeros(d), factors.reshape(k, d * d), _size(d))
    return _triangular(weights, means, np.zeros(d), factors, np.zeros(k, np.bool_), np.dtype(np.float64))


def _triangular(
    weights: np.ndarray,
    offsets: np.ndarray,
    reference: np.ndarray,
    factors: np.ndarray,
    expanded: np.ndarray,
    dtype: np.dtype,
) -> Triangular:
    log_constants = triangular_log_constants(weights, factors)
    halved = math.sqrt(0.5) * factors
    shifts = np.where(expanded[:, None], -(halved @ offsets[:, :, None])[:, :, 0], 0.0)
    log_constants, offsets, packed, shifts = (
        part.astype(dtype) for part in (log_constants, offsets, pack_triangles(halved), shifts)
    )
    return Triangular(log_constants, offsets, reference, packed.ravel(), shifts.ravel(), ~expanded)
