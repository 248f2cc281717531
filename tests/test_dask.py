"""Rows in Dask's partitions: the fit of rows in memory, on any scheduler, whoever finishes first, or dies."""

import functools
import os
import signal
import threading
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from reference import DISTINCT

from fastgmm import GaussianMixture, GaussianMixtureIC, Prior
from fastgmm.kernels._jit import COMPILED

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
cloudpickle = pytest.importorskip("cloudpickle")

from fastgmm.sources import dask as source  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:Sending large graph:UserWarning"),
]
N, D, K = (5000 if COMPILED else 240), 3, 2
PARTITIONS = 20  # on a cluster: more than are added at once
CHUNK = N // 5 - 7  # the last one is short
every_structure = pytest.mark.parametrize("structure", DISTINCT if COMPILED else ["full", "spherical"])


def make_rows(seed=0, n=N, dtype=np.float64):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(n, D)) * [1.0, 2.0, 0.5] + 6 * random.integers(0, K, size=(n, 1))
    return rows.astype(dtype)


def cut(rows, size=None):
    return da.from_array(rows, chunks=(size or CHUNK, *rows.shape[1:]))


def make_weights(seed=1):
    return np.random.default_rng(seed).integers(0, 4, size=N) / 2.0


def start(structure="full", rows=None):
    """Parameters to start from."""
    rows = make_rows() if rows is None else rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin = GaussianMixture(K, covariance_type=structure, max_iter=1, random_state=0).fit(rows[: len(rows) // 2])
    return {
        "covariance_type": structure,
        "weights_init": begin.weights_,
        "means_init": begin.means_ + 0.3,
        "precisions_init": begin.precisions_,
        "max_iter": 6,
        "tol": 0.0,
    }


def fitted(X, options, **more):
    return GaussianMixture(K, **options).fit(X, **more)


def attributes(model):
    return [model.weights_, model.means_, model.covariances_, model.precisions_cholesky_, model.lower_bounds_]


def assert_same(found, expected, rtol=1e-10):
    for a, b in zip(attributes(found), attributes(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    assert all(type(a) is type(b) for a, b in zip(attributes(found), attributes(expected), strict=True))


def same_bits(a, b):
    return all(map(np.array_equal, attributes(a), attributes(b)))


@pytest.fixture(params=["threads", "synchronous"], autouse=True, scope="module")
def scheduler(request):
    with dask.config.set(scheduler=request.param):
        yield request.param


@every_structure
def test_the_fit_is_that_of_rows_in_memory(structure):
    rows, options = make_rows(), start(structure)
    assert_same(fitted(cut(rows), options), fitted(rows, options))


@pytest.mark.parametrize("arity", [2, 3])
def test_statistics_are_added_in_a_tree(arity, monkeypatch):
    rows, options = make_rows(), start()
    monkeypatch.setattr(source, "_ARITY", arity)
    assert_same(fitted(cut(rows, N // 23), options), fitted(rows, options))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "int", "weights", "prior", "squarem", "auto", "warm", "frame", "far"])
def test_and_so_it_is_with(kind):
    rows, options = make_rows(), start()
    X, weights = cut(rows), None
    tolerance = 1e-10
    if kind == "float32":
        X = cut(rows := rows.astype(np.float32))
        tolerance = 1e-5
    elif kind == "int":
        X = cut(rows := (100 * rows).astype(np.int64))
        options = start(rows=rows)
    elif kind == "weights":
        weights = make_weights()
        weights[:CHUNK] = 0.0  # a whole partition that does not count
    elif kind == "prior":
        options |= {"prior": Prior(shrinkage=0.1)}
    elif kind == "squarem":
        options |= {"acceleration": "squarem"}
    elif kind == "auto":
        options |= {"reg_covar": "auto"}
    elif kind == "warm":
        options |= {"warm_start": True, "max_iter": 2}
    elif kind == "frame":
        rows = pd.DataFrame(rows, columns=list("abc"))
        X = dd.from_pandas(rows, npartitions=3)
    elif kind == "far":
        X = cut(rows := rows + 1e8)
        options = start(rows=rows)
        tolerance = 1e-7
    found = fitted(X, options, sample_weight=None if weights is None else cut(weights))
    expected = fitted(rows, options, sample_weight=weights)
    if kind == "warm":
        found, expected = found.fit(X), expected.fit(rows)
    assert_same(found, expected, tolerance)
    assert found.means_.dtype == expected.means_.dtype
    assert found.fit_report_.best == expected.fit_report_.best
    assert list(getattr(found, "feature_names_in_", [])) == list(getattr(expected, "feature_names_in_", []))
    if weights is not None:
        for criterion in ("score", "bic", "aic", "icl"):
            a = getattr(found, criterion)(X, sample_weight=cut(weights))
            b = getattr(expected, criterion)(rows, sample_weight=weights)
            assert isinstance(a, float) and a == pytest.approx(b, rel=1e-12)


def knock_out(rows):
    """The same with entries missing, but for the second partition; of the third all rows lack one."""
    missing = np.random.default_rng(5).random(rows.shape) < 0.2
    missing[CHUNK : 2 * CHUNK] = False
    missing[2 * CHUNK : 3 * CHUNK] = [True, False, False]
    return np.where(missing, np.nan, rows)


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@every_structure
def test_rows_that_lack_entries(structure, weighted):
    rows, options = knock_out(make_rows()), start(structure) | {"missing": "em"}
    weights = make_weights() if weighted else None
    found = fitted(cut(rows), options, sample_weight=None if weights is None else cut(weights))
    assert_same(found, fitted(rows, options, sample_weight=weights))


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"prior": Prior()}, {"reg_covar": "auto"}])
def test_rows_that_lack_entries_from_a_start_that_is_sought(more):
    rows, options = knock_out(make_rows()), {"missing": "em", "random_state": 0, "max_iter": 3, "tol": 0.0} | more
    found, whole = fitted(cut(rows), options), fitted(rows, options)
    assert_same(found, whole)
    assert found.bic(cut(rows)) == pytest.approx(whole.bic(rows))
    np.testing.assert_array_equal(found.predict(cut(rows)).compute(), whole.predict(rows))


def test_a_sample_without_a_feature_has_the_mean_of_all_rows():
    rows = make_rows()
    rows[1:, 1] = np.nan
    parts = source.open_collection(GaussianMixture(missing="em"), cut(rows), fitting=True)[1]
    sample = source.DaskRows(parts, rows.dtype, D, 8, 0, allow_missing=True).sample
    np.testing.assert_allclose(sample.take(np.arange(8))[:, 1], rows[0, 1])


def test_what_may_not_be_missing_from_partitions():
    with pytest.raises(ValueError, match="contains infinity, in row 0 of partition 1"):
        GaussianMixture(2, missing="em").fit(spoilt((CHUNK, 1), np.inf))
    rows = np.where([False, True, False], np.nan, make_rows())
    for chosen in (GaussianMixture(2, missing="em"), GaussianMixtureIC((1, 2), missing="em")):
        with pytest.raises(ValueError, match="no observed value of feature 1"):
            chosen.fit(cut(rows))


@pytest.mark.parametrize("init", ["kmeans", "k-means++", "random", "random_from_data", lambda X, *rest: X[:, 0] > 3])
def test_a_start_among_all_rows_is_theirs(init):
    """Where the sample is all rows, a fit is that of rows in memory also from a start that is sought."""
    rows = make_rows()
    options = {"init_params": init, "random_state": 3, "max_iter": 3, "tol": 0.0}
    assert_same(fitted(cut(rows), options), fitted(rows, options))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_sample_is_drawn_over_all_partitions_by_weight(weighted):
    places = np.arange(float(N))[:, None]
    weights = np.where(np.arange(N) < N // 2, 1.0, 3.0)
    weights[::7] = 0.0
    X, W = cut(places), cut(weights) if weighted else None
    _, parts = source.open_collection(GaussianMixture(), X, W, fitting=True)
    many = N // 4
    rows = source.DaskRows(parts, X.dtype, 1, many, 0)
    drawn = rows.sample.take(np.arange(many))[:, 0].astype(int)
    assert rows.sample.n_rows == many and rows.sample.total_weight == pytest.approx(rows.total_weight)
    again = source.DaskRows(parts, X.dtype, 1, many, 0).sample.take(np.arange(many))[:, 0]
    other = source.DaskRows(parts, X.dtype, 1, many, 1).sample.take(np.arange(many))[:, 0]
    assert np.array_equal(drawn, again) and not np.array_equal(drawn, other)
    # As many from each half as it has of the weight; none that has none.
    counted = weights if weighted else np.ones(N)
    assert (drawn >= N // 2).mean() == pytest.approx(counted[N // 2 :].sum() / counted.sum(), abs=2 / many)
    assert (counted[drawn] > 0).all() and len(np.unique(drawn)) > many // 2
    assert rows.effective_rows == pytest.approx(counted.sum() ** 2 / (counted**2).sum())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_predictions_are_lazy_and_the_same(dtype):
    rows = make_rows(dtype=dtype)
    model = GaussianMixture(K, random_state=0, max_iter=3).fit(rows)
    for name in ("predict", "predict_proba", "score_samples"):
        lazy, expected = getattr(model, name)(cut(rows)), getattr(model, name)(rows)
        assert isinstance(lazy, da.Array) and lazy.chunks[0] == cut(rows).chunks[0]
        assert lazy.shape == expected.shape and lazy.dtype == expected.dtype
        np.testing.assert_array_equal(lazy.compute(), expected)
    for name in ("score", "bic", "aic", "icl"):
        found = getattr(model, name)(cut(rows))
        assert isinstance(found, float) and found == pytest.approx(getattr(model, name)(rows), rel=1e-6)
    labels = model.fit_predict(cut(rows))
    np.testing.assert_array_equal(labels.compute(), model.predict(rows))


def test_predictions_of_frames_and_of_models_beside_each_other():
    rows = pd.DataFrame(make_rows(), columns=list("abc"))
    X = dd.from_pandas(rows, npartitions=3)
    models = [GaussianMixture(k, random_state=0, max_iter=3).fit(X) for k in (1, 2)]
    for model in models:
        np.testing.assert_array_equal(model.predict_proba(X).compute(), model.predict_proba(rows))
        np.testing.assert_array_equal(model.predict(X).compute(), model.predict(rows))
    empty = X[X.a > X.a.mean() + 1e9]  # partitions without rows
    assert models[1].predict(empty).compute().shape == (0,)
    with pytest.raises(ValueError, match="feature names"):
        models[1].predict(X.rename(columns={"a": "z"}))
    with pytest.raises(ValueError, match="X has 2 features"):
        GaussianMixture(2, random_state=0).fit(cut(make_rows())).predict(cut(make_rows()[:, :2]))
    some = X[X.a < rows.a.median()]
    assert models[1].score(some) == pytest.approx(models[1].score(rows[rows.a < rows.a.median()]))


def test_missing_entries_are_integrated_out_of_predictions():
    rows = make_rows()
    rows[::5, 1] = np.nan
    model = GaussianMixture(K, random_state=0, max_iter=3, missing="em").fit(rows)
    np.testing.assert_array_equal(model.predict(cut(rows)).compute(), model.predict(rows))
    assert model.bic(cut(rows)) == pytest.approx(model.bic(rows))
    rows[CHUNK + 3, 0] = np.inf
    with pytest.raises(ValueError, match="infinity, in row 3 of partition 1"):
        model.score(cut(rows))


def spoilt(where, value):
    rows = make_rows()
    rows[where] = value
    return cut(rows)


def with_text():
    return dd.from_pandas(pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["x", "y", "z"]}), npartitions=1)


def ragged():
    """Partitions that are not what Dask was told of them."""
    parts = [dask.delayed(make_rows)(n=9)[:, :width] for width in (3, 2)]
    return da.concatenate([da.from_delayed(part, (9, 3), float) for part in parts])


BAD = {
    "unknown": (lambda: cut(make_rows())[cut(make_rows())[:, 0] > 0], "X.compute_chunk_sizes()"),
    "columns": (lambda: cut(make_rows()).rechunk({1: 2}), "X.rechunk({1: -1})"),
    "one-dimensional": (lambda: cut(make_rows()[:, 0]), "two dimensions"),
    "complex": (lambda: cut(make_rows() + 1j), "real numbers, but its dtype is complex128"),
    "text": (with_text, "real numbers, but not so column 'b'"),
    "delayed": (lambda: dask.delayed(make_rows)(), "should be a Dask array or DataFrame"),
    "ragged": (ragged, "X should have 3 columns throughout, but partition 1 has shape (9, 2)"),
    "nan": (lambda: spoilt((2 * CHUNK + 5, 1), np.nan), "contains NaN, in row 5 of partition 2"),
    "infinity": (lambda: spoilt((CHUNK, 1), np.inf), "contains infinity, in row 0 of partition 1"),
    "several": (lambda: spoilt((slice(CHUNK, None, 9), 1), np.nan), "in row 0 of partition 1"),
    "empty": (lambda: da.concatenate([cut(make_rows()), cut(make_rows())[:0]]).rechunk({0: (N, 0)}), "in partition 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_X_is_said_with_what_to_do(name):
    make, message = BAD[name]
    model = GaussianMixture(2, random_state=0).fit(make_rows())
    before = dict(vars(model))
    with pytest.raises(ValueError) as caught:
        model.fit(make())
    assert message in str(caught.value)
    assert vars(model) == before


@pytest.mark.parametrize("name", ["unknown", "columns", "text", "delayed", "nan"])
@pytest.mark.parametrize("method", ["predict", "score"])
def test_and_to_predictions_too(name, method):
    make, message = BAD[name]
    model = GaussianMixture(2, random_state=0).fit(make_rows())
    with pytest.raises(ValueError) as caught:
        np.asarray(getattr(model, method)(make()))
    assert message in str(caught.value)


WEIGHTS = {
    "memory": (lambda: make_weights(), "should be a Dask array in its row chunks"),
    "cut": (lambda: cut(make_weights(), 7), "sample_weight.rechunk(X.chunks[:1])"),
    "shape": (lambda: cut(make_rows()), "should be real numbers (n,)"),
    "negative": (lambda: cut(np.where(np.arange(N) == CHUNK + 2, -1.0, 1.0)), "in row 2 of partition 1"),
    "nan": (lambda: cut(np.where(np.arange(N) == CHUNK + 2, np.nan, 1.0)), "NaN, in row 2 of partition 1"),
    "zero": (lambda: cut(np.zeros(N)), "none of a weight above zero"),
    "large": (lambda: cut(np.full(N, 1e308)), "Divide them by their mean"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_what_is_wrong_with_weights_is_said_too(name):
    make, message = WEIGHTS[name]
    with pytest.raises(ValueError) as caught:
        GaussianMixture(2).fit(cut(make_rows()), sample_weight=make())
    assert message in str(caught.value)


def test_frames_take_a_column_as_weights():
    rows = pd.DataFrame(make_rows(), columns=list("abc")).assign(w=make_weights())
    X = dd.from_pandas(rows, npartitions=3)
    options = start()
    found = fitted(X[["a", "b", "c"]], options, sample_weight=X["w"])
    assert_same(found, fitted(rows[["a", "b", "c"]], options, sample_weight=rows["w"]))
    shorter = dd.from_pandas(rows["w"][:-9], npartitions=3)
    with pytest.raises(ValueError, match=r"where X has \d+ rows, in partition 0"):
        fitted(X[["a", "b", "c"]], options, sample_weight=shorter)


def test_columns_that_may_lack_entries_of_pandas():
    rows = pd.DataFrame(make_rows(), columns=list("abc")).convert_dtypes(dtype_backend="numpy_nullable")
    options = start()
    assert_same(fitted(dd.from_pandas(rows, npartitions=3), options), fitted(make_rows(), options))
    rows.loc[3, "b"] = pd.NA
    with pytest.raises(ValueError, match="NaN, in row 3 of partition 0"):
        fitted(dd.from_pandas(rows, npartitions=3), options)


def test_what_needs_rows_in_memory_says_so():
    X = cut(make_rows())
    with pytest.raises(ValueError, match="init_params as an array belongs to rows in memory"):
        GaussianMixture(2, init_params=np.zeros(N, int)).fit(X)
    with pytest.raises(ValueError, match="top is for rows in memory"):
        GaussianMixture(2, random_state=0).fit(X).predict_proba(X, top=1)
    model = GaussianMixture(2, random_state=0)
    for frame in (X, dd.from_array(X)):
        with pytest.raises(ValueError, match=r"for block in X.partitions: gm.partial_fit\(block.compute\(\)\)"):
            model.partial_fit(frame)
        for block in frame.partitions:
            model.partial_fit(block.compute())
    assert model.n_seen_ == 2 * N


def test_what_a_partition_raises_in_mid_fit_carries_the_last_mixture():
    rows, broken = make_rows(), []

    def read(block):
        if broken:
            raise OSError("the disk is gone")
        return block

    X = cut(rows).map_blocks(read, meta=rows[:0])
    model = GaussianMixture(K, **start(), callback=lambda iteration, *rest: broken.append(1) if iteration == 2 else 0)
    before = dict(vars(model))
    with pytest.raises(OSError, match="the disk is gone") as caught:
        model.fit(X)
    assert vars(model) == before
    reached = fitted(rows, start() | {"max_iter": 2})
    np.testing.assert_allclose(caught.value.mixture.means, reached.means_, rtol=1e-10)
    assert "after 2 iterations" in caught.value.__notes__[0]


@pytest.mark.compiled
def test_nothing_of_size_n_comes_home():
    """What workers return is as long for four times the rows, whether a start is given or sought."""
    sizes = []

    def measured(graph, keys, **options):
        found = dask.get(graph, keys, **options)
        sizes[-1].append(len(cloudpickle.dumps(found)))
        return found

    for n in (10_000, 40_000):
        sizes.append([])
        X = da.from_array(make_rows(n=n), chunks=(n // 5, D))
        with dask.config.set(scheduler=measured):
            fitted(X, start()).score(X)
            assert max(sizes[-1]) < 3000
            fitted(X, {"random_state": 0, "max_iter": 3, "tol": 0.0})
    assert np.allclose(*sizes, rtol=1e-3)  # which rows are drawn makes no more difference


@pytest.mark.parametrize("criterion", ["bic", "heldout"])
def test_selection(criterion):
    rows = make_rows()
    options = {"covariance_type": ["full", "diag"], "criterion": criterion, "random_state": 0, "max_iter": 20}
    found = GaussianMixtureIC((1, 3 if COMPILED else 2), **options).fit(cut(rows))
    assert found.n_components_ == 2 and not np.isnan(found.criterion_).any()
    assert not any(found.results_["failure"])
    np.testing.assert_array_equal(found.predict(cut(rows)).compute(), found.best_estimator_.predict(rows))
    assert found.bic(cut(rows)) == pytest.approx(found.bic(rows))
    if criterion == "bic":
        expected = GaussianMixtureIC((1, 3 if COMPILED else 2), **options).fit(rows)
        for name in ("log_likelihood", "bic", "aic", "icl", "n_iter"):
            np.testing.assert_allclose(found.results_[name], expected.results_[name], rtol=1e-9)


def test_selection_does_not_take_a_partitions_error_for_a_models():
    rows, reads = make_rows(), []

    def read(block):
        reads.append(len(block))
        if len(reads) > 40:
            raise ValueError("the disk is gone")
        return block

    chosen = GaussianMixtureIC((1, 3), covariance_type=["diag"], random_state=0)
    with pytest.raises(ValueError, match=r"^the disk is gone") as caught:
        chosen.fit(cut(rows).map_blocks(read, meta=rows[:0]))
    assert caught.value.mixture.means.shape[1] == D


# On a cluster of two processes.


@pytest.fixture(scope="module")
def client(scheduler):
    distributed = pytest.importorskip("distributed")
    if scheduler != "threads":
        pytest.skip("once is enough")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None)
    # Without a scheduler of the configuration's own, Dask picks up the client.
    with cluster, distributed.Client(cluster) as client, dask.config.set(scheduler=None):
        yield client


def load(index, pause=0.0, trouble=None):
    """A partition, after a while of some length that nobody knows, or none while there is trouble."""
    time.sleep(pause * np.random.default_rng().uniform())
    if trouble and index == 3 and os.path.exists(trouble):
        raise OSError(f"the disk of partition {index} is gone")
    return make_rows(seed=index, n=3000)


def cluster_rows(**options):
    parts = [dask.delayed(functools.partial(load, **options))(index) for index in range(PARTITIONS)]
    return da.concatenate([da.from_delayed(part, (3000, D), float) for part in parts])


@pytest.fixture(scope="module")
def in_memory():
    """The same fit of the same rows in memory."""
    rows = np.concatenate([load(index) for index in range(PARTITIONS)])
    return fitted(rows, start())


@pytest.mark.compiled
@pytest.mark.slow
def test_a_cluster_fits_as_memory_does_and_to_the_bit_whoever_finishes_first(client, in_memory):
    runs = [fitted(cluster_rows(pause=pause), start()) for pause in (0.0, 0.01)]
    runs.append(fitted(cluster_rows().persist(), start()))
    assert_same(runs[0], in_memory)
    assert all(same_bits(run, runs[0]) for run in runs)
    assert runs[0].predict(cluster_rows()).sum().compute() == in_memory.predict(cluster_rows()).sum().compute()


@pytest.mark.compiled
@pytest.mark.slow
@pytest.mark.parametrize("persisted", [False, True])
def test_a_worker_that_dies_in_mid_fit_changes_nothing(client, in_memory, persisted):
    X = cluster_rows(pause=0.01)
    X = X.persist() if persisted else X
    expected = fitted(X, start())
    killed = []

    def kill():
        pids = client.run(os.getpid)
        killed.append(min(pids.values()))
        os.kill(killed[0], signal.SIGKILL)

    def later(iteration, mixture, log_likelihood):
        if iteration == 3:
            threading.Timer(0.05, kill).start()

    found = fitted(X, start() | {"callback": later, "max_iter": 8})
    alone = fitted(X, start() | {"max_iter": 8})
    assert killed and killed[0] not in client.run(os.getpid).values()
    assert same_bits(found, alone)
    assert_same(expected, in_memory)


@pytest.mark.compiled
@pytest.mark.slow
def test_a_worker_that_raises_gives_its_error(client, tmp_path):
    trouble = tmp_path / "trouble"
    model = GaussianMixture(K, **start())
    before = dict(vars(model))
    model.callback = lambda iteration, *rest: trouble.touch() if iteration == 2 else None
    with pytest.raises(OSError, match="the disk of partition 3 is gone") as caught:
        model.fit(cluster_rows(trouble=str(trouble)))
    reached = fitted(cluster_rows(), start() | {"max_iter": 2})
    assert np.array_equal(caught.value.mixture.means, reached.means_)
    assert not hasattr(model, "means_") and {**vars(model), "callback": None} == before


@pytest.mark.compiled
@pytest.mark.slow
def test_selection_on_a_cluster(client):
    X = cluster_rows()
    found = GaussianMixtureIC((1, 2), covariance_type=["diag"], random_state=0).fit(X)
    assert found.n_components_ == 2 and not any(found.results_["failure"])
