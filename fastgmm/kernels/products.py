"""Matrix products on a tile, with the processor's vectors written out.

LLVM vectorises a loop over rows whose inner loops have constant lengths, but then holds its sums in memory. Here the
sums of a block stay in registers for as many terms as there are: 45 of 46 GFLOP/s for the products below on a
processor where such a loop gives 20 to 30. Each micro-kernel is a Python function, which is what runs uncompiled, and
beside it the same written in LLVM's language.

    multiply        out = A x + initial      densities from features, coefficients A packed by `pack_rows`
    add_squares     out += |F x|²            F lower triangular, packed by `pack_triangle`; also about means
    add_products    out += a bᵀ              sums over the rows of a tile
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastgmm.kernels._jit import COMPILED, TILE_ROWS, TILE_STRIDE, VECTOR_BYTES, kernel
from fastgmm.kernels.tiles import scale

# Rows of a strip: as many vectors as leave registers for three rows of coefficients. 16 registers hold 3 x 4 sums,
# three coefficients and one vector of features.
_VECTORS = 4
STRIP_BYTES = _VECTORS * VECTOR_BYTES
# Outputs of a block of `add_products`: 4 x 3 sums, three vectors of one operand and one of the other.
_MOST_ROWS, _MOST_COLUMNS = 4, 3
_INDEX = ir.IntType(64)


class _Emitter:
    """LLVM instructions on vectors of one element type."""

    def __init__(self, builder: ir.IRBuilder, element: ir.Type) -> None:
        self.builder = builder
        self.element = element
        self.bytes = 8 if isinstance(element, ir.DoubleType) else 4
        self.lanes = VECTOR_BYTES // self.bytes
        self.vector = ir.VectorType(element, self.lanes)
        self._suffix = f"v{self.lanes}f{8 * self.bytes}"

    def _intrinsic(self, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
        kind = ir.FunctionType(result, arguments)
        return cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.{name}.{self._suffix}")

    def at(self, pointer: ir.Value, index: Any) -> ir.Value:
        """Address of an element; `index` is a value or an int."""
        index = _INDEX(index) if isinstance(index, int) else index
        return self.builder.gep(pointer, [index])

    def load(self, pointer: ir.Value, index: Any) -> ir.Value:
        """A vector from consecutive elements."""
        where = self.builder.bitcast(self.at(pointer, index), self.vector.as_pointer())
        return self.builder.load(where, align=self.bytes)

    def store(self, value: ir.Value, pointer: ir.Value, index: Any) -> None:
        """A vector to consecutive elements."""
        where = self.builder.bitcast(self.at(pointer, index), self.vector.as_pointer())
        self.builder.store(value, where, align=self.bytes)

    def broadcast(self, pointer: ir.Value, index: Any) -> ir.Value:
        """A vector of one element's copies."""
        scalar = self.builder.load(self.at(pointer, index))
        undefined = ir.Constant(self.vector, ir.Undefined)
        lane = self.builder.insert_element(undefined, scalar, ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(lane, undefined, zeros)

    def multiply_add(self, a: ir.Value, b: ir.Value, total: ir.Value) -> ir.Value:
        """a b + total, rounded once."""
        return self.builder.call(self._intrinsic("fma", self.vector, [self.vector] * 3), [a, b, total])

    def zeros(self) -> ir.Constant:
        """A vector of zeros."""
        return ir.Constant(self.vector, [0.0] * self.lanes)

    def sum(self, vector: ir.Value) -> ir.Value:
        """The sum of a vector's elements as a double."""
        function = self._intrinsic("vector.reduce.fadd", self.element, [self.element, self.vector])
        total = self.builder.call(function, [ir.Constant(self.element, -0.0), vector], fastmath=("reassoc",))
        return total if self.bytes == 8 else self.builder.fpext(total, ir.DoubleType())

    def variable(self, value: ir.Value) -> ir.Value:
        """A register that keeps changing: LLVM turns the stack slot into one."""
        slot = cgutils.alloca_once(self.builder, value.type)
        self.builder.store(value, slot)
        return slot


def _pointer(context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value) -> ir.Value:
    return context.make_array(array_type)(context, builder, array).data


def _typed(emit: Callable[..., None], *arguments: Any) -> tuple[Any, Callable[..., ir.Value]]:
    """What Numba asks of an intrinsic whose instructions `emit(emitter, *values)` writes; arrays come as pointers."""
    signature = types.void(*(a if isinstance(a, types.Array) else types.intp for a in arguments))

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        operands = [
            _pointer(context, builder, kind, value) if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, values, strict=True)
        ]
        emit(_Emitter(builder, operands[0].type.pointee), *operands)
        return context.get_dummy_value()

    return signature, generate


