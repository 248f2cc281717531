"""Our side of a worker process: start it, ask it, end it."""

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from bench.peers import Peer
from bench.problems import Array, Problem, Start, make_rows, make_start, widen
from bench.workers import Run

ROOT = Path(__file__).resolve().parents[1]

# With glibc's own settings scikit-learn's large temporaries are returned to the system and faulted in again by every
# iteration, at random up to twice the time. Keeping them is the kinder measurement.
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1099511627776", "MALLOC_ARENA_MAX": "1"}

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_LONGEST = 1_800.0  # seconds that any one answer may take


class WorkerError(Exception):
    """A worker could not do what it was asked."""


class Task:
    """A problem with its rows, which may be widened, and start, in files that workers read."""

    def __init__(self, problem: Problem, *, wide: bool = False) -> None:
        self.problem = problem
        self.rows: Array = widen(make_rows(problem)) if wide else make_rows(problem)
        self.start: Start = make_start(problem, self.rows)
        self._folder = tempfile.TemporaryDirectory(prefix="fastgmm-bench-")
        np.save(self.path("rows.npy"), self.rows)
        np.savez(self.path("start.npz"), **vars(self.start))

    def path(self, name: str) -> str:
        """Return the path of a file that lives as long as the task."""
        return str(Path(self._folder.name) / name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._folder.cleanup()


class Worker:
    """A library in a resident process of its own.

    Parameters
    ----------
    peer : Peer
        The library.
    python : str
        The interpreter that runs it.
    threads : int
        Threads it may use.
    keep_memory : bool
        Whether its allocator keeps what is freed, as times are measured; memory itself is measured without.
    """

    def __init__(self, peer: Peer, python: str, threads: int, *, keep_memory: bool = True) -> None:
        self.peer, self._threads = peer, threads
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 closed by close()
        self._process = subprocess.Popen(
            [python, "-m", "bench.workers", peer.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            cwd=ROOT,
            env=_environment(threads, keep_memory),
        )
        _pin(self._process.pid, threads)

    def take(self, task: Task, dtype: str = "float64") -> Self:
        """Load what to fit, rows as the given type, in place of what was loaded before.

        Raises
        ------
        WorkerError
            If the library does not load or does not take the problem.
        """
        self._task = task
        answer = self.ask(
            "setup",
            problem=vars(task.problem),
            rows=task.path("rows.npy"),
            start=task.path("start.npz"),
            threads=self._threads,
            dtype=dtype,
        )
        self.version: str = answer["version"]
        return self

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def ask(self, call: str, *, longest: float = _LONGEST, **arguments: Any) -> Any:
        """Call a method of the worker's library and wait for the answer, at most `longest` seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        timer = threading.Timer(longest, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"call": call, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late = not timer.is_alive()
            timer.cancel()
        if not line:
            self._process.kill()  # one that no longer answers is of no use
            self._process.wait()
            raise WorkerError(f"no answer within {longest:g} s" if late else f"the process ended: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["answer"]

    def iterate(self, n_iter: int) -> tuple[float, int]:
        """Run iterations from the start; return seconds and how many were done."""
        answer = self.ask("iterate", n_iter=n_iter)
        return answer["seconds"], answer["n_iter"]

    def run(self, call: str, **arguments: Any) -> Run:
        """Call `iterate` or `fit` and return the parameters too."""
        path = self._task.path(f"{self.peer.module}.npz")
        answer = self.ask(call, out=path, **arguments)
        with np.load(path) as arrays:
            return Run(answer["seconds"], answer["n_iter"], **arrays)

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return lines[-1] if lines else f"status {self._process.poll()}"

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _environment(threads: int, keep_memory: bool) -> dict[str, str]:
    environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
    if keep_memory:
        environment |= ALLOCATOR
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return environment


def _pin(process: int, threads: int) -> None:
    """Let a process run on so many processors only, where the system can: the same for all that are compared.

    Of two that others use too, one may be half as fast; and to some libraries nothing else says how many threads.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process, sorted(os.sched_getaffinity(0))[:threads])


class Pool:
    """The workers of a run: each starts once and takes one problem after another.

    Parameters
    ----------
    peers : dict
        The interpreter of every peer.
    threads : int
        Threads that each may use.
    """

    def __init__(self, peers: Mapping[Peer, str], threads: int) -> None:
        self._peers, self.threads = peers, threads
        self._workers: dict[str, Worker] = {}

    def take(self, task: Task, skipped: dict[str, str]) -> dict[str, Worker]:
        """Return the workers that took the task; why others did not goes to `skipped`."""
        ready = {}
        for peer, python in self._peers.items():
            if task.problem.structure not in peer.structures:
                skipped[peer.name] = f"offers {' and '.join(peer.structures)} only"
                continue
            try:
                ready[peer.name] = self._start(peer, python).take(task)
            except (WorkerError, OSError) as error:
                skipped[peer.name] = str(error)
        return ready

    def _start(self, peer: Peer, python: str) -> Worker:
        worker = self._workers.get(peer.name)
        if worker is None or not worker.alive:
            if worker is not None:
                worker.close()
            worker = self._workers[peer.name] = Worker(peer, python, self.threads)
        return worker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self._workers.values():
            worker.close()
