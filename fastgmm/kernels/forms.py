"""How a component's log-densities and moments are computed on a tile: one parameter tuple per form.

The class of the tuple chooses the body of `log_densities` and `accumulate`, so the passes know no form. Features are
padded with zeros to a size the form can walk in blocks; the padding adds exact zeros to every sum.

    SmallTriangular    a factor per component, the dimension known to the compiler (d <= 12)
    BlockedTriangular  a factor per component, walked in 4 x 8 blocks (any d)
    SharedTriangular   one factor for all components (any d)
    Diagonal           a scale per component and feature
    Isotropic          a scale per component
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastgmm.kernels._jit import SUMS, TILE_ROWS, chosen_by_class, kernel
from fastgmm.kernels.tiles import divide, scale_components, subtract_centre

# Dimensions that are compile-time constants; in between, rows are padded. Beyond the last, LLVM stops unrolling.
SMALL_SIZES = (1, 2, 3, 4, 6, 8, 12)
# A sum's first two entries: the log-likelihood, and the number of rows too far from every component.
HEAD = 2
HALF_TILE = TILE_ROWS // 2
# Tuples whose lengths are the sides of a factor's blocks: constants to the compiler.
_FOUR = (0,) * 4
_EIGHT = (0,) * 8


class SmallTriangular(NamedTuple):
    """y = F (x - μ), log-density = log_constant - |y|² / 2."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    factors: np.ndarray  # (k, d * d)
    size: np.ndarray  # one element and d dimensions: its shape is a tuple whose length the compiler knows


class BlockedTriangular(NamedTuple):
    """As SmallTriangular, with each factor cut into blocks in the order in which they are walked."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d), d a multiple of 4
    factors: np.ndarray  # (k, blocks)


class SharedTriangular(NamedTuple):
    """z = F (x - reference) once a tile, log-density = log_constant_c - |z - z_c|² / 2."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d), d a multiple of 4
    reference: np.ndarray  # (d,)
    whitened_means: np.ndarray  # (k, d): z_c = F (μ_c - reference)
    factor: np.ndarray  # 4 x 4 blocks


class Diagonal(NamedTuple):
    """log-density = log_constant - Σ_j ((x_j - μ_j) scale_j)² / 2."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d), d a multiple of 4
    scales: np.ndarray  # (k, d)


class Isotropic(NamedTuple):
    """log-density = log_constant - scale² |x - μ|² / 2."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d), d a multiple of 4
    half_precisions: np.ndarray  # (k,): scale² / 2


@chosen_by_class
def log_densities(form, tile, work, out):
    """out[c * b + i] = log w_c + log N(x_i | μ_c, Σ_c) for the b rows of a tile."""


@chosen_by_class
def accumulate(form, tile, work, values, total, weights, centres, sums):
    """Turn `values` / `total` into responsibilities and add a tile's weight and moments to `sums`.

    `values` is what `exponentiate` left and is overwritten; moments are about `centres` (k, d).
    """


# n rows, d features (padded), k components, b = TILE_ROWS rows in a tile


@kernel(flags=SUMS)
def _small_quadratic(tile, mean, factor, log_constant, out, dims):
    d = len(dims)  # a constant to the compiler, which unrolls both feature loops
    for i in range(TILE_ROWS):
        total = 0.0
        for r in range(d):
            y = 0.0
            for j in range(r + 1):
                y += factor[r * d + j] * (tile[j * TILE_ROWS + i] - mean[j])
            total += y * y
        out[i] = log_constant - 0.5 * total


@log_densities.body(SmallTriangular)
@kernel
def _log_densities_small(form, tile, work, out):
    for c in range(form.means.shape[0]):
        _small_quadratic(
            tile, form.means[c], form.factors[c], form.log_constants[c], out[c * TILE_ROWS :], form.size.shape
        )


@kernel(flags=SUMS)
def _small_moments(tile, centre, r, first, second, dims):
    """All moments of d <= 4 features in one sweep, held in registers; branches on d are settled at compile time."""
    d = len(dims)
    f0 = f1 = f2 = f3 = 0.0
    s00 = s10 = s11 = s20 = s21 = s22 = s30 = s31 = s32 = s33 = 0.0
    for i in range(TILE_ROWS):
        v = r[i]
        x0 = tile[i] - centre[0]
        a0 = v * x0
        f0 += a0
        s00 += a0 * x0
        if d > 1:
            x1 = tile[TILE_ROWS + i] - centre[1]
            a1 = v * x1
            f1 += a1
            s10 += a1 * x0
            s11 += a1 * x1
        if d > 2:
            x2 = tile[2 * TILE_ROWS + i] - centre[2]
            a2 = v * x2
            f2 += a2
            s20 += a2 * x0
            s21 += a2 * x1
            s22 += a2 * x2
        if d > 3:
            x3 = tile[3 * TILE_ROWS + i] - centre[3]
            a3 = v * x3
            f3 += a3
            s30 += a3 * x0
            s31 += a3 * x1
            s32 += a3 * x2
            s33 += a3 * x3
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


