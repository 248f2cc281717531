"""Fits of rows in Dask's partitions on worker processes, beside those of the same rows in memory on as many threads."""

import time
import warnings
from typing import Any

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, wait

from bench.problems import Array, Problem
from fastgmm import GaussianMixture

PROBLEM = Problem("cluster", 20_000_000, 8, 8, "full")
QUICK_PROBLEM = Problem("cluster, small", 400_000, 4, 4, "full")
PARTITIONS = 20
FEW_ROWS = 256  # of a partition that takes no time beside that of its task
WORKERS = (1, 2)


def draw_partition(problem: Problem, index: int, rows: int) -> Array:
    """Draw the rows of a partition, the same in every process."""
    means = 3.0 * np.random.default_rng(0).standard_normal((problem.components, problem.features))
    random = np.random.default_rng([1, index])
    return means[random.integers(problem.components, size=rows)] + random.standard_normal((rows, problem.features))


def measure_cluster(problem: Problem, workers: int, rounds: int, iterations: int) -> dict[str, Any]:
    """Seconds per iteration on worker processes of one thread each, in memory, and of scheduling alone.

    The rows are in partitions persisted on the workers. Scheduling is what an iteration takes over as many partitions
    that have next to no rows. Rounds alternate between the three.

    Raises
    ------
    AssertionError
        If the fits do not agree.
    """
    size = problem.rows // PARTITIONS
    parts = [draw_partition(problem, index, size) for index in range(PARTITIONS)]
    start = _start(problem, parts[0])
    cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, memory_limit=0)
    with cluster, Client(cluster):
        rows = {"cluster": _partitioned(problem, size), "scheduling": _partitioned(problem, FEW_ROWS)}
        wait(list(rows.values()))
        rows["memory"] = np.concatenate(parts)
        del parts
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        for turn in range(rounds + 1):  # the first one compiles, or loads what was compiled
            means = {}
            for name, each in rows.items():
                found, means[name] = _iterate(problem, start, each, workers, iterations if turn else 2)
                seconds[name] += found if turn else []
            np.testing.assert_allclose(means["cluster"], means["memory"], rtol=1e-10)
    medians = {name: float(np.median(found)) for name, found in seconds.items()}
    return {
        "problem": vars(problem),
        "workers": workers,
        "partitions": PARTITIONS,
        "seconds": seconds,
        "efficiency": medians["memory"] / medians["cluster"],
        "overhead": medians["scheduling"] / medians["cluster"],
    }


def _partitioned(problem: Problem, rows: int) -> Any:
    parts = [dask.delayed(draw_partition)(problem, index, rows) for index in range(PARTITIONS)]
    return da.concatenate([da.from_delayed(part, (rows, problem.features), float) for part in parts]).persist()


def _start(problem: Problem, rows: Array) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin = GaussianMixture(problem.components, max_iter=1, random_state=0).fit(rows)
    return {"weights_init": begin.weights_, "means_init": begin.means_ + 0.1, "precisions_init": begin.precisions_}


def _iterate(
    problem: Problem, start: dict[str, Any], rows: Any, threads: int, iterations: int
) -> tuple[list[float], Array]:
    """Seconds of each iteration after the first, and the means that were reached."""
    ends: list[float] = []
    model = GaussianMixture(
        problem.components, covariance_type=problem.structure, tol=0.0, max_iter=iterations, n_jobs=threads, **start,
        callback=lambda *_: ends.append(time.perf_counter()),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few iterations, and of partitions of few rows
        model.fit(rows)
    return np.diff(ends).tolist(), model.means_


def describe(row: dict[str, Any]) -> str:
    """Say what one number of workers gave, in a line."""
    medians = {name: 1e3 * float(np.median(found)) for name, found in row["seconds"].items()}
    return (
        f"{row['workers']} workers {medians['cluster']:.0f} ms, in memory {medians['memory']:.0f} ms "
        f"({row['efficiency']:.2f}), scheduling {medians['scheduling']:.1f} ms ({row['overhead']:.1%})"
    )
