"""Starts side by side are what they are one after another: the same bits, in the same order, and as easily stopped."""

import contextlib
import itertools
import signal
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning

from fastgmm import DegenerateFitError, GaussianMixture
from fastgmm.em import starts
from fastgmm.em.initialise import STARTS
from fastgmm.kernels._jit import COMPILED, RANGE_ROWS
from fastgmm.sources import ArrayRows

pytestmark = pytest.mark.threads

N = 3 * RANGE_ROWS + 5 if COMPILED else 120
X = make_blobs(N, n_features=2, centers=[[0, 0], [4, 1], [0, 5]], random_state=3)[0]
HOLES = np.where(np.random.default_rng(0).uniform(size=X.shape) < 0.1, np.nan, X)
WEIGHTS = np.random.default_rng(1).integers(0, 3, size=N)
ARRAYS = ("weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bounds_")


@pytest.fixture
def abreast(monkeypatch):
    """Two workers, whatever Numba is set to and whether it pays; the threads that passes ran on."""
    seen, reduce = set(), ArrayRows.reduce

    def noting(*given, **options):
        seen.add(threading.get_ident())
        return reduce(*given, **options)

    monkeypatch.setattr(starts, "parallel_region", lambda tasks: contextlib.nullcontext(min(2, tasks)))
    monkeypatch.setattr(starts, "_pays_abreast", lambda *given: True)
    monkeypatch.setattr(ArrayRows, "reduce", noting)
    return seen