@kernel
def _add_three(out, at, skip, s0, s1, s2):
    if skip < 1:
        out[at] += s0
    if skip < 2:
        out[at + 1] += s1
    out[at + 2] += s2


@kernel(flags=SUMS)
def _moments_3x3(a, b, second, stride, skip_rows, skip_columns):
    """second[j, m] += Σ_i a_ji b_mi for 3 x 3 outputs, of which the first rows and columns may be left out.

    Nine sums and six operands are what sixteen vector registers hold: 36 GFLOP/s of 42 on AVX2, where 4 x 4 spills
    and gives 18.
    """
    s00 = s01 = s02 = s10 = s11 = s12 = s20 = s21 = s22 = 0.0
    for i in range(TILE_ROWS):
        a0 = a[i]
        a1 = a[TILE_ROWS + i]
        a2 = a[2 * TILE_ROWS + i]
        b0 = b[i]
        b1 = b[TILE_ROWS + i]
        b2 = b[2 * TILE_ROWS + i]
        s00 += a0 * b0
        s01 += a0 * b1
        s02 += a0 * b2
        s10 += a1 * b0
        s11 += a1 * b1
        s12 += a1 * b2
        s20 += a2 * b0
        s21 += a2 * b1
        s22 += a2 * b2
    if skip_rows < 1:
        _add_three(second, 0, skip_columns, s00, s01, s02)
    if skip_rows < 2:
        _add_three(second, stride, skip_columns, s10, s11, s12)
    _add_three(second, 2 * stride, skip_columns, s20, s21, s22)


@kernel
def _second_moments(weighted, x, features, second):
    """Add Σ_i weighted_i x_iᵀ to the lower triangle of `second` (features, features), features at least 3.

    Where 3 does not divide the features, the last block overlaps the one before and leaves out what that has added.
    """
    for j in range(0, features, 3):
        row = min(j, features - 3)
        for m in range(0, j + 1, 3):
            column = min(m, features - 3)
            _moments_3x3(
                weighted[row * TILE_ROWS :],
                x[column * TILE_ROWS :],
                second[row * features + column :],
                features,
                j - row,
                m - column,
            )


@kernel(flags=SUMS)
def _centre_and_weigh(x, centre, r, deviation, weighted):
    """deviation = x - centre and weighted = r deviation for one feature; returns the sum of the latter."""
    total = 0.0
    for i in range(TILE_ROWS):
        difference = x[i] - centre
        product = r[i] * difference
        deviation[i] = difference
        weighted[i] = product
        total += product
    return total


@kernel
def _centred_moments(tile, centre, r, features, work, first, second):
    weighted = work[features * TILE_ROWS :]
    for j in range(features):
        at = j * TILE_ROWS
        first[j] += _centre_and_weigh(tile[at:], centre[j], r, work[at:], weighted[at:])
    _second_moments(weighted, work, features, second)


@kernel
def _component_moments(tile, centre, r, work, first, second, size):
    # Numba settles this branch by the type of `size` and compiles only one of the two.
    if size.ndim <= 4:
        _small_moments(tile, centre, r, first, second, size.shape)
    else:
        _centred_moments(tile, centre, r, size.ndim, work, first, second)


@accumulate.body(SmallTriangular)
@kernel
def _accumulate_small(form, tile, work, values, total, weights, centres, sums):
    k, d = form.means.shape
    divide(weights, total, total)
    scale_components(values, k, total, sums[HEAD:])
    for c in range(k):
        first = sums[HEAD + k + c * d :]
        second = sums[HEAD + k + k * d + c * d * d :]
        _component_moments(tile, centres[c], values[c * TILE_ROWS :], work, first, second, form.size)


