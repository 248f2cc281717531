"""Times of single kernels, by pytest-benchmark: `python -m pytest bench`; `python -m bench compare` reads them."""

import timeit
import warnings

import numba
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from bench.problems import Problem, make_rows, make_start
from fastgmm import GaussianMixture
from fastgmm.covariance import STRUCTURES, Parameters, flat
from fastgmm.em.initialise import STARTS
from fastgmm.kernels._jit import TILE_ROWS, TILE_STRIDE
from fastgmm.kernels._threads import threads
from fastgmm.kernels.math import log
from fastgmm.kernels.softmax import exponentiate, sum_exponentials
from fastgmm.kernels.tiles import load_tile
from fastgmm.sources import ArrayRows, open_rows

ITERATIONS = 5
ROUNDS = 15
COMPONENTS = 8
FEATURES = (2, 8, 32)
FAMILIAR = ("full", "tied", "diag", "spherical")  # whose kernels all other structures share
PRODUCT_SIZE = 500
MANY = 100_000
NOWHERE = (0, 0)  # to be fetched meanwhile


def _time_reference():
    """Return the least time of a matrix product, which `bench.compare` divides a kernel's by."""
    a, b, product = np.random.default_rng(0).random((3, PRODUCT_SIZE, PRODUCT_SIZE))
    return min(timeit.repeat(lambda: np.matmul(a, b, out=product), number=1, repeat=10))


@pytest.fixture(autouse=True)
def beside_reference(benchmark):
    """One thread for all; the reference just before a kernel and just after it, as machines change their pace."""
    with threads(1), threadpool_limits(limits=1):
        before = _time_reference()
        yield
        benchmark.extra_info["reference"] = min(before, _time_reference())


def _run(benchmark, work, *arguments):
    return benchmark.pedantic(work, arguments, rounds=ROUNDS, warmup_rounds=1)


def _problem(structure, features, rows=20_000):
    return Problem("kernel", rows, features, COMPONENTS, structure)


def _rows_and_parameters(problem):
    rows = make_rows(problem)
    start = make_start(problem, rows)
    factors, failed = STRUCTURES[problem.structure].factorise(start.covariances)
    assert failed < 0
    return rows, Parameters(start.weights, start.means, start.covariances, factors)


def _source_and_form(structure, features):
    rows, parameters = _rows_and_parameters(_problem(structure, features))
    return ArrayRows(rows), STRUCTURES[structure].form(parameters)


@numba.njit(error_model="numpy")
def _apply_log(values, out):
    for i in range(values.size):
        out[i] = log(values[i], 1.0 / values[i])


def test_log(benchmark):
    values = np.random.default_rng(0).random(MANY) + 0.5
    out = np.empty_like(values)
    _run(benchmark, _apply_log, values, out)
    np.testing.assert_allclose(out, np.log(values), rtol=1e-14, atol=1e-15)


def _run_exponentials(benchmark, add, components, dtype):
    densities = np.random.default_rng(0).normal(size=components * TILE_STRIDE).astype(dtype)
    largest, total, inverse = np.empty((3, TILE_ROWS), dtype)

    def many():
        for _ in range(100):
            add(densities, components, largest, total, inverse, NOWHERE)

    _run(benchmark, many)
    np.testing.assert_allclose(total * inverse, 1.0, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("components", [2, COMPONENTS])
def test_exponentiate(benchmark, components, dtype):
    _run_exponentials(benchmark, exponentiate, components, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("components", [2, COMPONENTS])
def test_sum_exponentials(benchmark, components, dtype):
    _run_exponentials(benchmark, sum_exponentials, components, dtype)


@numba.njit(error_model="numpy")
def _load_all(rows, reference, tile):
    for start in range(0, rows.shape[0] - TILE_ROWS + 1, TILE_ROWS):
        load_tile(rows, start, TILE_ROWS, reference, tile)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("features", FEATURES)
def test_load_tile(benchmark, features, dtype):
    rows = np.random.default_rng(0).random((TILE_ROWS * 80, features)).astype(dtype)
    tile = np.empty(features * TILE_STRIDE)
    _run(benchmark, _load_all, rows[:, :, None], np.zeros(features), tile)
    np.testing.assert_array_equal(tile.reshape(features, TILE_STRIDE)[:, :TILE_ROWS].T, rows[-TILE_ROWS:])


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("structure", FAMILIAR)
def test_statistics(benchmark, structure, features):
    """Log-densities and moments: the pass of an EM iteration."""
    source, form = _source_and_form(structure, features)
    assert _run(benchmark, source.reduce, form).lost == 0


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("structure", FAMILIAR)
def test_missing_entries(benchmark, structure, share):
    """The pass of an EM iteration over rows that lack a share of their entries."""
    problem = Problem("kernel", MANY, 8, 5, structure)
    rows, parameters = _rows_and_parameters(problem)
    rows[np.random.default_rng(0).random(rows.shape) < share] = np.nan
    benchmark.extra_info["patterns"] = len(np.unique(np.isnan(rows), axis=0))
    source = open_rows(rows, missing=share > 0)
    form = source.form(STRUCTURES[structure], parameters)
    assert _run(benchmark, source.reduce, form).lost == 0


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("structure", FAMILIAR)
def test_log_densities(benchmark, structure, features):
    """Log-densities alone, and their sum: the pass of `score_samples`."""
    source, form = _source_and_form(structure, features)
    out = _run(benchmark, source.map, form, "log_likelihoods")
    assert np.isfinite(out.log_likelihoods).all()


@pytest.mark.parametrize("features", FEATURES)
def test_kmeans_start(benchmark, features):
    """k-means++ and Lloyd's iterations; how many there are depends on the rows alone."""
    source = ArrayRows(make_rows(_problem("spherical", features)))

    prior = flat(1e-6, features)

    def start():
        return STARTS["kmeans"](source, COMPONENTS, STRUCTURES["spherical"], prior, np.random.RandomState(0))

    assert _run(benchmark, start).failed < 0


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


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("structure", FAMILIAR)
def test_em_iterations(benchmark, structure, features):
    problem = _problem(structure, features)
    rows = make_rows(problem)
    estimator = _estimator(problem, rows, ITERATIONS)
    benchmark.extra_info["iterations"] = ITERATIONS
    _run(benchmark, _fit, estimator, rows)
    assert estimator.n_iter_ == ITERATIONS


@pytest.mark.parametrize("structure", FAMILIAR)
@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples"])
def test_predictions(benchmark, method, structure):
    problem = _problem(structure, 8, 50_000)
    rows = make_rows(problem)
    estimator = _fit(_estimator(problem, rows, 2), rows)
    assert len(_run(benchmark, getattr(estimator, method), rows)) == len(rows)
