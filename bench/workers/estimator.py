"""What scikit-learn and fastgmm share: a class with the interface of `sklearn.mixture.GaussianMixture`."""

import time
import warnings
from collections.abc import Callable
from typing import Any

from bench.problems import Array, Problem, Start, dense_covariances
from bench.workers import Run
from bench.workers.memory import peak_above

PREDICTIONS = ("predict", "predict_proba", "score_samples")
OPTIONS = ("weights", "prior", "missing")  # of ours alone
_FITTED_ITERATIONS = 2
_WARM_ROWS = 200_000  # where there are so many, enough for passes to be shared, so that parallel code is loaded too
_SHORTEST = 0.1  # seconds that a measurement of fits or predictions lasts at least


class Estimator:
    """A mixture's estimator under measurement."""

    def __init__(self, kind: Any, version: str) -> None:
        self._class = kind
        self.version = version

    def setup(self, problem: Problem, rows: Array, start: Start, threads: int) -> None:
        """Keep the rows and the constructor's arguments."""
        self._problem, self._rows = problem, rows
        self._short: Any = None
        self._weights: dict[str, Array] = {}
        self._shape = {"n_components": problem.components, "covariance_type": problem.structure}
        self._start = {
            "weights_init": start.weights,
            "means_init": start.means,
            "precisions_init": start.precisions,
            "tol": 0.0,  # never converged: all iterations are done
            "reg_covar": 0.0,
        }

    def iterate(self, n_iter: int) -> Run:
        """Fit with a limit of `n_iter` iterations and no tolerance."""
        run = self._fit(self._class(max_iter=n_iter, **self._shape, **self._start), self._rows)
        if run.n_iter != n_iter:
            raise RuntimeError(f"stopped after {run.n_iter} of {n_iter} iterations")
        return run

    def fit(self, seed: int) -> Run:
        """Fit as the defaults have it, initialisation included; where that is short, the mean of a few."""
        runs: list[Run] = []
        while sum(run.seconds for run in runs) < _SHORTEST:
            runs.append(self._fit(self._class(random_state=seed, **self._shape), self._rows))
        return runs[-1]._replace(seconds=sum(run.seconds for run in runs) / len(runs))

    def warm_fit(self) -> None:
        """Fit a few of the rows, so that what is compiled or loaded for a start is there."""
        self._fit(self._class(random_state=0, max_iter=_FITTED_ITERATIONS, **self._shape), self._rows[:_WARM_ROWS])

    def _fit(self, estimator: Any, rows: Array) -> Run:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it did not converge is meant
            began = time.perf_counter()
            estimator.fit(rows, **self._weights)
            seconds = time.perf_counter() - began
        self._fitted = estimator
        covariances = dense_covariances(estimator.covariances_, self._problem)
        return Run(seconds, estimator.n_iter_, estimator.weights_, estimator.means_, covariances)

    def predict(self, method: str) -> float:
        """Return the seconds of one call of a prediction method, the mean of a few where it is short."""
        call = getattr(self._from_start(self._rows), method)
        call(self._rows)
        calls, began = 0, time.perf_counter()
        while calls == 0 or time.perf_counter() - began < _SHORTEST:
            call(self._rows)
            calls += 1
        return (time.perf_counter() - began) / calls

    def _from_start(self, rows: Array) -> Any:
        """Return an estimator of a few iterations; the same for all calls."""
        if self._short is None:
            self._fit(self._class(max_iter=_FITTED_ITERATIONS, **self._shape, **self._start), rows)
            self._short = self._fitted
        return self._short

    def memory(self, operation: str) -> int:
        """Return the bytes that an operation took above the rows and its output, at its peak.

        `operation` is "fit", whose start is found too, or a prediction. A small one of the same kind comes first, so
        that neither compiled code nor a library's threads count.
        """
        few = self._rows[: min(len(self._rows), _WARM_ROWS)]
        work: Callable[[Array], Any]
        if operation == "fit":
            estimator = self._class(max_iter=_FITTED_ITERATIONS, random_state=0, **self._shape)

            def work(rows: Array) -> None:
                self._fit(estimator, rows)
        else:
            work = getattr(self._from_start(few), operation)
        work(few)
        return peak_above(lambda: work(self._rows))
