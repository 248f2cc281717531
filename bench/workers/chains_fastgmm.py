"""fastgmm's sampler: the density as a `Mixture`, or as a user would write it for one point or for many."""

import time
from typing import Any

import numba
import numpy as np

from bench.workers.chains import describe, draw_starts, factorise, load_density
from fastgmm import Mixture, __version__, sample
from fastgmm.math import exp, log
from fastgmm.mcmc import RandomWalk


@numba.njit(error_model="numpy")
def _one_point(x, constants, means, factors):
    k, d = means.shape
    largest, total = -np.inf, 0.0
    for c in range(k):
        square = 0.0
        for i in range(d):
            y = 0.0
            for j in range(i + 1):
                y += factors[c, i, j] * (x[j] - means[c, j])
            square += y * y
        term = constants[c] - 0.5 * square
        top = max(largest, term)
        total = total * exp(largest - top) + exp(term - top)
        largest = top
    return largest + log(total)


@numba.njit(error_model="numpy")
def _two_modes(x, a, b):
    """Two components in the plane, without loops."""
    u, v = x[0] - a[1], x[1] - a[2]
    p, q = x[0] - b[1], x[1] - b[2]
    first = a[0] - 0.5 * ((a[3] * u) ** 2 + (a[4] * u + a[5] * v) ** 2)
    second = b[0] - 0.5 * ((b[3] * p) ** 2 + (b[4] * p + b[5] * q) ** 2)
    top = max(first, second)
    return top + log(exp(first - top) + exp(second - top))


@numba.njit(error_model="numpy")
def _two_modes_of_many(x, out, a, b):
    for i in range(x.shape[1]):
        u, v = x[0, i] - a[1], x[1, i] - a[2]
        p, q = x[0, i] - b[1], x[1, i] - b[2]
        first = a[0] - 0.5 * ((a[3] * u) ** 2 + (a[4] * u + a[5] * v) ** 2)
        second = b[0] - 0.5 * ((b[3] * p) ** 2 + (b[4] * p + b[5] * q) ** 2)
        top = max(first, second)
        out[i] = top + log(exp(first - top) + exp(second - top))


class Library:
    """`sample` with a random walk of fixed covariance."""

    version = __version__

    def prepare(self, density: str, chains: int, threads: int, kind: str) -> None:
        """Build the target and take a few steps, which compiles."""
        table = load_density(density)
        constants, factors = factorise(table)
        self._options: dict[str, Any] = {
            "chains": chains,
            "n_jobs": threads,
            "kernel": RandomWalk(cov=table.step, adapt=None),
            "warmup": 0,
        }
        two_modes = table.means.shape == (2, 2)
        flat = [
            (constants[c], *table.means[c], factors[c, 0, 0], factors[c, 1, 0], factors[c, 1, 1])
            for c in range(2 if two_modes else 0)
        ]
        arrays = tuple(np.array(values) for values in flat)
        if kind == "Mixture":
            full = Mixture(table.weights, table.means, table.covariances)
            spherical = np.allclose(table.covariances, table.covariances[:, :1, :1] * np.eye(table.means.shape[1]))
            self._target: Any = (
                Mixture(table.weights, table.means, table.covariances[:, 0, 0], "spherical") if spherical else full
            )
        elif kind == "batch":
            self._target, self._options["args"], self._options["vectorized"] = _two_modes_of_many, arrays, True
        elif two_modes:
            self._target, self._options["args"] = _two_modes, arrays
        else:
            self._target, self._options["args"] = _one_point, (constants, table.means, factors)
        self._positions = draw_starts(table, chains)
        self._walks = 0
        self.walk(10)

    def walk(self, steps: int) -> dict[str, object]:
        """Take steps, of which the last is kept."""
        self._walks += 1  # the same candidates again would leave chains where all are rejected
        began = time.perf_counter()
        chains = sample(self._target, self._positions, draws=1, thin=steps, seed=self._walks, **self._options)
        seconds = time.perf_counter() - began
        self._positions = chains.draws[:, -1]
        return describe(seconds, np.mean(chains.acceptance_rate), self._positions)
