"""Targets whose expectations are known or published, by random walks."""

import math
from pathlib import Path

import numba
import numpy as np
import pytest

from fastgmm import sample
from fastgmm.mcmc import Mixed, RandomWalk, effective_sample_size, mcse

DATA = Path(__file__).parent / "data"
MOST_ERRORS = 5.0

pytestmark = pytest.mark.compiled  # the chains are long for plain Python


def check(draws, truth, errors=0.0, least=500):
    """Means of the draws (chain, draw, quantity) against the truth, which may have errors of its own."""
    assert (effective_sample_size(draws, "mean") > least).all()
    assert (np.abs(draws.mean(axis=(0, 1)) - truth) < MOST_ERRORS * np.hypot(mcse(draws), errors)).all()


def with_squares(draws):
    return np.concatenate([draws, draws**2], axis=2)


def published(posterior):
    """Expectations of parameters and then of their squares, and the standard errors of those."""
    rows = np.genfromtxt(DATA / "posteriordb.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    rows = rows[rows["posterior"] == posterior]
    return (np.concatenate([rows["mean" + what], rows["square" + what]]) for what in ("", "_error"))


def test_banana():
    """x_0 ~ N(0, 100) and x_1 ~ N(0.03 (x_0² - 100), 1), whose variance is 1 + 0.03² Var(x_0²) = 19."""

    @numba.njit
    def banana(x):
        return -0.5 * (x[0] ** 2 / 100.0 + (x[1] - 0.03 * (x[0] ** 2 - 100.0)) ** 2)

    chains = sample(banana, np.zeros(2), 10_000, chains=16, thin=10, seed=0)
    check(with_squares(chains.draws), [0.0, 0.0, 100.0, 19.0])


def test_funnel():
    """x_0 = v ~ N(0, 9) and nine others ~ N(0, exp v) (Neal 2003): wide where v is large, and no step fits all."""

    @numba.njit
    def funnel(x):
        v, others = x[0], 0.0
        for i in range(1, len(x)):
            others += x[i] ** 2
        return -(v**2) / 18.0 - 0.5 * ((len(x) - 1) * v + others * math.exp(-v))

    steps = [RandomWalk(cov=np.diag([0.7**2] + 9 * [size**2]), adapt=None) for size in np.geomspace(0.01, 10.0, 7)]
    kernel = Mixed([(walk, 1.0) for walk in steps])
    chains = sample(funnel, np.zeros(10), 2_000, chains=16, thin=200, warmup=2_000, seed=0, kernel=kernel)
    check(with_squares(chains.draws[..., :1]), [0.0, 9.0])


def test_eight_schools():
    """Effects θ = μ + τ x, of which x, μ and log τ are the coordinates."""

    @numba.njit
    def eight_schools(x, effects, errors):
        mu, log_tau = x[8], x[9]
        tau = math.exp(log_tau)
        total = -0.5 * (mu / 5.0) ** 2 - math.log1p((tau / 5.0) ** 2) + log_tau
        for j in range(8):
            total -= 0.5 * (x[j] ** 2 + ((effects[j] - mu - tau * x[j]) / errors[j]) ** 2)
        return total

    data = (np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), np.array([15.0, 10, 16, 11, 9, 11, 10, 18]))
    chains = sample(eight_schools, np.zeros(10), 5_000, args=data, chains=16, thin=10, warmup=2_000, seed=0)
    mu, tau = chains.draws[..., 8:9], np.exp(chains.draws[..., 9:])
    quantities = np.concatenate([mu + tau * chains.draws[..., :8], mu, tau], axis=2)
    check(with_squares(quantities), *published("eight_schools_noncentered"))


def test_the_posterior_of_a_mixture():
    """Means in order, deviations, and the first component's weight; steps are fifty times too long at first."""

    @numba.njit
    def two_components(x, data):
        m, n, s, t, weight = x
        if not (m < n and s > 0.0 and t > 0.0 and 0.0 < weight < 1.0):
            return -math.inf
        total = -(m**2 + n**2 + s**2 + t**2) / 8.0 + 4.0 * math.log(weight * (1.0 - weight))
        for y in data:
            first = weight / s * math.exp(-0.5 * ((y - m) / s) ** 2)
            total += math.log(first + (1.0 - weight) / t * math.exp(-0.5 * ((y - n) / t) ** 2))
        return total

    data = np.loadtxt(DATA / "low_dim_gauss_mix.csv", skiprows=1)
    start = [-2.0, 2.0, 1.0, 1.0, 0.5]
    chains = sample(two_components, start, 2_000, args=(data,), chains=8, thin=4, seed=0)
    check(with_squares(chains.draws), *published("low_dim_gauss_mix"))