def _accumulate_strip(
    e: _Emitter, height: int, coefficients: ir.Value, x: ir.Value, count: ir.Value, sums: list[list[ir.Value]]
) -> None:
    """sums[r][v] += Σ_p coefficients[p, r] x[p, v]."""
    with cgutils.for_range(e.builder, count) as loop:
        at = e.builder.mul(loop.index, _INDEX(TILE_STRIDE))
        first = e.builder.mul(loop.index, _INDEX(height))
        # The coefficients stay while one vector of features after the other comes: 16 registers in all.
        rows = [e.broadcast(coefficients, e.builder.add(first, _INDEX(r))) for r in range(height)]
        for v in range(_VECTORS):
            features = e.load(x, e.builder.add(at, _INDEX(v * e.lanes)))
            for r in range(height):
                e.builder.store(e.multiply_add(rows[r], features, e.builder.load(sums[r][v])), sums[r][v])


def _strip(values: np.ndarray, rows: int, strip: int) -> np.ndarray:
    """A view of one strip of the first rows of a flat tile, (rows, strip)."""
    flat = values[: (rows - 1) * TILE_STRIDE + strip]
    return np.lib.stride_tricks.as_strided(flat, (rows, strip), (TILE_STRIDE * values.itemsize, values.itemsize))


def _make_multiply_strip(height: int) -> Any:
    def multiply_strip(coefficients, initial, x, count, out):
        """out[r] = initial[r] + Σ_p coefficients[p, r] x[p] on one strip, for a fixed number of rows r."""
        strip = STRIP_BYTES // x.itemsize
        rows = coefficients[: count * height].reshape(count, height).T
        _strip(out, height, strip)[:] = initial[:height, None] + rows @ _strip(x, count, strip)

    def emit(e, coefficients, initial, x, count, out):
        starts = [e.broadcast(initial, r) for r in range(height)]
        sums = [[e.variable(start) for _ in range(_VECTORS)] for start in starts]
        _accumulate_strip(e, height, coefficients, x, count, sums)
        for r in range(height):
            for v in range(_VECTORS):
                e.store(e.builder.load(sums[r][v]), out, r * TILE_STRIDE + v * e.lanes)

    def typed(typing_context, coefficients, initial, x, count, out):
        return _typed(emit, coefficients, initial, x, count, out)

    return intrinsic(typed) if COMPILED else multiply_strip


def _make_square_strip(height: int) -> Any:
    def square_strip(factor, x, count, out):
        """out += Σ_r (Σ_p factor[p, r] x[p])² on one strip, for a fixed number of rows r."""
        strip = STRIP_BYTES // x.itemsize
        rows = factor[: count * height].reshape(count, height).T
        out[:strip] += ((rows @ _strip(x, count, strip)) ** 2).sum(axis=0)

    def emit(e, factor, x, count, out):
        sums = [[e.variable(e.zeros()) for _ in range(_VECTORS)] for _ in range(height)]
        _accumulate_strip(e, height, factor, x, count, sums)
        for v in range(_VECTORS):
            total = e.load(out, v * e.lanes)
            for r in range(height):
                y = e.builder.load(sums[r][v])
                total = e.multiply_add(y, y, total)
            e.store(total, out, v * e.lanes)

    def typed(typing_context, factor, x, count, out):
        return _typed(emit, factor, x, count, out)

    return intrinsic(typed) if COMPILED else square_strip


