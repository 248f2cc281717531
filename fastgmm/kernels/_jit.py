"""How everything compiles: the only calls to `numba.njit`, the disk cache, and the rules for threads."""

import contextlib
import functools
import gc
import hashlib
import numbers
import os
import shutil
import sys
import tempfile
import threading
import time
import types as python_types
from collections.abc import Callable, Iterator
from pathlib import Path
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

from fastgmm.kernels._collector import RareCollections, without_collecting
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
_UNUSED_DAYS = 30


def _package_stamp() -> str:
    """Hash the package's sources: a cached caller never meets a callee of another version."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cache_parents() -> Iterator[Path]:
    """Places where compiled kernels may be kept, best first."""
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR) / "fastgmm"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        yield Path(os.environ["LOCALAPPDATA"]) / "fastgmm" / "Cache"
    elif os.environ.get("XDG_CACHE_HOME"):
        yield Path(os.environ["XDG_CACHE_HOME"]) / "fastgmm"
    with contextlib.suppress(RuntimeError):  # no home directory
        caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
        yield Path.home() / caches / "fastgmm"
    yield Path(__file__).resolve().parent / "__pycache__" / "compiled"
    with contextlib.suppress(OSError):  # no folder for temporary files
        # Compiled code is loaded and run, so in a shared folder it must be ours alone.
        yield Path(tempfile.gettempdir()) / f"fastgmm-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


def _usable(folder: Path) -> bool:
    """Make `folder` if need be and say whether it, and what holds it, are ours to write."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        owners = {folder.stat().st_uid, folder.parent.stat().st_uid}
        return not hasattr(os, "getuid") or owners == {os.getuid()}
    except OSError:
        return False


def _remove_unused(parent: Path, current: Path) -> None:
    """Drop the folders of other versions that nobody has used for a month."""
    oldest = time.time() - _UNUSED_DAYS * 86_400
    for folder in parent.iterdir():
        if folder != current and folder.is_dir() and folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


def _find_cache_folder() -> Path | None:
    stamp = _package_stamp()
    for parent in _cache_parents():
        folder = parent / stamp
        if _usable(folder):
            with contextlib.suppress(OSError):
                os.utime(folder)
                _remove_unused(parent, folder)
            return folder
    return None


CACHE_FOLDER = _find_cache_folder() if COMPILED else None
_kernels: set[Callable[..., Any]] = set()
_notice, _rarely = CompilingNotice(_kernels, CACHE_FOLDER), RareCollections(_kernels)
event.register("numba:compile", _notice)
event.register("numba:compile", _rarely)


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

    A large body with a single caller is best compiled as a part of it, `inline`: on its own it would be optimised
    once more at every level above. With several callers that makes compiling slower.

    `merge` has LLVM put the body into every compiled caller, however large it is, so that a loop around it vectorises.
    """
    if function is None:
        return functools.partial(kernel, flags=flags, inline=inline, merge=merge)
    compiled = _njit(function, fastmath=set(flags), inline="always" if inline else "never")
    if COMPILED and not inline:
        twin = _Callee(function, flags, merge)
        compiled.get_call_template = twin.get_call_template
        compiled.get_overload = twin.get_overload
    return compiled


# What nothing outside compiled code will call: the wrappers for Python and C are most of a small kernel's code.
_NO_WRAPPERS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


class _Callee:
    """What a kernel is to the kernels that call it: compiled without wrappers, which spares a fifth of a first fit."""

    def __init__(self, function: Callable[..., Any], flags: frozenset[str], merge: bool) -> None:
        self._function = function
        self._options = {"fastmath": set(flags), "forceinline": merge, **_NO_WRAPPERS}

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


# What Python hands over to a declared kernel: contiguous and float64.
FLOATS_1D, FLOATS_2D, FLOATS_3D = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]


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

    def __init__(self, function: Callable[..., Any], declared: tuple[Any, ...]) -> None:
        self._kernel, self._declared = kernel(function), declared
        self.call: Callable[..., Any] = self._first_call

    def _first_call(self, *arguments: Any) -> Any:
        self.call = _entry_point(self._kernel, self._declared) if COMPILED else self._kernel
        return self.call(*arguments)


def declared_kernel(*declared: Any) -> Callable[[Callable[..., Any]], DeclaredKernel]:
    """Compile a serial kernel for arguments of the types that are declared, when it is first called."""
    return lambda function: DeclaredKernel(function, declared)


class ParallelKernel:
    """A driver `function(share, *arguments)` that runs `share(worker, *arguments)` in a `prange` and does nothing else.

    `share` reaches it as a declared function type. Called by name it would be linked into each of the four libraries
    Numba builds for a `prange` and optimised there again: 5 s more for a first call.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._compiled: dict[bytes, Any] = {}
        functools.update_wrapper(self, function)

    def __call__(self, share: Any, *arguments: Any) -> None:
        if not COMPILED:
            self._function(share, *arguments)
            return
        kinds = compute_fingerprint(arguments)
        compiled = self._compiled.get(kinds)
        if compiled is None:
            signature = tuple(numba.typeof(argument) for argument in arguments)
            # As a call from Python compiles it; asked for by the declared type it would be compiled once more.
            share.compile((types.int64, *signature))
            share_type = types.FunctionType(types.void(types.int64, *signature))
            compiled = self._compiled[kinds] = _njit(
                self._function, types.void(share_type, *signature), parallel=True, fastmath=set(ELEMENTWISE)
            )
        compiled(share, *arguments)


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

    Bodies join with `@function.body(SomeNamedTuple)`. Numba resolves the choice while compiling, so a pass that
    calls `function` knows no form, costs nothing for it, and is cached on disk per form.
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
        options = {"error_model": "numpy", "fastmath": set(ELEMENTWISE), **_NO_WRAPPERS}
        overload(stub, strict=False, jit_options=options)(choose)
    return stub


