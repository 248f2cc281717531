"""From a user's log-density, or a `Mixture`, to the one kind of function that the chain kernel calls."""

import functools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from fastgmm.kernels._jit import COMPILED, SUMS, kernel
from fastgmm.kernels.chain import LOG_DENSITY
from fastgmm.mixture import Mixture

# What Numba computes with: no halves, long doubles, objects, text or dates.
_DTYPES = frozenset(np.dtype(code) for code in "?bhilqBHILQfdFD")
_MOST_REASON = 600  # characters of Numba's explanation that are shown


class Target(NamedTuple):
    """A log-density `function(x, packed) -> float` and what it needs to stay alive."""

    function: Callable[[np.ndarray, np.ndarray], float]
    packed: np.ndarray  # (p,) int64: the arguments' values, and the addresses and shapes of arrays
    plain: Callable[[np.ndarray], Any] | None  # the same in plain Python, for a dry run; None if there is no need
    name: str
    keep: tuple[Any, ...]  # the arrays whose addresses `packed` holds


def make_target(target: Any, args: tuple[Any, ...]) -> Target:
    """Check `target` and its `args`, and compile the adapter that the chain kernel calls.

    Raises
    ------
    TypeError
        If `target` is neither a compiled function nor a `Mixture`, does not compile for these arguments, or returns
        something other than a real number; or if an argument is of a kind that cannot be handed on.
    """
    if isinstance(target, Mixture):
        if args:
            raise TypeError("args go to a function; a Mixture target takes none.")
        return _mixture_target(target)
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple, e.g. args=(data,), but is of type {type(args).__name__}.")
    values = tuple(_checked_argument(value, f"args[{i}]") for i, value in enumerate(args))
    if not COMPILED:
        return _plain_target(target, values)
    if not isinstance(target, Dispatcher):
        raise TypeError(_not_compiled_message(target))
    return _compiled_target(target, values)


def function_name(target: Any) -> str:
    """Name a function as its author does."""
    return str(getattr(target, "__name__", type(target).__name__))


def _not_compiled_message(target: Any) -> str:
    if callable(target):
        return (
            f"The target {function_name(target)!r} is a plain Python function; decorate it with numba.njit, "
            f"e.g. `target = numba.njit({function_name(target)})`."
        )
    return f"The target must be a numba.njit function of a 1-D array or a Mixture, not {type(target).__name__}."


def _plain_target(target: Any, values: tuple[Any, ...]) -> Target:
    """Close over the arguments: without compilation there is nothing to pack."""
    if not callable(target):
        raise TypeError(_not_compiled_message(target))
    function = getattr(target, "py_func", target)
    name = function_name(function)

    def adapter(x: np.ndarray, packed: np.ndarray) -> float:
        value = function(x, *values)
        if not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(_return_message(name, type(value).__name__))
        return float(value)

    return Target(adapter, np.zeros(0, dtype=np.int64), lambda x: function(x, *values), name, values)


def _compiled_target(target: Any, values: tuple[Any, ...]) -> Target:
    argument_types = types.Tuple([numba.typeof(value) for value in values])
    adapter = _compile_adapter(target, argument_types)
    return Target(adapter, _packed(values), lambda x: target.py_func(x, *values), function_name(target), values)


@functools.lru_cache(maxsize=64)
def _compile_adapter(target: Any, argument_types: Any) -> Any:
    """Compile the function that rebuilds the arguments and calls `target`.

    This happens in every process, and is small: the loop that calls the adapter is the same for every density and
    comes from the disk cache.
    """
    name = function_name(target)
    _check_signature(target, name, argument_types)
    unpack = _unpacker(argument_types)

    def adapter(x: np.ndarray, packed: np.ndarray) -> float:
        return target(x, *unpack(packed))

    try:
        return numba.njit(LOG_DENSITY.signature, nogil=True)(adapter)
    except NumbaError as error:
        raise TypeError(_compile_message(name, error)) from None


def _check_signature(target: Any, name: str, argument_types: Any) -> None:
    """Compile the user's function and refuse what it returns if it is not a real number."""
    context = cpu_target.typing_context
    context.refresh()
    try:
        signature = context.resolve_function_type(types.Dispatcher(target), (types.float64[::1], *argument_types), {})
    except Exception as error:  # Numba's own, and others, such as TypeError where the number of arguments is wrong
        raise TypeError(_compile_message(name, error)) from None
    if signature is None:
        raise TypeError(_compile_message(name, TypeError("its declared signatures do not fit these arguments")))
    returned = signature.return_type
    if not isinstance(returned, (types.Float, types.Integer, types.IntegerLiteral)):
        raise TypeError(_return_message(name, str(returned)))


def _return_message(name: str, returned: str) -> str:
    hints = {
        "none": "; is the return statement missing?",
        "NoneType": "; is the return statement missing?",
        "bool": "; a log-density is a number, such as 0.0 inside the support and -inf outside",
        "complex128": "; take the real part",
    }
    hint = hints.get(returned, "")
    if returned.startswith("array") or returned == "ndarray":
        hint = "; sum or index the array"
    elif returned.startswith("Optional"):
        hint = "; on some path the return statement is missing"
    return f"The log-density {name!r} must return one real number but returns {returned}{hint}."


