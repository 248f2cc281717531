"""From a user's log-density, or a `Mixture`, to the one kind of function that the loop over chains calls."""

import functools
import inspect
import logging
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.core.caching import NullCache
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target

from fastgmm.covariance import STRUCTURES
from fastgmm.kernels import lanes as kernels
from fastgmm.kernels._collector import without_collecting
from fastgmm.kernels._jit import (
    COMPILED,
    TILE_ROWS,
    TILE_STRIDE,
    address_of,
    kernel_with_signature,
    set_up_numba,
)
from fastgmm.kernels.calls import DENSITY
from fastgmm.kernels.lanes import LANES
from fastgmm.kernels.triangles import pack_triangles
from fastgmm.kernels.vectors import aligned_zeros, rest
from fastgmm.mcmc.adapters import (
    DIMENSIONS,
    FIRST_WORD,
    LANE,
    Density,
    compile_adapter,
    pack_arguments,
    point_types,
)
from fastgmm.mixture import Mixture

logger = logging.getLogger("fastgmm")

# What Numba computes with: no halves, long doubles, objects, text or dates.
_DTYPES = frozenset(np.dtype(code) for code in "?bhilqBHILQfdFD")
_MOST_REASON = 600  # characters of Numba's explanation that are shown
_told = False  # that plain functions are compiled
_MAY_FORESEE = None if LANES > 2 else False  # a vector of two holds one step


class Target(NamedTuple):
    """A log-density, and what it needs."""

    compiled: Callable[[int], Density]  # as the loop calls it in so many dimensions
    words: np.ndarray  # (p,) int64
    scratch: Callable[[int], int]  # words of scratch for so many dimensions
    plain: Callable[[np.ndarray], Any] | None  # the same for one point with every index checked; None if needless
    name: str
    keep: tuple[Any, ...]  # the arrays whose addresses `words` holds
    together: bool  # whether lanes are worked on in vectors, so that a few cost as much as one
    foresees: bool | None  # whether one chain asks about the places of several steps at once; None to be tried

    def pack(self, dimensions: int) -> np.ndarray:
        """Return what the function takes as `packed`: one for every group, as it holds scratch."""
        packed = aligned_zeros((FIRST_WORD + len(self.words) + self.scratch(dimensions),), np.int64)
        packed[DIMENSIONS] = dimensions
        packed[LANE] = -1
        packed[FIRST_WORD : FIRST_WORD + len(self.words)] = self.words
        return packed


def make_target(target: Any, args: tuple[Any, ...], vectorized: bool = False) -> Target:
    """Check `target` and its `args`, and compile it.

    Raises
    ------
    TypeError
        If `target` is neither a function nor a `Mixture`, does not compile for these arguments, or returns
        something other than a real number; or if an argument is of a kind that cannot be handed on.
    """
    check_kind(target)
    if isinstance(target, Mixture):
        if args:
            raise TypeError("args go to a function; a Mixture target takes none.")
        return _mixture_target(target)
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple, e.g. args=(data,), but is of type {type(args).__name__}.")
    values = tuple(_checked_argument(value, f"args[{i}]") for i, value in enumerate(args))
    if not COMPILED:
        return _plain_target(target, values, vectorized)
    return _compiled_target(_compiled(target), values, vectorized)


def check_kind(target: Any) -> None:
    """Refuse what is no density at all."""
    if not isinstance(target, Mixture) and not callable(target):
        raise TypeError(
            "The target must be a function of a 1-D array or a Mixture, such as `mixture_` of a fitted "
            f"GaussianMixture, not {type(target).__name__}."
        )


def function_name(target: Any) -> str:
    """Name a function as its author does."""
    return str(getattr(target, "__name__", type(target).__name__))


