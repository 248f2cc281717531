"""Forms that take every row's distance from every mean: exact for any parameters, at any offset.

SharedTriangular   one factor for all components
Diagonal           a scale per component and feature
Isotropic          a scale per component
"""

from typing import Any, NamedTuple

import numpy as np
from numba.core import cgutils
from numba.extending import intrinsic

from fastgmm.kernels._jit import COMPILED, SUMS, TILE_ROWS, TILE_STRIDE, kernel
from fastgmm.kernels.fetching import fetch
from fastgmm.kernels.forms import (
    HEAD,
    Moments,
    accumulate,
    log_densities,
    make_log_constants,
    pad,
)
from fastgmm.kernels.products import multiply, pack_rows
from fastgmm.kernels.tiles import (
    clear,
    scale,
    scale_and_shift,
    scale_components,
    squared_distances,
    subtract_multiple,
)
from fastgmm.kernels.triangles import BLOCK_ROWS, add_scatter
from fastgmm.kernels.vectors import INDEX, Emitter, rest, rows_of, void_intrinsic


class SharedTriangular(NamedTuple):
    """z = F x once a tile, log-density = log_constant_c - |z - z_c|² / 2."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d), d a multiple of 4
    reference: np.ndarray  # (d,), amid the means
    whitened_means: np.ndarray  # (k, d): z_c = F μ_c
    factor: np.ndarray  # (d, d), packed for `multiply`
    zeros: np.ndarray  # (d,)

    @property
    def working_features(self) -> int:
        """Features' room that a tile needs."""
        return 2 * self.means.shape[1] + BLOCK_ROWS

    @property
    def n_moments(self) -> int:
        """Length of the sums after their head."""
        k, d = self.means.shape
        return k + k * d + d * d + k * k + d

    def cut(self, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
        """Cut sums into moments."""
        k, d = self.means.shape
        weight, first, others = _cut_weight_and_first(self, sums, features)
        second = others[: d * d].reshape(d, d)[:features, :features].copy()
        _add_pairs(others[d * d : d * d + k * k].reshape(k, k), centres[:, :features].copy(), second)
        return _absolute(self, centres, features), weight, first, second


class Diagonal(NamedTuple):
    """log-density = log_constant - Σ_j ((x_j - μ_j) scale_j)² / 2."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d), d a multiple of 4
    reference: np.ndarray  # (d,)
    scales: np.ndarray  # (k, d)

    @property
    def working_features(self) -> int:
        """Features' room that a tile needs."""
        return self.means.shape[1]

    @property
    def n_moments(self) -> int:
        """Length of the sums after their head."""
        k, d = self.means.shape
        return k * (1 + 2 * d)

    def cut(self, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
        """Cut sums into moments."""
        weight, first, others = _cut_weight_and_first(self, sums, features)
        second = others.reshape(self.means.shape)[:, :features]
        return _absolute(self, centres, features), weight, first, second


class Isotropic(NamedTuple):
    """log-density = log_constant - scale² |x - μ|² / 2."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d), d a multiple of 4
    reference: np.ndarray  # (d,)
    half_precisions: np.ndarray  # (k,): scale² / 2

    @property
    def working_features(self) -> int:
        """Features' room that a tile needs."""
        return self.means.shape[1]

    @property
    def n_moments(self) -> int:
        """Length of the sums after their head."""
        k, d = self.means.shape
        return k * (2 + d)

    def cut(self, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
        """Cut sums into moments."""
        weight, first, second = _cut_weight_and_first(self, sums, features)
        return _absolute(self, centres, features), weight, first, second


# n rows, d features (padded), k components, b = TILE_ROWS rows in a tile


@log_densities.body(SharedTriangular)
@kernel
def _log_densities_shared(form, tile, out, ahead):
    k, d = form.means.shape
    z = rest(tile, d * TILE_STRIDE)
    multiply(form.factor, form.zeros, tile, d, d, z, ahead)
    for c in range(k):
        density = rest(out, c * TILE_STRIDE)
        squared_distances(z, rest(form.whitened_means, c * d), d, density)
        scale_and_shift(density, -0.5, form.log_constants[c])


def _add_first_moments(x, centre, r, first):
    """Add Σ_i r_i (x_i - centre) of four features to `first`.

    Vector by vector: LLVM, free to order the sums, orders them in one way where it compiles this alone, and in another
    as a part of its caller, and which of the two a process runs depends on what it found in the cache.
    """
    first[:4] += (rows_of(x, 4, TILE_ROWS) - centre[:4, None]) @ r[:TILE_ROWS]


def _emit_add_first_moments(e: Emitter, x: Any, centre: Any, r: Any, first: Any) -> None:
    b = e.builder
    centres, sums = [e.broadcast(centre, j) for j in range(4)], [e.variable(e.zeros()) for _ in range(4)]
    with cgutils.for_range_slice(b, INDEX(0), INDEX(TILE_ROWS), INDEX(e.lanes), inc=True) as (i, _):
        share = e.load(r, i)
        for j, sum_ in enumerate(sums):
            feature = e.load(x, b.add(i, INDEX(j * TILE_STRIDE)))
            e.add_product(share, b.fsub(feature, centres[j]), sum_)
    e.add_sums([b.load(sum_) for sum_ in sums], first)


if COMPILED:

    @intrinsic
    def _add_first_moments(typing_context, x, centre, r, first):
        return void_intrinsic(_emit_add_first_moments, x, centre, r, first)


@accumulate.body(SharedTriangular)
@kernel
def _accumulate_shared(form, tile, values, inverse, weights, centres, sums):
    """Scatter about each row's own mixture of centres, and the products of responsibilities.

    Σ_c r_c (x - μ_c)(x - μ_c)ᵀ = (x - m)(x - m)ᵀ + ½ Σ_ab r_a r_b (μ_a - μ_b)(μ_a - μ_b)ᵀ with m = Σ_c r_c μ_c: exact,
    no large number less a large one, and d² + k² products a row in place of k d².
    """
    k, d = form.means.shape
    scatter = rest(sums, HEAD + k + k * d)
    products = rest(scatter, d * d)
    unused = rest(products, k * k)
    deviations, weighted = rest(tile, d * TILE_STRIDE), rest(tile, 2 * d * TILE_STRIDE)
    for c in range(k):
        share = rest(values, c * TILE_STRIDE)
        scale(share, inverse, share)
    add_scatter(values, k, weights, weighted, rest(sums, HEAD), products)
    for j in range(d):
        row = rest(deviations, j * TILE_STRIDE)
        for i in range(TILE_ROWS):
            row[i] = tile[j * TILE_STRIDE + i]
        for c in range(k):
            subtract_multiple(rest(values, c * TILE_STRIDE), centres[c, j], row)
    add_scatter(deviations, d, weights, weighted, unused, scatter)
    for c in range(k):
        share = rest(values, c * TILE_STRIDE)
        scale(share, weights, share)
        for j in range(0, d, 4):
            features, first = rest(tile, j * TILE_STRIDE), rest(sums, HEAD + k + c * d + j)
            _add_first_moments(features, rest(centres, c * d + j), share, first)


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
def _log_densities_diagonal(form, tile, out, ahead):
    k, d = form.means.shape
    for c in range(k):
        fetch(ahead, c, c + 1, k)
        density = rest(out, c * TILE_STRIDE)
        clear(density)
        for j in range(0, d, 4):
            mean, scales = rest(form.means, c * d + j), rest(form.scales, c * d + j)
            _four_scaled_squares(rest(tile, j * TILE_STRIDE), mean, scales, density)
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
    scale_components(values, k, inverse, rest(sums, HEAD))
    for c in range(k):
        share = rest(values, c * TILE_STRIDE)
        for j in range(0, d, 4):
            first = rest(sums, HEAD + k + c * d + j)
            _four_moments(rest(tile, j * TILE_STRIDE), rest(centres, c * d + j), share, first, rest(first, k * d))


@log_densities.body(Isotropic)
@kernel
def _log_densities_isotropic(form, tile, out, ahead):
    k, d = form.means.shape
    for c in range(k):
        fetch(ahead, c, c + 1, k)
        density = rest(out, c * TILE_STRIDE)
        squared_distances(tile, rest(form.means, c * d), d, density)
        scale_and_shift(density, -form.half_precisions[c], form.log_constants[c])


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
    scale_components(values, k, inverse, rest(sums, HEAD))
    for c in range(k):
        square, share = 0.0, rest(values, c * TILE_STRIDE)
        for j in range(0, d, 4):
            features, first = rest(tile, j * TILE_STRIDE), rest(sums, HEAD + k + c * d + j)
            square += _four_first_moments(features, rest(centres, c * d + j), share, first)
        sums[HEAD + k + k * d + c] += square


def _cut_weight_and_first(form: Any, sums: np.ndarray, features: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight (k,), first moments (k, d) without padding, and the rest."""
    k, d = form.means.shape
    weight, first, others = np.split(sums[HEAD:], (k, k + k * d))
    return weight, first.reshape(k, d)[:, :features], others


def _absolute(form: Any, centres: np.ndarray, features: int) -> np.ndarray:
    """Centres in the coordinates of the rows."""
    return (centres + form.reference)[:, :features]


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


def _next_multiple_of_four(features: int) -> int:
    return -(-features // 4) * 4


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
