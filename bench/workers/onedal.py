"""oneDAL's EM through daal4py, which scikit-learn-intelex brings."""

import time
from importlib.metadata import version

import daal4py
import numpy as np

from bench.problems import Array, Problem, Start
from bench.workers import Run

_STORAGE = {"full": "full", "diag": "diagonal"}


class Library:
    """`daal4py.em_gmm` in float64."""

    version = version("daal")

    def setup(self, problem: Problem, rows: Array, start: Start, threads: int) -> None:
        """Keep the rows, and the start in the tables that daal4py takes."""
        daal4py.daalinit(nthreads=threads)
        self._problem = problem
        covariances = [np.atleast_2d(covariance) for covariance in start.covariances]
        self._arguments = (rows, start.weights[None, :], start.means, covariances)

    def iterate(self, n_iter: int) -> Run:
        """Run EM; it stops early once an iteration leaves the likelihood as it was, to the bit."""
        algorithm = daal4py.em_gmm(
            nComponents=self._problem.components,
            maxIterations=n_iter,
            accuracyThreshold=0.0,
            regularizationFactor=0.0,
            covarianceStorage=_STORAGE[self._problem.structure],
        )
        began = time.perf_counter()
        result = algorithm.compute(*self._arguments)
        seconds = time.perf_counter() - began
        covariances = np.stack([np.asarray(covariance) for covariance in result.covariances])
        if self._problem.structure == "diag":
            covariances = covariances.reshape(-1, 1, self._problem.features) * np.eye(self._problem.features)
        return Run(seconds, int(result.nIterations[0, 0]), result.weights[0], result.means, covariances)
