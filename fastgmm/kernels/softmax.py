"""A tile of log-densities becomes responsibilities, log-likelihoods and labels: softmax, the logarithm of its sum."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from fastgmm.kernels._jit import COMPILED, SUMS, TILE_ROWS, TILE_STRIDE, VECTOR_BYTES, kernel
from fastgmm.kernels.fetching import Fetching
from fastgmm.kernels.math import EXP_DOUBLE, EXP_SINGLE, exp, log
from fastgmm.kernels.vectors import INDEX, Emitter, itemsize_of, rows_of, void_intrinsic

# Logarithms a tile takes: of the products of so many rows' totals each. A total is between 1 and k, so the product of 8
# stays finite in float32 for any number of components below 65,000.
_LOGARITHMS = TILE_ROWS // 8

# n rows, d features, k components, b = TILE_ROWS rows in a tile

# Vectors of rows that go through an exponential together: the steps of its polynomial wait for each other.
_VECTORS = 4
# Rows whose responsibilities are written together, by as many components: a vector's doubles.
_TURNED_ROWS = VECTOR_BYTES // 8


def emit_exp(e: Emitter, arguments: list[ir.Value]) -> list[ir.Value]:
    """`exp` of several vectors at once, step by step."""
    b, constants = e.builder, EXP_DOUBLE if e.bytes == 8 else EXP_SINGLE
    smallest, steps, rounder = (e.constant(c) for c in (constants.smallest, constants.steps, constants.rounder))
    bounded = [e.larger(smallest, x) for x in arguments]  # NaN stays
    shifted = [e.multiply_add(x, steps, rounder) for x in bounded]
    m = [b.fsub(s, rounder) for s in shifted]
    r = bounded
    for part in constants.step:
        r = [e.multiply_add(y, e.constant(-part), x) for y, x in zip(m, r, strict=True)]
    squares = [b.fmul(x, x) for x in r]
    # In pairs, which do not wait for each other as Horner's steps do: the processor looks ahead but a few of those.
    rising = [e.constant(c) for c in reversed(constants.coefficients)]
    lows, highs = rising[::2], rising[1::2]
    pairs = [[e.multiply_add(high, x, low) for x in r] for low, high in zip(lows, highs, strict=False)]
    pairs += [[low] * len(r) for low in lows[len(highs) :]]
    q = pairs.pop()
    for pair in reversed(pairs):
        q = [e.multiply_add(y, x2, low) for y, x2, low in zip(q, squares, pair, strict=True)]
    p = [e.multiply_add(y, x2, x) for y, x2, x in zip(q, squares, r, strict=True)]
    powers, results = constants.powers.tolist(), []
    for y, s, x in zip(p, shifted, arguments, strict=True):
        low = b.bitcast(s, e.integers)
        exponent = b.shl(low, ir.Constant(e.integers, [constants.shift] * e.lanes))
        scale = b.bitcast(b.add(e.look_up(powers, low), exponent), e.vector)
        results.append(b.select(b.fcmp_ordered("<", x, smallest), e.zeros(), e.multiply_add(scale, y, scale)))
    return results


@contextmanager
def _emit_strips(e: Emitter) -> Iterator[list[ir.Value]]:
    """The loop over a tile's rows, a few vectors at a time: where each of them begins."""
    b, strip = e.builder, INDEX(_VECTORS * e.lanes)
    with cgutils.for_range_slice(b, INDEX(0), INDEX(TILE_ROWS), strip, inc=True) as (i, _):
        yield [b.add(i, INDEX(v * e.lanes)) for v in range(_VECTORS)]


def _emit_sum(e: Emitter, row: ir.Value, top: ir.Value, sum_: ir.Value, largest: Any, total: Any, inverse: Any) -> None:
    """Store what a softmax leaves of a vector of rows."""
    e.store(top, largest, row)
    e.store(sum_, total, row)
    e.store(e.builder.fdiv(e.constant(1.0), sum_), inverse, row)


def _exponentiate(densities, k, largest, total, inverse, address, size):
    values = rows_of(densities, k, TILE_ROWS)
    largest[:TILE_ROWS] = values.max(axis=0)
    values[:] = exp(values - largest[:TILE_ROWS])
    total[:TILE_ROWS] = values.sum(axis=0)
    inverse[:TILE_ROWS] = 1.0 / total[:TILE_ROWS]