@kernel(flags=SUMS)
def _begin_block(x, factor, y, out_rows, in_rows):
    """y = factor x for feature-major x (in_rows, b), y (out_rows, b); both sizes are compile-time constants.

    The two halves of the tile go side by side, so that an element of the factor is loaded once for both.
    """
    e, w = len(out_rows), len(in_rows)
    for i in range(HALF_TILE):
        for r in range(e):
            upper = lower = 0.0
            for j in range(w):
                f = factor[r * w + j]
                upper += f * x[j * TILE_ROWS + i]
                lower += f * x[j * TILE_ROWS + HALF_TILE + i]
            y[r * TILE_ROWS + i] = upper
            y[r * TILE_ROWS + HALF_TILE + i] = lower


@kernel(flags=SUMS)
def _add_block(x, factor, y, out_rows, in_rows):
    """y += factor x."""
    e, w = len(out_rows), len(in_rows)
    for i in range(HALF_TILE):
        for r in range(e):
            upper = y[r * TILE_ROWS + i]
            lower = y[r * TILE_ROWS + HALF_TILE + i]
            for j in range(w):
                f = factor[r * w + j]
                upper += f * x[j * TILE_ROWS + i]
                lower += f * x[j * TILE_ROWS + HALF_TILE + i]
            y[r * TILE_ROWS + i] = upper
            y[r * TILE_ROWS + HALF_TILE + i] = lower


@kernel(flags=SUMS)
def _begin_square(x, corner, out, log_constant, rows):
    """out = log_constant - |tril(corner) x|² / 2."""
    e = len(rows)
    for i in range(TILE_ROWS):
        square = 0.0
        for r in range(e):
            y = 0.0
            for j in range(r + 1):
                y += corner[r * e + j] * x[j * TILE_ROWS + i]
            square += y * y
        out[i] = log_constant - 0.5 * square


@kernel(flags=SUMS)
def _finish_square(x, corner, y, out, rows):
    """out -= |y + tril(corner) x|² / 2."""
    e = len(rows)
    for i in range(TILE_ROWS):
        square = 0.0
        for r in range(e):
            total = y[r * TILE_ROWS + i]
            for j in range(r + 1):
                total += corner[r * e + j] * x[j * TILE_ROWS + i]
            square += total * total
        out[i] -= 0.5 * square


@kernel
def _blocked_quadratic(x, factor, log_constant, features, y, out):
    """Walk the factor in rows of four: a 4 x 4 corner on the diagonal, 4 x 8 blocks (one 4 x 4) left of it."""
    _begin_square(x, factor, out, log_constant, _FOUR)
    at = 16
    for r in range(4, features, 4):
        if r >= 8:
            _begin_block(x, factor[at:], y, _FOUR, _EIGHT)
            at += 32
            j = 8
        else:
            _begin_block(x, factor[at:], y, _FOUR, _FOUR)
            at += 16
            j = 4
        while j + 8 <= r:
            _add_block(x[j * TILE_ROWS :], factor[at:], y, _FOUR, _EIGHT)
            at += 32
            j += 8
        if j < r:
            _add_block(x[j * TILE_ROWS :], factor[at:], y, _FOUR, _FOUR)
            at += 16
        _finish_square(x[r * TILE_ROWS :], factor[at:], y, out, _FOUR)
        at += 16


@log_densities.body(BlockedTriangular)
@kernel
def _log_densities_blocked(form, tile, work, out):
    k, d = form.means.shape
    y = work[d * TILE_ROWS :]
    for c in range(k):
        subtract_centre(tile, form.means[c], d, work)
        _blocked_quadratic(work, form.factors[c], form.log_constants[c], d, y, out[c * TILE_ROWS :])


@accumulate.body(BlockedTriangular)
@kernel
def _accumulate_blocked(form, tile, work, values, total, weights, centres, sums):
    k, d = form.means.shape
    divide(weights, total, total)
    scale_components(values, k, total, sums[HEAD:])
    for c in range(k):
        first = sums[HEAD + k + c * d :]
        second = sums[HEAD + k + k * d + c * d * d :]
        _centred_moments(tile, centres[c], values[c * TILE_ROWS :], d, work, first, second)


@kernel(flags=SUMS)
def _four_squares(x, mean, out):
    """out += Σ_j (x_j - mean_j)² over four features."""
    m0, m1, m2, m3 = mean[0], mean[1], mean[2], mean[3]
    for i in range(TILE_ROWS):
        x0 = x[i] - m0
        x1 = x[TILE_ROWS + i] - m1
        x2 = x[2 * TILE_ROWS + i] - m2
        x3 = x[3 * TILE_ROWS + i] - m3
        out[i] += (x0 * x0 + x1 * x1) + (x2 * x2 + x3 * x3)