@functools.lru_cache(maxsize=64)
def _compiled(target: Any) -> Any:
    """The target itself, or what Numba makes of a plain Python function.

    One with `parallel=True` is compiled without: the chains are on threads already, of which two that enter Numba's
    "workqueue" end the process.
    """
    if isinstance(target, Dispatcher):
        if target.targetoptions.get("parallel"):
            return numba.jit(**{**target.targetoptions, "parallel": False})(target.py_func)
        return target
    name = function_name(target)
    try:
        compiled = numba.njit(target)
    except Exception:  # of classes with __call__, of functions written in C
        raise TypeError(
            f"The target {name!r} is of type {type(target).__name__}, which Numba does not compile; write it as a "
            "Python function of a 1-D array, with what else it needs in args."
        ) from None
    _tell(name)
    return compiled


def _tell(name: str) -> None:
    """Say that a function was compiled: on standard error the first time, unless logging is set up otherwise."""
    global _told
    logger.log(
        logging.INFO if _told else logging.WARNING,
        "The log-density %r is a plain Python function and was compiled with numba.njit; so will be others.",
        name,
    )
    _told = True


def _plain_target(target: Any, values: tuple[Any, ...], vectorized: bool) -> Target:
    """Close over the arguments: without compilation there is nothing to pack."""
    function = getattr(target, "py_func", target)
    name = function_name(function)
    _check_count(function, name, len(values), vectorized)

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
    if vectorized:  # NumPy's sums depend on shapes
        return Target(lambda d: Density(of_all_lanes), none, lambda d: 0, _first_of(many), name, values, True, False)
    return Target(lambda d: Density(of_each_lane), none, lambda d: 0, one, name, values, False, _MAY_FORESEE)


def _rows(x: np.ndarray, lanes: int) -> np.ndarray:
    return x.reshape(-1, TILE_STRIDE)[:, :lanes]


def _first_of(many: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], Any]:
    """A batch density of one point; what it does to that is done to the point."""

    def one(x: np.ndarray) -> Any:
        return many(x[:, None])[0]

    return one


def _compiled_target(target: Any, values: tuple[Any, ...], vectorized: bool) -> Target:
    argument_types = types.Tuple([numba.typeof(value) for value in values])
    words, name = pack_arguments(values), function_name(target)
    callee = _without_wrappers(target)
    with without_collecting():
        signature = _checked_signature(callee, name, argument_types, vectorized)

    def compiled(dimensions: int) -> Density:
        return compile_adapter(callee, signature, argument_types, vectorized, dimensions)

    def one(x: np.ndarray) -> Any:
        return _call_checked(target, x, *values)

    def many(points: np.ndarray) -> np.ndarray:
        out = np.full(points.shape[1], np.nan)
        _call_checked(target, points, out, *values)
        return out

    plain, per_dimension = (_first_of(many), TILE_ROWS) if vectorized else (one, 1)
    return Target(compiled, words, lambda d: d * per_dimension, plain, name, values, vectorized, _MAY_FORESEE)


@functools.lru_cache(maxsize=64)
def _without_wrappers(target: Any) -> Any:
    """The function without what calls from Python need, unless it is compiled already: compiling that takes 20 ms."""
    if target.signatures or not isinstance(target._cache, NullCache):
        return target
    return numba.jit(**target.targetoptions, no_cpython_wrapper=True, no_cfunc_wrapper=True)(target.py_func)


def _call_checked(target: Any, *arguments: Any) -> Any:
    """Call a compiled function so that it reads no further than arrays go: as plain Python, which tells that.

    Python refuses log(0) and exp(1000) where compiled code has -inf and inf, and what comes after that is not seen;
    then the function is compiled anew with its indices checked.
    """
    try:
        return target.py_func(*arguments)
    except (ArithmeticError, ValueError):
        return _compile_checked(target)(*arguments)


@functools.lru_cache(maxsize=64)
def _compile_checked(target: Any) -> Any:
    return numba.jit(**{**target.targetoptions, "boundscheck": True})(target.py_func)


