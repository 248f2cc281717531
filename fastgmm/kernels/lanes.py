"""The log-density of a Gaussian mixture for chains in lanes: few points, each a lane, again and again.

The passes over data work on tiles of TILE_ROWS rows and may choose expanded squares; here distances are always taken
from the means, by strips of four vectors of lanes and then single vectors, with the same bits in both. Every lane's
arithmetic is in a fixed order: squares row by row, the sum over components in their order.
"""

import ctypes
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastgmm.kernels._jit import COMPILED, TILE_STRIDE, VECTOR_BYTES, kernel
from fastgmm.kernels.elementary import LOG_COEFFICIENTS, TWO_LESS_ROOT
from fastgmm.kernels.math import LN2_HIGH, LN2_LOW, MANTISSA_BITS, TWO, WHOLE, WHOLE_BIAS, exp
from fastgmm.kernels.softmax import emit_exp
from fastgmm.kernels.triangles import emit_squares, unpack_triangles
from fastgmm.kernels.vectors import INDEX, Emitter, rest, rows_of, void_intrinsic

# k components, d dimensions

LANES = VECTOR_BYTES // 8
WIDE = 4  # vectors of a strip

# Which factors a mixture has: triangles packed by `pack_triangles`; d of a component; one of a component.
FULL, DIAGONAL, ISOTROPIC = 0, 1, 2


def _make_floats_at():
    def floats_at(address, count):
        """The `count` float64 at an address, which somebody else keeps alive; a mere pointer where compiled."""
        return np.ctypeslib.as_array((ctypes.c_double * int(count)).from_address(int(address)))

    def typed(typing_context, address, count):
        def generate(context, builder, signature, values):
            return builder.inttoptr(values[0], ir.DoubleType().as_pointer())

        return types.CPointer(types.float64)(types.int64, types.int64), generate

    return intrinsic(typed) if COMPILED else floats_at


floats_at = _make_floats_at()


def _make_floats_in():
    def floats_in(words, first):
        """words[first:] as float64, a mere pointer where compiled."""
        return words[first:].view(np.float64)

    def typed(typing_context, words, first):
        def generate(context, builder, signature, values):
            data = context.make_array(signature.args[0])(context, builder, values[0]).data
            return builder.bitcast(builder.gep(data, [values[1]]), ir.DoubleType().as_pointer())

        return types.CPointer(types.float64)(words, types.intp), generate

    return intrinsic(typed) if COMPILED else floats_in


floats_in = _make_floats_in()


def _make_clear():
    def clear(values, lanes):
        """values = 0 for whole vectors up to `lanes`.

        A vector read where single numbers were just written would wait until they have reached the cache: 5 ns.
        """
        values[:lanes] = 0.0

    def emit(e, values, lanes):
        with cgutils.for_range_slice(e.builder, INDEX(0), lanes, INDEX(e.lanes), inc=True) as (i, _):
            e.store(e.zeros(), values, i)

    def typed(typing_context, values, lanes):
        return void_intrinsic(emit, values, lanes)

    return intrinsic(typed) if COMPILED else clear


clear = _make_clear()