@kernel
def squared_distances(tile, mean, features, out):
    """out[i] = |x_i - mean|² for a tile whose features are a multiple of four."""
    for i in range(TILE_ROWS):
        out[i] = 0.0
    for j in range(0, features, 4):
        _four_squares(tile[j * TILE_ROWS :], mean[j:], out)


@kernel
def _scale_and_shift(values, scale, shift):
    for i in range(TILE_ROWS):
        values[i] = shift - scale * values[i]


@log_densities.body(SharedTriangular)
@kernel
def _log_densities_shared(form, tile, work, out):
    k, d = form.means.shape
    z = work[d * TILE_ROWS :]
    subtract_centre(tile, form.reference, d, work)
    at = 0
    for r in range(0, d, 4):
        _begin_block(work, form.factor[at:], z[r * TILE_ROWS :], _FOUR, _FOUR)
        at += 16
        for j in range(4, r + 1, 4):
            _add_block(work[j * TILE_ROWS :], form.factor[at:], z[r * TILE_ROWS :], _FOUR, _FOUR)
            at += 16
    for c in range(k):
        squared_distances(z, form.whitened_means[c], d, out[c * TILE_ROWS :])
        _scale_and_shift(out[c * TILE_ROWS :], 0.5, form.log_constants[c])


@kernel
def _subtract_multiple(r, factor, out):
    for i in range(TILE_ROWS):
        out[i] -= r[i] * factor


@kernel
def _scale(values, scale, out):
    for i in range(TILE_ROWS):
        out[i] = values[i] * scale[i]


@kernel(flags=SUMS)
def _first_about(x, centre, r):
    """Σ_i r_i (x_i - centre) for one feature."""
    total = 0.0
    for i in range(TILE_ROWS):
        total += r[i] * (x[i] - centre)
    return total


@accumulate.body(SharedTriangular)
@kernel
def _accumulate_shared(form, tile, work, values, total, weights, centres, sums):
    """Scatter about each row's own mixture of centres, and the products of responsibilities.

    Σ_c r_c (x - μ_c)(x - μ_c)ᵀ = (x - m)(x - m)ᵀ + ½ Σ_ab r_a r_b (μ_a - μ_b)(μ_a - μ_b)ᵀ with m = Σ_c r_c μ_c: exact,
    no large number less a large one, and d² + k² products a row in place of k d².
    """
    k, d = form.means.shape
    padded = (k + 3) // 4 * 4
    scatter = sums[HEAD + k + k * d :]
    products = sums[HEAD + k + k * d + d * d :]
    deviations = work[: d * TILE_ROWS]
    weighted = work[d * TILE_ROWS :]
    for i in range(TILE_ROWS):
        total[i] = 1.0 / total[i]
    for c in range(k):
        _scale(values[c * TILE_ROWS :], total, values[c * TILE_ROWS :])
        _scale(values[c * TILE_ROWS :], weights, weighted[c * TILE_ROWS :])
    for i in range(k * TILE_ROWS, padded * TILE_ROWS):
        values[i] = 0.0
        weighted[i] = 0.0
    _second_moments(weighted, values, padded, products)
    subtract_centre(tile, form.reference, d, deviations)
    for c in range(k):
        for j in range(d):
            _subtract_multiple(values[c * TILE_ROWS :], centres[c, j] - form.reference[j], deviations[j * TILE_ROWS :])
    for j in range(d):
        _scale(deviations[j * TILE_ROWS :], weights, weighted[j * TILE_ROWS :])
    _second_moments(weighted, deviations, d, scatter)
    scale_components(values, k, weights, sums[HEAD:])
    for c in range(k):
        for j in range(d):
            sums[HEAD + k + c * d + j] += _first_about(tile[j * TILE_ROWS :], centres[c, j], values[c * TILE_ROWS :])


@kernel(flags=SUMS)
def _four_scaled_squares(x, mean, scale, out):
    m0, m1, m2, m3 = mean[0], mean[1], mean[2], mean[3]
    p0, p1, p2, p3 = scale[0], scale[1], scale[2], scale[3]
    for i in range(TILE_ROWS):
        y0 = (x[i] - m0) * p0
        y1 = (x[TILE_ROWS + i] - m1) * p1
        y2 = (x[2 * TILE_ROWS + i] - m2) * p2
        y3 = (x[3 * TILE_ROWS + i] - m3) * p3
        out[i] += (y0 * y0 + y1 * y1) + (y2 * y2 + y3 * y3)


