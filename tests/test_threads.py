"""Numbers of threads: the same answers for any, and the caller's settings as they were; see also `test_company`."""

import numba
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from threadpoolctl import threadpool_info

from fastgmm import DegenerateFitError, GaussianMixture
from fastgmm.kernels._jit import COMPILED, RANGE_ROWS
from fastgmm.kernels._threads import count_threads, threads

pytestmark = [pytest.mark.threads, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

# Several ranges, so that the parallel driver runs where it may.
ROWS = 3 * RANGE_ROWS + 11 if COMPILED else 300


def make_rows(seed=0, n=ROWS):
    random = np.random.default_rng(seed)
    groups = [random.normal(-3, 1, (n // 2, 2)), random.normal(3, 2, (n - n // 2, 2))]
    return random.permutation(np.concatenate(groups))


def estimator(**options):
    return GaussianMixture(2, random_state=0, max_iter=5 if COMPILED else 1, tol=1.0, **options)


def answer(rows, **options):
    fitted = estimator(**options).fit(rows)
    return [fitted.weights_, fitted.means_, fitted.covariances_, fitted.predict_proba(rows), fitted.predict(rows)]


def same_bits(a, b):
    return all(map(np.array_equal, a, b))


def settings():
    pools = [{key: pool[key] for key in ("filepath", "num_threads")} for pool in threadpool_info()]
    # Numba's own pool is started by its first parallel call; what counts is what the caller could have set.
    return numba.get_num_threads(), [pool for pool in pools if "blas" in pool["filepath"].lower()]


@pytest.fixture(params=[1, 2])
def caller_threads(request):
    before = numba.get_num_threads()
    numba.set_num_threads(min(request.param, numba.config.NUMBA_NUM_THREADS))
    yield
    numba.set_num_threads(before)


@pytest.mark.parametrize("n_jobs", [None, 1, 2, -1])
def test_the_callers_settings_are_left_as_found(caller_threads, n_jobs):
    rows, before = make_rows(), settings()
    fitted = estimator(n_jobs=n_jobs).fit(rows)
    assert settings() == before
    fitted.predict(rows)
    fitted.score_samples(rows)
    assert settings() == before


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_and_after_an_error_too(caller_threads, n_jobs):
    before = settings()
    with pytest.raises(DegenerateFitError):
        GaussianMixture(1, reg_covar=0, n_jobs=n_jobs).fit(np.zeros((10, 2)))
    assert settings() == before
    fitted = estimator(n_jobs=n_jobs).fit(make_rows())
    with pytest.raises(ValueError, match="features"):
        fitted.predict(np.zeros((10, 3)))
    with pytest.raises(RuntimeError, match="stop"), threads(n_jobs):
        raise RuntimeError("stop")
    assert settings() == before


def test_any_number_of_jobs_has_the_same_bits():
    rows = make_rows()
    alone = answer(rows, n_jobs=1)
    assert all(same_bits(answer(rows, n_jobs=n_jobs), alone) for n_jobs in (2, -1, -2, None, 1000))


def test_no_jobs_at_all_is_an_error():
    with pytest.raises(ValueError, match="n_jobs must not be 0"):
        estimator(n_jobs=0).fit(make_rows())


def test_jobs_are_counted_as_scikit_learn_counts_them(openmp_anew):
    most = numba.config.NUMBA_NUM_THREADS
    assert count_threads(None) == numba.get_num_threads()
    assert count_threads(-1) == count_threads(most) == count_threads(10**6) == most
    assert count_threads(-2) == max(1, most - 1)
    assert count_threads(-(10**6)) == count_threads(1) == 1


@pytest.mark.compiled
def test_worker_processes_search_a_grid():
    rows = make_rows(n=600 if COMPILED else 100)
    grid = {"n_components": [1, 2]}
    alone, together = (GridSearchCV(estimator(), grid, cv=2, n_jobs=n_jobs).fit(rows) for n_jobs in (1, 2))
    assert together.best_params_ == {"n_components": 2}
    assert np.array_equal(together.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
