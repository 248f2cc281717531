"""gmmx, EM in JAX; float32 is all it offers."""

import time
from importlib.metadata import version

import gmmx
import jax
import numpy as np

from bench.problems import Array, Problem, Start, dense_covariances
from bench.workers import Run


class Library:
    """`gmmx.EMFitter`. The time of compiling, once for every number of iterations, is not counted."""

    version = version("gmmx")

    def setup(self, problem: Problem, rows: Array, start: Start, threads: int) -> None:
        """Hand rows and start to JAX."""
        self._problem = problem
        self._compiled: set[int] = set()
        self._rows = jax.device_put(rows.astype(np.float32))
        self._start = gmmx.GaussianMixtureModelJax.from_squeezed(
            weights=start.weights.astype(np.float32),
            means=start.means.astype(np.float32),
            covariances=start.covariances.astype(np.float32),
            covariance_type=problem.structure,
        )

    def iterate(self, n_iter: int) -> Run:
        """Run EM; with a tolerance of 0 it never stops early."""
        fitter = gmmx.EMFitter(max_iter=n_iter, tol=0.0, reg_covar=0.0)
        if n_iter not in self._compiled:
            self._compiled.add(n_iter)
            jax.block_until_ready(fitter.fit(x=self._rows, gmm=self._start))
        began = time.perf_counter()
        result = jax.block_until_ready(fitter.fit(x=self._rows, gmm=self._start))
        seconds = time.perf_counter() - began
        found = result.gmm
        weights = found.weights_numpy.astype(np.float64)
        covariances = dense_covariances(found.covariances.values_numpy.astype(np.float64), self._problem)
        # Sums of float32 leave the weights a little beside 1.
        return Run(seconds, int(result.n_iter), weights / weights.sum(), found.means_numpy.astype(float), covariances)