@log_densities.body(Diagonal)
@kernel
def _log_densities_diagonal(form, tile, work, out):
    k, d = form.means.shape
    for c in range(k):
        density = out[c * TILE_ROWS :]
        for i in range(TILE_ROWS):
            density[i] = 0.0
        for j in range(0, d, 4):
            _four_scaled_squares(tile[j * TILE_ROWS :], form.means[c, j:], form.scales[c, j:], density)
        _scale_and_shift(density, 0.5, form.log_constants[c])


@kernel(flags=SUMS)
def _four_moments(x, centre, r, first, second):
    """First and second moments of four features about their centres."""
    c0, c1, c2, c3 = centre[0], centre[1], centre[2], centre[3]
    f0 = f1 = f2 = f3 = s0 = s1 = s2 = s3 = 0.0
    for i in range(TILE_ROWS):
        v = r[i]
        x0 = x[i] - c0
        x1 = x[TILE_ROWS + i] - c1
        x2 = x[2 * TILE_ROWS + i] - c2
        x3 = x[3 * TILE_ROWS + i] - c3
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
def _accumulate_diagonal(form, tile, work, values, total, weights, centres, sums):
    k, d = form.means.shape
    divide(weights, total, total)
    scale_components(values, k, total, sums[HEAD:])
    for c in range(k):
        first = sums[HEAD + k + c * d :]
        second = sums[HEAD + k + k * d + c * d :]
        for j in range(0, d, 4):
            _four_moments(tile[j * TILE_ROWS :], centres[c, j:], values[c * TILE_ROWS :], first[j:], second[j:])


@log_densities.body(Isotropic)
@kernel
def _log_densities_isotropic(form, tile, work, out):
    k, d = form.means.shape
    for c in range(k):
        squared_distances(tile, form.means[c], d, out[c * TILE_ROWS :])
        _scale_and_shift(out[c * TILE_ROWS :], form.half_precisions[c], form.log_constants[c])


@kernel(flags=SUMS)
def _four_first_moments(x, centre, r, first):
    """First moments of four features; returns the sum of their second moments."""
    c0, c1, c2, c3 = centre[0], centre[1], centre[2], centre[3]
    f0 = f1 = f2 = f3 = square = 0.0
    for i in range(TILE_ROWS):
        v = r[i]
        x0 = x[i] - c0
        x1 = x[TILE_ROWS + i] - c1
        x2 = x[2 * TILE_ROWS + i] - c2
        x3 = x[3 * TILE_ROWS + i] - c3
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
def _accumulate_isotropic(form, tile, work, values, total, weights, centres, sums):
    k, d = form.means.shape
    divide(weights, total, total)
    scale_components(values, k, total, sums[HEAD:])
    for c in range(k):
        square = 0.0
        first = sums[HEAD + k + c * d :]
        for j in range(0, d, 4):
            square += _four_first_moments(tile[j * TILE_ROWS :], centres[c, j:], values[c * TILE_ROWS :], first[j:])
        sums[HEAD + k + k * d + c] += square


def work_size(k: int, features: int) -> int:
    """Floats of working memory that `log_densities` and `accumulate` need."""
    # A tile centred and a tile weighted; with the triangular forms four rows of partial products as well, with the
    # shared one the weighted responsibilities, padded to a multiple of four.
    return (features + max(features + 4, _next_multiple_of_four(k))) * TILE_ROWS


