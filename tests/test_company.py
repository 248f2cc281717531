"""Fits beside other fits: many Python threads, worker processes, forked children and Dask's workers.

Each in a process of its own with a time limit, under either threading layer, so that a crash or a hang is a failure.
"""

import json
import multiprocessing
import os
from pathlib import Path

import numba
import pytest
from processes import start

import fastgmm
from fastgmm.kernels._jit import RANGE_ROWS
from fastgmm.kernels._threads import count_threads

pytestmark = pytest.mark.compiled
every_layer = pytest.mark.parametrize("company", ["omp", "workqueue"], indirect=True)
CAN_FORK = "fork" in multiprocessing.get_all_start_methods()
THREADS, FITS, SECONDS = 3, 4, 120
ROWS = 64 * RANGE_ROWS + 11  # enough for passes to be shared, and to meet each other


ANSWER = """
def answer(seed, wait=None):
    # Fit one of several data sets, from labels that are there when `wait` returns; what came out, as bytes.

    def halves(rows, *rest):
        if wait:
            wait()
        return rows[:, 0] > 0

    random = np.random.default_rng(seed)
    rows = random.normal(size=(ROWS, 3)) + 4 * random.integers(0, 2, size=(ROWS, 1))
    fitted = GaussianMixture(2, init_params=halves, max_iter=30, tol=0.0).fit(rows)
    return [part.tobytes().hex() for part in (fitted.means_, fitted.covariances_, fitted.score_samples(rows)[:99])]
"""

PREAMBLE = f"""
import json, os, sys, threading, warnings
import numba, numpy as np
from fastgmm import GaussianMixture
from fastgmm.kernels import _jit
from fastgmm.sources import array
warnings.simplefilter("ignore")
_jit.WORTH_A_DRIVER = 0
ROWS, FITS = {ROWS}, {FITS}
{ANSWER}
run_shares, lock, counts = array.run_shares, threading.Lock(), {{"now": 0, "most": 0}}

def counted(driver, share, arguments, workers, work):
    with lock:
        counts["now"] += workers
        counts["most"] = max(counts["most"], counts["now"])
    run_shares(driver, share, arguments, workers, work)
    with lock:
        counts["now"] -= workers

array.run_shares = counted

def settings():
    from threadpoolctl import threadpool_info
    blas = [pool["num_threads"] for pool in threadpool_info() if "blas" in pool["internal_api"]]
    return [numba.get_num_threads(), *blas]
"""


def run(program, **environment):
    """What a program of its own tells: `answers`, and whatever is in `told`."""
    tail = "print(json.dumps({'answers': answers, **told}))"
    package, cache = Path(fastgmm.__file__).parents[1], os.environ.get("NUMBA_CACHE_DIR")
    return json.loads(start(f"{program}\n{tail}", package, cache, PREAMBLE, timeout=SECONDS, **environment).stdout)


@pytest.fixture(scope="module")
def expected():
    """What fits alone answer, once all is compiled: a kernel may differ in the last bit from what its cache holds."""
    for _ in range(2):
        found = run("answers, told = [answer(seed) for seed in range(FITS)], {}")
    return found["answers"]


@pytest.fixture
def company(request):
    """Runs a program under a threading layer, where Numba has three threads."""

    def run_in_company(program, **environment):
        variables = {"NUMBA_THREADING_LAYER": request.param, "NUMBA_NUM_THREADS": str(THREADS)} | environment
        found = run(f"{program}\ntold['layer'] = numba.threading_layer()", **variables)
        assert found.pop("layer") == request.param
        return found

    return run_in_company


