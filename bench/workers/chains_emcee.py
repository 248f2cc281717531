"""emcee with a Gaussian move and a vectorised density.

With a covariance matrix, emcee 3.1.6 moves all walkers by one and the same step. So it walks in coordinates in which
steps have the identity for covariance, which costs nothing: the density's means and factors are those of z, x = root z.
"""

import time

import emcee
import numpy as np

from bench.problems import Array
from bench.workers.chains import describe, draw_starts, factorise, load_density


class Library:
    """`EnsembleSampler` whose walkers are independent chains."""

    version = emcee.__version__

    def prepare(self, density: str, chains: int, threads: int) -> None:
        """Build the sampler."""
        table = load_density(density)
        constants, factors = factorise(table)
        d = table.means.shape[1]
        self._root = np.linalg.cholesky(table.step)
        means, factors = np.linalg.solve(self._root, table.means.T).T, factors @ self._root
        if chains < 2 * d:
            raise ValueError("emcee wants twice as many walkers as dimensions")

        def log_density(points: Array) -> Array:
            y = np.einsum("crj,icj->icr", factors, points[:, None] - means)
            return np.asarray(np.logaddexp.reduce(constants - 0.5 * (y * y).sum(axis=2), axis=1))

        move = emcee.moves.GaussianMove(1.0)
        self._sampler = emcee.EnsembleSampler(chains, d, log_density, moves=move, vectorize=True)
        self._state = np.linalg.solve(self._root, draw_starts(table, chains).T).T
        self.walk(5)

    def walk(self, steps: int) -> dict[str, object]:
        """Take steps, none of which is stored, nor how many candidates were accepted."""
        began = time.perf_counter()
        self._state = self._sampler.run_mcmc(self._state, steps, store=False, skip_initial_state_check=True)
        seconds = time.perf_counter() - began
        return describe(seconds, float("nan"), self._state.coords @ self._root.T)
