"""What the workers of samplers share: `prepare(density, chains, threads, **options)`, then `walk(steps)`.

`walk` continues the chains by random-walk Metropolis steps and returns the seconds, the share of candidates accepted,
and the mean of the last positions. What a library compiles it compiles in `prepare`.
"""

import numpy as np

from bench.densities import Density
from bench.problems import Array


def load_density(path: str) -> Density:
    """Read what the other side wrote."""
    with np.load(path) as arrays:
        return Density(**arrays)


def draw_starts(density: Density, chains: int) -> Array:
    """Exact draws (chains, d), so that no chain needs to find the density first."""
    random = np.random.default_rng(1)
    component = random.choice(len(density.weights), size=chains, p=density.weights)
    noise = random.standard_normal((chains, density.means.shape[1], 1))
    return density.means[component] + (np.linalg.cholesky(density.covariances)[component] @ noise)[:, :, 0]


def factorise(density: Density) -> tuple[Array, Array]:
    """Log constants (k,) and triangular factors (k, d, d): log p = log Σ exp(constant - |F (x - μ)|² / 2)."""
    factors = np.linalg.inv(np.linalg.cholesky(density.covariances))
    d = density.means.shape[1]
    log_determinants = np.log(np.einsum("cjj->cj", factors)).sum(axis=1)
    return np.log(density.weights) + log_determinants - 0.5 * d * np.log(2.0 * np.pi), factors


def describe(seconds: float, accepted: float, positions: Array) -> dict[str, object]:
    """What `walk` answers."""
    return {"seconds": seconds, "accepted": float(accepted), "mean": np.mean(positions, axis=0).tolist()}
