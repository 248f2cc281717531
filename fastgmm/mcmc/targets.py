"""From a user's log-density, or a `Mixture`, to the one kind of function that the loop over chains calls."""

import functools
import logging
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

from fastgmm.kernels import lanes as kernels
from fastgmm.kernels._jit import COMPILED, TILE_ROWS, TILE_STRIDE, kernel_with_signature
from fastgmm.kernels.chain import DENSITY
from fastgmm.kernels.products import pack_triangle
from fastgmm.mixture import Mixture

logger = logging.getLogger("fastgmm")

# What Numba computes with: no halves, long doubles, objects, text or dates.
_DTYPES = frozenset(np.dtype(code) for code in "?bhilqBHILQfdFD")
_MOST_REASON = 600  # characters of Numba's explanation that are shown

# Packed are: the number of dimensions; the lane that is being asked, -1 where all are at once; the arguments' values
# and the addresses and shapes of arrays; and as many words of scratch as the density needs.
_DIMENSIONS, LANE, _FIRST_WORD = 0, 1, 2


class Target(NamedTuple):
    """A log-density of type `fastgmm.kernels.chain.DENSITY` and what it needs to stay alive."""

    function: Callable[[np.ndarray, int, np.ndarray, np.ndarray], None]
    words: np.ndarray  # (p,) int64
    scratch: Callable[[int], int]  # words of scratch for so many dimensions
    plain: Callable[[np.ndarray], Any] | None  # the same for one point in plain Python, for a dry run; None if needless
    name: str
    keep: tuple[Any, ...]  # the arrays whose addresses `words` holds
    together: bool  # whether lanes are worked on in vectors, so that a few cost as much as one

    def pack(self, dimensions: int) -> np.ndarray:
        """Return what the function takes as `packed`: one for every group, as it holds scratch."""
        packed = np.zeros(_FIRST_WORD + len(self.words) + self.scratch(dimensions), dtype=np.int64)
        packed[_DIMENSIONS] = dimensions
        packed[LANE] = -1
        packed[_FIRST_WORD : _FIRST_WORD + len(self.words)] = self.words
        return packed


def make_target(target: Any, args: tuple[Any, ...], vectorized: bool = False) -> Target:
    """Check `target` and its `args`, and compile the adapter that the loop calls.

    Raises
    ------
    TypeError
        If `target` is neither a function nor a `Mixture`, does not compile for these arguments, or returns
        something other than a real number; or if an argument is of a kind that cannot be handed on.
    """
    if isinstance(target, Mixture):
        if args:
            raise TypeError("args go to a function; a Mixture target takes none.")
        return _mixture_target(target)
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple, e.g. args=(data,), but is of type {type(args).__name__}.")
    values = tuple(_checked_argument(value, f"args[{i}]") for i, value in enumerate(args))
    if not callable(target):
        raise TypeError(f"The target must be a function of a 1-D array or a Mixture, not {type(target).__name__}.")
    if not COMPILED:
        return _plain_target(target, values, vectorized)
    return _compiled_target(_compiled(target), values, vectorized)


def function_name(target: Any) -> str:
    """Name a function as its author does."""
    return str(getattr(target, "__name__", type(target).__name__))


@functools.lru_cache(maxsize=64)
def _compiled(target: Any) -> Any:
    """The target itself, or what Numba makes of a plain Python function."""
    if isinstance(target, Dispatcher):
        return target
    name = function_name(target)
    try:
        compiled = numba.njit(target)
    except Exception:  # of classes with __call__, of functions written in C
        raise TypeError(
            f"The target {name!r} is of type {type(target).__name__}, which Numba does not compile; write it as a "
            "Python function of a 1-D array."
        ) from None
    logger.info("The log-density %r is a plain Python function and was compiled with numba.njit.", name)
    return compiled


def _plain_target(target: Any, values: tuple[Any, ...], vectorized: bool) -> Target:
    """Close over the arguments: without compilation there is nothing to pack."""
    function = getattr(target, "py_func", target)
    name = function_name(function)

    def one(x: np.ndarray) -> Any:
        return function(x, *values)

    def many(points: np.ndarray) -> np.ndarray:
        out = np.full(points.shape[1], np.nan)
        function(points, out, *values)
        return out

    def of_each_lane(x: np.ndarray, lanes: int, out: np.ndarray, packed: np.ndarray) -> None:
        for i in range(lanes):
            packed[LANE] = i
            value = one(_rows(x, lanes)[:, i].copy())
            if not isinstance(value, (int, float, np.integer, np.floating)):
                raise TypeError(_return_message(name, type(value).__name__))
            out[i] = value

    def of_all_lanes(x: np.ndarray, lanes: int, out: np.ndarray, packed: np.ndarray) -> None:
        out[:lanes] = many(np.array(_rows(x, lanes), order="C"))

    none = np.zeros(0, dtype=np.int64)
    if vectorized:
        return Target(of_all_lanes, none, lambda d: 0, _first_of(many), name, values, True)
    return Target(of_each_lane, none, lambda d: 0, one, name, values, False)