def _emit_exponentiate(
    e: Emitter, densities: Any, k: Any, largest: Any, total: Any, inverse: Any, *place: ir.Value
) -> None:
    b = e.builder
    fetching = Fetching(b, *place)
    with _emit_strips(e) as rows:
        tops = [e.variable(e.load(densities, row)) for row in rows]
        with cgutils.for_range(b, k) as loop:
            offset = b.mul(loop.index, INDEX(TILE_STRIDE))
            for row, top in zip(rows, tops, strict=True):
                b.store(e.larger(e.load(densities, b.add(offset, row)), b.load(top)), top)
        sums = [e.variable(e.zeros()) for _ in rows]
        with cgutils.for_range(b, k) as loop:
            offset = b.mul(loop.index, INDEX(TILE_STRIDE))
            places = [b.add(offset, row) for row in rows]
            differences = [b.fsub(e.load(densities, at), b.load(top)) for at, top in zip(places, tops, strict=True)]
            for at, value, sum_ in zip(places, emit_exp(e, differences), sums, strict=True):
                e.store(value, densities, at)
                b.store(b.fadd(b.load(sum_), value), sum_)
                fetching.go_on()
        for row, top, sum_ in zip(rows, tops, sums, strict=True):
            _emit_sum(e, row, b.load(top), b.load(sum_), largest, total, inverse)


def _exponentiate_pair(densities, largest, total, inverse, address, size):
    a, b = rows_of(densities, 2, TILE_ROWS)
    first = a >= b  # the choices below let no NaN go unseen, as max and min would
    largest[:TILE_ROWS] = np.where(first, a, b)
    smaller = exp(np.where(first, b, a) - largest[:TILE_ROWS])
    total[:TILE_ROWS] = 1.0 + smaller
    inverse[:TILE_ROWS] = 1.0 / total[:TILE_ROWS]
    a[:], b[:] = np.where(first, 1.0, smaller), np.where(first, smaller, 1.0)


def _emit_exponentiate_pair(
    e: Emitter, densities: Any, largest: Any, total: Any, inverse: Any, *place: ir.Value
) -> None:
    b, one = e.builder, e.constant(1.0)
    fetching = Fetching(b, *place)
    with _emit_strips(e) as rows:
        others = [b.add(row, INDEX(TILE_STRIDE)) for row in rows]
        pairs = [(e.load(densities, row), e.load(densities, other)) for row, other in zip(rows, others, strict=True)]
        first = [b.fcmp_ordered(">=", x, y) for x, y in pairs]
        tops = [b.select(f, x, y) for f, (x, y) in zip(first, pairs, strict=True)]
        differences = [b.fsub(b.select(f, y, x), top) for f, (x, y), top in zip(first, pairs, tops, strict=True)]
        values = emit_exp(e, differences)
        for row, other, f, top, value in zip(rows, others, first, tops, values, strict=True):
            e.store(b.select(f, one, value), densities, row)
            e.store(b.select(f, value, one), densities, other)
            _emit_sum(e, row, top, b.fadd(one, value), largest, total, inverse)
            fetching.go_on()
            fetching.go_on()


def _sum_exponentials(densities, k, largest, total, inverse, address, size):
    values = rows_of(densities, k, TILE_ROWS)
    largest[:TILE_ROWS] = values.max(axis=0)
    total[:TILE_ROWS] = exp(values - largest[:TILE_ROWS]).sum(axis=0)
    inverse[:TILE_ROWS] = 1.0 / total[:TILE_ROWS]


def _emit_sum_exponentials(
    e: Emitter, densities: Any, k: Any, largest: Any, total: Any, inverse: Any, *place: ir.Value
) -> None:
    b, one = e.builder, e.constant(1.0)
    fetching = Fetching(b, *place)
    with _emit_strips(e) as rows:
        tops = [e.variable(e.load(densities, row)) for row in rows]
        others = b.sub(k, INDEX(1))

        def places(number: ir.Value) -> list[ir.Value]:
            offset = b.mul(number, INDEX(TILE_STRIDE))
            return [b.add(offset, row) for row in rows]

        # All but the largest move down by one. In its own place either would be stored by a mask, which takes longer.
        with cgutils.for_range(b, others) as loop:
            below, own = places(loop.index), places(b.add(loop.index, INDEX(1)))
            for down, at, top in zip(below, own, tops, strict=True):
                value, before = e.load(densities, at), b.load(top)
                larger = b.fcmp_ordered(">", value, before)
                b.store(b.select(larger, value, before), top)
                e.store(b.select(larger, before, value), densities, down)  # so NaN stays, as one or the other
        largests = [b.load(top) for top in tops]
        # The largest has exp(0) = 1, which need not be computed, or NaN where it is not finite.
        sums = [e.variable(b.fadd(one, b.fsub(top, top))) for top in largests]
        with cgutils.for_range(b, others) as loop:
            smaller = [e.load(densities, at) for at in places(loop.index)]
            differences = [b.fsub(value, top) for value, top in zip(smaller, largests, strict=True)]
            for value, sum_ in zip(emit_exp(e, differences), sums, strict=True):
                b.store(b.fadd(b.load(sum_), value), sum_)
                fetching.go_on()
        for row, top, sum_ in zip(rows, largests, sums, strict=True):
            _emit_sum(e, row, top, b.load(sum_), largest, total, inverse)
            fetching.go_on()


