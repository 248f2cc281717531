"""BlackJAX's random walk in float64, compiled for all chains at once."""

import time

import blackjax
import jax
import jax.numpy as jnp
import numpy as np

from bench.workers.chains import describe, draw_starts, factorise, load_density

jax.config.update("jax_enable_x64", True)


class Library:
    """`additive_step_random_walk`, vmapped over chains."""

    version = blackjax.__version__

    def prepare(self, density: str, chains: int, threads: int) -> None:
        """Build and compile the loop."""
        table = load_density(density)
        constants, factors = (jnp.asarray(values) for values in factorise(table))
        means, root = jnp.asarray(table.means), jnp.asarray(np.linalg.cholesky(table.step))

        def log_density(x):
            y = jnp.einsum("crj,cj->cr", factors, x - means)
            return jax.scipy.special.logsumexp(constants - 0.5 * (y * y).sum(axis=1))

        def move(key, position):
            return root @ jax.random.normal(key, position.shape)

        kernel = blackjax.additive_step_random_walk(log_density, move)

        def walk(states, key, steps):
            def step(_, carry):
                states, key, accepted = carry
                key, now = jax.random.split(key)
                states, info = jax.vmap(kernel.step)(jax.random.split(now, chains), states)
                return states, key, accepted + info.is_accepted.mean()

            return jax.lax.fori_loop(0, steps, step, (states, key, 0.0))

        self._walk = jax.jit(walk)
        self._states = jax.vmap(kernel.init)(jnp.asarray(draw_starts(table, chains)))
        self._key = jax.random.key(0)
        self.walk(5)

    def walk(self, steps: int) -> dict[str, object]:
        """Take steps, none of which is stored."""
        began = time.perf_counter()
        self._states, self._key, accepted = jax.block_until_ready(self._walk(self._states, self._key, steps))
        return describe(time.perf_counter() - began, float(accepted) / steps, np.asarray(self._states.position))
