"""Measure EM iterations: interleaved rounds, seconds per iteration, and answers compared before any time counts."""

import datetime
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from bench.client import ALLOCATOR, Pool, Task, Worker, WorkerError
from bench.limits import floor_seconds
from bench.peers import MACHINE, OURS, PEERS, REFERENCE
from bench.problems import Array, Problem
from bench.workers import Run
from fastgmm.kernels._jit import VECTOR_BYTES

COMPARED_ITERATIONS = 5
COMPARED_ROWS = 200_000  # at most; so many show any difference that all would
FEW_ITERATIONS = 1
MOST_ITERATIONS = 50_000
MOST_PAIRS = 9
AGREEMENTS = {peer.name: peer.agreement for peer in PEERS}


class Disagreement(Exception):
    """fastgmm and the reference started alike and did not arrive at the same likelihood."""


class Effort(NamedTuple):
    """How much to measure.

    Attributes
    ----------
    rounds : int
        How often each peer takes its turn; the peers alternate within a round.
    seconds : float
        About how long one turn should take.
    slowest : float
        A peer that takes so many times the reference's time is left out.
    """

    rounds: int
    seconds: float
    slowest: float


def describe_machine() -> dict[str, Any]:
    """Return what a reader needs to place the times: processor, system, versions."""
    packages = ("numba", "numpy", "scipy", "scikit-learn", "fastgmm")
    return {
        "processor": _processor_name(),
        "vector_bits": 8 * VECTOR_BYTES,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _find_version(name) for name in packages},
        "allocator": ALLOCATOR,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"  # a checkout


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def log_likelihood(rows: Array, run: Run) -> float:
    """Evaluate returned parameters with NumPy alone, block by block."""
    factors = np.linalg.cholesky(run.covariances)
    constants = np.log(run.weights) - 0.5 * rows.shape[1] * np.log(2.0 * np.pi)
    constants -= np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    total = 0.0
    for first in range(0, len(rows), 8_192):
        block = rows[first : first + 8_192]
        logs = np.empty((len(block), len(factors)))
        for c, factor in enumerate(factors):
            whitened = solve_triangular(factor, (block - run.means[c]).T, lower=True, check_finite=False)
            logs[:, c] = constants[c] - 0.5 * np.einsum("ij,ij->j", whitened, whitened)
        total += float(logsumexp(logs, axis=1).sum())
    return total


def agree(value: float, expected: float, agreement: float) -> bool:
    """Whether two log-likelihoods are as close as they must be; NaN is not."""
    return abs(value - expected) <= agreement * max(1.0, abs(expected))


def _prepare(workers: dict[str, Worker], task: Task, effort: Effort, skipped: dict[str, str]) -> dict[str, float]:
    """Warm every worker up, drop those that disagree, fail or are too slow, and return the others' likelihoods."""
    likelihoods: dict[str, float] = {}
    rows = task.rows[:COMPARED_ROWS]
    reference_seconds = 0.0
    for name, worker in list(workers.items()):
        reason = ""
        try:
            seconds, _ = worker.iterate(FEW_ITERATIONS)
            if name != REFERENCE and seconds > 10.0 * effort.slowest * max(reference_seconds, 0.1):
                reason = f"its first iteration took {seconds:.0f} s"  # and it would be no use to wait for more
            else:
                likelihoods[name] = log_likelihood(rows, worker.run("iterate", n_iter=COMPARED_ITERATIONS))
                seconds, done = worker.iterate(COMPARED_ITERATIONS)
                each = seconds / done
                if name == REFERENCE:
                    reference_seconds = each
                elif each > effort.slowest * reference_seconds:
                    reason = f"takes more than {effort.slowest:g} times {REFERENCE}'s time"
                elif not agree(likelihoods[name], likelihoods[REFERENCE], AGREEMENTS[name]):
                    reason = f"reached log-likelihood {likelihoods[name]!r}, {REFERENCE} {likelihoods[REFERENCE]!r}"
        except WorkerError as error:
            reason = str(error)
        except np.linalg.LinAlgError:
            reason = "its covariances are not positive-definite after some iterations without regularisation"
        if reason:
            if name in (REFERENCE, OURS):
                raise Disagreement(f"{name}: {reason}")
            skipped[name] = reason
            likelihoods.pop(name, None)
            del workers[name]
    return likelihoods