def sums_size(form: Any) -> int:
    """Length of the flat vector of sums: head, weight (k), first moments (k, d), and the form's second moments."""
    k, d = form.means.shape
    second = {
        SmallTriangular: k * d * d,
        BlockedTriangular: k * d * d,
        SharedTriangular: d * d + (-(-k // 4) * 4) ** 2,
        Diagonal: k * d,
        Isotropic: k,
    }[type(form)]
    return HEAD + k + k * d + second


def pad(values: np.ndarray, features: int) -> np.ndarray:
    """Append zeros to the last axis until it has `features` entries; the result is new, float64 and contiguous."""
    out = np.zeros((*values.shape[:-1], features))
    out[..., : values.shape[-1]] = values
    return out


def _next_multiple_of_four(features: int) -> int:
    return -(-features // 4) * 4


@lru_cache(maxsize=32)
def _walk(features: int, widest: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each packed entry of a factor, blocks of 4 rows in the order the kernels walk them."""
    rows, columns = [], []

    def block(r: int, j: int, width: int) -> None:
        rows.append(np.repeat(np.arange(r, r + 4), width))
        columns.append(np.tile(np.arange(j, j + width), 4))

    for r in range(0, features, 4):
        j = 0
        while j < r:
            width = widest if j + widest <= r else 4
            block(r, j, width)
            j += width
        block(r, r, 4)
    return np.concatenate(rows), np.concatenate(columns)


def _log_constants(weights: np.ndarray, log_determinants: Any, features: int) -> np.ndarray:
    # log w + log |F| - d/2 log 2π; a component without weight has density 0.
    with np.errstate(divide="ignore"):
        return np.log(weights) + log_determinants - 0.5 * features * math.log(2 * math.pi)


def triangular(weights: np.ndarray, means: np.ndarray, factors: np.ndarray) -> SmallTriangular | BlockedTriangular:
    """Form for one lower triangular factor (k, d, d) per component; Fᵀ F is its precision."""
    k, features = means.shape
    log_determinants = np.log(np.einsum("cjj->cj", factors)).sum(1)
    log_constants = _log_constants(weights, log_determinants, features)
    size = next((s for s in SMALL_SIZES if s >= features), _next_multiple_of_four(features))
    padded = np.zeros((k, size, size))
    padded[:, :features, :features] = factors
    if size <= SMALL_SIZES[-1]:
        return SmallTriangular(log_constants, pad(means, size), padded.reshape(k, size * size), np.empty((1,) * size))
    rows, columns = _walk(size, 8)
    packed = np.ascontiguousarray(padded[:, rows, columns])
    return BlockedTriangular(log_constants, pad(means, size), packed)


def shared_triangular(weights: np.ndarray, means: np.ndarray, factor: np.ndarray) -> SharedTriangular:
    """Form for one lower triangular factor (d, d) shared by all components."""
    features = means.shape[1]
    size = _next_multiple_of_four(features)
    padded = np.zeros((size, size))
    padded[:features, :features] = factor
    centres = pad(means, size)
    reference = weights @ centres / weights.sum()
    rows, columns = _walk(size, 4)
    return SharedTriangular(
        _log_constants(weights, np.log(np.diag(factor)).sum(), features),
        centres,
        reference,
        np.ascontiguousarray((centres - reference) @ padded.T),
        padded[rows, columns],
    )


def diagonal(weights: np.ndarray, means: np.ndarray, scales: np.ndarray) -> Diagonal:
    """Form for the reciprocal standard deviations (k, d)."""
    features = means.shape[1]
    size = _next_multiple_of_four(features)
    return Diagonal(_log_constants(weights, np.log(scales).sum(1), features), pad(means, size), pad(scales, size))


def isotropic(weights: np.ndarray, means: np.ndarray, scales: np.ndarray) -> Isotropic:
    """Form for one reciprocal standard deviation (k,) per component."""
    features = means.shape[1]
    return Isotropic(
        _log_constants(weights, features * np.log(scales), features),
        pad(means, _next_multiple_of_four(features)),
        0.5 * scales**2,
    )


@kernel
def _add_pairs(products, centres, features, second):
    """Add ½ Σ_ab products_ab (μ_a - μ_b)(μ_a - μ_b)ᵀ to the lower triangle of `second`."""
    k = centres.shape[0]
    for a in range(k):
        for b in range(a):
            both = products[a, b]
            if both != 0.0:
                for j in range(features):
                    scaled = both * (centres[a, j] - centres[b, j])
                    for m in range(j + 1):
                        second[j, m] += scaled * (centres[a, m] - centres[b, m])


def moments(
    form: Any, sums: np.ndarray, centres: np.ndarray, features: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, int]:
    """Cut a vector of sums into centres, weight, first, second, log-likelihood and lost rows, without the padding."""
    k, d = form.means.shape
    weight = sums[HEAD : HEAD + k]
    first = sums[HEAD + k : HEAD + k + k * d].reshape(k, d)[:, :features]
    rest = sums[HEAD + k + k * d :]
    if isinstance(form, SmallTriangular | BlockedTriangular):
        second = rest.reshape(k, d, d)[:, :features, :features]
    elif isinstance(form, SharedTriangular):
        second = rest[: d * d].reshape(d, d)[:features, :features].copy()
        padded = -(-k // 4) * 4
        _add_pairs(rest[d * d :].reshape(padded, padded), centres, features, second)
    elif isinstance(form, Diagonal):
        second = rest.reshape(k, d)[:, :features]
    else:
        second = rest
    return centres[:, :features], weight, first, second, float(sums[0]), int(sums[1])
