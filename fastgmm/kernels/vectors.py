"""The processor's vectors, written out for what LLVM does not vectorise well enough.

A micro-kernel is a Python function, which is what runs uncompiled, and beside it an `emit` that writes the same in
LLVM's language; `void_intrinsic` makes of the latter what Numba's `intrinsic` asks for.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from fastgmm.kernels._jit import COMPILED, TILE_STRIDE, VECTOR_BYTES

INDEX = ir.IntType(64)
CACHE_LINE = 64  # bytes


def spread(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    """A vector of copies of a value."""
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    lane = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(lane, undefined, zeros)


class Emitter:
    """LLVM instructions on vectors of one element type."""

    def __init__(self, builder: ir.IRBuilder, element: ir.Type) -> None:
        self.builder = builder
        self.element = element
        self.bytes = 8 if isinstance(element, ir.DoubleType) else 4
        self.lanes = VECTOR_BYTES // self.bytes
        self.vector = ir.VectorType(element, self.lanes)
        self.integers = ir.VectorType(ir.IntType(8 * self.bytes), self.lanes)  # a vector's bits
        self._suffix = f"v{self.lanes}f{8 * self.bytes}"

    def _intrinsic(self, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
        kind = ir.FunctionType(result, arguments)
        return cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.{name}.{self._suffix}")

    def at(self, pointer: ir.Value, index: Any) -> ir.Value:
        """Address of an element; `index` is a value or an int."""
        index = INDEX(index) if isinstance(index, int) else index
        return self.builder.gep(pointer, [index])

    def load(self, pointer: ir.Value, index: Any) -> ir.Value:
        """A vector from consecutive elements."""
        where = self.builder.bitcast(self.at(pointer, index), self.vector.as_pointer())
        return self.builder.load(where, align=self.bytes)

    def store(self, value: ir.Value, pointer: ir.Value, index: Any) -> None:
        """A vector to consecutive elements."""
        where = self.builder.bitcast(self.at(pointer, index), value.type.as_pointer())
        self.builder.store(value, where, align=self.bytes)

    def load_integers(self, pointer: ir.Value, index: Any) -> ir.Value:
        """A vector from consecutive integers of the elements' size."""
        where = self.builder.bitcast(self.at(pointer, index), self.integers.as_pointer())
        return self.builder.load(where, align=self.bytes)

    def broadcast(self, pointer: ir.Value, index: Any) -> ir.Value:
        """A vector of one element's copies."""
        return self.spread(self.builder.load(self.at(pointer, index)))

    def spread(self, scalar: ir.Value) -> ir.Value:
        """A vector of copies of a value, an element or an integer of its size."""
        return spread(self.builder, scalar, self.lanes)

    def multiply_add(self, a: ir.Value, b: ir.Value, total: ir.Value) -> ir.Value:
        """a b + total, rounded once."""
        return self.builder.call(self._intrinsic("fma", self.vector, [self.vector] * 3), [a, b, total])

    def dot(self, a: Sequence[ir.Value], b: Sequence[ir.Value]) -> ir.Value:
        """a_0 b_0 + a_1 b_1 + ..., as far as the shorter of them goes."""
        (first, other), *pairs = zip(a, b, strict=False)
        total = self.builder.fmul(first, other)
        for x, y in pairs:
            total = self.multiply_add(x, y, total)
        return total

    def add_product(self, a: ir.Value, b: ir.Value, variable: ir.Value) -> None:
        """variable += a b."""
        self.builder.store(self.multiply_add(a, b, self.builder.load(variable)), variable)

    def constant(self, value: float) -> ir.Constant:
        """A vector of copies of a number."""
        return ir.Constant(self.vector, [value] * self.lanes)

    def zeros(self) -> ir.Constant:
        """A vector of zeros."""
        return self.constant(0.0)

    def larger(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """a where a > b, and b elsewhere, so where either is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def look_up(self, table: Sequence[int], places: ir.Value) -> ir.Value:
        """Entries of a table of integers of the elements' size, at the low bits of each place.

        It has one entry, or sixteen, for which vectors have to be those of AVX-512.
        """
        b, lanes = self.builder, self.lanes
        if len(table) == 1:
            return ir.Constant(self.integers, list(table) * lanes)
        parts = [ir.Constant(self.integers, list(table[i : i + lanes])) for i in range(0, len(table), lanes)]
        if len(parts) == 1:
            name, arguments = "llvm.x86.avx512.permvar.si.512", [parts[0], places]
        else:
            name, arguments = "llvm.x86.avx512.vpermi2var.q.512", [parts[0], places, parts[1]]
        kind = ir.FunctionType(self.integers, [self.integers] * len(arguments))
        return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)

    def sum(self, vector: ir.Value) -> ir.Value:
        """The sum of a vector's elements as a double."""
        function = self._intrinsic("vector.reduce.fadd", self.element, [self.element, self.vector])
        total = self.builder.call(function, [ir.Constant(self.element, -0.0), vector], fastmath=("reassoc",))
        return total if self.bytes == 8 else self.builder.fpext(total, ir.DoubleType())

    def add_sums(self, vectors: list[ir.Value], out: ir.Value) -> None:
        """Add the sum of each vector's elements to consecutive doubles, four at a time."""
        for first in range(0, len(vectors), 4):
            four = vectors[first : first + 4]
            if len(four) < 4 or self.lanes < 4:
                for n, vector in enumerate(four, first):
                    self._add_to(self.at(out, n), self.sum(vector))
                continue
            sums = self._sum_four(four)
            where = self.builder.bitcast(self.at(out, first), sums.type.as_pointer())
            self.builder.store(self.builder.fadd(self.builder.load(where, align=8), sums), where, align=8)

    def _add_to(self, where: ir.Value, value: ir.Value) -> None:
        self.builder.store(self.builder.fadd(self.builder.load(where), value), where)

    def _sum_four(self, vectors: list[ir.Value]) -> ir.Value:
        """The sums of four vectors' elements as a vector of doubles, by less than half the shuffles of single sums."""
        first, second, third, fourth = vectors
        sums = self._interleave(self._interleave(first, third, 2), self._interleave(second, fourth, 2), 1)
        length = self.lanes
        while length > 4:
            length //= 2
            halves = [self._pick(sums, sums, [start + i for i in range(length)]) for start in (0, length)]
            sums = self.builder.fadd(*halves)
        doubles = ir.VectorType(ir.DoubleType(), 4)
        return sums if self.bytes == 8 else self.builder.fpext(sums, doubles)

    def _interleave(self, a: ir.Value, b: ir.Value, distance: int) -> ir.Value:
        """Sums of the elements of a that are so far apart, and of b, each sum of b behind that of a."""
        places = range(self.lanes)
        own = [i if not i & distance else i + self.lanes for i in places]
        other = [i + distance if not i & distance else i - distance + self.lanes for i in places]
        return self.builder.fadd(self._pick(a, b, own), self._pick(a, b, other))

    def _pick(self, a: ir.Value, b: ir.Value, places: list[int]) -> ir.Value:
        """The elements at these places of a and, after it, b."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places))

    def variable(self, value: ir.Value) -> ir.Value:
        """A register that keeps changing: LLVM turns the stack slot into one."""
        slot = cgutils.alloca_once(self.builder, value.type)
        self.builder.store(value, slot)
        return slot


def _pointer(context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value) -> ir.Value:
    return context.make_array(array_type)(context, builder, array).data


def void_intrinsic(emit: Callable[..., Any], *arguments: Any) -> tuple[Any, Callable[..., ir.Value]]:
    """What Numba asks of an intrinsic whose instructions `emit(emitter, *values)` writes; arrays come as pointers."""
    return _signature_and_code(types.void, emit, arguments)


def integer_intrinsic(emit: Callable[..., Any], *arguments: Any) -> tuple[Any, Callable[..., ir.Value]]:
    """The same where `emit` returns a 64-bit integer."""
    return _signature_and_code(types.int64, emit, arguments)


def _signature_and_code(
    returned: Any, emit: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[Any, Callable[..., ir.Value]]:
    kinds = (types.Array, types.CPointer, types.BaseTuple)
    signature = returned(*(a if isinstance(a, kinds) else types.intp for a in arguments))

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        operands = [
            _pointer(context, builder, kind, value) if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, values, strict=True)
        ]
        floats = next(value for value in operands if isinstance(value.type, ir.PointerType))
        result = emit(Emitter(builder, floats.type.pointee), *operands)
        return context.get_dummy_value() if returned == types.void else result

    return signature, generate


def aligned_zeros(shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
    """Zeros that begin with a cache line, so that no vector straddles two."""
    count, size = math.prod(shape), np.dtype(dtype).itemsize
    room = np.zeros(count + CACHE_LINE // size, dtype)
    skip = -room.ctypes.data % CACHE_LINE // size
    return room[skip : skip + count].reshape(shape)


def rows_of(values: np.ndarray, rows: int, width: int) -> np.ndarray:
    """A view (rows, width) of where the first rows of a flat tile begin, for micro-kernels that run uncompiled."""
    flat = values[: (rows - 1) * TILE_STRIDE + width]
    return np.lib.stride_tricks.as_strided(flat, (rows, width), (TILE_STRIDE * values.itemsize, values.itemsize))


def _make_rest():
    def rest(values, first):
        """values.ravel()[first:] of a contiguous array or of what this returns, as a mere pointer where compiled.

        Handing on slices would count references, 5 ns each, which is as much as the arithmetic between.
        """
        return values.reshape(-1)[first:]

    def typed(typing_context, values, first):
        if isinstance(values, types.Array) and values.layout != "C":
            raise TypingError("`rest` goes on through contiguous arrays only")
        kind = types.CPointer(values.dtype)

        def generate(context, builder, signature, arguments):
            pointer = arguments[0]
            if isinstance(signature.args[0], types.Array):
                pointer = context.make_array(signature.args[0])(context, builder, pointer).data
            return builder.gep(pointer, [arguments[1]])

        return kind(values, types.intp), generate

    return intrinsic(typed) if COMPILED else rest


def _make_itemsize_of():
    def itemsize_of(values):
        """Bytes of an element of an array or of what `rest` returns, a constant to the compiler."""
        return values.itemsize

    def typed(typing_context, values):
        def generate(context, builder, signature, arguments):
            return INDEX(context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype)))

        return types.intp(values), generate

    return intrinsic(typed) if COMPILED else itemsize_of


rest, itemsize_of = _make_rest(), _make_itemsize_of()
