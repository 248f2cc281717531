"""The effective sample size: ArviZ is the oracle."""

import numpy as np
import pytest
from scipy.signal import lfilter

from fastgmm.mcmc import effective_sample_size


def autoregressive(rng, chains, draws, coefficient):
    return lfilter([1.0], [1.0, -coefficient], rng.normal(size=(chains, draws)), axis=1)


@pytest.mark.parametrize("coefficient", [-0.95, -0.4, 0.0, 0.5, 0.99])
@pytest.mark.parametrize("chains", [1, 2, 5])
def test_equals_arviz(coefficient, chains):
    array_stats = pytest.importorskip("arviz_stats.base").array_stats
    rng = np.random.default_rng(chains)
    for draws in [*range(4, 30), 101, 1000, 4096]:
        x = autoregressive(rng, chains, draws, coefficient)
        expected = array_stats.ess(x, chain_axis=0, draw_axis=1, method="bulk")
        np.testing.assert_allclose(effective_sample_size(x), expected, rtol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_equals_arviz_for_ties_and_chains_that_disagree(shift):
    array_stats = pytest.importorskip("arviz_stats.base").array_stats
    x = np.round(autoregressive(np.random.default_rng(0), 4, 500, 0.7)) + shift * np.arange(4)[:, None]
    x[2] = x[2, 0]  # a chain that never moved among others that did
    expected = array_stats.ess(x, chain_axis=0, draw_axis=1, method="bulk")
    np.testing.assert_allclose(effective_sample_size(x), expected, rtol=1e-12)


def test_coordinates_are_estimated_one_by_one():
    x = np.random.default_rng(0).normal(size=(3, 200, 2))
    x[:, :, 1] = np.cumsum(x[:, :, 1], axis=1)
    both = effective_sample_size(x)
    assert both.shape == (2,)
    assert both[0] == effective_sample_size(x[:, :, 0])
    assert both[1] < 30 < 300 < both[0]


def test_chains_that_never_moved_are_worth_nothing_known():
    assert np.isnan(effective_sample_size(np.ones((2, 100))))
    assert np.isnan(effective_sample_size(np.repeat([[1.0], [2.0]], 100, axis=1)))


def test_too_few_draws_and_nan_give_nan():
    assert np.isnan(effective_sample_size(np.arange(6.0).reshape(2, 3)))
    x = np.random.default_rng(0).normal(size=(2, 50))
    x[1, 7] = np.nan
    assert np.isnan(effective_sample_size(x))


@pytest.mark.parametrize("shape", [(10,), (0, 10), (2, 10, 2, 2)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(chain, draw\)"):
        effective_sample_size(np.zeros(shape))
