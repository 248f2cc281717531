"""Times of single kernels, by pytest-benchmark: `python -m pytest bench`."""

import warnings

import pytest

from bench.problems import Problem, make_rows, make_start
from fastgmm import GaussianMixture

ITERATIONS = 5
STRUCTURES = ("full", "tied", "diag", "spherical")


def _estimator(problem, rows, max_iter):
    start = make_start(problem, rows)
    return GaussianMixture(
        n_components=problem.components,
        covariance_type=problem.structure,
        tol=0.0,
        reg_covar=0.0,
        max_iter=max_iter,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=start.precisions,
        n_jobs=1,
    )


def _fit(estimator, rows):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(rows)


@pytest.mark.parametrize("features", [2, 8, 32])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_em_iterations(benchmark, structure, features):
    problem = Problem("kernel", 20_000, features, 8, structure)
    rows = make_rows(problem)
    estimator = _estimator(problem, rows, ITERATIONS)
    benchmark.extra_info["iterations"] = ITERATIONS
    benchmark.pedantic(_fit, (estimator, rows), rounds=5, warmup_rounds=1)
    assert estimator.n_iter_ == ITERATIONS


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples"])
def test_predictions(benchmark, method, structure):
    problem = Problem("kernel", 50_000, 8, 8, structure)
    rows = make_rows(problem)
    estimator = _fit(_estimator(problem, rows, 2), rows)
    answer = benchmark.pedantic(getattr(estimator, method), (rows,), rounds=5, warmup_rounds=1)
    assert len(answer) == len(rows)
