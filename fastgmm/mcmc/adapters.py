"""A user's log-density as the loop over chains calls it: a compiled function around it, written in LLVM's language.

It is made in every process, for every density, so its size is what a user waits for: written by Numba it would take
three times as long as most densities do.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.typing import fold_arguments

from fastgmm.kernels._jit import TILE_STRIDE
from fastgmm.kernels.calls import DENSITY
from fastgmm.kernels.vectors import INDEX

# Packed are: the number of dimensions; the lane that is being asked, -1 where all are at once; the arguments' values
# and the addresses and shapes of arrays; and as many words of scratch as the density needs.
DIMENSIONS, LANE, FIRST_WORD = 0, 1, 2

_ONE_POINT, _MANY_POINTS, _OF_MANY = types.float64[::1], types.float64[:, ::1], types.float64[::1]
_numbers = itertools.count()


class Adapter(NamedTuple):
    """A function of the signature `fastgmm.kernels.calls.DENSITY`."""

    address: int
    keep: Any  # where its code is, and that of the density


def point_types(vectorized: bool) -> tuple[Any, ...]:
    """What a density takes before its further arguments."""
    return (_MANY_POINTS, _OF_MANY) if vectorized else (_ONE_POINT,)


@functools.lru_cache(maxsize=64)
def compile_adapter(target: Any, signature: Any, argument_types: Any, vectorized: bool) -> Adapter:
    """Compile what rebuilds the arguments from `packed` and calls `target`, as it was typed, on copies of the lanes.

    The density sees a copy, so one that writes to its argument cannot move the chain.
    """
    context = cpu_target.target_context
    name = f"fastgmm_adapter_{next(_numbers)}"
    with global_compiler_lock:
        library = context.codegen().create_library(name)
        module = library.create_ir_module(name)
        function = ir.Function(module, context.call_conv.get_function_type(DENSITY.return_type, DENSITY.args), name)
        context.call_conv.decorate_function(function, ("x", "lanes", "out", "packed"), DENSITY.args)
        builder = ir.IRBuilder(function.append_basic_block())
        with context.push_code_library(library):
            emit = _emit_for_all if vectorized else _emit_for_each
            emit(_Frame(context, builder, function, target, signature, argument_types))
            context.call_conv.return_value(builder, context.get_dummy_value())
        library.add_ir_module(module)
        library.finalize()
        return Adapter(library.get_pointer_to_function(name), (library, target))


class _Frame:
    """The adapter while it is written: its arguments, and the call."""

    def __init__(
        self, context: Any, builder: ir.IRBuilder, function: ir.Function, target: Any, signature: Any, kinds: Any
    ) -> None:
        x, self.lanes, out, packed = context.call_conv.decode_arguments(builder, DENSITY.args, function)
        self.context, self.builder = context, builder
        self.x, self.out, self.packed = (
            context.make_array(kind)(context, builder, array).data
            for kind, array in zip((DENSITY.args[0], DENSITY.args[2], DENSITY.args[3]), (x, out, packed), strict=True)
        )
        self.dimensions = builder.load(cgutils.gep(builder, self.packed, DIMENSIONS))
        read, place = [], FIRST_WORD
        for kind in kinds.types:
            value, place = _read(context, builder, kind, self.packed, place)
            read.append((kind, value))
        self._arguments = read
        self.scratch = builder.bitcast(cgutils.gep(builder, self.packed, place), self.x.type)
        self._signature, self.returned = signature, signature.return_type
        self._call = context.get_function(types.Dispatcher(target), signature)

    def array(self, kind: Any, data: ir.Value, *shape: ir.Value) -> tuple[Any, ir.Value]:
        """An array in borrowed memory, and its type."""
        return kind, _borrowed_array(self.context, self.builder, kind, data, list(shape))

    def call(self, *points: tuple[Any, ir.Value]) -> ir.Value:
        """Call the density as Numba would: with casts to the types it declares, and default values."""
        wanted = self._signature.args

        def given(index: int, parameter: Any, value: tuple[Any, ir.Value]) -> Any:
            return self.context.cast(self.builder, value[1], value[0], wanted[index])

        def default(index: int, parameter: Any, value: Any) -> Any:
            return self.context.get_constant_generic(self.builder, wanted[index], value)

        def together(index: int, parameter: Any, values: Any) -> Any:
            items = [
                self.context.cast(self.builder, value, kind, item)
                for (kind, value), item in zip(values, wanted[index], strict=True)
            ]
            return cgutils.make_anonymous_struct(self.builder, items)

        arguments = (*points, *self._arguments)
        folded = fold_arguments(self._signature.pysig, arguments, {}, given, default, together)
        return self._call(self.builder, folded)


def _emit_for_each(frame: _Frame) -> None:
    """out[i] = target(x[:, i]) for each lane."""
    builder = frame.builder
    point = frame.array(_ONE_POINT, frame.scratch, frame.dimensions)
    with cgutils.for_range(builder, frame.lanes) as lane:
        builder.store(lane.index, cgutils.gep(builder, frame.packed, LANE))
        with cgutils.for_range(builder, frame.dimensions) as loop:
            place = builder.add(builder.mul(loop.index, INDEX(TILE_STRIDE)), lane.index)
            coordinate = builder.load(builder.gep(frame.x, [place]))
            builder.store(coordinate, builder.gep(frame.scratch, [loop.index]))
        value = frame.context.cast(builder, frame.call(point), frame.returned, types.float64)
        builder.store(value, builder.gep(frame.out, [lane.index]))


def _emit_for_all(frame: _Frame) -> None:
    """target(x, out) for all lanes; what the density forgets to set is NaN."""
    builder, lanes = frame.builder, frame.lanes
    with cgutils.for_range(builder, frame.dimensions) as loop:
        source, goal = builder.mul(loop.index, INDEX(TILE_STRIDE)), builder.mul(loop.index, lanes)
        with cgutils.for_range(builder, lanes) as lane:
            coordinate = builder.load(builder.gep(frame.x, [builder.add(source, lane.index)]))
            builder.store(coordinate, builder.gep(frame.scratch, [builder.add(goal, lane.index)]))
    with cgutils.for_range(builder, lanes) as lane:
        builder.store(ir.Constant(ir.DoubleType(), np.nan), builder.gep(frame.out, [lane.index]))
    frame.call(
        frame.array(_MANY_POINTS, frame.scratch, frame.dimensions, lanes), frame.array(_OF_MANY, frame.out, lanes)
    )


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