def choose_iterations(worker: Worker, seconds: float) -> int:
    """Return how many iterations the long run of a difference takes, so that a turn fills the given time.

    Fewer where the worker cannot be kept from stopping before.
    """
    n_iter = 4
    while True:
        spent, done = worker.iterate(FEW_ITERATIONS + n_iter)
        if done < FEW_ITERATIONS + n_iter:
            return max(1, done - FEW_ITERATIONS)
        if spent >= 0.2 * seconds or n_iter == MOST_ITERATIONS:
            return int(min(MOST_ITERATIONS, max(2, round(n_iter * seconds / spent))))
        n_iter = min(MOST_ITERATIONS, 4 * n_iter)


def seconds_per_iteration(worker: Worker, n_iter: int, seconds: float) -> float:
    """Return the difference of a long and a short run: what is done once a fit cancels.

    Where a long run is over soon, the median of several differences.
    """
    differences: list[float] = []
    spent = 0.0
    while not differences or (spent < 0.7 * seconds and len(differences) < MOST_PAIRS):
        short, few = worker.iterate(FEW_ITERATIONS)
        long, many = worker.iterate(FEW_ITERATIONS + n_iter)
        if many <= few:
            raise WorkerError(f"stops after {many} iterations")
        differences.append((long - short) / (many - few))
        spent += long + short
    return statistics.median(differences)


def ratios(reference: Sequence[float], times: Sequence[float]) -> list[float]:
    """Return how many times faster than the reference each round was."""
    return [before / after for before, after in zip(reference, times, strict=True)]


def summarise(reference: Sequence[float], times: Sequence[float]) -> dict[str, Any]:
    """Return times with their ratios to the reference's in the same rounds, and the medians of both."""
    each = ratios(reference, times)
    return {
        "seconds": list(times),
        "median_seconds": statistics.median(times),
        "ratios": each,
        "median_ratio": statistics.median(each),
    }


def measure(problem: Problem, pool: Pool, effort: Effort) -> dict[str, Any]:
    """Measure every peer, and the limit, on one problem.

    Parameters
    ----------
    problem : Problem
        What to fit.
    pool : Pool
        The peers' workers, the reference first, and the machine's.
    effort : Effort
        How much to measure.

    Returns
    -------
    dict
        The problem; for every peer its log-likelihood, its seconds per iteration in each round, and the ratios to the
        reference's in the same round; the same for the limit, with the rates it is made of; why peers were left out.

    Raises
    ------
    Disagreement
        If fastgmm's log-likelihood is not the reference's; no time is reported then.
    """
    skipped: dict[str, str] = {}
    with Task(problem) as task:
        workers = pool.take(task, skipped)
        for name in (REFERENCE, OURS, MACHINE.name):
            if name not in workers:
                raise Disagreement(f"{name}: {skipped.get(name, 'not found here')}")
        machine = workers.pop(MACHINE.name)
        likelihoods = _prepare(workers, task, effort, skipped)
        iterations = {name: choose_iterations(worker, effort.seconds) for name, worker in workers.items()}
        times: dict[str, list[float]] = {name: [] for name in workers}
        rates: list[dict[str, float]] = []
        for _ in range(effort.rounds):
            for name, worker in workers.items():
                times[name].append(seconds_per_iteration(worker, iterations[name], effort.seconds))
            rates.append(machine.ask("rates"))
    versions = {name: worker.version for name, worker in workers.items()}
    floors = [floor_seconds(problem, each) for each in rates]
    return {
        "problem": vars(problem),
        "threads": pool.threads,
        "peers": {
            name: {
                "version": versions[name],
                "log_likelihood": likelihoods[name],
                "iterations": iterations[name],
                **summarise(times[REFERENCE], seconds),
            }
            for name, seconds in times.items()
        },
        "limit": {
            "dgemm": [each["dgemm"] for each in rates],
            "exp": [each["exp"] for each in rates],
            **summarise(times[REFERENCE], floors),
        },
        "skipped": skipped,
    }