def _make_subtract_strip() -> Any:
    def subtract_strip(x, centre, count, out):
        """out[p] = x[p] - centre[p] on one strip of `count` features."""
        strip = STRIP_BYTES // x.itemsize
        _strip(out, count, strip)[:] = _strip(x, count, strip) - centre[:count, None]

    def emit(e, x, centre, count, out):
        with cgutils.for_range(e.builder, count) as loop:
            at = e.builder.mul(loop.index, _INDEX(TILE_STRIDE))
            middle = e.broadcast(centre, loop.index)
            for v in range(_VECTORS):
                where = e.builder.add(at, _INDEX(v * e.lanes))
                e.store(e.builder.fsub(e.load(x, where), middle), out, where)

    def typed(typing_context, x, centre, count, out):
        return _typed(emit, x, centre, count, out)

    return intrinsic(typed) if COMPILED else subtract_strip


def _make_add_block(rows: int, columns: int) -> Any:
    def add_block(a, b, out, stride):
        """out[r * stride + c] += Σ_i a[r, i] b[c, i] for a fixed number of rows and columns."""
        products = _strip(a, rows, TILE_ROWS) @ _strip(b, columns, TILE_ROWS).T
        for r in range(rows):
            out[r * stride : r * stride + columns] += products[r]

    def emit(e, a, b, out, stride):
        sums = [[e.variable(e.zeros()) for _ in range(columns)] for _ in range(rows)]
        with cgutils.for_range_slice(e.builder, _INDEX(0), _INDEX(TILE_ROWS), _INDEX(e.lanes), inc=True) as (i, _):
            right = [e.load(b, e.builder.add(i, _INDEX(c * TILE_STRIDE))) for c in range(columns)]
            for r in range(rows):
                left = e.load(a, e.builder.add(i, _INDEX(r * TILE_STRIDE)))
                for c in range(columns):
                    e.builder.store(e.multiply_add(left, right[c], e.builder.load(sums[r][c])), sums[r][c])
        for r in range(rows):
            for c in range(columns):
                where = e.at(out, e.builder.add(e.builder.mul(stride, _INDEX(r)), _INDEX(c)))
                e.builder.store(e.builder.fadd(e.builder.load(where), e.sum(e.builder.load(sums[r][c]))), where)

    def typed(typing_context, a, b, out, stride):
        return _typed(emit, a, b, out, stride)

    return intrinsic(typed) if COMPILED else add_block


_multiply_1, _multiply_2, _multiply_3 = (_make_multiply_strip(height) for height in (1, 2, 3))
_square_1, _square_2, _square_3 = (_make_square_strip(height) for height in (1, 2, 3))
_subtract_strip = _make_subtract_strip()
_add_1x1, _add_1x2, _add_1x3 = (_make_add_block(1, columns) for columns in (1, 2, 3))
_add_2x1, _add_2x2, _add_2x3 = (_make_add_block(2, columns) for columns in (1, 2, 3))
_add_3x1, _add_3x2, _add_3x3 = (_make_add_block(3, columns) for columns in (1, 2, 3))
_add_4x1, _add_4x2, _add_4x3 = (_make_add_block(4, columns) for columns in (1, 2, 3))


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
    return 2 if left == 4 else min(left, 3)