_forked = False
_parallel_entry = threading.Lock()
# The Python threads inside calls of ours, and how deep each is.
_at_work: dict[int, int] = {}


def _after_fork() -> None:
    global _forked, _parallel_entry
    _forked = True
    _notice.forget()
    _rarely.forget()
    _parallel_entry = threading.Lock()
    _at_work.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Working:
    """Counts the calling Python thread among those at work, and says how many others are.

    A class, as `threads` is: entered and left in half the time of a generator.
    """

    def __enter__(self) -> int:
        self._me = threading.get_ident()
        self._depth = _at_work.get(self._me, 0)
        _at_work[self._me] = self._depth + 1
        return len(_at_work) - 1

    def __exit__(self, *_: object) -> None:
        if self._depth:
            _at_work[self._me] = self._depth
        else:
            _at_work.pop(self._me, None)


@contextlib.contextmanager
def parallel_region(tasks: int) -> Iterator[int]:
    """Say how many workers may share `tasks` now, and hold the place while they do.

    A forked child may not enter parallel code (GNU OpenMP ends the process), nor may a second Python thread (the
    workqueue layer aborts it): there it is one worker, the calling thread, and the bits are the same. Each other
    Python thread at work has one of Numba's threads less for the workers here, so that together they are no more than
    those.
    """
    if tasks <= 1:  # which is done before the others would be counted
        yield 1
        return
    with _Working() as others:
        setting = int(numba.get_num_threads())
        allowed = min(setting, int(config.NUMBA_NUM_THREADS) - others)
        workers = min(allowed, tasks)
        if _forked or workers <= 1 or not _parallel_entry.acquire(blocking=False):
            yield 1
            return
        numba.set_num_threads(allowed)  # those without work would spin
        try:
            yield workers
        finally:
            numba.set_num_threads(setting)
            _parallel_entry.release()


def run_shares(driver: Any, share: Any, arguments: tuple[Any, ...], workers: int) -> None:
    """Run `share(worker, *arguments)` for every worker; one alone needs no parallel code."""
    if workers == 1:
        share(0, *arguments)
    else:
        driver(share, *arguments)


def count_threads(n_jobs: int | None) -> int:
    """Translate scikit-learn's `n_jobs`: None leaves Numba's setting or OMP_NUM_THREADS, -1 is all, -2 all but one.

    Raises
    ------
    TypeError
        If `n_jobs` is no integer.
    ValueError
        If it is 0.
    """
    return _count_threads(n_jobs, int(numba.get_num_threads()))


def _count_threads(n_jobs: int | None, setting: int) -> int:
    """The same where Numba's setting is known."""
    most = int(config.NUMBA_NUM_THREADS)
    if n_jobs is None:
        return min(setting, _openmp_threads() or most)
    if not isinstance(n_jobs, numbers.Integral):
        raise TypeError(f"n_jobs must be an integer or None, not {n_jobs!r}.")
    if n_jobs == 0:
        raise ValueError("n_jobs must not be 0; use None, a positive number of threads, or -1 for all.")
    return max(1, min(most, int(n_jobs) if n_jobs > 0 else most + 1 + int(n_jobs)))


@functools.cache
def _openmp_threads() -> int:
    """What OMP_NUM_THREADS asks for, as Dask's workers do of all that runs in them; 0 where it says nothing.

    Numba does not read it. Whoever sets Numba's own variable means that. It is read once, as OpenMP's libraries do.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and "NUMBA_NUM_THREADS" not in os.environ else 0


class threads:
    """Runs its block on as many threads as `n_jobs` says, leaving the caller's setting as found."""

    def __init__(self, n_jobs: int | None) -> None:
        self._n_jobs = n_jobs

    def __enter__(self) -> int:
        set_up_numba()
        self._before = int(numba.get_num_threads())
        self._wanted = _count_threads(self._n_jobs, self._before)
        if self._wanted != self._before:  # to set it takes as long as a pass over a few rows
            numba.set_num_threads(self._wanted)
        self._working = _Working()
        self._working.__enter__()
        return self._wanted

    def __exit__(self, *_: object) -> None:
        self._working.__exit__()
        if self._wanted != self._before:
            numba.set_num_threads(self._before)