def _rows(x: np.ndarray, lanes: int) -> np.ndarray:
    return x.reshape(-1, TILE_STRIDE)[:, :lanes]


def _first_of(many: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], Any]:
    """A batch density of one point; what it does to that is done to the point."""

    def one(x: np.ndarray) -> Any:
        return many(x[:, None])[0]

    return one


def _compiled_target(target: Any, values: tuple[Any, ...], vectorized: bool) -> Target:
    argument_types = types.Tuple([numba.typeof(value) for value in values])
    words, name = _packed(values), function_name(target)
    if vectorized:
        adapter = _compile_batch_adapter(target, argument_types)

        def many(points: np.ndarray) -> np.ndarray:
            out = np.full(points.shape[1], np.nan)
            target.py_func(points, out, *values)
            return out

        return Target(adapter, words, lambda d: d * TILE_ROWS, _first_of(many), name, values, True)
    adapter = _compile_adapter(target, argument_types)
    return Target(adapter, words, lambda d: d, lambda x: target.py_func(x, *values), name, values, False)


def _borrowed(context: Any, builder: Any, kind: Any, words: Any, first: Any, shape: list[Any]) -> Any:
    """Emit a float64 array of this shape in the memory of `words` from `first` on, without counting references."""
    size = context.get_constant(types.intp, 8)
    made = context.make_array(kind)(context, builder)
    address = builder.gep(words.data, [first])
    context.populate_array(
        made,
        data=builder.bitcast(address, made.data.type),
        shape=shape,
        strides=[builder.mul(shape[1], size), size] if len(shape) == 2 else [size],
        itemsize=size,
        meminfo=None,
    )
    return made._getvalue()


# `packed[first : first + count].view(np.float64)` compiles for 0.4 s, and a reshape for as long again.
@intrinsic
def _floats_in(typing_context: Any, packed: Any, first: Any, count: Any) -> Any:
    kind = types.float64[::1]

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        words = context.make_array(signature.args[0])(context, builder, values[0])
        return _borrowed(context, builder, kind, words, values[1], [values[2]])

    return kind(packed, types.intp, types.intp), codegen


@intrinsic
def _matrix_in(typing_context: Any, packed: Any, first: Any, rows: Any, columns: Any) -> Any:
    kind = types.float64[:, ::1]

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        words = context.make_array(signature.args[0])(context, builder, values[0])
        return _borrowed(context, builder, kind, words, values[1], [values[2], values[3]])

    return kind(packed, types.intp, types.intp, types.intp), codegen


@functools.lru_cache(maxsize=64)
def _compile_adapter(target: Any, argument_types: Any) -> Any:
    """Compile the loop that rebuilds the arguments and calls `target` for each lane.

    This happens in every process, and is small: the loop over steps is the same for every density and comes from the
    disk cache. The density sees a copy of the lane, so one that writes to its argument cannot move the chain.
    """
    name = function_name(target)
    _check_signature(target, name, (types.float64[::1], *argument_types), vectorized=False)
    unpack, first = _unpacker(argument_types), _FIRST_WORD + _count_words(argument_types)

    def adapter(x: np.ndarray, lanes: int, out: np.ndarray, packed: np.ndarray) -> None:
        d = packed[_DIMENSIONS]
        arguments = unpack(packed)
        point = _floats_in(packed, first, d)
        for i in range(lanes):
            packed[LANE] = i
            for j in range(d):
                point[j] = x[j * TILE_STRIDE + i]
            out[i] = target(point, *arguments)

    return _compile(adapter, name)


@functools.lru_cache(maxsize=64)
def _compile_batch_adapter(target: Any, argument_types: Any) -> Any:
    """Compile what rebuilds the arguments and calls `target` once for all lanes, on a copy of shape (d, lanes)."""
    name = function_name(target)
    vectors = (types.float64[:, ::1], types.float64[::1])
    _check_signature(target, name, (*vectors, *argument_types), vectorized=True)
    unpack, first = _unpacker(argument_types), _FIRST_WORD + _count_words(argument_types)

    def adapter(x: np.ndarray, lanes: int, out: np.ndarray, packed: np.ndarray) -> None:
        d = packed[_DIMENSIONS]
        points = _matrix_in(packed, first, d, lanes)
        for j in range(d):
            for i in range(lanes):
                points[j, i] = x[j * TILE_STRIDE + i]
        for i in range(lanes):
            out[i] = np.nan  # so that what the density forgets to set is found out
        target(points, out[:lanes], *unpack(packed))

    return _compile(adapter, name)


