"""Measure peak memory: one operation of one library in each fresh process, after a small one of the same kind."""

import sys
from typing import Any

from bench.client import Task, Worker
from bench.peers import PEERS, WITHOUT_EXTRAS
from bench.problems import Problem
from bench.workers.estimator import PREDICTIONS

OPERATIONS = ("fit", *PREDICTIONS)


def measure_memory(problem: Problem, threads: int) -> dict[str, Any]:
    """Return the bytes above rows and output at the peak of every operation, for scikit-learn and fastgmm.

    Raises
    ------
    WorkerError
        If a worker fails, or the system cannot reset a process's peak.
    """
    found: dict[str, dict[str, int]] = {}
    with Task(problem) as task:
        for peer in PEERS:
            if peer.name not in WITHOUT_EXTRAS:
                continue
            for operation in OPERATIONS:
                with Worker(peer, sys.executable, threads, keep_memory=False) as worker:
                    worker.take(task)
                    found.setdefault(peer.name, {})[operation] = worker.ask("memory", operation=operation)
    return {"problem": vars(problem), "bytes": found}
