"""Densities and moves as the loop over chains calls them: by address, as it does not know them when it is compiled.

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

from fastgmm.kernels._jit import COMPILED

_PLACES = types.float64[::1]
_WORDS = types.int64[::1]

# density(x, lanes, out, packed) sets out[i] to the log-density of lane i.
DENSITY = types.void(_PLACES, types.int64, _PLACES, _WORDS)

# move(x, lanes, noise, candidate, log_q_ratio, work, packed) sets the candidates y and log q(x | y) - log q(y | x).
# Number j of the step's noise for lane i is at noise[j * TILE_STRIDE + i]: j < d are normals, from
# `numbers_per_step(d)` on the uniforms in (0, 1] that the move asked for. It leaves x and noise as they are.
MOVE = types.void(_PLACES, types.int64, _PLACES, _PLACES, _PLACES, _PLACES, _WORDS)


def address_of(function: Any, signature: Any) -> Any:
    """Where a kernel compiled for a signature begins; uncompiled the function itself. The caller keeps it alive."""
    if not COMPILED:
        return function
    result = function.get_compile_result(signature)
    return result.library.get_pointer_to_function(result.fndesc.llvm_func_name)


def _call(signature: Any) -> tuple[Any, Callable[..., ir.Value]]:
    """What Numba asks of an intrinsic that calls an address, its first argument; what that raises, it raises."""

    def generate(context: Any, builder: ir.IRBuilder, declared: Any, values: Any) -> Any:
        convention = context.call_conv
        kind = convention.get_function_type(signature.return_type, signature.args)
        address = builder.inttoptr(values[0], kind.as_pointer())
        status, result = convention.call_function(builder, address, signature.return_type, signature.args, values[1:])
        with cgutils.if_unlikely(builder, status.is_error):
            convention.return_status_propagate(builder, status)
        return result

    return signature.return_type(types.int64, *signature.args), generate


if COMPILED:

    @intrinsic
    def call_density(typing_context, address, x, lanes, out, packed):
        return _call(DENSITY)

    @intrinsic
    def call_move(typing_context, address, x, lanes, noise, candidate, log_q_ratio, work, packed):
        return _call(MOVE)

else:

    def call_density(function, *arguments):
        """Call a density."""
        function(*arguments)

    call_move = call_density