def fit(rows=X, weights=None, **options):
    defaults = {"n_components": 3, "random_state": 0, "n_init": 5, "max_iter": 20 if COMPILED else 4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GaussianMixture(**(defaults | options)).fit(rows, sample_weight=weights)


def ends(gm):
    return [(start.log_likelihood, start.iterations, start.outcome, start.failure) for start in gm.fit_report_.starts]


CASES = {
    **{name: {"init_params": name} for name in STARTS},
    "weights": {"weights": WEIGHTS},
    "missing": {"rows": HOLES, "missing": "em"},
    "float32": {"rows": X.astype(np.float32)},
    "integers": {"rows": (9 * X).astype(int)},
    "prior": {"prior": "default", "covariance_type": "tied", "acceleration": "squarem"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_starts_side_by_side_are_those_in_turn_to_the_bit(abreast, monkeypatch, name):
    beside = fit(**CASES[name])
    assert threading.get_ident() not in abreast and len(abreast) >= 1
    monkeypatch.setattr(starts, "_pays_abreast", lambda *given: False)
    in_turn = fit(**CASES[name])
    for array in ARRAYS:
        np.testing.assert_array_equal(getattr(beside, array), getattr(in_turn, array))
    assert ends(beside) == ends(in_turn) and len(ends(beside)) == 5
    assert beside.fit_report_.best == in_turn.fit_report_.best


def test_two_starts_are_followed_at_once(abreast, monkeypatch):
    """The first pass of either thread waits for the other's."""
    met, begun, reduce = set(), threading.Barrier(2, timeout=60), ArrayRows.reduce

    def meeting(*given, **options):
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            begun.wait()
        return reduce(*given, **options)

    monkeypatch.setattr(ArrayRows, "reduce", meeting)
    fit(n_init=4)
    assert met == abreast and len(met) == 2


@pytest.mark.parametrize("options", [{"verbose": 1}, {"callback": lambda *given: None}, {"init_params": "a function"}])
def test_what_is_the_users_is_called_in_the_callers_thread(abreast, options):
    if "init_params" in options:
        options = {"init_params": lambda rows, k, random: random.randint(k, size=len(rows))}
    fit(n_init=2, **options)
    assert abreast == {threading.get_ident()}


def test_failed_starts_keep_their_places(abreast, monkeypatch):
    calls = itertools.count()

    def start(*given):
        return STARTS["random"](*given)._replace(failed=1 if next(calls) in (0, 3) else -1)

    monkeypatch.setitem(STARTS, "kmeans", start)
    assert [outcome == "failed" for _, _, outcome, _ in ends(fit())] == [True, False, False, True, False]
    monkeypatch.setitem(STARTS, "kmeans", lambda *given: STARTS["random"](*given)._replace(failed=2))
    with pytest.raises(DegenerateFitError, match=r"start 0 at initialisation: .* start 4 at initialisation"):
        fit()


@pytest.mark.parametrize("where", ["search", "pass"])
def test_an_error_is_the_callers_and_ends_the_other_starts(abreast, monkeypatch, where):
    gm = fit()
    calls, reduce = itertools.count(), ArrayRows.reduce

    def fails(then):
        def call(*given, **options):
            if next(calls) == 1:
                raise ZeroDivisionError
            return then(*given, **options)

        return call

    if where == "search":
        monkeypatch.setitem(STARTS, "kmeans", fails(STARTS["random"]))
    else:
        monkeypatch.setattr(ArrayRows, "reduce", fails(reduce))
    before, running = gm.means_, threading.active_count()
    with pytest.raises(ZeroDivisionError):
        gm.set_params(tol=0.0, max_iter=10**4).fit(X)
    assert gm.means_ is before and threading.active_count() == running


@pytest.fixture
def keyboard():
    """Interrupts are heard although the tests may run in the background, where a shell has them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press_ctrl_c():
    """Interrupt the main thread, as the keyboard does."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_an_interrupt_keeps_the_best_of_all_that_were_under_way(abreast, keyboard, monkeypatch):
    passes, pressed, reduce = Counter(), threading.Lock(), ArrayRows.reduce
    under_way = threading.Barrier(2)

    def interrupted(*given, **options):
        passes[threading.get_ident()] += 1
        if passes[threading.get_ident()] == 1:
            under_way.wait(60)
        if len(passes) == 2 and min(passes.values()) >= 5 and pressed.acquire(blocking=False):
            press_ctrl_c()
            time.sleep(0.05)
        return reduce(*given, **options)

    monkeypatch.setattr(ArrayRows, "reduce", interrupted)
    gm = GaussianMixture(3, random_state=0, n_init=6, tol=0.0, max_iter=10**4, init_params="random")
    with pytest.warns(ConvergenceWarning, match="Interrupted in initialization 0: the best"):
        gm.fit(X)
    found = gm.fit_report_.starts
    assert [start.outcome for start in found] == ["interrupted"] * 2 and all(start.iterations for start in found)
    assert gm.lower_bound_ == gm.lower_bounds_[-1] and gm.n_iter_ == found[gm.fit_report_.best].iterations
    assert found[gm.fit_report_.best].log_likelihood == pytest.approx(gm.score(X), rel=1e-13)


def test_an_interrupt_while_threads_are_begun_leaves_none_at_work(abreast, monkeypatch):
    submit, running = ThreadPoolExecutor.submit, threading.active_count()

    def interrupted(*given):
        submit(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(max_iter=200)
    assert not abreast and threading.active_count() == running


@pytest.mark.parametrize("sound", [0, 2])
def test_an_interrupt_while_a_start_is_sought(abreast, keyboard, monkeypatch, sound):
    """With nothing to keep it is the caller's."""
    calls = itertools.count()

    def start(*given):
        if next(calls) == sound:
            time.sleep(0.3)  # those found before have come to their ends
            press_ctrl_c()
            time.sleep(0.05)
        return STARTS["random"](*given)

    monkeypatch.setitem(STARTS, "kmeans", start)
    gm = GaussianMixture(3, random_state=0, n_init=5, max_iter=2, tol=0.0)
    if sound:
        with pytest.warns(ConvergenceWarning, match="Interrupted in initialization 2"):
            gm.fit(X)
        assert [start.outcome for start in gm.fit_report_.starts] == ["max_iter", "max_iter", "interrupted"]
    else:
        with pytest.raises(KeyboardInterrupt):
            gm.fit(X)
        assert not hasattr(gm, "means_")


@pytest.mark.parametrize(
    ("n_rows", "n_parameters", "count", "most", "expected"),
    [
        (1_000, 11, 10, 2, False),  # too short for Python threads
        (5_000, 5_600, 10, 2, True),
        (5_000, 5_600, 10, 1, False),
        (5_000, 5_600, 1, 2, False),
        (5_000, 5_600, 3, 2, False),  # the last would be alone, and two threads share its pass
        (1_000_000, 359, 10, 2, True),
        (1_000_000, 359, 10, 64, False),  # passes use 64 threads, starts 10
        (10_000, 5_600, 10, 64, True),  # passes of five ranges use five threads
        (100_000, 47, 10, 4, True),
    ],
)
def test_starts_go_side_by_side_where_they_keep_more_threads_busy(
    monkeypatch, n_rows, n_parameters, count, most, expected
):
    monkeypatch.setattr(numba, "get_num_threads", lambda: most)
    source = ArrayRows(np.broadcast_to(np.float64(0), (n_rows, 1)))
    assert starts._pays_abreast(source, n_parameters, count) is expected
