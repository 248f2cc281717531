"""Matrix products on a tile, with the processor's vectors written out.

LLVM vectorises a loop over rows whose inner loops have constant lengths, but then holds its sums in memory. Here the
sums of a block stay in registers for as many terms as there are: 45 of 46 GFLOP/s for the products below on a
processor where such a loop gives 20 to 30. Each micro-kernel is a Python function, which is what runs uncompiled, and
beside it the same written in LLVM's language.

    multiply             out = initial + A x              densities from features, A packed by `pack_rows`
    multiply_quadratic   out = initial + (B x + A) x      the same of features and their squares
    add_products         out += a bᵀ                      sums over the rows of a tile
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from fastgmm.kernels._jit import COMPILED, TILE_ROWS, TILE_STRIDE, VECTOR_BYTES, kernel
from fastgmm.kernels.fetching import fetch
from fastgmm.kernels.vectors import INDEX, Emitter, itemsize_of, rest, rows_of, void_intrinsic

# Rows of a strip: as many vectors as leave registers for three rows of coefficients. 16 registers hold 3 x 4 sums,
# three coefficients and one vector of features.
_VECTORS = 4
STRIP_BYTES = _VECTORS * VECTOR_BYTES
# Most columns of a block of `add_products`, whose rows are at most four. 16 registers hold 4 x 3 sums, three vectors of
# one operand and one of the other; 32 have room for 4 x 4, whose sums are taken and stored four at a time.
_MOST_COLUMNS = 4 if VECTOR_BYTES == 64 else 3


def _accumulate_strip(
    e: Emitter, height: int, coefficients: ir.Value, x: ir.Value, count: ir.Value, sums: list[list[ir.Value]]
) -> None:
    """sums[r][v] += Σ_p coefficients[p, r] x[p, v]."""
    with cgutils.for_range(e.builder, count) as loop:
        at = e.builder.mul(loop.index, INDEX(TILE_STRIDE))
        first = e.builder.mul(loop.index, INDEX(height))
        # The coefficients stay while one vector of features after the other comes: 16 registers in all.
        rows = [e.broadcast(coefficients, e.builder.add(first, INDEX(r))) for r in range(height)]
        for v in range(len(sums[0])):
            features = e.load(x, e.builder.add(at, INDEX(v * e.lanes)))
            for r in range(height):
                e.builder.store(e.multiply_add(rows[r], features, e.builder.load(sums[r][v])), sums[r][v])


def _make_multiply_strip(height: int) -> Any:
    def multiply_strip(coefficients, initial, x, count, out):
        """out[r] = initial[r] + Σ_p coefficients[p, r] x[p] on one strip, for a fixed number of rows r."""
        strip = STRIP_BYTES // x.itemsize
        rows = coefficients[: count * height].reshape(count, height).T
        rows_of(out, height, strip)[:] = initial[:height, None] + rows @ rows_of(x, count, strip)

    def emit(e, coefficients, initial, x, count, out):
        starts = [e.broadcast(initial, r) for r in range(height)]
        sums = [[e.variable(start) for _ in range(_VECTORS)] for start in starts]
        _accumulate_strip(e, height, coefficients, x, count, sums)
        for r in range(height):
            for v in range(_VECTORS):
                e.store(e.builder.load(sums[r][v]), out, r * TILE_STRIDE + v * e.lanes)

    def typed(typing_context, coefficients, initial, x, count, out):
        return void_intrinsic(emit, coefficients, initial, x, count, out)

    return intrinsic(typed) if COMPILED else multiply_strip


def _make_quadratic_strip(height: int) -> Any:
    def quadratic_strip(coefficients, initial, x, count, out):
        """out[r] = initial[r] + Σ_p (quadratic[p, r] x[p] + linear[p, r]) x[p] on one strip, for a few rows r."""
        strip = STRIP_BYTES // x.itemsize
        linear, quadratic = coefficients[: 2 * count * height].reshape(2, count, height).swapaxes(1, 2)
        features = rows_of(x, count, strip)
        rows_of(out, height, strip)[:] = initial[:height, None] + linear @ features + quadratic @ features**2

    def emit(e, coefficients, initial, x, count, out):
        b = e.builder
        sums = [[e.variable(e.broadcast(initial, r)) for _ in range(_VECTORS)] for r in range(height)]
        with cgutils.for_range(b, count) as loop:
            first = b.mul(loop.index, INDEX(height))
            second = b.add(first, b.mul(count, INDEX(height)))
            linear = [e.broadcast(coefficients, b.add(first, INDEX(r))) for r in range(height)]
            quadratic = [e.broadcast(coefficients, b.add(second, INDEX(r))) for r in range(height)]
            at = b.mul(loop.index, INDEX(TILE_STRIDE))
            for v in range(_VECTORS):
                features = e.load(x, b.add(at, INDEX(v * e.lanes)))
                for r in range(height):
                    e.add_product(e.multiply_add(quadratic[r], features, linear[r]), features, sums[r][v])
        for r in range(height):
            for v in range(_VECTORS):
                e.store(b.load(sums[r][v]), out, r * TILE_STRIDE + v * e.lanes)

    def typed(typing_context, coefficients, initial, x, count, out):
        return void_intrinsic(emit, coefficients, initial, x, count, out)

    return intrinsic(typed) if COMPILED else quadratic_strip


def make_subtract_strip() -> Any:
    def subtract_strip(x, centre, count, out):
        """out[p] = x[p] - centre[p] on one strip of `count` features."""
        strip = STRIP_BYTES // x.itemsize
        rows_of(out, count, strip)[:] = rows_of(x, count, strip) - centre[:count, None]

    def emit(e, x, centre, count, out):
        with cgutils.for_range(e.builder, count) as loop:
            at = e.builder.mul(loop.index, INDEX(TILE_STRIDE))
            middle = e.broadcast(centre, loop.index)
            for v in range(_VECTORS):
                where = e.builder.add(at, INDEX(v * e.lanes))
                e.store(e.builder.fsub(e.load(x, where), middle), out, where)

    def typed(typing_context, x, centre, count, out):
        return void_intrinsic(emit, x, centre, count, out)

    return intrinsic(typed) if COMPILED else subtract_strip


def make_add_block(rows: int, columns: int) -> Any:
    def add_block(a, b, out, stride):
        """out[r * stride + c] += Σ_i a[r, i] b[c, i] for a fixed number of rows and columns."""
        products = rows_of(a, rows, TILE_ROWS) @ rows_of(b, columns, TILE_ROWS).T
        for r in range(rows):
            out[r * stride : r * stride + columns] += products[r]

    def emit(e, a, b, out, stride):
        sums = [[e.variable(e.zeros()) for _ in range(columns)] for _ in range(rows)]
        with cgutils.for_range_slice(e.builder, INDEX(0), INDEX(TILE_ROWS), INDEX(e.lanes), inc=True) as (i, _):
            right = [e.load(b, e.builder.add(i, INDEX(c * TILE_STRIDE))) for c in range(columns)]
            for r in range(rows):
                left = e.load(a, e.builder.add(i, INDEX(r * TILE_STRIDE)))
                for c in range(columns):
                    e.add_product(left, right[c], sums[r][c])
        for r in range(rows):
            e.add_sums([e.builder.load(sum_) for sum_ in sums[r]], e.at(out, e.builder.mul(stride, INDEX(r))))

    def typed(typing_context, a, b, out, stride):
        return void_intrinsic(emit, a, b, out, stride)

    return intrinsic(typed) if COMPILED else add_block


_multiply_1, _multiply_2, _multiply_3 = (_make_multiply_strip(height) for height in (1, 2, 3))
_quadratic_1, _quadratic_2, _quadratic_3 = (_make_quadratic_strip(height) for height in (1, 2, 3))
_add_1x1, _add_1x2, _add_1xmost = (make_add_block(1, columns) for columns in (1, 2, _MOST_COLUMNS))
_add_2x1, _add_2x2, _add_2xmost = (make_add_block(2, columns) for columns in (1, 2, _MOST_COLUMNS))
_add_3x1, _add_3x2, _add_3xmost = (make_add_block(3, columns) for columns in (1, 2, _MOST_COLUMNS))
_add_4x1, _add_4x2, _add_4xmost = (make_add_block(4, columns) for columns in (1, 2, _MOST_COLUMNS))


@kernel
def next_height(left):
    """How many of the rows that are left the next block of a packed matrix has: never one alone but at k = 1."""
    if left == 3 or left >= 5:
        return 3
    return min(left, 2)


@kernel(inline=True)
def _next_rows(left):
    # 5 is 3 + 2: a single row leaves the adders waiting for each other.
    return 3 if left == 5 else min(left, 4)


@kernel(inline=True)
def _next_columns(left):
    # Rather 2 + 2 than 3 + 1.
    return _MOST_COLUMNS if left == _MOST_COLUMNS or left > 4 else min(left, 2)


@kernel(inline=True)
def _begin_block(rows, r, i, strip, ahead):
    """Height of the block of rows that begins at r, whose share of what is `ahead` is fetched on each strip."""
    height = next_height(rows - r)
    part = (i // strip) * rows + r
    fetch(ahead, part, part + height, (TILE_ROWS // strip) * rows)
    return height


@kernel
def multiply(coefficients, initial, x, rows, count, out, ahead):
    """out[r] = initial[r] + Σ_p A[r, p] x[p] for feature-major x (count, b) and out (rows, b); A from `pack_rows`.

    Meanwhile what is `ahead`, a place, comes into the caches.
    """
    strip = STRIP_BYTES // itemsize_of(x)
    for i in range(0, TILE_ROWS, strip):
        features = rest(x, i)
        r = 0
        while r < rows:
            height = _begin_block(rows, r, i, strip, ahead)
            packed, start, where = rest(coefficients, r * count), rest(initial, r), rest(out, r * TILE_STRIDE + i)
            if height == 3:
                _multiply_3(packed, start, features, count, where)
            elif height == 2:
                _multiply_2(packed, start, features, count, where)
            else:
                _multiply_1(packed, start, features, count, where)
            r += height


@kernel
def multiply_quadratic(coefficients, initial, x, rows, count, out, ahead):
    """out[r] = initial[r] + Σ_p (B[r, p] x[p] + A[r, p]) x[p] as `multiply` does; A, then B, from `pack_rows`.

    By Horner's rule, so that no squares are formed, nor read: of 32 rows and 16 features three quarters of the time
    that squares and `multiply` take, of 10 and 30 half.
    """
    strip = STRIP_BYTES // itemsize_of(x)
    for i in range(0, TILE_ROWS, strip):
        features = rest(x, i)
        r = 0
        while r < rows:
            height = _begin_block(rows, r, i, strip, ahead)
            packed, start, where = rest(coefficients, 2 * r * count), rest(initial, r), rest(out, r * TILE_STRIDE + i)
            if height == 3:
                _quadratic_3(packed, start, features, count, where)
            elif height == 2:
                _quadratic_2(packed, start, features, count, where)
            else:
                _quadratic_1(packed, start, features, count, where)
            r += height


@kernel(inline=True)
def _add_block(rows, columns, a, b, out, stride):
    if rows == 4:
        if columns > 2:
            _add_4xmost(a, b, out, stride)
        elif columns == 2:
            _add_4x2(a, b, out, stride)
        else:
            _add_4x1(a, b, out, stride)
    elif rows == 3:
        if columns > 2:
            _add_3xmost(a, b, out, stride)
        elif columns == 2:
            _add_3x2(a, b, out, stride)
        else:
            _add_3x1(a, b, out, stride)
    elif rows == 2:
        if columns > 2:
            _add_2xmost(a, b, out, stride)
        elif columns == 2:
            _add_2x2(a, b, out, stride)
        else:
            _add_2x1(a, b, out, stride)
    elif columns > 2:
        _add_1xmost(a, b, out, stride)
    elif columns == 2:
        _add_1x2(a, b, out, stride)
    else:
        _add_1x1(a, b, out, stride)


@kernel
def add_products(a, rows, b, columns, out, stride):
    """out[r * stride + c] += Σ_i a[r, i] b[c, i] for feature-major a (rows, b) and b (columns, b); `out` is float64."""
    left, right, sums = rest(a, 0), rest(b, 0), rest(out, 0)
    r = 0
    while r < rows:
        height = _next_rows(rows - r)
        c = 0
        while c < columns:
            width = _next_columns(columns - c)
            x, y, where = rest(left, r * TILE_STRIDE), rest(right, c * TILE_STRIDE), rest(sums, r * stride + c)
            _add_block(height, width, x, y, where, stride)
            c += width
        r += height


@kernel
def pack_rows(matrix, out):
    """Set out (k * p) to the rows of a matrix (k, p) as `multiply` walks them: block by block, column by column."""
    k, p = matrix.shape
    r = at = 0
    while r < k:
        height = next_height(k - r)
        for j in range(p):
            for m in range(height):
                out[at] = matrix[r + m, j]
                at += 1
        r += height
