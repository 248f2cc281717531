"""All starts of a fit: one after another, or side by side where a pass alone would not keep the threads busy."""

import contextvars
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace

import numba

from fastgmm.covariance import Update
from fastgmm.em.engine import OnStep, Run
from fastgmm.em.watch import Watch
from fastgmm.kernels._threads import parallel_region, threads
from fastgmm.sources import ArrayRows, Rows, count_shares

Find = Callable[[], Update]
Follow = Callable[[Rows, Update, OnStep | None], Run]

# Rows times parameters below which a pass is so short that threads only wait for Python's lock: side by side, starts
# of 1,000 rows, 2 features and 2 components take 1.3 times as long as in turn, on two threads.
_LEAST_WORK = 3_000_000
# How well the rows of a pass keep its threads busy, where there are enough.
_SHARED_EFFICIENCY = 0.8


def follow_starts(
    find: Find, follow: Follow, source: Rows, count: int, watch: Watch, *, n_parameters: int, in_turn: bool
) -> list[tuple[Run, float]]:
    """Find and follow `count` starts; each one's run, in the order they were found in, and the seconds both took.

    An interrupt from the keyboard ends it, with what was reached.

    Parameters
    ----------
    find : callable
        find() is the next start; one is sought at a time.
    follow : callable
        follow(source, start, on_step) follows EM from there.
    source : Rows
        The rows. Only those in memory can be read side by side.
    count : int
        Number of starts.
    n_parameters : int
        Of a mixture, which is to say the work that a row makes.
    watch : Watch
        Who is told of steps, if anyone.
    in_turn : bool
        Whether each start has to wait for the one before, in the calling thread. It does so too where somebody watches.

    Raises
    ------
    KeyboardInterrupt
        If interrupted before there was any sound start.
    """
    in_turn = in_turn or watch.wanted or count == 1
    if not in_turn and isinstance(source, ArrayRows) and _pays_abreast(source, n_parameters, count):
        with parallel_region(count) as workers:
            if workers > 1:
                return _follow_abreast(find, follow, source, count, workers)
    return _follow_in_turn(find, follow, source, count, watch)


def _pays_abreast(source: ArrayRows, n_parameters: int, count: int) -> bool:
    """Whether starts side by side keep more threads busy than passes that are shared among them."""
    most = numba.get_num_threads()
    busy = count / math.ceil(count / most)
    shared = min(most, count_shares(source.n_rows, n_parameters))
    return busy > 1 and source.n_rows * n_parameters >= _LEAST_WORK and busy >= _SHARED_EFFICIENCY * shared


def _follow_in_turn(
    find: Find, follow: Follow, source: Rows, count: int, watch: Watch
) -> list[tuple[Run, float]]:
    followed: list[tuple[Run, float]] = []
    on_step = watch.step if watch.wanted else None
    for index in range(count):
        began = time.perf_counter()
        watch.begin(index)
        try:
            run = follow(source, find(), on_step)
        except KeyboardInterrupt:  # before there was a start
            run = _interrupted(followed)
        watch.end(run)
        followed.append((run, time.perf_counter() - began))
        if run.outcome in ("stopped", "interrupted"):
            break
    return followed


def _follow_abreast(
    find: Find, follow: Follow, source: ArrayRows, count: int, workers: int
) -> list[tuple[Run, float]]:
    """Let every worker, a thread of its own, find and follow the next start until there are no more.

    Starts are found in order, so randomness is what it is when they follow each other, and so are the runs' bits.
    """
    followed: dict[int, tuple[Run, float]] = {}
    indices, turn, interrupted = iter(range(count)), threading.Lock(), False
    begin, halt = threading.Event(), threading.Event()

    def work(own: ArrayRows) -> None:
        begin.wait()
        with threads(1):
            while True:
                with turn:
                    began, index = time.perf_counter(), next(indices, None)
                    start = None if index is None or halt.is_set() else find()
                    if index is None or start is None or halt.is_set():
                        return
                run = follow(own, start, lambda *_: halt.is_set())
                followed[index] = run, time.perf_counter() - began

    with ThreadPoolExecutor(workers) as pool:
        # In the caller's context NumPy's floating-point errors are what the caller wants them to be.
        jobs: list[Future[None]] = []
        try:
            for _ in range(workers):
                jobs.append(pool.submit(contextvars.copy_context().run, work, source.beside()))
            begin.set()  # not before: of a thread that an interrupt found starting, nobody would know
            wait(jobs, return_when=FIRST_EXCEPTION)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            halt.set()
            begin.set()
    for job in jobs:
        job.result()
    runs = [followed[index] for index in sorted(followed)]
    if interrupted:
        runs = [(replace(run, outcome="interrupted") if run.outcome == "stopped" else run, took) for run, took in runs]
        if len(runs) < count and all(run.outcome != "interrupted" for run, _ in runs):
            runs.append((_interrupted(runs), 0.0))
    return runs


def _interrupted(followed: list[tuple[Run, float]]) -> Run:
    """What there is of a start that was sought when the interrupt came; with nothing to keep it is the caller's."""
    sound = [run for run, _ in followed if run.outcome != "failed"]
    if not sound:
        raise KeyboardInterrupt
    return Run(sound[0].parameters, outcome="interrupted")