def _checked_signature(target: Any, name: str, argument_types: Any, vectorized: bool) -> Any:
    """Compile the user's function and return its types; refuse what it returns if it is not a real number."""
    given = (*point_types(vectorized), *argument_types)
    _check_count(target.py_func, name, len(argument_types), vectorized)
    set_up_numba()
    context = cpu_target.typing_context
    context.refresh()  # for what others have registered since
    try:
        signature = context.resolve_function_type(types.Dispatcher(target), given, {})
    except Exception as error:  # Numba's own, and others, such as TypeError where the number of arguments is wrong
        raise TypeError(_compile_message(name, error, vectorized)) from None
    if signature is None:
        unfit = TypeError("its declared signatures do not fit these arguments")
        raise TypeError(_compile_message(name, unfit, vectorized))
    returned = signature.return_type
    if not vectorized and not isinstance(returned, (types.Float, types.Integer, types.IntegerLiteral)):
        raise TypeError(_return_message(name, str(returned)))
    return signature


def _check_count(function: Any, name: str, further: int, vectorized: bool) -> None:
    """Refuse a function that does not take so many further arguments."""
    given = (*(("X", "out") if vectorized else ("x",)), *(f"args[{i}]" for i in range(further)))
    parameters = inspect.signature(function)
    try:
        parameters.bind(*given)
    except TypeError as error:
        call = ", ".join(given)
        raise TypeError(
            f"The log-density {name!r} takes {parameters} but is called as {name}({call}), {error}: what it needs "
            f"besides x belongs into args, and vectorized=True is for one that is written as {name}(X, out, *args)."
        ) from None


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
    end = "" if hint.endswith("?") else "."
    return f"The log-density {name!r} must return one real number but returns {returned}{hint}{end}"


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


# Where the packed values of a mixture are.
_FORM, _COMPONENTS, _CONSTANTS, _MEANS, _FACTORS, _FACTOR_LENGTH = range(FIRST_WORD, FIRST_WORD + 6)
_MIXTURE_WORDS = 6


def _mixture_density(x: np.ndarray, lanes: int, out: np.ndarray, packed: np.ndarray) -> None:
    d, k, size = packed[DIMENSIONS], packed[_COMPONENTS], packed[_FACTOR_LENGTH]
    kernels.mixture_log_densities(
        packed[_FORM],
        kernels.floats_at(packed[_CONSTANTS], k),
        kernels.floats_at(packed[_MEANS], k * d),
        kernels.floats_at(packed[_FACTORS], k * size),
        k,
        d,
        size,
        rest(x, 0),
        lanes,
        rest(out, 0),
        kernels.floats_in(packed, FIRST_WORD + _MIXTURE_WORDS),
    )


@functools.cache
def _mixture_function() -> Any:
    return kernel_with_signature(_mixture_density, DENSITY)


_FORMS = {"full": kernels.FULL, "tied": kernels.FULL, "diag": kernels.DIAGONAL, "spherical": kernels.ISOTROPIC}


def mixture_factors(mixture: Mixture) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Return form, constants, means and factors of a mixture as `mixture_log_densities` takes them."""
    form = _FORMS[STRUCTURES[mixture.covariance_type].SHAPE]
    dense = mixture.factors_dense
    log_determinants = np.log(np.diagonal(dense, axis1=1, axis2=2)).sum(axis=1)
    with np.errstate(divide="ignore"):  # a component of weight 0 has no say
        constants = np.log(mixture.weights) + log_determinants - 0.5 * mixture.n_features * math.log(2 * math.pi)
    if form == kernels.FULL:
        factors = pack_triangles(dense)
    else:
        diagonals = np.diagonal(dense, axis1=1, axis2=2)
        factors = np.array(diagonals if form == kernels.DIAGONAL else diagonals[:, :1])
    return form, constants, np.ascontiguousarray(mixture.means).ravel().copy(), factors.ravel()


def _mixture_target(mixture: Mixture) -> Target:
    form, *arrays = mixture_factors(mixture)
    k, d = mixture.means.shape
    addresses = [array.ctypes.data for array in arrays]
    words = np.array([form, k, *addresses, kernels.factor_size(form, d)], dtype=np.int64)
    scratch = kernels.mixture_work(k, d) * TILE_STRIDE
    function = _mixture_function()
    density = Density(address_of(function, DENSITY), function)
    return Target(lambda d: density, words, lambda d: scratch, None, "Mixture", tuple(arrays), True, LANES > 2)
