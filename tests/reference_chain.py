"""The Metropolis-Hastings loop, written from the formula."""

import math

import numpy as np


def metropolis(log_density, start, generator, factor, steps):
    """Return the states after each step, (steps, d), their log-densities, (steps,), and the number accepted."""
    position = np.array(start, dtype=np.float64)
    current = log_density(position.copy())
    states, log_densities, accepted = [], [], 0
    for _ in range(steps):
        noise = generator.standard_normal(len(position))
        uniform = 1.0 - generator.random()
        candidate = position.copy()
        for i in range(len(position)):
            # In order and one product at a time: `factor @ noise` would round differently.
            move = 0.0
            for j in range(i + 1):
                move = move + factor[i, j] * noise[j]
            candidate[i] = position[i] + move
        if np.isfinite(candidate).all():
            proposed = log_density(candidate.copy())
            # Accept with probability min(1, p(candidate) / p(position)); a comparison with NaN is a rejection.
            if math.log(uniform) < proposed - current:
                position, current = candidate, proposed
                accepted += 1
        states.append(position)
        log_densities.append(current)
    return np.array(states), np.array(log_densities), accepted