def _compile(adapter: Callable[..., None], name: str) -> Any:
    try:
        return numba.njit(DENSITY.signature, nogil=True)(adapter)
    except NumbaError as error:
        raise TypeError(_compile_message(name, error)) from None


def _check_signature(target: Any, name: str, argument_types: tuple[Any, ...], *, vectorized: bool) -> None:
    """Compile the user's function and refuse what it returns if it is not a real number."""
    context = cpu_target.typing_context
    context.refresh()
    try:
        signature = context.resolve_function_type(types.Dispatcher(target), argument_types, {})
    except Exception as error:  # Numba's own, and others, such as TypeError where the number of arguments is wrong
        raise TypeError(_compile_message(name, error, vectorized)) from None
    if signature is None:
        unfit = TypeError("its declared signatures do not fit these arguments")
        raise TypeError(_compile_message(name, unfit, vectorized))
    returned = signature.return_type
    if not vectorized and not isinstance(returned, (types.Float, types.Integer, types.IntegerLiteral)):
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


def _compile_message(name: str, error: Exception, vectorized: bool = False) -> str:
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
    given = "points (d, W) and out (W,)" if vectorized else "a 1-D float64 array"
    return f"The log-density {name!r} does not compile for {given} and these args{place}: {reason}"


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


def _count_words(kind: Any) -> int:
    """How many words an argument of this type takes."""
    if isinstance(kind, types.BaseTuple):
        return sum(_count_words(item) for item in kind.types)
    if isinstance(kind, types.Array):
        return 1 + int(kind.ndim)
    return 2 if isinstance(kind, types.Complex) else 1


def _bits(value: Any) -> int:
    return int(np.float64(value).view(np.uint64))


def _unpacker(argument_types: Any) -> Any:
    """Make an intrinsic that reads `packed` back into a tuple of these types."""

    @intrinsic
    def unpack(typing_context: Any, packed: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            words = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            value, _ = _read(context, builder, argument_types, words, _FIRST_WORD)
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


# Where the packed values of a mixture are.
_FORM, _COMPONENTS, _CONSTANTS, _MEANS, _FACTORS, _FACTOR_LENGTH = range(_FIRST_WORD, _FIRST_WORD + 6)
_MIXTURE_WORDS = 6


def _mixture_density(x: np.ndarray, lanes: int, out: np.ndarray, packed: np.ndarray) -> None:
    d, k = packed[_DIMENSIONS], packed[_COMPONENTS]
    kernels.mixture_log_densities(
        packed[_FORM],
        kernels.floats_at(packed[_CONSTANTS], k),
        kernels.floats_at(packed[_MEANS], k * d),
        kernels.floats_at(packed[_FACTORS], k * packed[_FACTOR_LENGTH]),
        x,
        lanes,
        out,
        packed[_FIRST_WORD + _MIXTURE_WORDS :].view(np.float64),
    )


@functools.cache
def _mixture_function() -> Any:
    return kernel_with_signature(_mixture_density, DENSITY.signature)


_FORMS = {"full": kernels.FULL, "tied": kernels.FULL, "diag": kernels.DIAGONAL, "spherical": kernels.ISOTROPIC}


def mixture_factors(mixture: Mixture) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Return form, constants, means and factors of a mixture as `mixture_log_densities` takes them."""
    form = _FORMS[mixture.covariance_type]
    k, d = mixture.means.shape
    dense = mixture.factors_dense
    log_determinants = np.log(np.diagonal(dense, axis1=1, axis2=2)).sum(axis=1)
    with np.errstate(divide="ignore"):  # a component of weight 0 has no say
        constants = np.log(mixture.weights) + log_determinants - 0.5 * d * math.log(2 * math.pi)
    factors = np.zeros((k, kernels.factor_size(form, d)))
    if form == kernels.FULL:
        for c in range(k):
            pack_triangle(np.ascontiguousarray(dense[c]), factors[c])
    else:
        diagonals = np.diagonal(dense, axis1=1, axis2=2)
        factors[:] = diagonals if form == kernels.DIAGONAL else diagonals[:, :1]
    return form, constants, np.ascontiguousarray(mixture.means).ravel().copy(), factors.ravel()


def _mixture_target(mixture: Mixture) -> Target:
    form, *arrays = mixture_factors(mixture)
    k, d = mixture.means.shape
    addresses = [array.ctypes.data for array in arrays]
    words = np.array([form, k, *addresses, kernels.factor_size(form, d)], dtype=np.int64)
    scratch = kernels.mixture_work(k, d) * TILE_STRIDE
    return Target(_mixture_function(), words, lambda d: scratch, None, "Mixture", tuple(arrays), True)
