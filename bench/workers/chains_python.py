"""A Metropolis loop in plain Python and NumPy, one chain, as tutorials write it."""

import sys
import time

import numpy as np

from bench.problems import Array
from bench.workers.chains import describe, draw_starts, factorise, load_density


class Library:
    """The loop."""

    version = sys.version.split()[0]

    def prepare(self, density: str, chains: int, threads: int) -> None:
        """Take a start; there is nothing to compile."""
        if chains != 1:
            raise ValueError("one chain after another")
        table = load_density(density)
        self._means = table.means
        self._constants, self._factors = factorise(table)
        self._root = np.linalg.cholesky(table.step)
        self._random = np.random.default_rng(0)
        self._x = draw_starts(table, 1)[0]

    def _log_density(self, x: Array) -> float:
        y = (self._factors @ (x - self._means)[:, :, None])[:, :, 0]
        return float(np.logaddexp.reduce(self._constants - 0.5 * (y * y).sum(axis=1)))

    def walk(self, steps: int) -> dict[str, object]:
        """Take steps one by one."""
        began, accepted = time.perf_counter(), 0
        current = self._log_density(self._x)
        for _ in range(steps):
            candidate = self._x + self._root @ self._random.standard_normal(len(self._x))
            proposed = self._log_density(candidate)
            if np.log(self._random.random()) < proposed - current:
                self._x, current = candidate, proposed
                accepted += 1
        return describe(time.perf_counter() - began, accepted / steps, self._x[None])
