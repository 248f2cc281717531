"""Files larger than any budget: fits and predictions of mapped rows take memory that does not grow with them."""

import json
import os
import sys
import tracemalloc

import numpy as np
import pytest
from numpy.random import RandomState
from processes import PACKAGE, start
from test_chunks import estimator, make_rows

from fastgmm import GaussianMixture, GaussianMixtureIC, prediction
from fastgmm.covariance import STRUCTURES, flat
from fastgmm.em.initialise import STARTS
from fastgmm.sources import ArrayRows

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

MEASURE = """
import json, sys, threading, time, warnings
import numpy as np
from fastgmm import GaussianMixture
warnings.simplefilter("ignore")

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon:")) / 1024

def peak(work):
    before, most, done = anonymous(), [0.0], threading.Event()
    def watch():
        while not done.wait(0.002):
            most[0] = max(most[0], anonymous())
    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set(), watcher.join()
    return max(most[0], anonymous()) - before

path, out = sys.argv[1:3] if len(sys.argv) > 2 else ARGUMENTS
rows = np.load(path, mmap_mode="r")
labels = np.lib.format.open_memmap(out + "-labels.npy", "w+", np.int32, (len(rows),))
shares = np.lib.format.open_memmap(out + "-shares.npy", "w+", np.float32, (len(rows), 2))
values = np.lib.format.open_memmap(out + "-values.npy", "w+", np.float64, (len(rows),))
model = GaussianMixture(2, covariance_type="diag", random_state=0, max_iter=2, tol=0.0)
works = {
    "fit": lambda rows, m: model.fit(rows),
    "fit_chunks": lambda rows, m: model.fit_chunks([rows] if m else [path]),
    "predict": lambda rows, m: model.predict(rows, out=labels[:m]),
    "predict_proba": lambda rows, m: model.predict_proba(rows, out=shares[:m]),
    "score_samples": lambda rows, m: model.score_samples(rows, out=values[:m]),
}
result = {}
for name, work in works.items():
    work(rows[:50_000], 50_000)  # what is compiled, and threads
    result[name] = peak(lambda: work(rows, None))
print(json.dumps(result))
"""


@pytest.mark.compiled
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's RssAnon")
def test_mapped_rows_take_constant_memory(tmp_path):
    n, d = 3_000_000, 8  # 192 MB of rows
    path, random = tmp_path / "rows.npy", np.random.default_rng(0)
    mapped = np.lib.format.open_memmap(path, "w+", np.float64, (n, d))
    block = random.normal(size=(100_000, d)) + 5 * random.integers(0, 2, size=(100_000, 1))
    for first in range(0, n, len(block)):
        mapped[first : first + len(block)] = block
    del mapped
    arguments = f"ARGUMENTS = {[str(path), str(tmp_path / 'out')]!r}"
    cache = os.environ.get("NUMBA_CACHE_DIR")
    taken = json.loads(start(MEASURE, PACKAGE.parent, cache=cache, preamble=arguments).stdout)
    assert max(taken.values()) < 60, taken
    shares, values = (np.load(f"{tmp_path}/out-{name}.npy", mmap_mode="r") for name in ("shares", "values"))
    assert np.isfinite(values[-10:]).all() and np.allclose(shares[-10:].sum(axis=1), 1, atol=1e-6)


ANSWERS = {"predict": ((), np.int64), "predict_proba": ((2,), np.float64), "score_samples": ((), np.float64)}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_answers_are_written_where_it_is_said(tmp_path, answer, dtype, monkeypatch):
    monkeypatch.setattr(prediction, "_ROWS", 64)
    shape, kind = ANSWERS[answer]
    rows = make_rows(300, dtype=dtype)
    model = estimator().fit(rows)
    expected = getattr(model, answer)(rows)
    mapped = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", kind, (300, *shape))
    narrow = np.zeros((300, *shape), np.int8 if kind == np.int64 else np.float32)
    for out in (np.zeros((300, *shape), kind), mapped, np.zeros((600, *shape), kind)[::2], narrow):
        assert getattr(model, answer)(rows, out=out) is out
        np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-30)
        if out.dtype == expected.dtype:
            assert np.array_equal(out, expected)
    chosen = GaussianMixtureIC([2], covariance_type="full", random_state=0).fit(rows)
    found, right = getattr(chosen, answer)(rows, out=out.copy()), getattr(chosen, answer)(rows)
    assert np.array_equal(found, right.astype(out.dtype))


@pytest.mark.parametrize("answer", ANSWERS)
def test_where_answers_cannot_be_written(answer):
    shape, kind = ANSWERS[answer]
    rows = make_rows(300)
    call = getattr(estimator().fit(rows), answer)
    good = np.zeros((300, *shape), kind)
    with pytest.raises(TypeError, match="out must be a NumPy array, but is of type list"):
        call(rows, out=good.tolist())
    with pytest.raises(ValueError, match=r"out should have shape \(300,.*, but has \(299"):
        call(rows, out=good[1:])
    with pytest.raises(ValueError, match=r"out should be of .*, but is of"):
        call(rows, out=good.astype(bool))
    with pytest.raises(ValueError, match=r"out should be of .*, but is of"):
        call(rows, out=good.astype(np.float64 if kind == np.int64 else np.int64))
    good.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        call(rows, out=good)
    if kind == np.float64:
        with pytest.raises(ValueError, match="shares memory with X"):
            call(rows, out=rows if shape else rows[:, 0])


def test_small_integers_must_hold_the_components():
    rows = np.arange(300.0)[:, None]
    model = GaussianMixture.from_parameters(np.full(200, 1 / 200), rows[:200], np.ones(200), "spherical")
    with pytest.raises(ValueError, match="integers that hold 199"):
        model.predict(rows, out=np.zeros(300, np.int8))
    assert model.predict(rows, out=np.zeros(300, np.uint8))[199] == 199


def test_sparse_probabilities_have_no_place():
    rows = make_rows(300)
    with pytest.raises(ValueError, match="sparse"):
        estimator().fit(rows).predict_proba(rows, top=1, out=np.zeros((300, 2)))


def test_rows_to_start_from_are_chosen_in_little_memory():
    rows = np.broadcast_to(np.arange(4_000_000.0, dtype=np.float32)[:, None], (4_000_000, 1))
    tracemalloc.start()
    try:
        found = STARTS["random_from_data"](ArrayRows(rows), 3, STRUCTURES["diag"], flat(1.0, 1), RandomState(1))
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()
    assert len(np.unique(found.parameters.means)) == 3 and found.parameters.means.max() > 1e6
