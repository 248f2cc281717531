"""Rows become feature-major tiles, and what forms do with the rows of a tile one by one.

A tile is TILE_ROWS rows stored feature by feature in one flat buffer, TILE_STRIDE apart, so every inner loop runs over
rows and fills the SIMD lanes. Flat buffers and a constant width keep LLVM's overlap checks few; without them it does
not vectorise. Tiles are float64 or float32; sums over a tile leave it as float64.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from fastgmm.kernels._jit import COMPILED, SUMS, TILE_ROWS, TILE_STRIDE, kernel
from fastgmm.kernels.vectors import INDEX, Emitter, rest, rows_of, spread, void_intrinsic

# n rows, d features, k components, b = TILE_ROWS rows in a tile

# Rows that are turned into features together, in two groups of four.
_TURNED_ROWS = 8
# Rows of which two features are turned after two others, so few that the cache still holds them.
_STRIP_ROWS = 32


def _turn_pairs(tile, rows, start, row_stride, count, pairs, reference):
    part = rows[start : start + count, : 2 * pairs, 0] - reference[: 2 * pairs]
    if part.size:
        rows_of(tile, 2 * pairs, count)[:] = part.T


def _emit_turn_pairs(
    e: Emitter, tile: Any, rows: Any, start: Any, row_stride: Any, count: Any, pairs: Any, reference: Any
) -> None:
    b, of_rows = e.builder, rows.type.pointee
    pair, four = ir.VectorType(of_rows, 2), ir.VectorType(ir.DoubleType(), 4)

    def load(row: ir.Value, feature: ir.Value) -> ir.Value:
        where = e.at(rows, b.add(b.mul(row, row_stride), feature))
        return b.load(b.bitcast(where, pair.as_pointer()), align=8 if isinstance(of_rows, ir.DoubleType) else 4)

    def shuffle(x: ir.Value, y: ir.Value, order: list[int]) -> ir.Value:
        return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), 4), order))

    def origins(feature: ir.Value) -> ir.Value:
        return spread(b, b.load(e.at(reference, feature)), 4)

    def store(values: ir.Value, origin: ir.Value, feature: ir.Value, i: ir.Value) -> None:
        values = values if isinstance(of_rows, ir.DoubleType) else b.fpext(values, four)
        values = b.fsub(values, origin)
        values = values if e.bytes == 8 else b.fptrunc(values, ir.VectorType(e.element, 4))
        e.store(values, tile, b.add(b.mul(feature, INDEX(TILE_STRIDE)), i))

    strip, step = INDEX(_STRIP_ROWS), INDEX(_TURNED_ROWS)
    over_strips, over_pairs = cgutils.for_range_slice(b, INDEX(0), count, strip, inc=True), cgutils.for_range(b, pairs)
    with over_strips as (first, _), over_pairs as loop:
        feature = b.mul(loop.index, INDEX(2))
        features = (feature, b.add(feature, INDEX(1)))
        references = [origins(j) for j in features]
        end = b.add(first, strip)
        end = b.select(b.icmp_signed("<", end, count), end, count)
        with cgutils.for_range_slice(b, first, end, step, inc=True) as (i, _):
            for group in range(0, _TURNED_ROWS, 4):
                at = b.add(i, INDEX(group))
                x = [load(b.add(b.add(start, at), INDEX(r)), feature) for r in range(4)]
                even, odd = shuffle(x[0], x[2], [0, 1, 2, 3]), shuffle(x[1], x[3], [0, 1, 2, 3])
                for values, j, origin in zip(([0, 4, 2, 6], [1, 5, 3, 7]), features, references, strict=True):
                    store(shuffle(even, odd, values), origin, j, at)


def _copy_feature(tile, rows, start, feature, feature_stride, count, reference):
    column = rows[start : start + count, feature, 0] - reference[feature]
    tile[feature * TILE_STRIDE : feature * TILE_STRIDE + count] = column


def _emit_copy_feature(
    e: Emitter, tile: Any, rows: Any, start: Any, feature: Any, feature_stride: Any, count: Any, reference: Any
) -> None:
    b, of_rows = e.builder, rows.type.pointee
    several, doubles = (ir.VectorType(element, _TURNED_ROWS) for element in (of_rows, ir.DoubleType()))
    column = e.at(rows, b.add(start, b.mul(feature, feature_stride)))
    out = e.at(tile, b.mul(feature, INDEX(TILE_STRIDE)))
    origin = spread(b, b.load(e.at(reference, feature)), _TURNED_ROWS)
    with cgutils.for_range_slice(b, INDEX(0), count, INDEX(_TURNED_ROWS), inc=True) as (i, _):
        values = b.load(b.bitcast(e.at(column, i), several.as_pointer()), align=8 if of_rows == doubles.element else 4)
        values = b.fsub(values if of_rows == doubles.element else b.fpext(values, doubles), origin)
        e.store(values if e.bytes == 8 else b.fptrunc(values, ir.VectorType(e.element, _TURNED_ROWS)), out, i)


def _scale_and_sum(values, factors, weight):
    values[:TILE_ROWS] *= factors[:TILE_ROWS]
    weight[0] += values[:TILE_ROWS].sum(dtype=np.float64)


def _emit_scale_and_sum(e: Emitter, values: Any, factors: Any, weight: Any) -> None:
    b, vectors = e.builder, 4
    sums = [e.variable(e.zeros()) for _ in range(vectors)]
    step = INDEX(vectors * e.lanes)
    with cgutils.for_range_slice(b, INDEX(0), INDEX(TILE_ROWS), step, inc=True) as (i, _):
        for v, sum_ in enumerate(sums):
            at = b.add(i, INDEX(v * e.lanes))
            product = b.fmul(e.load(values, at), e.load(factors, at))
            e.store(product, values, at)
            b.store(b.fadd(b.load(sum_), product), sum_)
    first, second, third, fourth = (b.load(sum_) for sum_ in sums)
    e.add_sums([b.fadd(b.fadd(first, second), b.fadd(third, fourth))], weight)


def sum_squares(tile, features, out):
    """out = |x|² of the rows of a tile."""
    out[:TILE_ROWS] = (rows_of(tile, features, TILE_ROWS) ** 2).sum(axis=0)


def _emit_sum_squares(e: Emitter, tile: Any, features: Any, out: Any) -> None:
    b, vectors = e.builder, 8  # sums enough that two multiply-adds can begin in each cycle of the four that one takes
    step = INDEX(vectors * e.lanes)
    with cgutils.for_range_slice(b, INDEX(0), INDEX(TILE_ROWS), step, inc=True) as (i, _):
        places = [b.add(i, INDEX(v * e.lanes)) for v in range(vectors)]
        sums = [e.variable(e.zeros()) for _ in places]
        with cgutils.for_range(b, features) as loop:
            offset = b.mul(loop.index, INDEX(TILE_STRIDE))
            for at, sum_ in zip(places, sums, strict=True):
                x = e.load(tile, b.add(offset, at))
                e.add_product(x, x, sum_)
        for at, sum_ in zip(places, sums, strict=True):
            e.store(b.load(sum_), out, at)


if COMPILED:

    @intrinsic
    def sum_squares(typing_context, tile, features, out):
        """out = |x|² of the rows of a tile."""
        return void_intrinsic(_emit_sum_squares, tile, features, out)

    @intrinsic
    def _turn_pairs(typing_context, tile, rows, start, row_stride, count, pairs, reference):
        """Load features by pairs of `count` rows, a multiple of _TURNED_ROWS, whose features lie side by side."""
        return void_intrinsic(_emit_turn_pairs, tile, rows, start, row_stride, count, pairs, reference)

    @intrinsic
    def _copy_feature(typing_context, tile, rows, start, feature, feature_stride, count, reference):
        """Load a feature of `count` rows, a multiple of _TURNED_ROWS, in which it lies side by side."""
        return void_intrinsic(_emit_copy_feature, tile, rows, start, feature, feature_stride, count, reference)

    @intrinsic
    def _scale_and_sum(typing_context, values, factors, weight):
        """Multiply one component's values by `factors` in place and add their sum to weight[0]."""
        return void_intrinsic(_emit_scale_and_sum, values, factors, weight)


