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
    memory = Memory(position)
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
            factor = learn(factor, n, z, ratio, memory, position)
    return np.array(states), np.array(log_densities), np.array(accepted), factor


class Memory:
    """Where a chain has been: the mean of its positions, as a rule weighs them."""

    def __init__(self, start):
        self.positions, self.mean = [start.copy()], start.copy()


def robust(factor, n, z, ratio, memory, position):
    """Vihola (2012), equation 1, with a size of its own, and after a move Tyler's (1987) shape of the positions."""
    d = len(z)
    decay = n ** (-2 / 3)
    probability = 0.0 if np.isnan(ratio) else np.floor(256 * np.exp(min(ratio, 0.0)) + 0.5) / 256
    excess = probability - (0.44 if d == 1 else 0.234)
    turned = factor @ (np.eye(d) + min(1.0, min(d, 100 / d) * decay) * excess * np.outer(z, z) / (z @ z)) @ factor.T
    covariance = np.exp(min(1.0, 8.0 * decay) * excess) * turned
    if (position != memory.positions[-1]).any():
        deviation, weight = position - memory.mean, 1 / (n / 4 + d + d**2 / 5)
        shape = np.outer(deviation, deviation) / (deviation @ np.linalg.solve(covariance, deviation))
        covariance = (1 - weight) * covariance + weight * d * shape
        memory.mean = memory.mean + min(1.0, 4 / (n + 1)) * deviation
    memory.positions.append(position)
    return np.linalg.cholesky(covariance)


def haario(factor, n, z, ratio, memory, position):
    """The covariance of all positions, in which what the first factor stands for counts as 2 d of them."""
    d = len(z)
    before = 2 * d + n
    deviation = position - np.mean(memory.positions, axis=0)
    memory.positions.append(position)
    growth = n / (n + 1) * 2.38**2 / d * np.outer(deviation, deviation)
    return np.linalg.cholesky((before * factor @ factor.T + growth) / (before + 1))
