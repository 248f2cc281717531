"""Metropolis-Hastings chains, one at a time and written from the formula."""

import numpy as np

from fastgmm.kernels import random
from fastgmm.kernels._jit import TILE_STRIDE


def noise_of_chain(seed, c, steps, d):
    """Normals (steps, d) and exponentials (steps,) of chain c."""
    state = np.ascontiguousarray(random.new_generators(np.random.SeedSequence(seed), c + 1)[:, c:])
    numbers = random.numbers_per_step(d)
    parts = []
    for first in range(0, steps, random.steps_per_tile(1)):
        count = min(steps - first, random.steps_per_tile(1))
        tile = np.zeros(numbers * TILE_STRIDE)
        random.fill_noise(state, count, d, 0, tile)
        parts.append(tile.reshape(numbers, TILE_STRIDE)[:, :count].T)
    drawn = np.concatenate(parts)
    return drawn[:, :d], drawn[:, -1]


def metropolis(log_density, start, noise, factor, adapt=None):
    """Take a step for each row of `noise`, each adapting the factor by a rule if one is given.

    Returns the states after each step, (steps, d), their log-densities, (steps,), which steps were accepted, and the
    last factor.
    """
    position = np.array(start, dtype=np.float64)
    current = log_density(position.copy())
    states, log_densities, accepted = [], [], []
    learn = {None: None, "ram": robust, "am": haario}[adapt]
    memory = [position.copy()]
    for n, (z, e) in enumerate(zip(*noise, strict=True), start=1):
        candidate = position + factor @ z
        ratio = -np.inf
        if np.isfinite(candidate).all():
            proposed = log_density(candidate.copy())
            # Accept with probability min(1, p(candidate) / p(position)): log u < ratio, and -log u is e.
            ratio = proposed - current
        accepted.append(e > -ratio)
        if accepted[-1]:
            position, current = candidate, proposed
        states.append(position)
        log_densities.append(current)
        if learn is not None:
            memory.append(position)
            factor = learn(factor, n, z, ratio, memory)
    return np.array(states), np.array(log_densities), np.array(accepted), factor


def robust(factor, n, z, ratio, memory):
    """Vihola (2012), equation 1."""
    d = len(z)
    eta = min(1.0, d * n ** (-2 / 3))
    excess = (0.0 if np.isnan(ratio) else np.exp(min(ratio, 0.0))) - (0.44 if d == 1 else 0.234)
    return np.linalg.cholesky(factor @ (np.eye(d) + eta * excess * np.outer(z, z) / (z @ z)) @ factor.T)


def haario(factor, n, z, ratio, memory):
    """The covariance of all positions, in which what the first factor stands for counts as 2 d of them."""
    d = len(z)
    before = 2 * d + n
    deviation = memory[-1] - np.mean(memory[:-1], axis=0)
    growth = n / (n + 1) * 2.38**2 / d * np.outer(deviation, deviation)
    return np.linalg.cholesky((before * factor @ factor.T + growth) / (before + 1))
