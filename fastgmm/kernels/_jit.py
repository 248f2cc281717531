"""How everything compiles: the only calls to `numba.njit`."""

import functools
import gc
import os
import types as python_types
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import config, types
from numba._dispatcher import compute_fingerprint
from numba.core import event
from numba.core.codegen import get_host_cpu_features
from numba.core.compiler_lock import global_compiler_lock
from numba.core.imputils import builtin_registry
from numba.core.registry import cpu_target
from numba.extending import overload

from fastgmm.kernels._cache import find_cache_folder
from fastgmm.kernels._collector import RareCollections, without_collecting
from fastgmm.kernels._compilers import KernelCompiler, LinkedCompiler, ShortCompiler
from fastgmm.kernels._notice import CompilingNotice

# Rows of a tile. 256 rows of 8 features and their 8 log-densities fill half of a first-level cache, and the
# loops over a tile are long enough to amortise the horizontal sums at their ends. A constant to the compiler.
TILE_ROWS = 256

# From one feature of a tile to the next: 8 more than the rows. At a distance of a power of two the features of a few
# rows would share a handful of the first-level cache's sets and drive each other out.
TILE_STRIDE = TILE_ROWS + 8

# Rows of a range: the unit whose statistics are added in a fixed tree, so that the bits depend neither on the
# number of threads nor on how rows arrive. A multiple of TILE_ROWS.
RANGE_ROWS = 2048

# Terms of sums that passes must have before the code that shares them is compiled: some 0.4 s of one thread, in which
# most fits to few rows are done, and nearly as long as compiling takes.
WORTH_A_DRIVER = 1 << 31

# Fused multiply-adds only: NaN, infinities and the order of operations are kept.
ELEMENTWISE = frozenset({"contract"})
# Every operation rounded by itself: the same bits in vectors, in the remainders of loops and in plain Python.
SEPARATE: frozenset[str] = frozenset()
# Sums may be reordered as well; without this LLVM keeps a reduction in one scalar register.
SUMS = frozenset({"contract", "reassoc", "nsz", "arcp"})

COMPILED = not config.DISABLE_JIT


def _vector_bytes() -> int:
    """Width of the vectors that kernels write out."""
    features = config.CPU_FEATURES if config.CPU_FEATURES is not None else get_host_cpu_features()
    return 64 if "+avx512f" in features else 32 if "+avx" in features else 16


VECTOR_BYTES = _vector_bytes()

CACHE_FOLDER = find_cache_folder() if COMPILED else None
_kernels: set[Callable[..., Any]] = set()
_notice, _rarely = CompilingNotice(_kernels, CACHE_FOLDER), RareCollections(_kernels)
event.register("numba:compile", _notice)
event.register("numba:compile", _rarely)


def _after_fork() -> None:
    _notice.forget()
    _rarely.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _njit(function: Callable[..., Any], *signatures: Any, **options: Any) -> Any:
    """Compile with the house's options, cached in our own stamped folder where there is one."""
    options.setdefault("nogil", True)
    options.setdefault("error_model", "numpy")  # a check for zero divisors keeps LLVM from vectorising
    _kernels.add(function)
    if CACHE_FOLDER is None:
        return numba.njit(*signatures, **options)(function)
    before = config.CACHE_DIR
    config.CACHE_DIR = str(CACHE_FOLDER)
    try:
        return numba.njit(*signatures, cache=True, **options)(function)
    finally:
        config.CACHE_DIR = before


def kernel(
    function: Callable[..., Any] | None = None,
    *,
    flags: frozenset[str] = ELEMENTWISE,
    inline: bool = False,
    merge: bool = False,
) -> Any:
    """Compile a serial kernel; `flags` names what the compiler may do to floating-point arithmetic.

    It has no powers and no sums of arrays: Numba compiles what is behind those once in a process, with the flags of
    whoever is first, and then a user's density would have ours.

    `inline` has Numba copy the body into its callers before it looks at types, which suits a small one: it is one
    function less to compile and to keep. Copied twice, a large one takes longer than by itself.

    `merge` has LLVM put the body into every compiled caller, however large it is, so that a loop around it vectorises.
    """
    if function is None:
        return functools.partial(kernel, flags=flags, inline=inline, merge=merge)
    options: dict[str, Any] = {"fastmath": set(flags), "pipeline_class": KernelCompiler}
    compiled = _njit(function, inline="always" if inline else "never", **options)
    if COMPILED and not inline:
        twin = _Callee(function, flags, merge)
        compiled.get_call_template = twin.get_call_template
        compiled.get_overload = twin.get_overload
    return compiled


