"""A user's log-density as the loop over chains calls it: a compiled function around it, written in LLVM's language.

It is made in every process, for every density, so its size is what a user waits for: written by Numba it would take
three times as long as most densities do.
"""

import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.typing import fold_arguments

from fastgmm.kernels._collector import without_collecting
from fastgmm.kernels._jit import TILE_STRIDE
from fastgmm.kernels.calls import DENSITY
from fastgmm.kernels.vectors import INDEX

# Packed are: the number of dimensions; the lane that is being asked, -1 where all are at once; the arguments' values
# and the addresses and shapes of arrays; and as many words of scratch as the density needs.
DIMENSIONS, LANE, FIRST_WORD = 0, 1, 2

_ONE_POINT, _MANY_POINTS, _OF_MANY = types.float64[::1], types.float64[:, ::1], types.float64[::1]
_numbers = itertools.count()


class Density(NamedTuple):
    """A function of the signature `fastgmm.kernels.calls.DENSITY`."""

    address: Any  # uncompiled the function itself
    keep: Any = None  # what holds its code
    separate: bool = True  # whether it gives a lane the same bits whatever lanes are beside it


def point_types(vectorized: bool) -> tuple[Any, ...]:
    """What a density takes before its further arguments."""
    return (_MANY_POINTS, _OF_MANY) if vectorized else (_ONE_POINT,)


@functools.lru_cache(maxsize=64)
def compile_adapter(target: Any, signature: Any, argument_types: Any, vectorized: bool, dimensions: int) -> Density:
    """Compile what rebuilds the arguments from `packed` and calls `target`, as it was typed, on copies of the lanes.

    The density sees a copy, so one that writes to its argument cannot move the chain. LLVM may take several lanes at
    once where that rounds as one does: a function whose arithmetic may be reordered stays a call for each lane.
    """
    with global_compiler_lock, without_collecting():
        library, name = _link(target, signature, argument_types, vectorized, dimensions, "alwaysinline")
        code = library.get_llvm_str()
        separate = not (vectorized and (_LOOSE.search(code) or _OF_MATRICES.search(code)))
        if not vectorized and _LOOSE.search(code):
            library, name = _link(target, signature, argument_types, vectorized, dimensions, "noinline")
        return Density(library.get_pointer_to_function(name), (library, target), separate)


# Instructions that need not round as written, and functions of another library for vectors than for numbers.
_LOOSE = re.compile(r" (fast|reassoc|nnan|ninf|nsz|arcp|contract|afn) |@__svml")
# Functions of BLAS and LAPACK, which may sum in another order for another number of columns.
_OF_MATRICES = re.compile(r"@numba_(x|ez_)")


def _link(target: Any, signature: Any, kinds: Any, vectorized: bool, dimensions: int, inlining: str) -> tuple[Any, str]:
    context = cpu_target.target_context
    name = f"fastgmm_adapter_{next(_numbers)}"
    library = context.codegen().create_library(name)
    module = library.create_ir_module(name)
    function = ir.Function(module, context.call_conv.get_function_type(DENSITY.return_type, DENSITY.args), name)
    context.call_conv.decorate_function(function, ("x", "lanes", "out", "packed"), DENSITY.args)
    for argument in function.args:
        if argument.name in ("arg.x.4", "arg.out.4", "arg.packed.4"):  # where their numbers are
            argument.add_attribute("noalias")
    with context.push_code_library(library):
        frame = _Frame(context, function, target, signature, kinds, dimensions, inlining)
        (_emit_for_all if vectorized else _emit_for_each)(frame)
        context.call_conv.return_value(frame.builder, context.get_dummy_value())
    library.add_ir_module(module)
    library.add_linking_library(frame.compiled.library)
    library.finalize()
    return library, name