def _find_largest(densities, k, largest, where):
    first, *others = rows_of(densities, k, TILE_ROWS)
    largest, where = largest[:TILE_ROWS], where[:TILE_ROWS]
    largest[:], where[:] = first, 0
    for c, values in enumerate(others, start=1):
        larger = values > largest
        largest[larger], where[larger] = values[larger], c


def _emit_find_largest(e: Emitter, densities: Any, k: Any, largest: Any, where: Any) -> None:
    b = e.builder
    wide = ir.VectorType(INDEX, e.lanes)
    with _emit_strips(e) as rows:
        tops = [e.variable(e.load(densities, row)) for row in rows]
        labels = [e.variable(ir.Constant(e.integers, [0] * e.lanes)) for _ in rows]
        with cgutils.for_range(b, k) as loop:
            offset = b.mul(loop.index, INDEX(TILE_STRIDE))
            own = e.spread(b.trunc(loop.index, e.integers.element))  # as wide as what it is chosen with
            for row, top, label in zip(rows, tops, labels, strict=True):
                value, before = e.load(densities, b.add(offset, row)), b.load(top)
                larger = b.fcmp_ordered(">", value, before)
                b.store(b.select(larger, value, before), top)
                b.store(b.select(larger, own, b.load(label)), label)
        for row, top, label in zip(rows, tops, labels, strict=True):
            e.store(b.load(top), largest, row)
            e.store(b.sext(b.load(label), wide), where, row)


def _write_turned(densities, k, inverse, whole, out):
    """out[i * k + c] = densities[c, i] * inverse[i] for the first `whole` rows, a multiple of _TURNED_ROWS.

    What follows them in `out`, fewer than _TURNED_ROWS elements, may be anything after.
    """
    shares = rows_of(densities, k, TILE_ROWS)[:, :whole] * inverse[:whole]
    out[: whole * k].reshape(whole, k)[:] = shares.T


def _turn(b: ir.IRBuilder, vectors: list[ir.Value]) -> list[ir.Value]:
    """Transpose a square of vectors: exchange halves of halves, from neighbouring elements on."""
    side = len(vectors)
    kind = ir.VectorType(ir.IntType(32), side)
    distance = 1
    while distance < side:
        own = [i if not i & distance else i + side - distance for i in range(side)]
        other = [i + distance if not i & distance else i + side for i in range(side)]
        low, high = (ir.Constant(kind, places) for places in (own, other))
        vectors = [
            b.shuffle_vector(vectors[i & ~distance], vectors[i | distance], high if i & distance else low)
            for i in range(side)
        ]
        distance *= 2
    return vectors


def _emit_write_turned(e: Emitter, densities: Any, k: Any, inverse: Any, whole: Any, out: Any) -> None:
    b = e.builder
    several, doubles = (ir.VectorType(element, _TURNED_ROWS) for element in (e.element, ir.DoubleType()))

    def load(values: Any, index: ir.Value) -> ir.Value:
        return b.load(b.bitcast(e.at(values, index), several.as_pointer()), align=e.bytes)

    def block(first: ir.Value, i: ir.Value, scale: ir.Value) -> None:
        last = b.sub(k, INDEX(1))
        shares = []
        for step in range(_TURNED_ROWS):
            c = b.add(first, INDEX(step))
            c = b.select(b.icmp_signed("<", c, last), c, last)  # beyond the last it again, as there may be no memory
            share = b.fmul(load(densities, b.add(b.mul(c, INDEX(TILE_STRIDE)), i)), scale)
            shares.append(share if e.bytes == 8 else b.fpext(share, doubles))
        for row, values in enumerate(_turn(b, shares)):
            where = e.at(out, b.add(b.mul(b.add(i, INDEX(row)), k), first))
            b.store(values, b.bitcast(where, doubles.as_pointer()), align=8)

    side = INDEX(_TURNED_ROWS)
    blocks = b.udiv(b.sub(k, INDEX(1)), side)  # but for the last
    with cgutils.for_range_slice(b, INDEX(0), whole, side, inc=True) as (i, _):
        scale = load(inverse, i)
        # The last first, as what it writes beyond its row is the beginning of the next.
        block(b.mul(blocks, side), i, scale)
        with cgutils.for_range(b, blocks) as loop:
            block(b.mul(loop.index, side), i, scale)


