"""Forms for a covariance matrix per component: log-density = log_constant - |F (x - μ)|² / 2, F lower triangular.

SmallTriangular    the dimension known to the compiler (d <= 4)
Triangular         any d

A Triangular component is *expanded* where that costs no digits that count: y = F x - F μ and moments of x xᵀ, with x
about a reference amid the means, so that no row is centred once per component. It is *centred*, with deviations from
its own mean, where it is too narrow or too far away for that. Both kinds meet in one pass.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import float64
from numba.core import cgutils
from numba.extending import intrinsic

from fastgmm.kernels import forms
from fastgmm.kernels._jit import (
    COMPILED,
    FLAGS,
    FLOAT64,
    FLOATS_1D,
    FLOATS_2D,
    FLOATS_3D,
    INDICES,
    TILE_ROWS,
    TILE_STRIDE,
    declared_kernel,
    kernel,
)
from fastgmm.kernels.fetching import fetch
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
from fastgmm.kernels.tiles import scale, scale_components
from fastgmm.kernels.triangles import (
    BLOCK_ROWS,
    add_scatter,
    pack_triangles,
    packing,
    subtract_centre,
    subtract_squares,
)
from fastgmm.kernels.vectors import INDEX, Emitter, rest, rows_of, void_intrinsic

# Dimensions that are compile-time constants: with so few features all moments of a component fit in the registers.
SMALL_SIZES = (1, 2, 3, 4)
# Largest spread, by the type of the tile, with which rows may be read about a reference at all: rounded there, they
# leave a centred log-density with an error of some eps * sqrt(spread), 1e-10 in float64 and 1e-4 in float32.
LARGEST_CENTRED_SPREAD = {np.dtype(np.float64): 1e12, np.dtype(np.float32): 1e6}

_ROOT_HALF = math.sqrt(0.5)
_FLOAT32 = np.dtype(np.float32)

# n rows, d features, k components, b = TILE_ROWS rows in a tile


def _n_moments(k: int, d: int) -> int:
    return k * (1 + d + d * d)


def _cut(sums: np.ndarray, centres: np.ndarray) -> Moments:
    k, d = centres.shape
    first = HEAD + k
    second = first + k * d
    return centres, sums[HEAD:first], sums[first:second].reshape(k, d), sums[second:].reshape(k, d, d)


class SmallTriangular(NamedTuple):
    """y = F (x - μ), log-density = log_constant - |y|² / 2."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    factors: np.ndarray  # (k, d, d)
    size: np.ndarray  # one element and d dimensions: its shape is a tuple whose length the compiler knows

    def prepare_renewal(self, centres: np.ndarray, weights: np.ndarray, *_: np.ndarray) -> Callable[[], Any]:
        """A call that sets the constants; the other parameters lie here themselves. It returns None."""
        return _set_log_constants.prepare(weights, self.factors, self.log_constants)

    @property
    def working_features(self) -> int:
        """Features' room that a tile needs."""
        return self.means.shape[1]

    @property
    def n_moments(self) -> int:
        """Length of the sums after their head."""
        return _n_moments(*self.means.shape)

    def cut(self, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
        """Cut sums into moments."""
        return _cut(sums, centres)  # the reference is zero


class Triangular(NamedTuple):
    """Factors over √2, so that squares come halved; flat but for the means, as parts of flat arrays cost nothing."""

    log_constants: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)
    factors: np.ndarray  # (k * packed,), by `pack_triangles`
    shifts: np.ndarray  # (k * d,): -F μ of what is expanded, 0 of what is centred
    centred: np.ndarray  # (k,) bool

    def prepare_renewal(
        self, centres: np.ndarray, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, factors: np.ndarray
    ) -> Callable[[], bool]:
        """A call that sets this form by its parameters."""
        centre = set_about_reference.prepare(weights, means, self.reference, self.means)
        expand = self.prepare_expansion(centres, weights, covariances, factors)

        def renew() -> bool:
            centre()
            return not expand(LARGEST_SPREAD[FLOAT64]) <= LARGEST_CENTRED_SPREAD[FLOAT64]

        return renew

    def prepare_expansion(
        self, centres: np.ndarray, weights: np.ndarray, covariances: np.ndarray, factors: np.ndarray
    ) -> Callable[[float], float]:
        """A call of `_expand` for these fields, given the largest spread, about means that have been set."""
        parameters = weights, self.means, covariances, factors
        fields = self.log_constants, self.factors, self.shifts, self.centred
        order = packing(self.means.shape[1])
        return _expand.prepare(*parameters, self.reference, order, forms.FARTHEST_MEAN, *fields, centres)

    def narrowed(self) -> "Triangular":
        """The same for a tile in float32; rows are read relative to float64."""
        log_constants, means, reference, factors, shifts, centred = self
        narrow = (part.astype(_FLOAT32) for part in (log_constants, means, factors, shifts))
        log_constants, means, factors, shifts = narrow
        return Triangular(log_constants, means, reference, factors, shifts, centred)

    @property
    def working_features(self) -> int:
        """Features' room that a tile needs."""
        return 2 * self.means.shape[1] + BLOCK_ROWS

    @property
    def n_moments(self) -> int:
        """Length of the sums after their head."""
        return _n_moments(*self.means.shape)

    def cut(self, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
        """Cut sums into moments."""
        return _cut(sums, self.reference + np.where(self.centred[:, None], centres, 0.0))


def _small_densities(tile, mean, factor, constant, out, dims):
    """out = constant - |F (x - μ)|² / 2 for d <= 4 features."""
    d = len(dims)
    y = factor[: d * d].reshape(d, d) @ (rows_of(tile, d, TILE_ROWS) - mean[:d, None])
    out[:TILE_ROWS] = constant[0] - 0.5 * (y**2).sum(axis=0)


def _emit_small_densities(e: Emitter, d: int, tile: Any, mean: Any, factor: Any, constant: Any, out: Any) -> None:
    b = e.builder
    means = [e.broadcast(mean, j) for j in range(d)]
    rows = [[e.broadcast(factor, r * d + j) for j in range(r + 1)] for r in range(d)]
    log_constant, minus_half = e.broadcast(constant, 0), e.constant(-0.5)
    with cgutils.for_range_slice(b, INDEX(0), INDEX(TILE_ROWS), INDEX(2 * e.lanes), inc=True) as (i, _):
        for at in (i, b.add(i, INDEX(e.lanes))):
            x = [b.fsub(e.load(tile, b.add(at, INDEX(j * TILE_STRIDE))), means[j]) for j in range(d)]
            y = [e.dot(row, x) for row in rows]
            e.store(e.multiply_add(minus_half, e.dot(y, y), log_constant), out, at)


def _small_moments(tile, centre, values, share, weight, first, second, dims):
    """Weight and all moments of d <= 4 features in one sweep; the responsibilities are values * share."""
    d = len(dims)
    responsibilities = values[:TILE_ROWS] * share[:TILE_ROWS]
    deviations = rows_of(tile, d, TILE_ROWS) - centre[:d, None]
    weight[0] += responsibilities.sum()
    first[:d] += deviations @ responsibilities
    second[: d * d].reshape(d, d)[:] += np.tril((deviations * responsibilities) @ deviations.T)


def _emit_small_moments(e: Emitter, d: int, tile: Any, centre: Any, values: Any, share: Any, *outputs: Any) -> None:
    b = e.builder
    weight, first, second = outputs
    chains = max(1, 4 // d)  # vectors side by side: with few sums, each would wait for itself
    # A row for each chain: of the weight, the first moments, and the rows of the second.
    sums = [[e.variable(e.zeros()) for _ in range(1 + d + d * (d + 1) // 2)] for _ in range(chains)]
    centres = [e.broadcast(centre, j) for j in range(d)]
    step = INDEX(chains * e.lanes)
    with cgutils.for_range_slice(b, INDEX(0), INDEX(TILE_ROWS), step, inc=True) as (i, _):
        for v, (count, *moments) in enumerate(sums):
            at = b.add(i, INDEX(v * e.lanes))
            r = b.fmul(e.load(values, at), e.load(share, at))
            x = [b.fsub(e.load(tile, b.add(at, INDEX(j * TILE_STRIDE))), centres[j]) for j in range(d)]
            weighted = [b.fmul(r, feature) for feature in x]
            b.store(b.fadd(b.load(count), r), count)
            for product, sum_ in zip(weighted, moments[:d], strict=True):
                b.store(b.fadd(b.load(sum_), product), sum_)
            pairs = [(product, feature) for row, product in enumerate(weighted) for feature in x[: row + 1]]
            for (product, feature), sum_ in zip(pairs, moments[d:], strict=True):
                e.add_product(product, feature, sum_)
    totals = [functools.reduce(b.fadd, (b.load(sum_) for sum_ in column)) for column in zip(*sums, strict=True)]
    e.add_sums(totals[:1], weight)
    e.add_sums(totals[1 : 1 + d], first)
    for row in range(d):
        begin = 1 + d + row * (row + 1) // 2
        e.add_sums(totals[begin : begin + row + 1], e.at(second, row * d))


if COMPILED:

    @intrinsic
    def _small_densities(typing_context, tile, mean, factor, constant, out, dims):
        def emit(e, *operands):
            _emit_small_densities(e, len(dims), *operands[:-1])

        return void_intrinsic(emit, tile, mean, factor, constant, out, dims)

    @intrinsic
    def _small_moments(typing_context, tile, centre, values, share, weight, first, second, dims):
        def emit(e, *operands):
            _emit_small_moments(e, len(dims), *operands[:-1])

        return void_intrinsic(emit, tile, centre, values, share, weight, first, second, dims)


@log_densities.body(SmallTriangular)
@kernel
def _log_densities_small(form, tile, out, ahead):
    k, d = form.means.shape
    for c in range(k):
        fetch(ahead, c, c + 1, k)
        mean, factor = rest(form.means, c * d), rest(form.factors, c * d * d)
        constant, densities = rest(form.log_constants, c), rest(out, c * TILE_STRIDE)
        _small_densities(tile, mean, factor, constant, densities, form.size.shape)


@accumulate.body(SmallTriangular)
@kernel
def _accumulate_small(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    scale(inverse, weights, inverse)
    for c in range(k):
        weight, first = rest(sums, HEAD + c), rest(sums, HEAD + k + c * d)
        second, centre = rest(sums, HEAD + k + k * d + c * d * d), rest(centres, c * d)
        _small_moments(tile, centre, rest(values, c * TILE_STRIDE), inverse, weight, first, second, form.size.shape)


@log_densities.body(Triangular)
@kernel
def _log_densities(form, tile, out, ahead):
    d = form.means.shape[1]
    packed = d * (d + 1) // 2
    for c in range(form.means.shape[0]):
        fetch(ahead, c, c + 1, form.means.shape[0])
        x = rest(tile, 0)
        if form.centred[c]:
            x = rest(tile, d * TILE_STRIDE)
            subtract_centre(tile, rest(form.means, c * d), d, x)
        factor, shift = rest(form.factors, c * packed), rest(form.shifts, c * d)
        subtract_squares(factor, shift, rest(form.log_constants, c), x, d, rest(out, c * TILE_STRIDE))


@accumulate.body(Triangular)
@kernel
def _accumulate(form, tile, values, inverse, weights, centres, sums):
    k, d = form.means.shape
    scale(inverse, weights, inverse)
    scale_components(values, k, inverse, rest(sums, HEAD))
    weighted = rest(tile, 2 * d * TILE_STRIDE)
    for c in range(k):
        x = rest(tile, 0)
        if form.centred[c]:
            x = rest(tile, d * TILE_STRIDE)
            subtract_centre(tile, rest(centres, c * d), d, x)
        first, second = rest(sums, HEAD + k + c * d), rest(sums, HEAD + k + k * d + c * d * d)
        add_scatter(x, d, rest(values, c * TILE_STRIDE), weighted, first, second)


@functools.lru_cache(maxsize=len(SMALL_SIZES))
def _origin_and_size(d: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(d), np.empty((1,) * d)


@declared_kernel(FLOATS_1D, FLOATS_3D, FLOATS_1D, short=True)
def _set_log_constants(weights, factors, out):
    k, d = factors.shape[:2]
    for c in range(k):
        log_determinant = 0.0
        for j in range(d):
            log_determinant += np.log(factors[c, j, j])
        out[c] = log_constant(weights[c], log_determinant, d)


@declared_kernel(
    *(FLOATS_1D, FLOATS_2D, FLOATS_3D, FLOATS_3D, FLOATS_1D, INDICES, float64),
    *(FLOATS_1D, FLOATS_1D, FLOATS_1D, FLAGS, FLOATS_2D, float64),
    short=True,
)
def _expand(
    weights, means, covariances, factors, reference, order, farthest,
    log_constants, packed, shifts, centred, centres, largest,
):  # fmt: skip
    """Set the fields of a Triangular form, in float64, and where it takes moments about, centres (k, d).

    `means` are relative to the reference. Centred is what is not near by `is_near`, or of a spread beyond `largest`:
    the spread Σ_rj F_rj² E[x_j²] of a component is what the squared distance F (x - μ) would be but for all
    cancellation, so it says how much larger the terms are that are added than their sum. Returns the widest of them.
    """
    k, d = means.shape
    widest = 0.0
    for c in range(k):
        mean, shift, factor = rest(means, c * d), rest(shifts, c * d), rest(factors, c * d * d)
        log_determinant = spread = 0.0
        far = False
        for j in range(d):
            far |= not is_near(mean[j], covariances[c, j, j], farthest)
            log_determinant += np.log(factor[j * d + j])
            shift[j] = 0.0
            for m in range(j + 1):
                entry = factor[j * d + m]
                shift[j] -= entry * mean[m]
                spread += entry * entry * (covariances[c, m, m] + mean[m] * mean[m])
            shift[j] *= _ROOT_HALF
        log_constants[c] = log_constant(weights[c], log_determinant, d)
        centred[c] = far or spread > largest
        for j in range(d):
            centres[c, j] = reference[j] + (mean[j] if centred[c] else 0.0)
            shift[j] = 0.0 if centred[c] else shift[j]
        for i in range(order.size):
            packed[c * order.size + i] = _ROOT_HALF * factor[order[i]]
        widest = widest if spread <= widest else spread  # NaN stays
    return widest


def triangular(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, factors: np.ndarray, single: bool
) -> SmallTriangular | Triangular:
    """Form for one lower triangular factor (k, d, d) per component; Fᵀ F is its precision.

    In float32 if the rows are `single` and their digits suffice. What is narrow is centred, and where that is not
    enough, all is, with rows as they are.
    """
    k, d = means.shape
    if d <= SMALL_SIZES[-1]:
        return _small_triangular(weights, means, factors)
    contiguous = np.ascontiguousarray
    weights, means = contiguous(weights, FLOAT64), contiguous(means, FLOAT64)
    covariances, factors = contiguous(covariances, FLOAT64), contiguous(factors, FLOAT64)
    reference, offsets = about_reference(weights, means)
    log_constants, packed, shifts = np.empty(k), np.empty(k * d * (d + 1) // 2), np.empty(k * d)
    form = Triangular(log_constants, offsets, reference, packed, shifts, np.empty(k, np.bool_))
    expand = form.prepare_expansion(np.empty((k, d)), weights, covariances, factors)
    widest = expand(LARGEST_SPREAD[FLOAT64])
    single = single and widest <= LARGEST_CENTRED_SPREAD[_FLOAT32]
    if single and suits_single(np.einsum("cjj->cj", covariances), offsets):
        expand(LARGEST_SPREAD[_FLOAT32])
        return form.narrowed()
    return form if widest <= LARGEST_CENTRED_SPREAD[FLOAT64] else centred_triangular(weights, means, factors)


def centred_triangular(weights: np.ndarray, means: np.ndarray, factors: np.ndarray) -> SmallTriangular | Triangular:
    """The form that is good for any parameters, rows and centres of moments: nothing is expanded."""
    k, d = means.shape
    if d <= SMALL_SIZES[-1]:
        return _small_triangular(weights, means, factors)
    weights, factors = np.ascontiguousarray(weights, FLOAT64), np.ascontiguousarray(factors, FLOAT64)
    means, packed = np.array(means, FLOAT64, order="C"), pack_triangles(_ROOT_HALF * factors).ravel()
    log_constants = _log_constants(weights, factors)
    return Triangular(log_constants, means, np.zeros(d), packed, np.zeros(k * d), np.ones(k, np.bool_))


def _log_constants(weights: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """`forms.log_constant` of all components; both arguments are contiguous and float64."""
    out = np.empty(len(factors))
    _set_log_constants.call(weights, factors, out)
    return out


def _small_triangular(weights: np.ndarray, means: np.ndarray, factors: np.ndarray) -> SmallTriangular:
    origin, size = _origin_and_size(means.shape[1])
    contiguous = np.ascontiguousarray
    weights, means, factors = contiguous(weights, FLOAT64), contiguous(means, FLOAT64), contiguous(factors, FLOAT64)
    return SmallTriangular(_log_constants(weights, factors), means, origin, factors, size)