def _make_square_strip(vectors: int) -> Any:
    def square_strip(factor, means, x, d, out, deviations):
        """out = |F (x - mean)|² on one strip, F lower triangular; `deviations` holds d features."""
        width = vectors * LANES
        matrix = unpack_triangles(factor[: d * (d + 1) // 2], d)
        out[:width] = ((matrix @ (rows_of(x, d, width) - means[:d, None])) ** 2).sum(axis=0)

    def emit(e, factor, means, x, d, out, deviations):
        totals = [e.variable(e.zeros()) for _ in range(vectors)]
        emit_squares(e, factor, None, x, d, totals, centre=(means, deviations))
        for v, total in enumerate(totals):
            e.store(e.builder.load(total), out, v * e.lanes)

    def typed(typing_context, factor, means, x, d, out, deviations):
        return void_intrinsic(emit, factor, means, x, d, out, deviations)

    return intrinsic(typed) if COMPILED else square_strip


def _make_diagonal_strip(vectors: int) -> Any:
    def diagonal_strip(factors, means, x, d, out):
        """out = Σ_p (factors[p] (x[p] - means[p]))² on one strip."""
        width = vectors * LANES
        deviations = factors[:d, None] * (rows_of(x, d, width) - means[:d, None])
        out[:width] = (deviations**2).sum(axis=0)

    def emit(e, factors, means, x, d, out):
        sums = [e.variable(e.zeros()) for _ in range(vectors)]
        with cgutils.for_range(e.builder, d) as loop:
            mean, factor = e.broadcast(means, loop.index), e.broadcast(factors, loop.index)
            at = e.builder.mul(loop.index, INDEX(TILE_STRIDE))
            for v in range(vectors):
                feature = e.load(x, e.builder.add(at, INDEX(v * e.lanes)))
                y = e.builder.fmul(factor, e.builder.fsub(feature, mean))
                e.builder.store(e.multiply_add(y, y, e.builder.load(sums[v])), sums[v])
        for v in range(vectors):
            e.store(e.builder.load(sums[v]), out, v * e.lanes)

    def typed(typing_context, factors, means, x, d, out):
        return void_intrinsic(emit, factors, means, x, d, out)

    return intrinsic(typed) if COMPILED else diagonal_strip


def _make_distance_strip(vectors: int) -> Any:
    def distance_strip(factor, means, x, d, out):
        """out = (factor |x - mean|)² on one strip; `factor` has one entry."""
        width = vectors * LANES
        out[:width] = (factor[0] * factor[0]) * ((rows_of(x, d, width) - means[:d, None]) ** 2).sum(axis=0)

    def emit(e, factor, means, x, d, out):
        sums = [e.variable(e.zeros()) for _ in range(vectors)]
        with cgutils.for_range(e.builder, d) as loop:
            mean = e.broadcast(means, loop.index)
            at = e.builder.mul(loop.index, INDEX(TILE_STRIDE))
            for v in range(vectors):
                y = e.builder.fsub(e.load(x, e.builder.add(at, INDEX(v * e.lanes))), mean)
                e.builder.store(e.multiply_add(y, y, e.builder.load(sums[v])), sums[v])
        scale = e.broadcast(factor, 0)
        square = e.builder.fmul(scale, scale)
        for v in range(vectors):
            e.store(e.builder.fmul(square, e.builder.load(sums[v])), out, v * e.lanes)

    def typed(typing_context, factor, means, x, d, out):
        return void_intrinsic(emit, factor, means, x, d, out)

    return intrinsic(typed) if COMPILED else distance_strip


def _emit_log(e: Emitter, arguments: list[ir.Value]) -> list[ir.Value]:
    """`log_of_normal` of several vectors at once, step by step: the operations of one wait for each other."""
    b = e.builder

    def whole(value):
        return ir.Constant(e.integers, [int(value)] * e.lanes)

    def polynomial(x, highest, *lower):
        values = [e.constant(highest)] * len(x)
        for coefficient in lower:
            values = [e.multiply_add(y, z, e.constant(coefficient)) for y, z in zip(values, x, strict=True)]
        return values

    bits = [b.bitcast(x, e.integers) for x in arguments]
    biased = [b.lshr(b.add(x, whole(TWO_LESS_ROOT)), whole(MANTISSA_BITS)) for x in bits]
    n = [b.fsub(b.bitcast(b.or_(x, whole(WHOLE)), e.vector), e.constant(WHOLE_BIAS)) for x in biased]
    pairs = zip(bits, biased, strict=True)
    m = [b.bitcast(b.sub(b.add(x, whole(TWO)), b.shl(y, whole(MANTISSA_BITS))), e.vector) for x, y in pairs]
    f = [b.fsub(x, e.constant(1.0)) for x in m]
    s = [b.fdiv(x, b.fadd(e.constant(2.0), x)) for x in f]
    z = [b.fmul(x, x) for x in s]
    w = [b.fmul(x, x) for x in z]
    odd = polynomial(w, *reversed(LOG_COEFFICIENTS[::2]))
    even = [b.fmul(x, y) for x, y in zip(w, polynomial(w, *reversed(LOG_COEFFICIENTS[1::2])), strict=True)]
    half_squares = [b.fmul(b.fmul(e.constant(0.5), x), x) for x in f]
    results = []
    for v in range(len(arguments)):
        series = b.fadd(half_squares[v], e.multiply_add(z[v], odd[v], even[v]))
        small = e.multiply_add(s[v], series, b.fmul(n[v], e.constant(LN2_LOW)))
        near = b.fsub(f[v], b.fsub(half_squares[v], small))
        results.append(e.multiply_add(n[v], e.constant(LN2_HIGH), near))
    return results


def _make_sum_strip(vectors: int) -> Any:
    def sum_strip(constants, k, squares, out):
        """out = log Σ_c exp(t_c), t_c = constants[c] - squares[c] / 2, on a strip.

        Where squares overflow the sum is no number, and `out` is -inf.
        """
        width = vectors * LANES
        terms = constants[:k, None] - 0.5 * rows_of(squares, k, width)
        top = np.full(width, -np.inf)
        for term in terms:
            top = np.where(term > top, term, top)
        with np.errstate(invalid="ignore"):
            differences = terms - top
            total = exp(differences).sum(axis=0)
            out[:width] = np.where(total < np.inf, top + np.log(total), -np.inf)

    def emit(e, constants, k, squares, out):
        b = e.builder
        tops = [e.variable(e.constant(-np.inf)) for _ in range(vectors)]
        half = e.constant(-0.5)
        with cgutils.for_range(b, k) as loop:
            constant, offset = e.broadcast(constants, loop.index), b.mul(loop.index, INDEX(TILE_STRIDE))
            for v, top in enumerate(tops):
                at = b.add(offset, INDEX(v * e.lanes))
                term = e.multiply_add(e.load(squares, at), half, constant)
                e.store(term, squares, at)
                b.store(e.larger(term, b.load(top)), top)
        sums = [e.variable(e.zeros()) for _ in range(vectors)]
        with cgutils.for_range(b, k) as loop:
            offset = b.mul(loop.index, INDEX(TILE_STRIDE))
            places = [b.add(offset, INDEX(v * e.lanes)) for v in range(vectors)]
            differences = [b.fsub(e.load(squares, at), b.load(top)) for at, top in zip(places, tops, strict=True)]
            for value, sum_ in zip(emit_exp(e, differences), sums, strict=True):
                b.store(b.fadd(b.load(sum_), value), sum_)
        totals = [b.load(sum_) for sum_ in sums]
        for v, (top, total, logarithm) in enumerate(zip(tops, totals, _emit_log(e, totals), strict=True)):
            sound = b.fcmp_ordered("<", total, e.constant(np.inf))
            e.store(b.select(sound, b.fadd(b.load(top), logarithm), e.constant(-np.inf)), out, v * e.lanes)

    def typed(typing_context, constants, k, squares, out):
        return void_intrinsic(emit, constants, k, squares, out)

    return intrinsic(typed) if COMPILED else sum_strip


_square_wide, _square_narrow = (_make_square_strip(vectors) for vectors in (WIDE, 1))
_diagonal_wide, _diagonal_narrow = (_make_diagonal_strip(vectors) for vectors in (WIDE, 1))
_distance_wide, _distance_narrow = (_make_distance_strip(vectors) for vectors in (WIDE, 1))
_sum_wide, _sum_narrow = (_make_sum_strip(vectors) for vectors in (WIDE, 1))


@kernel
def _square_strip(wide, form, factors, size, means, k, d, x, squares, work):
    """Squared distances of a strip of lanes from all components."""
    for c in range(k):
        factor, mean, out = rest(factors, c * size), rest(means, c * d), rest(squares, c * TILE_STRIDE)
        if form == FULL:
            if wide:
                _square_wide(factor, mean, x, d, out, work)
            else:
                _square_narrow(factor, mean, x, d, out, work)
        elif form == DIAGONAL:
            if wide:
                _diagonal_wide(factor, mean, x, d, out)
            else:
                _diagonal_narrow(factor, mean, x, d, out)
        elif wide:
            _distance_wide(factor, mean, x, d, out)
        else:
            _distance_narrow(factor, mean, x, d, out)


@kernel
def _sum_strip(wide, constants, k, squares, out):
    if wide:
        _sum_wide(constants, k, squares, out)
    else:
        _sum_narrow(constants, k, squares, out)


@kernel
def squared_distances(form, factors, means, k, d, x, lanes, squares, work):
    """squares_c = |F_c (x - μ_c)|² of all components; `work` holds d features."""
    size = len(factors) // k
    factors, means, x, squares, work = rest(factors, 0), rest(means, 0), rest(x, 0), rest(squares, 0), rest(work, 0)
    i = 0
    while i < lanes:
        wide = lanes - i > 2 * LANES
        _square_strip(wide, form, factors, size, means, k, d, rest(x, i), rest(squares, i), work)
        i += WIDE * LANES if wide else LANES


def mixture_work(k: int, d: int) -> int:
    """Features of `work` that `mixture_log_densities` needs."""
    return k + d


@kernel
def mixture_log_densities(form, constants, means, factors, k, d, size, x, lanes, out, work):
    """out[i] = log Σ_c exp(constants[c] - |F_c (x_i - μ_c)|² / 2) for the lanes of feature-major x.

    `constants` (k,) holds log weights and log-determinants; `means` (k * d) and `factors` (k * size) are flat. All are
    what `rest`, `floats_at` and `floats_in` return.
    """
    deviations = rest(work, k * TILE_STRIDE)
    i = 0
    while i < lanes:
        # Two single vectors cost as much as a strip of four.
        wide = lanes - i > 2 * LANES
        _square_strip(wide, form, factors, size, means, k, d, rest(x, i), rest(work, i), deviations)
        _sum_strip(wide, constants, k, rest(work, i), rest(out, i))
        i += WIDE * LANES if wide else LANES


def factor_size(form: int, d: int) -> int:
    """Length of a component's factor."""
    return d * (d + 1) // 2 if form == FULL else d if form == DIAGONAL else 1