if COMPILED:

    @intrinsic
    def _write_turned(typing_context, densities, k, inverse, whole, out):
        return void_intrinsic(_emit_write_turned, densities, k, inverse, whole, out)

    @intrinsic
    def _find_largest(typing_context, densities, k, largest, where):
        return void_intrinsic(_emit_find_largest, densities, k, largest, where)

    @intrinsic
    def _exponentiate(typing_context, densities, k, largest, total, inverse, address, size):
        return void_intrinsic(_emit_exponentiate, densities, k, largest, total, inverse, address, size)

    @intrinsic
    def _sum_exponentials(typing_context, densities, k, largest, total, inverse, address, size):
        return void_intrinsic(_emit_sum_exponentials, densities, k, largest, total, inverse, address, size)

    @intrinsic
    def _exponentiate_pair(typing_context, densities, largest, total, inverse, address, size):
        return void_intrinsic(_emit_exponentiate_pair, densities, largest, total, inverse, address, size)


@kernel(inline=True)
def find_largest(densities, k, largest, where):
    """Set `largest` to each row's largest log-density, and `where` to the component it is of, the first of equals."""
    _find_largest(densities, k, largest, where)


@kernel
def exponentiate(densities, k, largest, total, inverse, ahead):
    """Turn log-densities into exp(log-density - the row's largest), in place; set `largest`, `total`, 1 / total.

    Meanwhile what is `ahead`, a place, comes into the caches.
    """
    address, size = ahead
    if k == 2:
        # Of two components the larger has exp(0) = 1, which need not be computed.
        _exponentiate_pair(densities, largest, total, inverse, address, size)
    else:
        _exponentiate(densities, k, largest, total, inverse, address, size)


@kernel(inline=True)
def sum_exponentials(densities, k, largest, total, inverse, ahead):
    """What `exponentiate` sets, but for the exponentials: log-densities are in no order after it.

    One exponential less for every row, as it may take the largest aside.
    """
    address, size = ahead
    _sum_exponentials(densities, k, largest, total, inverse, address, size)


@kernel(inline=True)
def write_responsibilities(densities, k, inverse, count, out):
    """out[i * k + c] = densities[c, i] * inverse[i] for `count` rows of a tile, from what `exponentiate` left."""
    beyond = -k % _TURNED_ROWS  # elements that the last of `whole` rows may write into the following
    whole = max(0, count - (beyond + k - 1) // k) // _TURNED_ROWS * _TURNED_ROWS
    _write_turned(densities, k, inverse, whole, out)
    for i in range(whole, count):
        for c in range(k):
            out[i * k + c] = densities[c * TILE_STRIDE + i] * inverse[i]


@kernel(inline=True)
def _is_single(values):
    """Whether values are float32; the compiler knows."""
    return itemsize_of(values) == 4


@kernel(inline=True)
def _log_of(total, inverse, i):
    x = np.float64(total[i])
    return log(x, 1.0 / x if _is_single(total) else np.float64(inverse[i]))


@kernel
def log_sum(largest, total, inverse, out):
    """out = log Σ_c w_c N(x | μ_c, Σ_c), from what `exponentiate` left."""
    for i in range(TILE_ROWS):
        out[i] = largest[i] + _log_of(total, inverse, i)


@kernel(flags=SUMS)
def _weighted_sum(largest, total, inverse, weights):
    result = np.float64(0.0)
    for i in range(TILE_ROWS):
        result += weights[i] * (largest[i] + _log_of(total, inverse, i))
    return result


@kernel(flags=SUMS)
def _plain_sum(largest, total):
    """One logarithm for eight rows: of the product of their totals."""
    result = np.float64(0.0)
    for i in range(_LOGARITHMS):
        product, first = total[i], np.float64(largest[i])
        for m in range(i + _LOGARITHMS, i + TILE_ROWS, _LOGARITHMS):
            product *= total[m]
            first += largest[m]
        result += first + log(np.float64(product), 1.0 / np.float64(product))
    return result


@kernel(inline=True)
def sum_log_likelihoods(largest, total, inverse, weights, weighted, count):
    """Σ_i weight_i log p(x_i) of a tile from what `exponentiate` left; without weights, of its first `count` rows.

    The rows that only fill the tile are set to a log-likelihood of 0.
    """
    if weighted:
        return _weighted_sum(largest, total, inverse, weights)
    for i in range(count, TILE_ROWS):
        largest[i] = 0.0
        total[i] = 1.0
    return _plain_sum(largest, total)


@kernel(flags=SUMS)
def count_lost(largest, total, count):
    """Count the rows whose log-likelihood is not finite: too far from every component for float64."""
    # Compared, as isfinite takes x from x, which with these flags is 0 whatever x.
    sum_ = 0.0
    for i in range(TILE_ROWS):
        sum_ += largest[i] + total[i]
    lost = 0
    if abs(sum_) < np.inf:  # found in half the time that counting takes
        return lost
    for i in range(count):
        if not (abs(largest[i]) < np.inf and abs(total[i]) < np.inf):
            lost += 1
    return lost
