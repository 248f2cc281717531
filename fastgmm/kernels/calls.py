"""Calls by address, of what the caller does not know when it is compiled.

Densities and moves of the sampler, shares of a pass, and what passes ask of a form.

A kernel that takes a dispatcher is compiled anew in every process. A declared function type would do, but handing one
over takes 60 µs, and what it calls must have wrappers, which take longer to compile than most densities. An address is
a number; the call costs 5 ns, for all lanes together.

Vectors of all lanes are feature-major: number j of lane i is at j * TILE_STRIDE + i. A group has at most TILE_ROWS
lanes, and eight places more are there: a kernel may work on whole vectors, up to the next multiple of eight lanes or
the place TILE_ROWS. What it finds beyond the last lane is any float64, and what it leaves there does not count.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastgmm.kernels._jit import COMPILED, kernel

_PLACES = types.float64[::1]
_WORDS = types.int64[::1]

# density(x, lanes, out, packed) sets out[i] to the log-density of lane i.
DENSITY = types.void(_PLACES, types.int64, _PLACES, _WORDS)

# move(x, lanes, noise, candidate, log_q_ratio, work, packed) sets the candidates y and log q(x | y) - log q(y | x).
# Number j of the step's noise for lane i is at noise[j * TILE_STRIDE + i]: j < d are normals, from
# `numbers_per_step(d)` on the uniforms in (0, 1] that the move asked for. It leaves x and noise as they are.
MOVE = types.void(_PLACES, types.int64, _PLACES, _PLACES, _PLACES, _PLACES, _WORDS)


# What passes ask of a form whose arrays have one type of numbers. The form is where `store_form` left it.
def log_densities_signature(form: Any, number: Any) -> Any:
    """The signature of `forms.log_densities` by address."""
    return types.void(form, *[types.CPointer(number)] * 2, types.UniTuple(types.int64, 2))


def accumulate_signature(form: Any, number: Any) -> Any:
    """The signature of `forms.accumulate` by address."""
    sums = types.CPointer(types.float64)
    return types.void(form, *[types.CPointer(number)] * 4, types.Array(number, 2, "C"), sums)


def _emit_call(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> tuple[Any, ir.Value]:
    """Call the address `values[0]`; return the status and the result."""
    kind = context.call_conv.get_function_type(signature.return_type, signature.args)
    address = builder.inttoptr(values[0], kind.as_pointer())
    return context.call_conv.call_function(builder, address, signature.return_type, signature.args, values[1:])


def _call(signature: Any) -> tuple[Any, Callable[..., ir.Value]]:
    """What Numba asks of an intrinsic that calls an address, its first argument; what that raises, it raises."""

    def generate(context: Any, builder: ir.IRBuilder, declared: Any, values: Any) -> Any:
        status, result = _emit_call(context, builder, signature, values)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return result

    return signature.return_type(types.int64, *signature.args), generate


def _try(signature: Any) -> tuple[Any, Callable[..., ir.Value]]:
    """The same with pointers for arrays; what the address raises is dropped, and whether it raised is returned.

    What memory the exception holds is lost: not to be done again and again.
    """
    given = [types.CPointer(kind.dtype) if isinstance(kind, types.Array) else kind for kind in signature.args]

    def array(context: Any, builder: ir.IRBuilder, kind: Any, pointer: ir.Value) -> Any:
        """An array whose length nobody asks for."""
        made, size = context.make_array(kind)(context, builder), ir.IntType(64)(kind.dtype.bitwidth // 8)
        context.populate_array(made, data=pointer, shape=[size.type(0)], strides=[size], itemsize=size, meminfo=None)
        return made._getvalue()

    def generate(context: Any, builder: ir.IRBuilder, declared: Any, values: Any) -> Any:
        arguments = [
            array(context, builder, kind, value) if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, values[1:], strict=True)
        ]
        status, _ = _emit_call(context, builder, signature, [values[0], *arguments])
        with cgutils.if_unlikely(builder, status.is_python_exc):  # from a block in object mode
            _drop_exception(context, builder, status)
        return builder.zext(status.is_error, ir.IntType(64))

    return types.int64(types.int64, *given), generate


def _drop_exception(context: Any, builder: ir.IRBuilder, status: Any) -> None:
    """Clear Python's exception; one that asks to end the program, such as KeyboardInterrupt, is raised."""
    python = context.get_python_api(builder)
    kind = ir.FunctionType(ir.IntType(32), [python.pyobj])
    matches = cgutils.get_or_insert_function(builder.module, kind, "PyErr_ExceptionMatches")
    state = python.gil_ensure()
    usual = builder.call(matches, [python.get_c_object("PyExc_Exception")])
    is_usual = builder.icmp_signed("!=", usual, usual.type(0))
    with builder.if_then(is_usual):
        python.err_clear()
    python.gil_release(state)
    with builder.if_then(builder.not_(is_usual)):
        context.call_conv.return_status_propagate(builder, status)


