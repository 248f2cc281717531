"""Triangular matrices and a tile: squared lengths of F x, and the lower triangle of Σ_i share_i x_i x_iᵀ.

What a full covariance costs, with the processor's vectors written out as in `products.py`. The blocks on the diagonal
are unrolled, so that nothing above it is computed.

    subtract_squares    out = constant - |F x + shift|²    F lower triangular, packed by `pack_triangles`
    add_scatter         sums of shares and of shares times x and times x xᵀ
"""

from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from fastgmm.kernels._jit import COMPILED, TILE_ROWS, TILE_STRIDE, VECTOR_BYTES, kernel
from fastgmm.kernels.products import make_add_block, make_subtract_strip
from fastgmm.kernels.vectors import INDEX, Emitter, itemsize_of, rest, rows_of, void_intrinsic

# Rows of a block: with four vectors of x, 16 sums fill half of 32 registers, 12 three quarters of 16.
BLOCK_ROWS = 4 if VECTOR_BYTES == 64 else 3
_VECTORS = 4
_STRIP_BYTES = _VECTORS * VECTOR_BYTES


def _heights(d: int) -> list[int]:
    """Rows of each block of a triangle: BLOCK_ROWS, and at the end 2 or 1 or both."""
    left = d % BLOCK_ROWS
    return [BLOCK_ROWS] * (d // BLOCK_ROWS) + [height for height in (2, 1) if left & height]


@lru_cache(maxsize=32)
def packing(d: int) -> np.ndarray:
    """Where the entries of a packed triangle stand in the matrix: block by block, column by column."""
    order: list[int] = []
    first = 0
    for height in _heights(d):
        rows = range(first, first + height)
        order += [row * d + column for column in range(first + height) for row in rows if row >= column]
        first += height
    return np.array(order)


def pack_triangles(factors: np.ndarray) -> np.ndarray:
    """Lower triangular matrices (..., d, d) as `emit_squares` walks them, (..., d (d + 1) / 2)."""
    d = factors.shape[-1]
    return factors.reshape(*factors.shape[:-2], d * d).take(packing(d), axis=-1)


def unpack_triangles(packed: np.ndarray, d: int) -> np.ndarray:
    """What `pack_triangles` packed, (..., d, d)."""
    factors = np.zeros((*packed.shape[:-1], d * d), packed.dtype)
    factors[..., packing(d)] = packed
    return factors.reshape(*packed.shape[:-1], d, d)


def _subtract_squares_strip(factor, shift, constant, x, size, out):
    """out = constant - |F x + shift|² on one strip."""
    width = _STRIP_BYTES // out.itemsize
    matrix = unpack_triangles(factor[: size * (size + 1) // 2], size)
    inner = shift[:size, None] + matrix @ rows_of(x, size, width)
    out[:width] = constant[0] - (inner**2).sum(axis=0)


def emit_squares(
    e: Emitter,
    factor: ir.Value,
    shift: ir.Value | None,
    x: ir.Value,
    size: ir.Value,
    totals: list[ir.Value],
    *,
    subtracted: bool = False,
    centre: tuple[ir.Value, ir.Value] | None = None,
) -> None:
    """Add |F x + shift|² to `totals`, a variable for each vector of a strip, or subtract it.

    With `centre`, a mean and room for a strip's features, it is |F (x - mean)|²: a feature is centred and stored when
    the first block meets it, between products that hide that: 180 ns a chain for 20 components in 20 dimensions, where
    centring all features before took 212.
    """
    b = e.builder
    at, first = e.variable(INDEX(0)), e.variable(INDEX(0))

    def places(column: ir.Value) -> list[ir.Value]:
        where = b.mul(column, INDEX(TILE_STRIDE))
        return [b.add(where, INDEX(v * e.lanes)) for v in range(len(totals))]

    def met(column: ir.Value) -> list[ir.Value]:
        return [e.load(centre[1] if centre else x, place) for place in places(column)]

    def new(column: ir.Value) -> list[ir.Value]:
        features = [e.load(x, place) for place in places(column)]
        if centre:
            mean = e.broadcast(centre[0], column)
            features = [b.fsub(feature, mean) for feature in features]
            for feature, place in zip(features, places(column), strict=True):
                e.store(feature, centre[1], place)
        return features

    def block(height: int) -> None:
        start, row = b.load(at), b.load(first)
        starts = [e.zeros() if shift is None else e.broadcast(shift, b.add(row, INDEX(r))) for r in range(height)]
        sums = [[e.variable(value) for _ in totals] for value in starts]

        def add(coefficient: ir.Value, height: int, features: list[ir.Value]) -> None:
            # The coefficients stay while one vector of features after the other comes.
            rows = [e.broadcast(factor, b.add(coefficient, INDEX(r))) for r in range(height)]
            for v, feature in enumerate(features):
                for coefficients, sum_ in zip(rows, sums[-height:], strict=True):
                    e.add_product(coefficients, feature, sum_[v])

        with cgutils.for_range(b, row) as loop:
            add(b.add(start, b.mul(loop.index, INDEX(height))), height, met(loop.index))
        diagonal = b.add(start, b.mul(row, INDEX(height)))
        for r in range(height):
            add(diagonal, height - r, new(b.add(row, INDEX(r))))
            diagonal = b.add(diagonal, INDEX(height - r))
        for v, total in enumerate(totals):
            for sum_ in sums:
                y = b.load(sum_[v])
                e.add_product(b.fneg(y) if subtracted else y, y, total)
        b.store(diagonal, at)
        b.store(b.add(row, INDEX(height)), first)

    with cgutils.for_range(b, b.udiv(size, INDEX(BLOCK_ROWS))):
        block(BLOCK_ROWS)
    left = b.urem(size, INDEX(BLOCK_ROWS))
    for height in (2, 1):
        with b.if_then(b.icmp_unsigned("!=", b.and_(left, INDEX(height)), INDEX(0))):
            block(height)


def _emit_subtract_squares_strip(
    e: Emitter, factor: ir.Value, shift: ir.Value, constant: ir.Value, x: ir.Value, size: ir.Value, out: ir.Value
) -> None:
    totals = [e.variable(e.broadcast(constant, 0)) for _ in range(_VECTORS)]
    emit_squares(e, factor, shift, x, size, totals, subtracted=True)
    for v, total in enumerate(totals):
        e.store(e.builder.load(total), out, v * e.lanes)


def _make_scatter_block(height: int) -> Any:
    def scatter_block(x, share, weighted, first, second, stride):
        """weighted = share x for `height` features x, and their sums and lower triangle of products with x."""
        features = rows_of(x, height, TILE_ROWS)
        products = features * share[:TILE_ROWS]
        rows_of(weighted, height, TILE_ROWS)[:] = products
        first[:height] += products.sum(axis=1)
        for r in range(height):
            second[r * stride : r * stride + r + 1] += features[: r + 1] @ products[r]

    def emit(e, x, share, weighted, first, second, stride):
        b = e.builder
        firsts = [e.variable(e.zeros()) for _ in range(height)]
        seconds = [[e.variable(e.zeros()) for _ in range(r + 1)] for r in range(height)]
        with cgutils.for_range_slice(b, INDEX(0), INDEX(TILE_ROWS), INDEX(e.lanes), inc=True) as (i, _):
            places = [b.add(i, INDEX(r * TILE_STRIDE)) for r in range(height)]
            shares, features = e.load(share, i), [e.load(x, place) for place in places]
            for r, place in enumerate(places):
                product = b.fmul(features[r], shares)
                e.store(product, weighted, place)
                b.store(b.fadd(b.load(firsts[r]), product), firsts[r])
                for feature, sum_ in zip(features, seconds[r], strict=False):
                    e.add_product(product, feature, sum_)
        e.add_sums([b.load(sum_) for sum_ in firsts], first)
        for r, sums in enumerate(seconds):
            # With zeros for what is above the diagonal, as four sums take less time than one or two.
            beyond = [e.zeros()] * (height - 1 - r) if height == 4 else []
            e.add_sums([b.load(sum_) for sum_ in sums] + beyond, e.at(second, b.mul(stride, INDEX(r))))

    def typed(typing_context, x, share, weighted, first, second, stride):
        return void_intrinsic(emit, x, share, weighted, first, second, stride)

    return intrinsic(typed) if COMPILED else scatter_block


if COMPILED:

    @intrinsic
    def _subtract_squares_strip(typing_context, factor, shift, constant, x, size, out):
        return void_intrinsic(_emit_subtract_squares_strip, factor, shift, constant, x, size, out)


_subtract_strip = make_subtract_strip()
# What is on the diagonal, and what is left of it.
_scatter_1, _scatter_2, _scatter_most = (_make_scatter_block(height) for height in (1, 2, BLOCK_ROWS))
_add_1, _add_2, _add_most = (make_add_block(height, BLOCK_ROWS) for height in (1, 2, BLOCK_ROWS))
_add_1x2 = make_add_block(1, 2)


@kernel
def subtract_squares(factor, shift, constant, x, size, out):
    """out[i] = constant[0] - |F x_i + shift|² for the `size` features of a tile."""
    for i in range(0, TILE_ROWS, _STRIP_BYTES // itemsize_of(out)):
        _subtract_squares_strip(factor, shift, constant, rest(x, i), size, rest(out, i))


@kernel
def subtract_centre(tile, centre, size, out):
    """out = x - centre for the `size` features of a tile."""
    for i in range(0, TILE_ROWS, _STRIP_BYTES // itemsize_of(tile)):
        _subtract_strip(rest(tile, i), centre, size, rest(out, i))


@kernel
def add_scatter(x, size, share, weighted, first, second):
    """first += Σ_i share_i x_i, and the lower triangle of second (size, size) += Σ_i share_i x_i x_iᵀ.

    `weighted` holds BLOCK_ROWS features.
    """
    j = 0
    while j < size:
        left = size - j
        height = BLOCK_ROWS if left >= BLOCK_ROWS else 2 if left >= 2 else 1
        features, sums, products = rest(x, j * TILE_STRIDE), rest(first, j), rest(second, j * size + j)
        if height == BLOCK_ROWS:
            _scatter_most(features, share, weighted, sums, products, size)
            for c in range(0, j, BLOCK_ROWS):
                _add_most(weighted, rest(x, c * TILE_STRIDE), rest(second, j * size + c), size)
        elif height == 2:
            _scatter_2(features, share, weighted, sums, products, size)
            for c in range(0, j, BLOCK_ROWS):
                _add_2(weighted, rest(x, c * TILE_STRIDE), rest(second, j * size + c), size)
        else:
            _scatter_1(features, share, weighted, sums, products, size)
            whole = j - j % BLOCK_ROWS
            for c in range(0, whole, BLOCK_ROWS):
                _add_1(weighted, rest(x, c * TILE_STRIDE), rest(second, j * size + c), size)
            if whole < j:  # a block of two came before
                _add_1x2(weighted, rest(x, whole * TILE_STRIDE), rest(second, j * size + whole), size)
        j += height
