"""Targets of many modes, around a mixture fitted to short chains that started everywhere."""

import math
from pathlib import Path

import numpy as np
import pytest

from fastgmm import GaussianMixture, Mixture, sample
from fastgmm.mcmc import Independence, Mixed, MixtureLocal, ModeJump, RandomWalk, effective_sample_size, mcse

DATA = Path(__file__).parent / "data"
MOST_ERRORS = 5.0

# The published expectations are rounded to so much.
ROUNDING = 0.0005
PUBLISHED = np.array([[4.478, 4.905], [25.605, 33.920]])


def read_target(name, deviation):
    means = np.loadtxt(DATA / f"{name}.csv", delimiter=",", skiprows=1)
    k = len(means)
    return Mixture(np.full(k, 1.0 / k), means, np.full(k, deviation**2), "spherical")


def moments(target):
    means, variances = target.means, target.covariances[:, None]
    return np.array([means.mean(axis=0), (means**2 + variances).mean(axis=0)])


def explore(target, box, step, components):
    """Fit a mixture to short chains from all over a box; how often each mode was found says nothing of its weight."""
    random = np.random.default_rng(0)
    starts = random.uniform(*box, size=(600, 2))
    walk = RandomWalk(cov=step**2 * np.eye(2), adapt=None)
    short = sample(target, starts, 20, chains=len(starts), warmup=400, thin=5, seed=1, kernel=walk)
    fit = GaussianMixture(n_components=components, reg_covar=1e-4 * step**2, n_init=3, random_state=0)
    return fit.fit(short.flat()).mixture_


@pytest.mark.compiled
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "deviation", "box", "step"),
    [("twenty_modes", 0.1, (0.0, 10.0), 0.1), ("forty_modes", math.log(1.0 + math.e), (-45.0, 45.0), 1.3)],
)
def test_mixed_kernels_around_a_fit_find_the_published_moments(name, deviation, box, step):
    target = read_target(name, deviation)
    fitted = explore(target, box, step, components=3 * target.n_components // 2)
    kernel = Mixed(
        [(Independence(fitted), 0.4), (MixtureLocal(fitted), 0.3), (ModeJump(fitted), 0.2), (RandomWalk(), 0.1)]
    )
    chains = sample(target, fitted, 5_000, chains=8, warmup=500, seed=2, kernel=kernel)
    truth = moments(target)
    if name == "twenty_modes":
        np.testing.assert_allclose(truth, PUBLISHED, atol=1.02 * ROUNDING)
    for power, expected in zip((1, 2), truth, strict=True):
        draws = chains.draws**power
        assert (effective_sample_size(draws, "mean") > 1_000).all()
        assert (np.abs(draws.mean(axis=(0, 1)) - expected) < MOST_ERRORS * mcse(draws)).all()
    occupancy = chains.mode_occupancy(target)
    assert (occupancy.rhat < 1.05).all() and (occupancy.share > 0.0).all()