# For what nothing outside compiled code will call: wrappers for Python and C are most of a small kernel's code.
_LINKED = {"pipeline_class": LinkedCompiler, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


class _Callee:
    """What a kernel is to the kernels that call it: compiled without wrappers, which spares a fifth of a first fit."""

    def __init__(self, function: Callable[..., Any], flags: frozenset[str], merge: bool) -> None:
        self._function = function
        self._options = {"fastmath": set(flags), "forceinline": merge, **_LINKED}

    @functools.cached_property
    def _compiled(self) -> Any:
        function = self._function
        twin = python_types.FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
        )
        twin.__module__ = function.__module__
        twin.__qualname__ = f"{function.__qualname__}_callee"  # a cache file of its own
        return _njit(twin, **self._options)

    def get_call_template(self, arguments: Any, keywords: Any) -> Any:
        """Resolve the call's types, compiling for them; Numba asks for it while it compiles a caller."""
        return self._compiled.get_call_template(arguments, keywords)

    def get_overload(self, signature: Any) -> Any:
        """Find what was compiled; Numba asks for it when it emits the call."""
        return self._compiled.get_overload(signature)


_overloads: dict[tuple[Any, bytes], Callable[..., Any]] = {}


def overload_for(kernel: Any, *arguments: Any) -> Callable[..., Any]:
    """What a call of `kernel` with arguments of these types runs, without the 2 µs in which each call looks for it."""
    if not COMPILED:
        return kernel  # type: ignore[no-any-return]
    kinds = kernel, compute_fingerprint(arguments)  # in 1 µs, where naming their types takes 75
    if kinds not in _overloads:
        _overloads[kinds] = _entry_point(kernel, tuple(numba.typeof(argument) for argument in arguments))
    return _overloads[kinds]


def _entry_point(kernel: Any, signature: tuple[Any, ...]) -> Callable[..., Any]:
    set_up_numba()
    kernel.compile(signature)
    return kernel.overloads[signature].entry_point  # type: ignore[no-any-return]


# What Python hands over to a declared kernel: contiguous, and float64 or bool.
FLOATS_1D, FLOATS_2D, FLOATS_3D = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
FLAGS = types.boolean[::1]
INDICES = types.int64[::1]


# np.ascontiguousarray(array, FLOAT64) is such an array; a function that said so would take longer than that.
FLOAT64 = np.dtype(np.float64)


class DeclaredKernel:
    """A kernel that Python calls with arguments of these types every time; nothing checks that they are.

    A call of any other looks for what suits its arguments, in 0.6 µs: of few rows, nearly as long as an M-step.

    Attributes
    ----------
    call : callable
        Runs the kernel, compiled the first time. It should write into arrays it is given: to hand over one that it
        returned would take 0.8 µs.
    """

    def __init__(
        self, function: Callable[..., Any], declared: tuple[Any, ...], compiler: type = KernelCompiler
    ) -> None:
        options = {"fastmath": set(ELEMENTWISE), "pipeline_class": compiler}
        self._kernel = _njit(function, no_cfunc_wrapper=True, **options)  # no kernel calls it
        self._declared = declared
        self.call: Callable[..., Any] = self._first_call

    def _first_call(self, *arguments: Any) -> Any:
        return self.prepare(*arguments)()

    def prepare(self, *arguments: Any) -> Callable[..., Any]:
        """What runs the kernel on the same first arguments time after time; compiled by now."""
        if self.call == self._first_call:
            self.call = _entry_point(self._kernel, self._declared) if COMPILED else self._kernel
        return functools.partial(self.call, *arguments)


def declared_kernel(*declared: Any, short: bool = False) -> Callable[[Callable[..., Any]], DeclaredKernel]:
    """Compile a serial kernel for arguments of the types that are declared, when it is first called.

    `short` suits what runs once between two passes over the rows: it is compiled in less time, without vectors.
    """
    compiler = ShortCompiler if short else KernelCompiler
    return lambda function: DeclaredKernel(function, declared, compiler)


def addressed_kernel(function: Callable[..., Any]) -> Any:
    """Compile a serial kernel that is called by its address alone."""
    options: dict[str, Any] = {"fastmath": set(ELEMENTWISE), "pipeline_class": KernelCompiler}
    return _njit(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)


def address_of(function: Any, signature: Any) -> Any:
    """Where a kernel compiled for a signature begins; uncompiled the function itself. The caller keeps it alive."""
    if not COMPILED:
        return function
    set_up_numba()
    result = function.get_compile_result(signature)
    return result.library.get_pointer_to_function(result.fndesc.llvm_func_name)