def _call_of_form(field: int, packed: Any, signature: Any) -> tuple[Any, Callable[..., ir.Value]]:
    """What Numba asks of an intrinsic that calls the address in a field of a packed form, and raises nothing."""

    def generate(context: Any, builder: ir.IRBuilder, declared: Any, values: Any) -> Any:
        fields = cgutils.unpack_tuple(builder, values[0])
        words = context.make_array(packed.types[2])(context, builder, fields[2])
        where = builder.bitcast(words.data, ir.IntType(8).as_pointer())
        _emit_call(context, builder, signature, [fields[field], where, *values[1:]])
        return context.get_dummy_value()

    return types.void(packed, *signature.args[1:]), generate


if COMPILED:

    @intrinsic
    def _store(typing_context, form, words):

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
            fields = []
            for kind, value in zip(form.types, cgutils.unpack_tuple(builder, values[0]), strict=True):
                if isinstance(kind, types.Array):
                    array = context.make_array(kind)(context, builder, value)
                    array.meminfo, array.parent = (each.type(None) for each in (array.meminfo, array.parent))
                    value = array._getvalue()
                fields.append(value)
            stored = context.make_tuple(builder, form, fields)
            data = context.make_array(words)(context, builder, values[1]).data
            builder.store(stored, builder.bitcast(data, stored.type.as_pointer()), align=8)
            return context.get_dummy_value()

        return types.void(form, words), generate

    @kernel
    def store_form(form, words):
        """Write a form where calls by address will find it. It owns no array there: whoever has it must live."""
        _store(form, words)

    @intrinsic
    def form_at(typing_context, place):
        """The form that was stored there."""

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
            kind = context.get_value_type(signature.return_type)
            form = builder.load(builder.bitcast(values[0], kind.as_pointer()), align=8)
            # Numba will take away a reference, and finds that it need do neither.
            context.nrt.incref(builder, signature.return_type, form)
            return form

        return place.dtype(place), generate

    @intrinsic
    def call_log_densities(typing_context, packed, tile, out, ahead):
        """`forms.log_densities` of a packed form."""
        return _call_of_form(0, packed, log_densities_signature(types.voidptr, tile.dtype))

    @intrinsic
    def call_accumulate(typing_context, packed, tile, values, inverse, weights, centres, sums):
        """`forms.accumulate` of a packed form."""
        return _call_of_form(1, packed, accumulate_signature(types.voidptr, tile.dtype))

    @intrinsic
    def call_share(typing_context, address, arguments):
        """Call a worker's share of a pass, which raises nothing."""

        def generate(context: Any, builder: ir.IRBuilder, declared: Any, values: Any) -> Any:
            share = types.void(*arguments)
            _emit_call(context, builder, share, [values[0], *cgutils.unpack_tuple(builder, values[1])])
            return context.get_dummy_value()

        return types.void(types.int64, arguments), generate

    @intrinsic
    def call_density(typing_context, address, x, lanes, out, packed):
        return _call(DENSITY)

    @intrinsic
    def try_density(typing_context, address, x, lanes, out, packed):
        return _try(DENSITY)

    @intrinsic
    def call_move(typing_context, address, x, lanes, noise, candidate, log_q_ratio, work, packed):
        return _call(MOVE)

else:

    def form_at(place):
        """The form, which is there itself."""
        return place

    def call_log_densities(packed, *arguments):
        """`forms.log_densities` of a packed form."""
        packed.log_densities(packed.form, *arguments)

    def call_accumulate(packed, *arguments):
        """`forms.accumulate` of a packed form."""
        packed.accumulate(packed.form, *arguments)

    def call_share(function, arguments):
        """Call a worker's share of a pass."""
        function(*arguments)

    def call_density(function, *arguments):
        """Call a density."""
        function(*arguments)

    def try_density(function, *arguments):
        """Call a density and return whether it raised."""
        try:
            function(*arguments)
        except Exception:
            return 1
        return 0

    call_move = call_density
