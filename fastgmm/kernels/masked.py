"""Forms for rows with missing entries, which are NaN in the tile: integrated out of densities, completed in moments.

MaskedTriangular   a factor per component (any d)
MaskedDiagonal     a scale per component and feature

Let F_m be the columns of a factor F for the features that a row lacks, and F_m = Q R its orthogonal decomposition. The
missing entries that minimise |F (x - μ)|² are their conditional means, the minimum is the exponent of the observed
entries' marginal, and (RᵀR)⁻¹ is the missing entries' conditional covariance:

    log N(x_o | μ_o, Σ_oo) = log |F| - log |R| - |o|/2 log 2π - |F (x̂ - μ)|² / 2

So nothing is inverted but R, no digits go but those that the condition of F itself takes, and with few entries missing
a pattern costs little beside the rows. Moments are those of the completed rows, Σ r (x̂ - c)(x̂ - c)ᵀ + Σ r (RᵀR)⁻¹
(Ghahramani and Jordan 1994, equations 12 to 15; Little and Rubin, "Statistical Analysis with Missing Data", 11.2).
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastgmm.kernels._jit import SUMS, TILE_ROWS, TILE_STRIDE, kernel
from fastgmm.kernels.forms import (
    HEAD,
    Moments,
    accumulate,
    log_densities,
    make_log_constants,
)
from fastgmm.kernels.linalg import dot, subtract_multiple
from fastgmm.kernels.tiles import clear, scale, scale_components
from fastgmm.kernels.triangles import BLOCK_ROWS, add_scatter, pack_triangles, subtract_centre, subtract_squares
from fastgmm.kernels.vectors import rest

# Regression coefficients, which cost as much as so many rows a missing feature, are for more rows than these.
_FEW_ROWS = 4
_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class MaskedTriangular(NamedTuple):
    """Rows in any order, but those that lack the same features are quickest next to each other."""

    log_weights: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    log_determinants: np.ndarray  # (k,): log |F|
    factors: np.ndarray  # (k * packed,): over √2, by `pack_triangles`
    columns: np.ndarray  # (k, d, d): Fᵀ
    zeros: np.ndarray  # (d,)
    shared: bool  # whether all factors are the same and second moments are summed over components

    @property
    def working_features(self) -> int:
        """Features' room that a tile needs."""
        k, d = self.means.shape
        return d + 1 + k * d + d + BLOCK_ROWS

    @property
    def n_moments(self) -> int:
        """Length of the sums after their head."""
        k, d = self.means.shape
        return k * (1 + d + d * d)

    def cut(self, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
        """Cut sums into moments."""
        k, d = self.means.shape
        weight, first, second = np.split(sums[HEAD:], (k, k + k * d))
        second = second.reshape(k, d, d)
        return centres, weight, first.reshape(k, d), second.sum(axis=0) if self.shared else second


class MaskedDiagonal(NamedTuple):
    """log-density = log w + Σ_j of the observed (log_scale_j - ((x_j - μ_j) scale_j)² / 2)."""

    log_weights: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    scales: np.ndarray  # (k, d)
    log_scales: np.ndarray  # (k, d): log scale - log 2π / 2
    summed: bool  # whether second moments are summed over features

    @property
    def working_features(self) -> int:
        """Features' room that a tile needs."""
        return self.means.shape[1]

    @property
    def n_moments(self) -> int:
        """Length of the sums after their head."""
        k, d = self.means.shape
        return k * (1 + 3 * d)

    def cut(self, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
        """Cut sums into moments."""
        k, d = self.means.shape
        first, second, missing = sums[HEAD + k :].reshape(3, k, d)
        # A missing entry is worth its mean and variance: E[x - c] = μ - c, E[(x - c)²] = (μ - c)² + σ²
        shifts = self.means - centres
        first = first + missing * shifts
        second = second + missing * (shifts**2 + 1.0 / self.scales**2)
        return centres, sums[HEAD : HEAD + k], first, second.sum(axis=1) if self.summed else second


# n rows, d features, k components, b = TILE_ROWS rows in a tile, m missing features


@kernel
def _find_changes(tile, features, changes):
    """changes[i] = 1 where row i lacks other features than the row before it, else 0."""
    clear(changes)
    for j in range(features):
        x = rest(tile, j * TILE_STRIDE)
        for i in range(1, TILE_ROWS):
            changes[i] = 1.0 if np.isnan(x[i]) != np.isnan(x[i - 1]) else changes[i]


@kernel
def _next_change(changes, start):
    stop = start + 1
    while stop < TILE_ROWS and changes[stop] == 0.0:
        stop += 1
    return stop


@kernel
def find_missing(values, step, missing):
    """Set the beginning of `missing` to the features of a row that are NaN, values[j * step]; return how many."""
    count = 0
    for j in range(missing.size):
        if np.isnan(values[j * step]):
            missing[count] = j
            count += 1
    return count


@kernel
def orthogonalise(columns, missing, count, basis, inverse):
    """Decompose F_m = Q R: set basis (m, d) to Qᵀ and inverse (m, m) to R⁻¹, both in larger arrays; return log |R|.

    Modified Gram-Schmidt, which is backward stable for what the caller does with it (Björck 1967).
    """
    d = columns.shape[0]
    log_determinant = 0.0
    for a in range(count):
        for r in range(d):
            basis[a, r] = columns[missing[a], r]
    for a in range(count):
        # `inverse` holds R above a; its column a becomes R⁻¹'s once R's column is complete.
        length = np.sqrt(dot(basis[a], basis[a], d))
        log_determinant += np.log(length)
        for r in range(d):
            basis[a, r] /= length
        for b in range(a + 1, count):
            inverse[a, b] = dot(basis[a], basis[b], d)
            subtract_multiple(inverse[a, b], basis[a], basis[b], d)
        # R⁻¹ e_a = (e_a - R⁻¹ (R above a)) / R_aa
        for i in range(a):
            total = 0.0
            for j in range(i, a):
                total += inverse[i, j] * inverse[j, a]
            inverse[i, a] = -total / length
        inverse[a, a] = 1.0 / length
    return log_determinant


@kernel
def regress(columns, missing, count, basis, inverse, work, coefficients):
    """Set coefficients (m, d), in a larger array: x̂_m - μ_m = coefficients (x - μ), with 0 for what is missing itself.

    Column by column, -R⁻¹ Qᵀ F_j; `work` holds a column and its projections.
    """
    d = columns.shape[0]
    column, projections = work[0], work[1]
    a = 0
    for j in range(d):
        if a < count and missing[a] == j:
            for b in range(count):
                coefficients[b, j] = 0.0
            a += 1
            continue
        for r in range(d):
            column[r] = columns[j, r]
        for b in range(count):
            projections[b] = dot(basis[b], column, d)
            subtract_multiple(projections[b], basis[b], column, d)
        for b in range(count):
            total = 0.0
            for i in range(b, count):
                total += inverse[b, i] * projections[i]
            coefficients[b, j] = -total


@kernel
def complete_row(columns, missing, count, basis, inverse, deviation, image, projections):
    """Set the missing features of one row's deviation from a mean, 0 until then, to their conditional means.

    -R⁻¹ Qᵀ F (x - μ); `image` and `projections` hold d.
    """
    d = columns.shape[0]
    for r in range(d):
        image[r] = 0.0
    for j in range(d):
        if deviation[j] != 0.0:
            # Column j of F begins at its row j.
            subtract_multiple(-deviation[j], rest(columns, j * d + j), rest(image, j), d - j)
    for a in range(count):
        projections[a] = dot(basis[a], image, d)
        subtract_multiple(projections[a], basis[a], image, d)
    for a in range(count):
        deviation[missing[a]] = -dot(rest(inverse, a * d + a), rest(projections, a), count - a)


@kernel
def complete_rows(rows, shares, noise, means, columns, out):
    """Set what rows (n, d) lack in `out` to Σ_c share_c (conditional mean_c + R_c⁻¹ noise), for shares (n, k).

    Standard normal noise (n, d) has then the conditional covariance.
    """
    n, d = rows.shape
    k = means.shape[0]
    missing, count = np.empty(d, np.int64), 0
    basis, inverse = np.empty((k, d, d)), np.empty((k, d, d))
    deviation, image, projections = np.empty(d), np.empty(d), np.empty(d)
    for i in range(n):
        new = i == 0
        for j in range(d):
            new |= np.isnan(rows[i, j]) != np.isnan(rows[i - 1, j])
        if new:
            count = find_missing(rest(rows, i * d), 1, missing)
            for c in range(k):
                orthogonalise(columns[c], missing, count, basis[c], inverse[c])
        for a in range(count):
            out[i, missing[a]] = 0.0
        for c in range(k):
            share = shares[i, c]
            if share == 0.0:
                continue
            for j in range(d):
                deviation[j] = 0.0 if np.isnan(rows[i, j]) else rows[i, j] - means[c, j]
            complete_row(columns[c], missing, count, basis[c], inverse[c], deviation, image, projections)
            for a in range(count):
                j = missing[a]
                value = means[c, j] + deviation[j]
                for b in range(a, count):
                    value += inverse[c, a, b] * noise[i, missing[b]]
                out[i, j] += share * value


@kernel
def _observed_deviations(x, mean, out):
    """out = x - mean, and 0 where x is missing."""
    for i in range(TILE_ROWS):
        out[i] = 0.0 if np.isnan(x[i]) else x[i] - mean


@kernel
def _fill(value, out, count):
    for i in range(count):
        out[i] = value


@kernel
def _add_multiple(factor, values, out, count):
    for i in range(count):
        out[i] += factor * values[i]


@kernel(inline=True)
def _complete(deviations, start, stop, missing, count, basis, inverse, columns, work, coefficients):
    """Set the missing features of rows start..stop of a tile, 0 until then, to their conditional means."""
    d = columns.shape[0]
    if stop - start < _FEW_ROWS * count:
        deviation, image, projections = work[0], work[1], work[2]
        for i in range(start, stop):
            for j in range(d):
                deviation[j] = deviations[j * TILE_STRIDE + i]
            complete_row(columns, missing, count, basis, inverse, deviation, image, projections)
            for a in range(count):
                deviations[missing[a] * TILE_STRIDE + i] = deviation[missing[a]]
        return
    regress(columns, missing, count, basis, inverse, work, coefficients)
    for a in range(count):
        out = rest(deviations, missing[a] * TILE_STRIDE + start)
        for j in range(d):
            if coefficients[a, j] != 0.0:
                _add_multiple(coefficients[a, j], rest(deviations, j * TILE_STRIDE + start), out, stop - start)


@log_densities.body(MaskedTriangular)
@kernel
def _log_densities_masked(form, tile, out, ahead):
    """After its features, the tile goes on with `changes` and each component's completed deviations from its mean."""
    k, d = form.means.shape
    changes, completed = rest(tile, d * TILE_STRIDE), rest(tile, (d + 1) * TILE_STRIDE)
    missing = np.empty(d, np.int64)
    basis, inverse, coefficients, work = np.empty((d, d)), np.empty((d, d)), np.empty((d, d)), np.empty((3, d))
    _find_changes(tile, d, changes)
    for c in range(k):
        for j in range(d):
            deviations = rest(completed, (c * d + j) * TILE_STRIDE)
            _observed_deviations(rest(tile, j * TILE_STRIDE), form.means[c, j], deviations)
    start = 0
    while start < TILE_ROWS:
        stop = _next_change(changes, start)
        count = find_missing(rest(tile, start), TILE_STRIDE, missing)
        log_ratio = 0.0
        for c in range(k):
            if count > 0 and (c == 0 or not form.shared):
                log_ratio = orthogonalise(form.columns[c], missing, count, basis, inverse)
            constant = form.log_weights[c]
            if count < d:
                constant += form.log_determinants[c] - log_ratio - (d - count) * _HALF_LOG_2_PI
                deviations = rest(completed, c * d * TILE_STRIDE)
                _complete(deviations, start, stop, missing, count, basis, inverse, form.columns[c], work, coefficients)
            _fill(constant, rest(out, c * TILE_STRIDE + start), stop - start)
        start = stop
    packed, squares = d * (d + 1) // 2, rest(completed, k * d * TILE_STRIDE)
    for c in range(k):
        deviations = rest(completed, c * d * TILE_STRIDE)
        subtract_squares(rest(form.factors, c * packed), form.zeros, form.zeros, deviations, d, squares)
        _add_multiple(1.0, squares, rest(out, c * TILE_STRIDE), TILE_ROWS)


@kernel(flags=SUMS)
def _sum(values, count):
    total = 0.0
    for i in range(count):
        total += values[i]
    return total


@accumulate.body(MaskedTriangular)
@kernel
def _accumulate_masked(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    changes, completed = rest(tile, d * TILE_STRIDE), rest(tile, (d + 1) * TILE_STRIDE)
    deviations = rest(completed, k * d * TILE_STRIDE)
    weighted = rest(deviations, d * TILE_STRIDE)
    shift, missing = np.empty(d), np.empty(d, np.int64)
    basis, root = np.empty((d, d)), np.empty((d, d))
    scale(inverse, weights, inverse)
    scale_components(values, k, inverse, rest(sums, HEAD))
    for c in range(k):
        for j in range(d):
            shift[j] = centres[c, j] - form.means[c, j]
        subtract_centre(rest(completed, c * d * TILE_STRIDE), shift, d, deviations)
        first, second = rest(sums, HEAD + k + c * d), rest(sums, HEAD + k + k * d + c * d * d)
        add_scatter(deviations, d, rest(values, c * TILE_STRIDE), weighted, first, second)
    start = 0
    while start < TILE_ROWS:
        stop = _next_change(changes, start)
        count = find_missing(rest(tile, start), TILE_STRIDE, missing)
        for c in range(k if count > 0 else 0):
            if c == 0 or not form.shared:
                orthogonalise(form.columns[c], missing, count, basis, root)
            share = _sum(rest(values, c * TILE_STRIDE + start), stop - start)
            second = rest(sums, HEAD + k + k * d + c * d * d)
            # Σ r (RᵀR)⁻¹
            for a in range(count):
                for b in range(a + 1):
                    total = 0.0
                    for i in range(a, count):
                        total += root[a, i] * root[b, i]
                    second[missing[a] * d + missing[b]] += share * total
        start = stop


@kernel(flags=SUMS)
def _add_observed(x, mean, scale, log_scale, out):
    """out += log_scale - ((x - mean) scale)² / 2 where x is observed."""
    for i in range(TILE_ROWS):
        y = (x[i] - mean) * scale
        out[i] += 0.0 if np.isnan(y) else log_scale - 0.5 * y * y


@log_densities.body(MaskedDiagonal)
@kernel
def _log_densities_diagonal(form, tile, out, ahead):
    k, d = form.means.shape
    for c in range(k):
        density = rest(out, c * TILE_STRIDE)
        _fill(form.log_weights[c], density, TILE_ROWS)
        for j in range(d):
            x = rest(tile, j * TILE_STRIDE)
            _add_observed(x, form.means[c, j], form.scales[c, j], form.log_scales[c, j], density)


@kernel(flags=SUMS)
def _observed_moments(x, centre, r, first, second, missing):
    """Add Σ r (x - centre) and Σ r (x - centre)² of the observed, and Σ r of the missing."""
    f = s = m = 0.0
    for i in range(TILE_ROWS):
        gone = np.isnan(x[i])
        y = 0.0 if gone else x[i] - centre
        a = r[i] * y
        f += a
        s += a * y
        m += r[i] if gone else 0.0
    first[0] += f
    second[0] += s
    missing[0] += m


@accumulate.body(MaskedDiagonal)
@kernel
def _accumulate_diagonal(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    scale(inverse, weights, inverse)
    scale_components(values, k, inverse, rest(sums, HEAD))
    for c in range(k):
        share = rest(values, c * TILE_STRIDE)
        for j in range(d):
            first = rest(sums, HEAD + k + c * d + j)
            second, missing = rest(first, k * d), rest(first, 2 * k * d)
            _observed_moments(rest(tile, j * TILE_STRIDE), centres[c, j], share, first, second, missing)


def _log(weights: np.ndarray) -> np.ndarray:
    return make_log_constants(weights, 0.0, 0)


def triangular(weights: np.ndarray, means: np.ndarray, factors: np.ndarray, *, shared: bool = False) -> Any:
    """Form for one lower triangular factor (k, d, d) per component, or the same for all."""
    means, d = np.ascontiguousarray(means), means.shape[1]
    log_determinants = np.log(np.einsum("cjj->cj", factors)).sum(axis=1)
    columns = factors.swapaxes(1, 2).copy()
    packed = pack_triangles(math.sqrt(0.5) * factors).ravel()
    return MaskedTriangular(_log(weights), means, np.zeros(d), log_determinants, packed, columns, np.zeros(d), shared)


def diagonal(weights: np.ndarray, means: np.ndarray, scales: np.ndarray, *, summed: bool = False) -> Any:
    """Form for the reciprocal standard deviations (k, d); `summed` if a component's are to be the same."""
    means, scales = np.ascontiguousarray(means), np.ascontiguousarray(scales)
    log_scales = np.log(scales) - _HALF_LOG_2_PI
    return MaskedDiagonal(_log(weights), means, np.zeros(means.shape[1]), scales, log_scales, summed)