@every_layer
def test_threads_share_what_there_is(company, expected):
    """Four Python threads at once are no more than four workers, where three of Numba's are allowed."""
    found = company("""
from fastgmm.kernels._threads import threads as at_work

before = settings()
answer(0)
alone, counts["most"] = counts["most"], 0
answers, ready = [None] * FITS, threading.Barrier(FITS)

def fit(seed):
    with at_work(None):  # between its fit and its scores it would not count, and others would take its share
        answers[seed] = answer(seed, ready.wait)

threads = [threading.Thread(target=fit, args=(seed,)) for seed in range(FITS)]
for each in threads:
    each.start()
for each in threads:
    each.join()
told = {"alone": alone, "most": counts["most"], "untouched": settings() == before}
""")
    assert 1 < found.pop("most") <= FITS
    assert found == {"answers": expected, "alone": THREADS, "untouched": True}


@pytest.mark.parametrize("company", ["omp"], indirect=True)
def test_workers_of_joblib_share_the_processors(company, expected):
    # Joblib divides the processors among its workers where the environment does not say how many threads there are.
    found = company(
        """
from joblib import Parallel, cpu_count, delayed

def told_answer(seed):
    before = settings()
    found = answer(seed)
    return found, numba.config.NUMBA_NUM_THREADS, settings() == before

answer(0)
answers, threads, untouched = map(list, zip(*Parallel(n_jobs=2)(delayed(told_answer)(seed) for seed in range(FITS))))
told = {"within": max(threads) <= max(1, cpu_count() // 2), "untouched": all(untouched)}
""",
        NUMBA_NUM_THREADS=None,
    )
    assert found == {"answers": expected, "within": True, "untouched": True}


@every_layer
@pytest.mark.skipif(not CAN_FORK, reason="this system has no fork")
def test_forked_children_fit_after_their_parent_did(company, expected):
    found = company("""
import multiprocessing

def told_answer(seed):
    before = settings()
    counts["most"] = 0
    found = answer(seed)
    return found, counts["most"], settings() == before

answer(0)
alone = counts["most"]
with multiprocessing.get_context("fork").Pool(2) as pool:
    answers, workers, untouched = map(list, zip(*pool.map(told_answer, range(FITS))))
answers[0] = answer(0)  # and the parent goes on
told = {"parent": alone, "children": max(workers), "untouched": all(untouched)}
""")
    assert found == {"answers": expected, "parent": THREADS, "children": 1, "untouched": True}


@pytest.mark.parametrize("company", ["workqueue"], indirect=True)  # which no two Python threads may enter
def test_a_dask_worker_of_several_threads_fits_on_each(company, expected):
    pytest.importorskip("distributed")
    # Dask starts its workers with OMP_NUM_THREADS=1, which counts where Numba's own variable does not say otherwise.
    found = company(
        """
from distributed import Client, LocalCluster
from fastgmm.kernels._threads import count_threads

def told_answer(seed):
    before = settings()
    counts["most"] = 0
    found = answer(seed)
    return found, count_threads(None), settings() == before

if __name__ == "__main__":
    answer(0)
    cluster = LocalCluster(n_workers=1, threads_per_worker=FITS, dashboard_address=None)
    with cluster, Client(cluster) as client:
        results = client.gather(client.map(told_answer, range(FITS)))
    answers, threads, untouched = map(list, zip(*results))
    told = {"threads": max(threads), "untouched": all(untouched)}
""",
        NUMBA_NUM_THREADS=None,
    )
    assert found == {"answers": expected, "threads": 1, "untouched": True}


@pytest.mark.parametrize(
    ("asked", "own", "threads"),
    [("1", None, 1), (" 1, 2", None, 1), ("1", "2", 2), ("", None, 2), ("many", None, 2), ("64", None, 2)],
)
def test_openmps_variable_counts_where_numbas_does_not(openmp_anew, monkeypatch, asked, own, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    if own:
        monkeypatch.setenv("NUMBA_NUM_THREADS", own)
    threads = min(threads, numba.config.NUMBA_NUM_THREADS)
    assert count_threads(None) == threads
    assert count_threads(-1) == numba.config.NUMBA_NUM_THREADS
