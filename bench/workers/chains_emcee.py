"""emcee with a Gaussian move and a vectorised density."""

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
        means, d = table.means, table.means.shape[1]
        if chains < 2 * d:
            raise ValueError("emcee wants twice as many walkers as dimensions")

        def log_density(points: Array) -> Array:
            y = np.einsum("crj,icj->icr", factors, points[:, None] - means)
            return np.asarray(np.logaddexp.reduce(constants - 0.5 * (y * y).sum(axis=2), axis=1))

        move = emcee.moves.GaussianMove(table.step)
        self._sampler = emcee.EnsembleSampler(chains, d, log_density, moves=move, vectorize=True)
        self._state = draw_starts(table, chains)
        self.walk(5)

    def walk(self, steps: int) -> dict[str, object]:
        """Take steps, none of which is stored, nor how many candidates were accepted."""
        began = time.perf_counter()
        self._state = self._sampler.run_mcmc(self._state, steps, store=False, skip_initial_state_check=True)
        seconds = time.perf_counter() - began
        return describe(seconds, float("nan"), self._state.coords)
