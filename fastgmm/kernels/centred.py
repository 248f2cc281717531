"""Forms that take every row's distance from every mean: exact for any parameters, at any offset.

SmallTriangular    a factor per component, the dimension known to the compiler (d <= 4)
BlockedTriangular  a factor per component (any d)
SharedTriangular   one factor for all components (any d)
Diagonal           a scale per component and feature
Isotropic          a scale per component
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastgmm.kernels._jit import SUMS, TILE_ROWS, TILE_STRIDE, kernel
from fastgmm.kernels.forms import (
    HEAD,
    Moments,
    about_reference,
    accumulate,
    cut_moments,
    log_densities,
    make_log_constants,
    n_moments,
    pad,
    suits_single,
    triangular_spreads,
    working_features,
)
from fastgmm.kernels.products import (
    SCATTER_ROWS,
    add_centred_squares,
    add_products,
    add_scatter,
    multiply,
    pack_rows,
    pack_triangle,
    packed_triangle_size,
)
from fastgmm.kernels.tiles import (
    centre_and_weigh,
    clear,
    scale,
    scale_and_shift,
    scale_components,
    squared_distances,
    subtract_multiple,
)

# Dimensions that are compile-time constants: with so few features all moments of a component fit in the registers.
SMALL_SIZES = (1, 2, 3, 4)
# Largest spread (see `forms.triangular_spreads`) for float32 tiles: the distance y of a row has an error of some
# eps * sqrt(spread), 1e-4, as the rows themselves are rounded to float32 about the reference.
LARGEST_SINGLE_SPREAD = 1e6
_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class SmallTriangular(NamedTuple):
    """y = F (x - μ), log-density = log_constant - |y|² / 2."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    factors: np.ndarray  # (k, d * d)
    size: np.ndarray  # one element and d dimensions: its shape is a tuple whose length the compiler knows


class BlockedTriangular(NamedTuple):
    """As SmallTriangular, with each factor packed for `add_squares`."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    factors: np.ndarray  # (k, packed)
    zeros: np.ndarray  # (d,)


class SharedTriangular(NamedTuple):
    """z = F x once a tile, log-density = log_constant_c - |z - z_c|² / 2."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d), d a multiple of 4
    reference: np.ndarray  # (d,), amid the means
    whitened_means: np.ndarray  # (k, d): z_c = F μ_c
    factor: np.ndarray  # (d, d), packed for `multiply`
    zeros: np.ndarray  # (d,)


class Diagonal(NamedTuple):
    """log-density = log_constant - Σ_j ((x_j - μ_j) scale_j)² / 2."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d), d a multiple of 4
    reference: np.ndarray  # (d,)
    scales: np.ndarray  # (k, d)


class Isotropic(NamedTuple):
    """log-density = log_constant - scale² |x - μ|² / 2."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d), d a multiple of 4
    reference: np.ndarray  # (d,)
    half_precisions: np.ndarray  # (k,): scale² / 2


# n rows, d features (padded), k components, b = TILE_ROWS rows in a tile


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


@log_densities.body(BlockedTriangular)
@kernel
def _log_densities_blocked(form, tile, out):
    k, d = form.means.shape
    for c in range(k):
        clear(out[c * TILE_STRIDE :])
    add_centred_squares(form.factors, form.means, form.zeros, tile, tile[d * TILE_STRIDE :], out)
    for c in range(k):
        scale_and_shift(out[c * TILE_STRIDE :], -0.5, form.log_constants[c])


@kernel
def add_moments(x, centre, share, deviations, weighted, first, second):
    """Add Σ_i share_i (x_i - centre) and Σ_i share_i (x_i - centre)(x_i - centre)ᵀ of a tile x.

    `deviations` and `weighted` hold d and SCATTER_ROWS features.
    """
    d = centre.size
    for j in range(0, d, SCATTER_ROWS):
        count = min(SCATTER_ROWS, d - j)
        at = j * TILE_STRIDE
        for m in range(count):
            row = at + m * TILE_STRIDE
            first[j + m] += centre_and_weigh(
                x[row:], centre[j + m], share, deviations[row:], weighted[m * TILE_STRIDE :]
            )
        add_products(weighted, count, deviations, j + count, second[j * d :], d)


