"""Measure what a user calls: whole default fits and predictions beside scikit-learn, and fastgmm beside itself."""

import sys
from contextlib import ExitStack
from typing import Any

from bench.client import Task, Worker
from bench.measure import choose_iterations, log_likelihood, seconds_per_iteration, summarise
from bench.peers import OURS, PEERS, REFERENCE
from bench.problems import Problem
from bench.workers.estimator import OPTIONS, PREDICTIONS

FLOAT32_FEATURES = 8  # from so many on, float32 rows are compared with float64
# Seconds that a problem's fits should take together, as one of 0.3 ms says little; but no more fits than so many.
_LEAST_SECONDS, _MOST_SEEDS = 0.5, 50
# What fastgmm's other ways are compared with.
REFERENCES = PLAIN, FLOAT64 = ("plain", "float64")
_BY_NAME = {peer.name: peer for peer in PEERS}


def measure_fits(
    problem: Problem, *, seeds: int, patience: float, rounds: int, seconds: float, more_threads: int
) -> dict[str, Any]:
    """Measure whole fits, predictions and variants on one problem, each interleaved with what it is compared to.

    Parameters
    ----------
    problem : Problem
        What to fit.
    seeds : int
        How many default fits, each with the next `random_state`; more where they are short.
    patience : float
        A reference fit that takes more seconds is the last.
    rounds : int
        Turns of predictions and variants.
    seconds : float
        About how long one turn of a variant should take.
    more_threads : int
        Threads that fastgmm's iterations are compared on with those on one.
    """
    with Task(problem) as task:
        with ExitStack() as stack:
            pair = {
                name: stack.enter_context(Worker(_BY_NAME[name], sys.executable, 1)).take(task)
                for name in (REFERENCE, OURS)
            }
            fits = _fit(pair, task, seeds, patience)
            predictions = _predict(pair, rounds)
        variants = _compare_variants(task, rounds, seconds, more_threads)
    found = {"problem": vars(problem), "fit": fits, "predictions": predictions, "variants": variants}
    if problem.features >= FLOAT32_FEATURES:
        found["types"] = _compare_types(problem, rounds, seconds)
    return found


def _fit(workers: dict[str, Worker], task: Task, seeds: int, patience: float) -> dict[str, Any]:
    for worker in workers.values():
        worker.iterate(1)  # so that neither compiling nor loading counts
        worker.ask("warm_fit")
    times: dict[str, list[float]] = {name: [] for name in workers}
    scores: dict[str, list[float]] = {name: [] for name in workers}
    iterations: dict[str, list[int]] = {name: [] for name in workers}
    while len(seconds := times[REFERENCE]) < seeds or (sum(seconds) < _LEAST_SECONDS and len(seconds) < _MOST_SEEDS):
        seed = len(seconds)
        for name, worker in workers.items():
            run = worker.run("fit", seed=seed)
            times[name].append(run.seconds)
            iterations[name].append(run.n_iter)
            scores[name].append(log_likelihood(task.rows, run) / task.problem.rows)
        if times[REFERENCE][-1] > patience:
            break
    return {
        name: {**summarise(times[REFERENCE], times[name]), "scores": scores[name], "iterations": iterations[name]}
        for name in workers
    }


def _predict(workers: dict[str, Worker], rounds: int) -> dict[str, Any]:
    found = {}
    for method in PREDICTIONS:
        times: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                times[name].append(worker.ask("predict", method=method))
        found[method] = {name: summarise(times[REFERENCE], times[name]) for name in workers}
    return found


def _compare_variants(task: Task, rounds: int, seconds: float, more_threads: int) -> dict[str, Any]:
    """Compare fastgmm's plain iterations on one thread with its other options, and with more threads."""
    threads = {PLAIN: 1, **dict.fromkeys(OPTIONS, 1)}
    if more_threads > 1:
        threads[f"{more_threads} threads"] = more_threads
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(_BY_NAME[OURS], sys.executable, count)).take(task)
            for name, count in threads.items()
        }
        for option in OPTIONS:
            workers[option].ask("choose", option=option)
        return _take_turns(workers, PLAIN, rounds, seconds)


def _compare_types(problem: Problem, rounds: int, seconds: float) -> dict[str, Any]:
    """Compare fastgmm's iterations on rows of both types, no component of which is too narrow for float32."""
    with Task(problem, wide=True) as task, ExitStack() as stack:
        workers = {
            dtype: stack.enter_context(Worker(_BY_NAME[OURS], sys.executable, 1)).take(task, dtype)
            for dtype in (FLOAT64, "float32")
        }
        return _take_turns(workers, FLOAT64, rounds, seconds)


def _take_turns(workers: dict[str, Worker], reference: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Let each run iterations in turn, and compare it with the reference."""
    iterations = {name: choose_iterations(worker, seconds) for name, worker in workers.items()}
    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            times[name].append(seconds_per_iteration(worker, iterations[name], seconds))
    return {name: summarise(times[reference], each) for name, each in times.items()}
