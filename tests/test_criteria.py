"""Information criteria: the formulas, the counts of parameters, and scikit-learn's values."""

import math

import numpy as np
import pytest
from reference import FAMILIAR
from scipy.stats import multivariate_normal
from sklearn import mixture as theirs

from fastgmm import GaussianMixture, criteria, prediction
from fastgmm.covariance import ALIASES, STRUCTURES
from fastgmm.mixture.evaluation import Evaluator

ALIASES_OF = {name: alias for alias, name in ALIASES.items()}


@pytest.mark.parametrize(("log_likelihood", "p", "n"), [(-100.0, 5, 50), (12.5, 1, 1), (-1e9, 10_000, 1e8)])
def test_formulas(log_likelihood, p, n):
    assert criteria.bic(log_likelihood, p, n) == -2 * log_likelihood + p * math.log(n)
    assert criteria.aic(log_likelihood, p) == -2 * log_likelihood + 2 * p


@pytest.mark.parametrize("weighted", [False, True])
def test_icl_is_bic_with_every_rows_component_seen(weighted, monkeypatch):
    """-2 Σ_i log w_c N(x_i | c) over each row's most probable component, + p log n, block by block."""
    monkeypatch.setattr(prediction, "_ROWS", 50)
    X = np.random.default_rng(0).normal(size=(60, 2))
    weights = np.random.default_rng(1).uniform(0, 3, size=60) if weighted else np.ones(60)
    gm = GaussianMixture(3, random_state=0).fit(X)
    parts = zip(gm.weights_, gm.means_, gm.covariances_, strict=True)
    densities = np.stack([np.log(w) + multivariate_normal(m, c).logpdf(X) for w, m, c in parts], axis=1)
    expected = -2 * weights @ densities.max(axis=1) + gm.n_parameters_ * math.log(weights.sum())
    assert gm.icl(X, sample_weight=weights if weighted else None) == pytest.approx(expected, rel=1e-12)
    assert gm.icl(X) > gm.bic(X) + 1.0
    assert criteria.icl(-10.0, 0.0, 3, 20) == criteria.bic(-10.0, 3, 20) and criteria.heldout(-10.0) == 20.0


def test_icl_reads_rows_once(monkeypatch):
    passes, evaluate = [], Evaluator.evaluate

    def noting(evaluator, rows, *wanted, **how):
        passes.append(wanted)
        return evaluate(evaluator, rows, *wanted, **how)

    monkeypatch.setattr(Evaluator, "evaluate", noting)
    X = np.random.default_rng(0).normal(size=(60, 2))
    gm = GaussianMixture(3, random_state=0).fit(X)
    gm.icl(X)
    assert len(passes) == 1
    single = GaussianMixture(3, random_state=0).fit(X.astype(np.float32))
    assert single.icl(X.astype(np.float32)) == pytest.approx(single.icl(X), rel=1e-5)


def test_more_parameters_cost_more():
    assert criteria.bic(-10.0, 3, 20) < criteria.bic(-10.0, 4, 20)
    assert criteria.bic(-10.0, 3, 20) < criteria.bic(-10.0, 3, 30)
    assert criteria.aic(-10.0, 3) < criteria.aic(-10.0, 4)
    assert criteria.aic(-9.0, 3) < criteria.aic(-10.0, 3)


@pytest.mark.parametrize("covariance_type", STRUCTURES)
@pytest.mark.parametrize(("k", "d"), [(1, 1), (2, 5), (7, 3)])
def test_counts_of_parameters(covariance_type, k, d):
    """Volumes, shapes and orientations, one or k of each, as its letters say."""
    volume, shape, orientation = ALIASES_OF.get(covariance_type, covariance_type)
    covariances = (k if volume == "V" else 1) + {"V": k, "E": 1, "I": 0}[shape] * (d - 1)
    covariances += {"V": k, "E": 1, "I": 0}[orientation] * d * (d - 1) // 2
    assert STRUCTURES[covariance_type].n_covariance_parameters(k, d) == covariances
    gm = GaussianMixture(k, covariance_type=covariance_type)
    gm.means_ = np.zeros((k, d))
    assert gm._n_parameters() == gm.n_parameters_ == covariances + k * d + k - 1


@pytest.mark.parametrize("covariance_type", FAMILIAR)
def test_values_are_scikit_learns_for_the_same_parameters(covariance_type):
    X = np.random.default_rng(0).normal(size=(60, 2))
    ours = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(X)
    expected = theirs.GaussianMixture(2, covariance_type=covariance_type).fit(X)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        setattr(expected, name, getattr(ours, name))
    for rows in (X, X[:7]):
        assert ours.bic(rows) == pytest.approx(expected.bic(rows), rel=1e-13)
        assert ours.aic(rows) == pytest.approx(expected.aic(rows), rel=1e-13)
        assert ours.bic(rows) == criteria.bic(ours.score(rows) * len(rows), ours._n_parameters(), len(rows))