@accumulate.body(BlockedTriangular)
@kernel
def _accumulate_blocked(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    deviations = tile[d * TILE_STRIDE :]
    weighted = tile[2 * d * TILE_STRIDE :]
    scale(inverse, weights, inverse)
    scale_components(values, k, inverse, sums[HEAD:])
    for c in range(k):
        first = sums[HEAD + k + c * d :]
        second = sums[HEAD + k + k * d + c * d * d :]
        add_moments(tile, centres[c], values[c * TILE_STRIDE :], deviations, weighted, first, second)


@log_densities.body(SharedTriangular)
@kernel
def _log_densities_shared(form, tile, out):
    k, d = form.means.shape
    z = tile[d * TILE_STRIDE :]
    multiply(form.factor, form.zeros, tile, d, d, z)
    for c in range(k):
        squared_distances(z, form.whitened_means[c], d, out[c * TILE_STRIDE :])
        scale_and_shift(out[c * TILE_STRIDE :], -0.5, form.log_constants[c])


@kernel(flags=SUMS)
def _first_about(x, centre, r):
    """Σ_i r_i (x_i - centre) for one feature."""
    total = 0.0
    for i in range(TILE_ROWS):
        total += r[i] * (x[i] - centre)
    return total


@accumulate.body(SharedTriangular)
@kernel
def _accumulate_shared(form, tile, values, inverse, weights, centres, sums):
    """Scatter about each row's own mixture of centres, and the products of responsibilities.

    Σ_c r_c (x - μ_c)(x - μ_c)ᵀ = (x - m)(x - m)ᵀ + ½ Σ_ab r_a r_b (μ_a - μ_b)(μ_a - μ_b)ᵀ with m = Σ_c r_c μ_c: exact,
    no large number less a large one, and d² + k² products a row in place of k d².
    """
    k, d = form.means.shape
    scatter = sums[HEAD + k + k * d :]
    products = sums[HEAD + k + k * d + d * d :]
    deviations = tile[d * TILE_STRIDE :]
    weighted = tile[2 * d * TILE_STRIDE :]
    for c in range(k):
        share = values[c * TILE_STRIDE :]
        scale(share, inverse, share)
    add_scatter(values, k, weights, weighted, products)
    for j in range(d):
        row = deviations[j * TILE_STRIDE :]
        for i in range(TILE_ROWS):
            row[i] = tile[j * TILE_STRIDE + i]
        for c in range(k):
            subtract_multiple(values[c * TILE_STRIDE :], centres[c, j], row)
    add_scatter(deviations, d, weights, weighted, scatter)
    scale_components(values, k, weights, sums[HEAD:])
    for c in range(k):
        for j in range(d):
            sums[HEAD + k + c * d + j] += _first_about(
                tile[j * TILE_STRIDE :], centres[c, j], values[c * TILE_STRIDE :]
            )


@kernel(flags=SUMS)
def _four_scaled_squares(x, mean, scales, out):
    m0, m1, m2, m3 = mean[0], mean[1], mean[2], mean[3]
    p0, p1, p2, p3 = scales[0], scales[1], scales[2], scales[3]
    for i in range(TILE_ROWS):
        y0 = (x[i] - m0) * p0
        y1 = (x[TILE_STRIDE + i] - m1) * p1
        y2 = (x[2 * TILE_STRIDE + i] - m2) * p2
        y3 = (x[3 * TILE_STRIDE + i] - m3) * p3
        out[i] += (y0 * y0 + y1 * y1) + (y2 * y2 + y3 * y3)


@log_densities.body(Diagonal)
@kernel
def _log_densities_diagonal(form, tile, out):
    k, d = form.means.shape
    for c in range(k):
        density = out[c * TILE_STRIDE :]
        clear(density)
        for j in range(0, d, 4):
            _four_scaled_squares(tile[j * TILE_STRIDE :], form.means[c, j:], form.scales[c, j:], density)
        scale_and_shift(density, -0.5, form.log_constants[c])


@kernel(flags=SUMS)
def _four_moments(x, centre, r, first, second):
    """First and second moments of four features about their centres."""
    c0, c1, c2, c3 = centre[0], centre[1], centre[2], centre[3]
    f0 = f1 = f2 = f3 = s0 = s1 = s2 = s3 = 0.0
    for i in range(TILE_ROWS):
        v = r[i]
        x0 = x[i] - c0
        x1 = x[TILE_STRIDE + i] - c1
        x2 = x[2 * TILE_STRIDE + i] - c2
        x3 = x[3 * TILE_STRIDE + i] - c3
        a0 = v * x0
        a1 = v * x1
        a2 = v * x2
        a3 = v * x3
        f0 += a0
        f1 += a1
        f2 += a2
        f3 += a3
        s0 += a0 * x0
        s1 += a1 * x1
        s2 += a2 * x2
        s3 += a3 * x3
    first[0] += f0
    first[1] += f1
    first[2] += f2
    first[3] += f3
    second[0] += s0
    second[1] += s1
    second[2] += s2
    second[3] += s3


@accumulate.body(Diagonal)
@kernel
def _accumulate_diagonal(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    scale(inverse, weights, inverse)
    scale_components(values, k, inverse, sums[HEAD:])
    for c in range(k):
        first = sums[HEAD + k + c * d :]
        second = sums[HEAD + k + k * d + c * d :]
        for j in range(0, d, 4):
            _four_moments(tile[j * TILE_STRIDE :], centres[c, j:], values[c * TILE_STRIDE :], first[j:], second[j:])


@log_densities.body(Isotropic)
@kernel
def _log_densities_isotropic(form, tile, out):
    k, d = form.means.shape
    for c in range(k):
        squared_distances(tile, form.means[c], d, out[c * TILE_STRIDE :])
        scale_and_shift(out[c * TILE_STRIDE :], -form.half_precisions[c], form.log_constants[c])


@kernel(flags=SUMS)
def _four_first_moments(x, centre, r, first):
    """First moments of four features; returns the sum of their second moments."""
    c0, c1, c2, c3 = centre[0], centre[1], centre[2], centre[3]
    f0 = f1 = f2 = f3 = square = 0.0
    for i in range(TILE_ROWS):
        v = r[i]
        x0 = x[i] - c0
        x1 = x[TILE_STRIDE + i] - c1
        x2 = x[2 * TILE_STRIDE + i] - c2
        x3 = x[3 * TILE_STRIDE + i] - c3
        f0 += v * x0
        f1 += v * x1
        f2 += v * x2
        f3 += v * x3
        square += v * ((x0 * x0 + x1 * x1) + (x2 * x2 + x3 * x3))
    first[0] += f0
    first[1] += f1
    first[2] += f2
    first[3] += f3
    return square


@accumulate.body(Isotropic)
@kernel
def _accumulate_isotropic(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    scale(inverse, weights, inverse)
    scale_components(values, k, inverse, sums[HEAD:])
    for c in range(k):
        square = 0.0
        first = sums[HEAD + k + c * d :]
        for j in range(0, d, 4):
            square += _four_first_moments(tile[j * TILE_STRIDE :], centres[c, j:], values[c * TILE_STRIDE :], first[j:])
        sums[HEAD + k + k * d + c] += square


@working_features.register
def _(form: SmallTriangular) -> int:
    return form.means.shape[1]


@working_features.register(BlockedTriangular)
@working_features.register(SharedTriangular)
def _(form: Any) -> int:
    return 2 * form.means.shape[1] + SCATTER_ROWS


@working_features.register(Diagonal)
@working_features.register(Isotropic)
def _(form: Any) -> int:
    return form.means.shape[1]


@n_moments.register(SmallTriangular)
@n_moments.register(BlockedTriangular)
def _(form: Any) -> int:
    k, d = form.means.shape
    return k * (1 + d + d * d)


@n_moments.register
def _(form: SharedTriangular) -> int:
    k, d = form.means.shape
    return k + k * d + d * d + k * k


@n_moments.register
def _(form: Diagonal) -> int:
    k, d = form.means.shape
    return k * (1 + 2 * d)


@n_moments.register
def _(form: Isotropic) -> int:
    k, d = form.means.shape
    return k * (2 + d)


def _cut_weight_and_first(form: Any, sums: np.ndarray, features: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight (k,), first moments (k, d) without padding, and the rest."""
    k, d = form.means.shape
    return sums[:k], sums[k : k + k * d].reshape(k, d)[:, :features], sums[k + k * d :]


def _absolute(form: Any, centres: np.ndarray, features: int) -> np.ndarray:
    """Centres in the coordinates of the rows."""
    return (centres + form.reference)[:, :features]


@cut_moments.register
def _(form: SmallTriangular, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    k, d = form.means.shape
    weight, first, rest = _cut_weight_and_first(form, sums, features)
    return Moments(centres, weight, first, rest.reshape(k, d, d))  # the reference is zero


@cut_moments.register
def _(form: BlockedTriangular, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    k, d = form.means.shape
    weight, first, rest = _cut_weight_and_first(form, sums, features)
    return Moments(_absolute(form, centres, features), weight, first, rest.reshape(k, d, d))


@cut_moments.register
def _(form: SharedTriangular, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    k, d = form.means.shape
    weight, first, rest = _cut_weight_and_first(form, sums, features)
    second = rest[: d * d].reshape(d, d)[:features, :features].copy()
    _add_pairs(rest[d * d :].reshape(k, k), centres[:, :features].copy(), second)
    return Moments(_absolute(form, centres, features), weight, first, second)


@cut_moments.register
def _(form: Diagonal, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    weight, first, rest = _cut_weight_and_first(form, sums, features)
    return Moments(_absolute(form, centres, features), weight, first, rest.reshape(form.means.shape)[:, :features])


@cut_moments.register
def _(form: Isotropic, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
    weight, first, second = _cut_weight_and_first(form, sums, features)
    return Moments(_absolute(form, centres, features), weight, first, second)


@kernel
def _add_pairs(products, centres, second):
    """Add ½ Σ_ab products_ab (μ_a - μ_b)(μ_a - μ_b)ᵀ to the lower triangle of `second`."""
    k, features = centres.shape
    for a in range(k):
        for b in range(a):
            both = products[a, b]
            if both != 0.0:
                for j in range(features):
                    scaled = both * (centres[a, j] - centres[b, j])
                    for m in range(j + 1):
                        second[j, m] += scaled * (centres[a, m] - centres[b, m])


@lru_cache(maxsize=len(SMALL_SIZES))
def _size(d: int) -> np.ndarray:
    return np.empty((1,) * d)


def _next_multiple_of_four(features: int) -> int:
    return -(-features // 4) * 4


@kernel
def _pack_factors(factors, out):
    for c in range(factors.shape[0]):
        pack_triangle(factors[c], out[c])


def pack_factors(factors: np.ndarray) -> np.ndarray:
    """Lower triangular factors (k, d, d), each packed for `add_squares`."""
    k, d = factors.shape[:2]
    packed = np.empty((k, packed_triangle_size(d)))
    _pack_factors(factors, packed)
    return packed


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


def triangular(weights: np.ndarray, means: np.ndarray, factors: np.ndarray) -> SmallTriangular | BlockedTriangular:
    """Form for one lower triangular factor (k, d, d) per component; Fᵀ F is its precision."""
    k, d = means.shape
    log_constants = triangular_log_constants(weights, factors)
    if d <= SMALL_SIZES[-1]:
        return SmallTriangular(log_constants, means, np.zeros(d), factors.reshape(k, d * d), _size(d))
    return BlockedTriangular(log_constants, means, np.zeros(d), pack_factors(factors), np.zeros(d))


def single_triangular(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, factors: np.ndarray
) -> BlockedTriangular | None:
    """The same for float32 tiles, read about a reference amid the means; None where that is too coarse."""
    reference, centred = about_reference(weights, means)
    few = means.shape[1] <= SMALL_SIZES[-1]
    if few or not suits_single(np.einsum("cjj->cj", covariances), centred):
        return None
    if triangular_spreads(factors, covariances, centred).max() > LARGEST_SINGLE_SPREAD:
        return None
    log_constants = triangular_log_constants(weights, factors)
    parts = (log_constants, centred, reference, pack_factors(factors), np.zeros(len(reference)))
    return BlockedTriangular(*(part if part is reference else part.astype(np.float32) for part in parts))


def shared_triangular(weights: np.ndarray, means: np.ndarray, factor: np.ndarray) -> SharedTriangular:
    """Form for one lower triangular factor (d, d) shared by all components."""
    features = means.shape[1]
    size = _next_multiple_of_four(features)
    padded = np.zeros((size, size))
    padded[:features, :features] = factor
    packed = np.empty(size * size)
    pack_rows(padded, packed)
    centres = pad(means, size)
    reference = weights @ centres / weights.sum()
    log_constants = make_log_constants(weights, np.log(np.diag(factor)).sum(), features)
    centres -= reference
    return SharedTriangular(log_constants, centres, reference, centres @ padded.T, packed, np.zeros(size))


def diagonal(weights: np.ndarray, means: np.ndarray, scales: np.ndarray) -> Diagonal:
    """Form for the reciprocal standard deviations (k, d)."""
    features = means.shape[1]
    size = _next_multiple_of_four(features)
    log_constants = make_log_constants(weights, np.log(scales).sum(1), features)
    return Diagonal(log_constants, pad(means, size), np.zeros(size), pad(scales, size))


def isotropic(weights: np.ndarray, means: np.ndarray, scales: np.ndarray) -> Isotropic:
    """Form for one reciprocal standard deviation (k,) per component."""
    features = means.shape[1]
    size = _next_multiple_of_four(features)
    log_constants = make_log_constants(weights, features * np.log(scales), features)
    return Isotropic(log_constants, pad(means, size), np.zeros(size), 0.5 * scales**2)