@kernel
def multiply(coefficients, initial, x, rows, count, out):
    """out[r] = initial[r] + Σ_p A[r, p] x[p] for feature-major x (count, b) and out (rows, b); A from `pack_rows`."""
    for i in range(0, TILE_ROWS, STRIP_BYTES // x.itemsize):
        r = 0
        while r < rows:
            height = next_height(rows - r)
            packed, start, where = coefficients[r * count :], initial[r:], out[r * TILE_STRIDE + i :]
            if height == 3:
                _multiply_3(packed, start, x[i:], count, where)
            elif height == 2:
                _multiply_2(packed, start, x[i:], count, where)
            else:
                _multiply_1(packed, start, x[i:], count, where)
            r += height


@kernel
def _add_squares_of_strip(factor, x, size, out):
    at = r = 0
    while r < size:
        height = next_height(size - r)
        count = r + height
        if height == 3:
            _square_3(factor[at:], x, count, out)
        elif height == 2:
            _square_2(factor[at:], x, count, out)
        else:
            _square_1(factor[at:], x, count, out)
        at += height * count
        r += height


@kernel
def add_squares(factor, x, size, out):
    """out[i] += |F x_i|² for feature-major x (size, b); F lower triangular, from `pack_triangle`."""
    for i in range(0, TILE_ROWS, STRIP_BYTES // x.itemsize):
        _add_squares_of_strip(factor, x[i:], size, out[i:])


@kernel
def add_centred_squares(factors, means, x, work, out):
    """out[c, i] += |F_c (x_i - mean_c)|² for factors (k, packed), means (k, d); `work` holds a strip of d features.

    A strip of rows stays in the first-level cache while all components take their distances from it.
    """
    k, size = means.shape
    for i in range(0, TILE_ROWS, STRIP_BYTES // x.itemsize):
        for c in range(k):
            _subtract_strip(x[i:], means[c], size, work)
            _add_squares_of_strip(factors[c], work, size, out[c * TILE_STRIDE + i :])


@kernel(inline=True)
def _add_block(rows, columns, a, b, out, stride):
    if rows == 4:
        if columns == 3:
            _add_4x3(a, b, out, stride)
        elif columns == 2:
            _add_4x2(a, b, out, stride)
        else:
            _add_4x1(a, b, out, stride)
    elif rows == 3:
        if columns == 3:
            _add_3x3(a, b, out, stride)
        elif columns == 2:
            _add_3x2(a, b, out, stride)
        else:
            _add_3x1(a, b, out, stride)
    elif rows == 2:
        if columns == 3:
            _add_2x3(a, b, out, stride)
        elif columns == 2:
            _add_2x2(a, b, out, stride)
        else:
            _add_2x1(a, b, out, stride)
    elif columns == 3:
        _add_1x3(a, b, out, stride)
    elif columns == 2:
        _add_1x2(a, b, out, stride)
    else:
        _add_1x1(a, b, out, stride)


@kernel
def add_products(a, rows, b, columns, out, stride):
    """out[r * stride + c] += Σ_i a[r, i] b[c, i] for feature-major a (rows, b) and b (columns, b); `out` is float64."""
    r = 0
    while r < rows:
        height = _next_rows(rows - r)
        c = 0
        while c < columns:
            width = _next_columns(columns - c)
            _add_block(height, width, a[r * TILE_STRIDE :], b[c * TILE_STRIDE :], out[r * stride + c :], stride)
            c += width
        r += height


# Rows of the lower triangle of second moments that are weighed at a time: they stay in the first-level cache.
SCATTER_ROWS = 4


@kernel
def add_scatter(x, size, share, weighted, out):
    """Add Σ_i share_i x_i x_iᵀ to the lower triangle of `out` (size, size); `weighted` holds SCATTER_ROWS features."""
    for j in range(0, size, SCATTER_ROWS):
        count = min(SCATTER_ROWS, size - j)
        for m in range(count):
            scale(x[(j + m) * TILE_STRIDE :], share, weighted[m * TILE_STRIDE :])
        add_products(weighted, count, x, j + count, out[j * size :], size)


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


@kernel
def pack_triangle(factor, out):
    """Set `out` to a lower triangular matrix (d, d) as `add_squares` walks it."""
    d = factor.shape[0]
    r = at = 0
    while r < d:
        height = next_height(d - r)
        for j in range(r + height):
            for m in range(height):
                out[at] = factor[r + m, j] if j <= r + m else 0.0
                at += 1
        r += height


def packed_triangle_size(d: int) -> int:
    """Length of a packed triangle."""
    size = r = 0
    while r < d:
        left = d - r
        height = 3 if left == 3 or left >= 5 else min(left, 2)  # `next_height`, which from here would be compiled alone
        r += height
        size += height * r
    return size