class _Frame:
    """The adapter while it is written: its arguments, and the call."""

    def __init__(
        self,
        context: Any,
        function: ir.Function,
        target: Any,
        signature: Any,
        kinds: Any,
        dimensions: int,
        inlining: str,
    ) -> None:
        self.builder = builder = ir.IRBuilder(function.append_basic_block())
        x, self.lanes, out, packed = context.call_conv.decode_arguments(builder, DENSITY.args, function)
        self.context, self.dimensions, self.inlining = context, dimensions, inlining
        self.x, self.out, self.packed = (
            context.make_array(kind)(context, builder, array).data
            for kind, array in zip((DENSITY.args[0], DENSITY.args[2], DENSITY.args[3]), (x, out, packed), strict=True)
        )
        self.arguments, place = [], FIRST_WORD
        for kind in kinds.types:
            value, place = _read(context, builder, kind, self.packed, place)
            self.arguments.append((kind, value))
        self.scratch = builder.bitcast(cgutils.gep(builder, self.packed, place), self.x.type)
        self.signature = signature
        self.compiled = target.get_compile_result(signature)

    def array(self, kind: Any, data: ir.Value, *shape: ir.Value) -> tuple[Any, ir.Value]:
        """An array in borrowed memory, and its type."""
        return kind, _borrowed_array(self.context, self.builder, kind, data, list(shape))

    def call(self, *points: tuple[Any, ir.Value], lane: ir.Value | None = None) -> ir.Value:
        """Call the density as Numba would: with casts to the types it declares, and default values.

        If it raises, so does the adapter, having told of the lane.
        """
        builder, convention, wanted = self.builder, self.context.call_conv, self.signature.args

        def given(index: int, parameter: Any, value: tuple[Any, ir.Value]) -> Any:
            return self.context.cast(builder, value[1], value[0], wanted[index])

        def default(index: int, parameter: Any, value: Any) -> Any:
            return self.context.get_constant_generic(builder, wanted[index], value)

        def together(index: int, parameter: Any, values: Any) -> Any:
            items = [
                self.context.cast(builder, value, kind, item)
                for (kind, value), item in zip(values, wanted[index], strict=True)
            ]
            return cgutils.make_anonymous_struct(builder, items)

        arguments = fold_arguments(self.signature.pysig, (*points, *self.arguments), {}, given, default, together)
        function = self.context.declare_function(builder.module, self.compiled.fndesc)
        status, result = convention.call_function(
            builder, function, self.signature.return_type, wanted, arguments, (self.inlining,)
        )
        with cgutils.if_unlikely(builder, status.is_error):
            if lane is not None:
                builder.store(lane, cgutils.gep(builder, self.packed, LANE))
            convention.return_status_propagate(builder, status)
        return result


# Coordinates of a point that are kept in registers.
_MOST_REGISTERS = 32


def _emit_for_each(frame: _Frame) -> None:
    """out[i] = target(x[:, i]) for each lane."""
    builder, d = frame.builder, frame.dimensions
    few = d <= _MOST_REGISTERS
    memory = cgutils.alloca_once(builder, ir.DoubleType(), d) if few else frame.scratch
    point = frame.array(_ONE_POINT, memory, INDEX(d))

    def copy(lane: ir.Value, j: ir.Value) -> None:
        place = builder.add(builder.mul(j, INDEX(TILE_STRIDE)), lane)
        builder.store(builder.load(builder.gep(frame.x, [place])), builder.gep(memory, [j]))

    with cgutils.for_range(builder, frame.lanes) as loop:
        if few:
            for j in range(d):
                copy(loop.index, INDEX(j))
        else:
            with cgutils.for_range(builder, INDEX(d)) as inner:
                copy(loop.index, inner.index)
        value = frame.call(point, lane=loop.index)
        value = frame.context.cast(builder, value, frame.signature.return_type, types.float64)
        builder.store(value, builder.gep(frame.out, [loop.index]))


