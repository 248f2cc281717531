"""Entropy of a mixture, which has no closed form, between bounds that have."""

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp


class EntropyBounds(NamedTuple):
    """Bounds on a differential entropy, in nats."""

    lower: float
    upper: float


class Estimate(NamedTuple):
    """A Monte Carlo estimate."""

    value: float
    standard_error: float


def bounds(weights: np.ndarray, means: np.ndarray, factors: np.ndarray, cov: np.ndarray) -> EntropyBounds:
    """Bounds from the components' pairwise distances, of factors (k, d, d) and the mixture's covariance (d, d).

    With H_c the components' own entropies, all of these hold for a mixture,

        H ≥ Σ_a w_a (H_a - log Σ_b w_b exp(-B_ab))      B: Bhattacharyya distance (Kolchinsky and Tracey 2017)
        H ≥ -Σ_a w_a log Σ_b w_b ∫ p_a p_b              (Huber et al. 2008)
        H ≤ Σ_a w_a (H_a - log Σ_b w_b exp(-K_ab))      K: Kullback-Leibler divergence (Kolchinsky and Tracey 2017)
        H ≤ log |2π e Σ| / 2                            as no distribution of this covariance has more

    and the best of each kind is taken.
    """
    alive = weights > 0
    weights, means, factors = weights[alive] / weights[alive].sum(), means[alive], factors[alive]
    k, d = means.shape
    log_weights = np.log(weights)
    log_factors = np.log(np.einsum("cjj->cj", factors)).sum(axis=1)  # log |F| = -log |Σ| / 2
    own = 0.5 * d * np.log(2.0 * np.pi * np.e) - log_factors
    lower_factors = np.stack([solve_triangular(factor, np.eye(d), lower=True) for factor in factors])
    bhattacharyya, overlap, divergence = np.empty((3, k, k))
    for a in range(k):
        # In coordinates where component a is round: Σ_b = M Mᵀ, and what follows loses no digits to its condition.
        M, shifts = factors[a] @ lower_factors, (means - means[a]) @ factors[a].T
        half = 0.5 * (np.eye(d) + M @ M.swapaxes(1, 2))
        log_half = np.linalg.slogdet(half)[1]
        squares = np.einsum("bi,bi->b", shifts, np.linalg.solve(half, shifts[..., None])[..., 0])
        ratios = log_factors - log_factors[a]  # log (|Σ_a| / |Σ_b|) / 2
        bhattacharyya[a] = 0.125 * squares + 0.5 * (log_half + ratios)
        overlap[a] = log_factors[a] - 0.5 * (d * np.log(4.0 * np.pi) + log_half) - 0.25 * squares
        divergence[:, a] = 0.5 * ((M**2).sum(axis=(1, 2)) + (shifts**2).sum(axis=1) - d) + ratios
    lower = max(
        weights @ (own - logsumexp(log_weights - bhattacharyya, axis=1)),
        -weights @ logsumexp(log_weights + overlap, axis=1),
    )
    upper = min(
        weights @ (own - logsumexp(log_weights - divergence, axis=1)),
        0.5 * (d * np.log(2.0 * np.pi * np.e) + np.linalg.slogdet(cov)[1]),
    )
    return EntropyBounds(float(lower), float(upper))