class ParallelKernel:
    """A driver `function(share, *arguments)` that runs `share(worker, *arguments)` in a `prange` and does nothing else.

    `share` reaches it as an address, for `calls.call_share`. Called by name it would be linked into each of the four
    libraries Numba builds for a `prange` and optimised there again: 5 s more for a first call. A declared function type
    would take longer to hand over than a pass over a few thousand rows.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._compiled: dict[bytes, Any] = {}
        self._entries: dict[bytes, Callable[..., None]] = {}
        self._asked = 0
        functools.update_wrapper(self, function)

    def __call__(self, share: Any, *arguments: Any) -> None:
        if not COMPILED:
            self._function(share, *arguments)
            return
        kinds = compute_fingerprint(arguments)
        if kinds not in self._entries:
            # The integer is the worker to a share, and the address to a driver.
            declared = types.int64, *(numba.typeof(argument) for argument in arguments)
            share.compile(declared)
            driver = _njit(self._function, types.void(*declared), parallel=True, fastmath=set(ELEMENTWISE))
            address = address_of(share, types.void(*declared))
            self._compiled[kinds] = driver
            self._entries[kinds] = functools.partial(driver.overloads[declared].entry_point, address)
        self._entries[kinds](*arguments)

    def repays(self, work: int) -> bool:
        """Whether to run it for this much more work: it is compiled, here or in the cache, or that would be repaid."""
        self._asked += work
        return self._asked >= WORTH_A_DRIVER or bool(self._compiled) or self._is_cached

    @functools.cached_property
    def _is_cached(self) -> bool:
        module, name = self._function.__module__.rpartition(".")[2], self._function.__qualname__
        return CACHE_FOLDER is not None and any(CACHE_FOLDER.rglob(f"{module}.{name}-*.nbc"))


def parallel_kernel(function: Callable[..., None]) -> ParallelKernel:
    """Compile a driver that holds a `prange` and nothing else."""
    return ParallelKernel(function)


@functools.cache
def set_up_numba() -> None:
    """Have Numba load what it knows before it first compiles a kernel or finds one in its cache.

    It would do so by itself, but in twice the 75 ms: the garbage collector would go through all there is.
    """
    if not COMPILED:
        return
    context = cpu_target.target_context
    with global_compiler_lock, without_collecting():
        context.load_additional_registries()
        context.install_registry(builtin_registry)
        # Each of 240 overloads of attributes and methods asks for a refresh when it joins, with nothing new: 10 ms.
        context.refresh = lambda: None
        try:
            context.typing_context.refresh()
        finally:
            del context.refresh
        context.refresh()
        if not gc.get_freeze_count():  # else the caller has frozen objects, and they should stay so
            # All this stays for good. It joins the old objects unseen; a collection of the young would take 8 ms.
            gc.freeze()
            gc.unfreeze()


def kernel_with_signature(function: Callable[..., Any], signature: Any, flags: frozenset[str] = ELEMENTWISE) -> Any:
    """Compile at once for one declared signature; function types in it keep the disk cache working."""
    if not COMPILED:
        return function
    set_up_numba()
    return _njit(function, signature, fastmath=set(flags))


def chosen_by_class(function: Callable[..., Any]) -> Any:
    """Let `function(form, ...)` run the body registered for the class of `form`, compiled or not.

    Bodies join with `@function.body(SomeNamedTuple)`. Numba resolves the choice while compiling, and the body becomes a
    part of what calls `function`, which is cached on disk per form.
    """
    bodies: dict[Any, Any] = {}
    name = function.__name__

    @functools.wraps(function)
    def stub(form: Any, *arguments: Any) -> Any:
        return bodies[type(form)](form, *arguments)

    def body(form_class: type) -> Callable[[Any], Any]:
        def register(implementation: Any) -> Any:
            bodies[form_class] = implementation
            return implementation

        return register

    stub.body = body  # type: ignore[attr-defined]
    stub.bodies = bodies  # type: ignore[attr-defined]
    if COMPILED:

        def choose(form: Any, *arguments: Any) -> Any:
            implementation = bodies.get(getattr(form, "instance_class", None))
            if implementation is None:
                return None
            return implementation.py_func

        choose.__name__ = f"choose_{name}"
        options = {"error_model": "numpy", "fastmath": set(ELEMENTWISE), "forceinline": True, **_LINKED}
        overload(stub, strict=False, jit_options=options)(choose)
    return stub