def _compile_message(name: str, error: Exception) -> str:
    """Say in one paragraph why Numba refused: its text, less the parts that are about Numba."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    where = re.findall(r'File "([^"]+)", line (\d+)', text)
    text = re.sub(r"(?m)^(Failed in |During: |There are |\s*File \"|\s*- (resolution|typing|During)).*$", "", text)
    text = text.split("This error may have been caused")[0].split("The following argument(s)")[0]
    text = re.split(r"\n\ndef |<source|\s- Of which|Overload of function", text)[0]
    reason = " ".join(text.split())
    if len(reason) > _MOST_REASON:
        reason = reason[:_MOST_REASON].rsplit(" ", 1)[0] + " ..."
    place = f" (line {where[-1][1]} of {where[-1][0]})" if where else ""
    return f"The log-density {name!r} does not compile for a 1-D float64 array and these args{place}: {reason}"


def _checked_argument(value: Any, name: str) -> Any:
    """Refuse what cannot be handed to a density, and make arrays such that an address and a shape say it all."""
    if isinstance(value, tuple):
        return tuple(_checked_argument(item, f"{name}[{i}]") for i, item in enumerate(value))
    if isinstance(value, np.ndarray):
        if value.dtype.newbyteorder("=") not in _DTYPES:
            raise TypeError(f"{name} is an array of dtype {value.dtype}, which Numba does not compile; use float64.")
        return np.require(value, dtype=value.dtype.newbyteorder("="), requirements=["C", "ALIGNED"])
    if isinstance(value, (bool, np.bool_, int, np.integer, float, np.float32, complex, np.complex64)):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise TypeError(f"{name} = {value} does not fit into 64 bits.")
        return value
    if isinstance(value, list):
        raise TypeError(f"{name} is a list; pass a NumPy array or a tuple.")
    raise TypeError(
        f"{name} is of type {type(value).__name__}; args may hold numbers, bools, NumPy arrays, and tuples of them."
    )


def _packed(values: tuple[Any, ...]) -> np.ndarray:
    return np.array(list(_words(values)), dtype=np.uint64).view(np.int64)


def _words(value: Any) -> Iterator[int]:
    """Spell an argument in 64-bit words, in the order in which `_read` reads them."""
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


def _unpacker(argument_types: Any) -> Any:
    """Make an intrinsic that reads `packed` back into a tuple of these types."""

    @intrinsic
    def unpack(typing_context: Any, packed: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            words = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            value, _ = _read(context, builder, argument_types, words, 0)
            return value

        return argument_types(packed), codegen

    return unpack


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
    """Emit a C-contiguous array that borrows the memory at an address."""
    address = _word(context, builder, words, place)
    shape = [_word(context, builder, words, place + 1 + i) for i in range(kind.ndim)]
    item_size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides: list[Any] = []
    stride = ir.Constant(ir.IntType(64), item_size)
    for length in reversed(shape):
        strides.insert(0, stride)
        stride = builder.mul(stride, length)
    array = context.make_array(kind)(context, builder)
    context.populate_array(
        array,
        data=builder.inttoptr(address, array.data.type),
        shape=shape,
        strides=strides,
        itemsize=context.get_constant(types.intp, item_size),
        meminfo=None,  # nobody's: `Target.keep` holds the arrays
    )
    return array._getvalue(), place + 1 + kind.ndim


_VECTOR = types.Array(types.float64, 1, "C")
_read_mixture = _unpacker(
    types.Tuple([_VECTOR, types.Array(types.float64, 2, "C"), types.Array(types.float64, 3, "C")])
)


@kernel(flags=SUMS)  # a third faster at d = 20, the same at d = 2
def mixture_log_density(x: np.ndarray, constants: np.ndarray, means: np.ndarray, factors: np.ndarray) -> float:
    """Evaluate `log Σ_c exp(constants[c] - |F_c (x - μ_c)|² / 2)` with one exponential per component.

    `constants` (k,) holds log weights and log-determinants, `factors` (k, d, d) the lower triangular inverses of
    the covariances' Cholesky factors.
    """
    # k components, d dimensions
    k, d = means.shape
    largest = -np.inf
    total = 0.0
    for c in range(k):
        square = 0.0
        for i in range(d):
            z = 0.0
            for j in range(i + 1):
                z += factors[c, i, j] * (x[j] - means[c, j])
            square += z * z
        term = constants[c] - 0.5 * square
        # The sum is kept relative to the largest term so far: no second pass, no array of terms.
        if term > largest:
            total = total * math.exp(largest - term) + 1.0
            largest = term
        elif term > -np.inf:
            total += math.exp(term - largest)
    return largest + math.log(total) if total > 0.0 else -np.inf


@kernel
def _mixture_adapter(x: np.ndarray, packed: np.ndarray) -> float:
    constants, means, factors = _read_mixture(packed)
    return mixture_log_density(x, constants, means, factors)


def _mixture_target(mixture: Mixture) -> Target:
    factors = np.ascontiguousarray(mixture.factors_dense, dtype=np.float64)
    means = np.ascontiguousarray(mixture.means, dtype=np.float64)
    d = means.shape[1]
    log_determinants = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    with np.errstate(divide="ignore"):  # a component of weight 0 has no say
        constants = np.log(mixture.weights) + log_determinants - 0.5 * d * math.log(2 * math.pi)
    values = (np.ascontiguousarray(constants, dtype=np.float64), means, factors)
    if not COMPILED:
        return Target(lambda x, packed: mixture_log_density(x, *values), np.zeros(0, np.int64), None, "Mixture", values)
    return Target(_mixture_adapter, _packed(values), None, "Mixture", values)
