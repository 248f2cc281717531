"""Numba's threads: who may use how many of them, and what runs on one alone."""

import functools
import numbers
import os
import threading
from typing import Any

import numba
from numba import config

from fastgmm.kernels._jit import ParallelKernel, set_up_numba

_forked = False
_parallel_entry = threading.Lock()
# The Python threads inside calls of ours, and how deep each is.
_at_work: dict[int, int] = {}


def _after_fork() -> None:
    global _forked, _parallel_entry
    _forked = True
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


class parallel_region:
    """Says how many workers may share `tasks` now, and holds the place while its block runs.

    A forked child may not enter parallel code (GNU OpenMP ends the process), nor may a second Python thread (the
    workqueue layer aborts it): there it is one worker, the calling thread, and the bits are the same. Each other
    Python thread at work has one of Numba's threads less for the workers here, so that together they are no more than
    those.
    """

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._working: _Working | None = None
        self._holds = False

    def __enter__(self) -> int:
        if self._tasks <= 1:  # which is done before the others would be counted
            return 1
        self._working = _Working()
        others = self._working.__enter__()
        self._setting = int(numba.get_num_threads())
        self._allowed = min(self._setting, int(config.NUMBA_NUM_THREADS) - others)
        workers = min(self._allowed, self._tasks)
        if _forked or workers <= 1 or not _parallel_entry.acquire(blocking=False):
            return 1
        self._holds = True
        if self._allowed != self._setting:
            numba.set_num_threads(self._allowed)  # those without work would spin
        return workers

    def __exit__(self, *_: object) -> None:
        if self._holds:
            if self._allowed != self._setting:
                numba.set_num_threads(self._setting)
            _parallel_entry.release()
        if self._working is not None:
            self._working.__exit__()


def run_shares(driver: ParallelKernel, share: Any, arguments: tuple[Any, ...], workers: int, work: int) -> None:
    """Run `share(worker, *arguments)` for every worker, one after the other until so much `work` repays the driver."""
    if workers > 1 and driver.repays(work):
        driver(share, *arguments)
        return
    for worker in range(workers):
        share(worker, *arguments)


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