@kernel
def load_tile(rows, start, count, reference, tile):
    """Set tile[: d * b] to rows[start : start + count] - reference, repeating the last row to fill it.

    `rows` has shape (n, d, 1 or more) and any strides or float type; only its [:, :, 0] is read.
    """
    d = rows.shape[1]
    row_stride, feature_stride = rows.strides[0] // rows.itemsize, rows.strides[1] // rows.itemsize
    columns = rows.strides[0] == rows.itemsize  # one feature, or Fortran's order
    pairs = d // 2 if rows.strides[1] == rows.itemsize and not columns else 0
    whole = count - count % _TURNED_ROWS
    _turn_pairs(tile, rows, start, row_stride, whole, pairs, reference)
    for j in range(d):
        if columns:
            _copy_feature(tile, rows, start, j, feature_stride, whole, reference)
        offset = j * TILE_STRIDE
        origin = reference[j]
        for i in range(whole if columns or j < 2 * pairs else 0, count):
            tile[offset + i] = rows[start + i, j, 0] - origin
        for i in range(count, TILE_ROWS):
            tile[offset + i] = tile[offset + count - 1]


@kernel
def load_weights(row_weights, start, count, weights):
    """Set the tile's weights: those of the rows, or 1 where there are none; 0 for the rows that only fill it."""
    for i in range(count):
        weights[i] = row_weights[start + i] if row_weights.size else 1.0
    for i in range(count, TILE_ROWS):
        weights[i] = 0.0


@kernel
def scale(values, factors, out):
    """out = values * factors, row by row."""
    for i in range(TILE_ROWS):
        out[i] = values[i] * factors[i]


@kernel
def subtract_multiple(values, factor, out):
    """out -= factor * values."""
    for i in range(TILE_ROWS):
        out[i] -= values[i] * factor


@kernel
def scale_and_shift(values, factor, shift):
    """values = factor * values + shift, in place."""
    for i in range(TILE_ROWS):
        values[i] = factor * values[i] + shift


@kernel
def scale_components(densities, k, factors, weight):
    """r_c *= factors for every component, in place; weight[c] += Σ_i r_c."""
    for c in range(k):
        _scale_and_sum(rest(densities, c * TILE_STRIDE), factors, rest(weight, c))


@kernel
def clear(values):
    """values = 0."""
    for i in range(TILE_ROWS):
        values[i] = 0.0


@kernel(flags=SUMS)
def _four_squares(x, mean, out):
    """out += Σ_j (x_j - mean_j)² over four features."""
    m0, m1, m2, m3 = mean[0], mean[1], mean[2], mean[3]
    for i in range(TILE_ROWS):
        x0 = x[i] - m0
        x1 = x[TILE_STRIDE + i] - m1
        x2 = x[2 * TILE_STRIDE + i] - m2
        x3 = x[3 * TILE_STRIDE + i] - m3
        out[i] += (x0 * x0 + x1 * x1) + (x2 * x2 + x3 * x3)


@kernel
def squared_distances(tile, mean, features, out):
    """out[i] = |x_i - mean|² for a tile whose features are a multiple of four."""
    clear(out)
    for j in range(0, features, 4):
        _four_squares(rest(tile, j * TILE_STRIDE), rest(mean, j), out)