def _emit_for_all(frame: _Frame) -> None:
    """target(x, out) for all lanes; what the density forgets to set is NaN."""
    builder, lanes, d = frame.builder, frame.lanes, INDEX(frame.dimensions)
    with cgutils.for_range(builder, d) as loop:
        source, goal = builder.mul(loop.index, INDEX(TILE_STRIDE)), builder.mul(loop.index, lanes)
        with cgutils.for_range(builder, lanes) as lane:
            coordinate = builder.load(builder.gep(frame.x, [builder.add(source, lane.index)]))
            builder.store(coordinate, builder.gep(frame.scratch, [builder.add(goal, lane.index)]))
    with cgutils.for_range(builder, lanes) as lane:
        builder.store(ir.Constant(ir.DoubleType(), np.nan), builder.gep(frame.out, [lane.index]))
    frame.call(frame.array(_MANY_POINTS, frame.scratch, d, lanes), frame.array(_OF_MANY, frame.out, lanes))


def pack_arguments(values: tuple[Any, ...]) -> np.ndarray:
    """Spell arguments in words, in the order in which an adapter reads them."""
    return np.array(list(_words(values)), dtype=np.uint64).view(np.int64)


def _words(value: Any) -> Iterator[int]:
    if isinstance(value, tuple):
        for item in value:
            yield from _words(item)
    elif isinstance(value, np.ndarray):
        yield value.ctypes.data
        yield from value.shape
    elif isinstance(value, (bool, np.bool_, int, np.integer)):
        yield int(value) & (2**64 - 1)
    elif isinstance(value, (complex, np.complexfloating)):
        yield from (_bits(value.real), _bits(value.imag))
    else:
        yield _bits(value)


def _bits(value: Any) -> int:
    return int(np.float64(value).view(np.uint64))


def _read(context: Any, builder: Any, kind: Any, words: Any, place: int) -> tuple[Any, int]:
    """Emit code that reads a value of type `kind` from `words[place:]`; return it and the next place."""
    if isinstance(kind, types.BaseTuple):
        items = []
        for item_kind in kind.types:
            item, place = _read(context, builder, item_kind, words, place)
            items.append(item)
        return context.make_tuple(builder, kind, items), place
    if isinstance(kind, types.Array):
        return _read_array(context, builder, kind, words, place)
    if isinstance(kind, types.Complex):
        number = context.make_complex(builder, kind)
        number.real, place = _read(context, builder, kind.underlying_float, words, place)
        number.imag, place = _read(context, builder, kind.underlying_float, words, place)
        return number._getvalue(), place
    word = _word(context, builder, words, place)
    if isinstance(kind, types.Float):
        double = builder.bitcast(word, ir.DoubleType())
        return context.cast(builder, double, types.float64, kind), place + 1
    return context.cast(builder, word, types.int64, kind), place + 1


def _word(context: Any, builder: Any, words: Any, place: int) -> Any:
    return builder.load(cgutils.gep(builder, words, place))


def _read_array(context: Any, builder: Any, kind: Any, words: Any, place: int) -> tuple[Any, int]:
    shape = [_word(context, builder, words, place + 1 + i) for i in range(kind.ndim)]
    address = _word(context, builder, words, place)
    data = builder.inttoptr(address, context.get_data_type(kind.dtype).as_pointer())
    return _borrowed_array(context, builder, kind, data, shape), place + 1 + kind.ndim


def _borrowed_array(context: Any, builder: Any, kind: Any, data: Any, shape: list[Any]) -> Any:
    """Emit a C-contiguous array in memory that somebody else keeps alive: references are not counted."""
    item_size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides: list[Any] = []
    stride = INDEX(item_size)
    for length in reversed(shape):
        strides.insert(0, stride)
        stride = builder.mul(stride, length)
    array = context.make_array(kind)(context, builder)
    context.populate_array(array, data=data, shape=shape, strides=strides, itemsize=INDEX(item_size), meminfo=None)
    return array._getvalue()
