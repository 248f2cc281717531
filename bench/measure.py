"""Measure peers on problems: interleaved rounds, seconds per iteration, and answers compared before any time counts."""

import datetime
import os
import platform
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp
from threadpoolctl import threadpool_limits

from bench.peers import REFERENCE, Peer, Run, find_version, make_peers
from bench.problems import Array, Problem, make_rows, make_start

# With glibc's own settings scikit-learn's large temporaries are returned to the system and faulted in again by every
# iteration, at random up to twice the time. Keeping them is the kinder measurement.
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1099511627776", "MALLOC_ARENA_MAX": "1"}

COMPARED_ITERATIONS = 5
AGREEMENT = 1e-10  # of the log-likelihood
FEW_ITERATIONS = 1
MOST_ITERATIONS = 50_000


class Disagreement(Exception):
    """Peers that started alike did not arrive at the same likelihood."""


def describe_machine() -> dict[str, Any]:
    """Return what a reader needs to place the times: processor, system, versions."""
    return {
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: find_version(name) for name in ("numba", "numpy", "scipy", "scikit-learn", "fastgmm")},
        "allocator": {name: os.environ.get(name) for name in ALLOCATOR},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


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


def _compare_answers(rows: Array, peers: Sequence[Peer]) -> dict[str, float]:
    """Run some iterations of every peer, which also warms them up, and insist on equal likelihoods."""
    found = {peer.name: log_likelihood(rows, peer.iterate(COMPARED_ITERATIONS)) for peer in peers}
    expected = found[REFERENCE]
    for name, value in found.items():
        if not abs(value - expected) <= AGREEMENT * max(1.0, abs(expected)):
            raise Disagreement(f"{name} reached log-likelihood {value!r}, {REFERENCE} {expected!r}")
    return found


def _choose_iterations(peer: Peer, seconds: float) -> int:
    """Return how many iterations the long run of a difference takes, so that they fill the given time."""
    n_iter, spent = 4, peer.iterate(4).seconds
    while spent < 0.2 * seconds and n_iter < MOST_ITERATIONS:
        n_iter = min(MOST_ITERATIONS, 4 * n_iter)
        spent = peer.iterate(n_iter).seconds
    return int(min(MOST_ITERATIONS, max(2, round(n_iter * seconds / spent))))


def _seconds_per_iteration(peer: Peer, n_iter: int) -> float:
    """Return the difference of a long and a short run: what is done once a fit cancels."""
    short = peer.iterate(FEW_ITERATIONS).seconds
    long = peer.iterate(FEW_ITERATIONS + n_iter).seconds
    return (long - short) / n_iter


def measure(problem: Problem, *, rounds: int, seconds: float, threads: int) -> dict[str, Any]:
    """Measure every peer on one problem.

    Parameters
    ----------
    problem : Problem
        What to fit.
    rounds : int
        How often each peer takes its turn; the peers alternate within a round.
    seconds : float
        About how long one long run of a peer should take.
    threads : int
        Threads that each peer may use.

    Returns
    -------
    dict
        The problem, and for every peer its log-likelihood, its seconds per iteration in each round, and the ratios to
        the reference's in the same round.

    Raises
    ------
    Disagreement
        If the peers' log-likelihoods differ; no time is reported then.
    """
    rows = make_rows(problem)
    start = make_start(problem, rows)
    peers = make_peers()
    with threadpool_limits(limits=threads):
        for peer in peers:
            peer.setup(problem, rows, start, threads)
        likelihoods = _compare_answers(rows, peers)
        iterations = {peer.name: _choose_iterations(peer, seconds) for peer in peers}
        times: dict[str, list[float]] = {peer.name: [] for peer in peers}
        for _ in range(rounds):
            for peer in peers:
                times[peer.name].append(_seconds_per_iteration(peer, iterations[peer.name]))
    return {
        "problem": vars(problem),
        "threads": threads,
        "peers": {
            peer.name: {
                "version": peer.version,
                "log_likelihood": likelihoods[peer.name],
                "iterations": iterations[peer.name],
                "seconds": times[peer.name],
                "median_seconds": statistics.median(times[peer.name]),
                "ratios": (ratios := _ratios(times[REFERENCE], times[peer.name])),
                "median_ratio": statistics.median(ratios),
            }
            for peer in peers
        },
    }


def _ratios(reference: Sequence[float], times: Sequence[float]) -> list[float]:
    """Return how many times faster than the reference each round was."""
    return [before / after for before, after in zip(reference, times, strict=True)]
