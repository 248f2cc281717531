"""Predictions read the rows once: what is not finite is found by the pass, and refused as scikit-learn refuses it."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as Reference

from fastgmm import GaussianMixture, data, prediction
from fastgmm.covariance import STRUCTURES
from fastgmm.mixture import evaluation

METHODS = ("predict", "predict_proba", "score_samples")
N = 300  # more than a tile


@pytest.fixture(scope="module", params=[(name, d) for name in STRUCTURES for d in (1, 3, 6)], ids=str)
def fitted(request):
    name, d = request.param
    rows = np.random.default_rng(0).standard_normal((N, d)) + 4.0 * (np.arange(N) % 2)[:, None]
    return GaussianMixture(2, covariance_type=name, random_state=0).fit(rows), rows


@pytest.mark.compiled  # NumPy would warn of the arithmetic itself
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_anywhere_is_refused(fitted, value, dtype):
    gm, rows = fitted
    d = rows.shape[1]
    for i, j in {(0, 0), (255, d - 1), (N - 1, d // 2)}:
        spoilt = rows.astype(dtype)
        spoilt[i, j] = value
        for method in METHODS:
            with warnings.catch_warnings(), pytest.raises(ValueError, match="Input X contains") as caught:
                warnings.simplefilter("error")
                getattr(gm, method)(spoilt)
            assert hasattr(caught.value, "__notes__") == np.isnan(value)


def test_the_message_is_scikit_learns():
    rows = np.random.default_rng(0).standard_normal((50, 2))
    spoilt = np.vstack([rows, [[0.0, np.nan]]])
    messages = []
    for kind in (GaussianMixture, Reference):
        with pytest.raises(ValueError) as caught:
            kind(2, random_state=0).fit(rows).predict(spoilt)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.slow
def test_finite_rows_are_read_by_the_pass_alone(fitted, monkeypatch):
    gm, rows = fitted
    expected = [getattr(gm, method)(rows) for method in METHODS]
    for look in ("find_nonfinite", "assert_all_finite"):
        monkeypatch.setattr(data, look, lambda *_, **__: pytest.fail("looked at apart"))
    for method, values in zip(METHODS, expected, strict=True):
        np.testing.assert_array_equal(getattr(gm, method)(rows), values)


def test_nothing_is_written_of_rows_that_are_refused(fitted):
    gm, rows = fitted
    spoilt = rows.copy()
    spoilt[-1] = np.nan
    out = np.full(N, -7)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        gm.predict(spoilt, out=out)
    assert (out == -7).all()


def test_finite_rows_far_away_are_no_error(fitted):
    gm, rows = fitted
    far = rows.copy()
    far[7] = 1e200
    assert gm.score_samples(far)[7] == -np.inf
    assert np.isfinite(gm.predict_proba(far)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["weights_", "means_", "precisions_cholesky_"])
def test_a_number_edited_in_place_counts(fitted, name, monkeypatch):
    gm, rows = fitted
    before, array = gm.score_samples(rows), getattr(gm, name)
    first = array.flat[0]
    array.flat[0] = 0.5 * first + 0.125
    edited = gm.score_samples(rows)
    monkeypatch.setattr(prediction, "_kept", ())
    np.testing.assert_array_equal(gm.score_samples(rows), edited)
    array.flat[0] = first
    np.testing.assert_array_equal(gm.score_samples(rows), before)
    assert not np.allclose(edited, before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [np.copy, np.ndarray.tolist, np.asfortranarray, lambda array: array.astype(object)])
def test_arrays_of_any_kind_may_take_the_place_of_fitted_ones(fitted, kind):
    gm, rows = fitted
    before, means = gm.score_samples(rows), gm.means_
    for array in (means + 1.0, means):
        gm.means_ = kind(array)
        moved = rows + (array - means)[0]
        np.testing.assert_allclose(gm.score_samples(moved), before, rtol=1e-12, atol=1e-12)
    gm.means_ = means


def test_predictors_are_kept_of_as_many_estimators_as_there_is_room_for(monkeypatch):
    monkeypatch.setattr(prediction, "_kept", ())
    rows = np.random.default_rng(0).standard_normal((50, 2))
    estimators = [GaussianMixture(1, reg_covar=1e-3 * i).fit(rows) for i in range(prediction._MOST_KEPT + 1)]
    first = [prediction.Predictor.of(gm) for gm in estimators]
    again = [prediction.Predictor.of(gm) for gm in estimators[::-1]]
    assert all(one is other for one, other in zip(first[:0:-1], again[:-1], strict=True))
    assert first[0] is not again[-1] and len(prediction._kept) == prediction._MOST_KEPT


def test_what_is_large_is_not_kept(monkeypatch):
    random = np.random.default_rng(0)
    few = random.standard_normal((70, 2))
    small = GaussianMixture(1).fit(few)
    many = GaussianMixture(1).fit(random.standard_normal((70, 65)))
    wide = GaussianMixture.from_parameters([0.5, 0.5], np.zeros((2, 3000)), np.ones(2), "spherical")
    monkeypatch.setattr(prediction, "_kept", ())
    for gm in (small, many, wide, small, many, wide):
        gm.predict(np.zeros((3, gm.n_features_in_)))
    assert len(prediction._kept) == 1
    long = GaussianMixture.from_parameters(np.full(500, 0.002), np.arange(500.0)[:, None], np.ones(500), "spherical")
    for gm, kept in ((small, 1), (long, 0)):
        gm.predict(np.zeros((3, gm.n_features_in_)))
        (writer,) = prediction.Predictor.of(gm)._few_writers.values()
        assert len(writer._idle) == kept
    lacking = few.copy()
    lacking[0, 0] = np.nan
    incomplete = GaussianMixture(1, covariance_type="tied", missing="em").fit(lacking)
    incomplete.predict(lacking)
    assert not prediction.Predictor.of(incomplete)._forms


@pytest.mark.slow
def test_rows_of_either_type_have_their_own_answers(fitted):
    gm, rows = fitted
    single = GaussianMixture(2, covariance_type=gm.covariance_type, random_state=0).fit(rows.astype(np.float32))
    for method in METHODS:
        wide = getattr(single, method)(rows)
        narrow = getattr(single, method)(rows.astype(np.float32))
        assert narrow.dtype == (np.int64 if method == "predict" else np.float32)
        np.testing.assert_allclose(narrow, wide, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(getattr(single, method)(rows), wide)
        np.testing.assert_array_equal(getattr(single, method)(rows.astype(np.float32)), narrow)


@pytest.mark.parametrize("method", METHODS)
def test_float32_answers_do_not_depend_on_how_many_are_cast_together(method, monkeypatch):
    rows = np.random.default_rng(0).standard_normal((N, 2)).astype(np.float32)
    gm = GaussianMixture(2, random_state=0).fit(rows)
    whole = getattr(gm, method)(rows)
    monkeypatch.setattr(evaluation, "_CAST_ROWS", 64)
    cut = getattr(gm, method)(rows)
    assert cut.dtype == whole.dtype
    np.testing.assert_array_equal(cut, whole)


def test_a_pickled_predictor_answers_the_same(fitted):
    gm, rows = fitted
    predictor = prediction.Predictor.of(gm)
    copy = pickle.loads(pickle.dumps(predictor))
    assert isinstance(copy, prediction.Predictor)
    for one, other in zip(predictor.evaluate(rows, "labels"), copy.evaluate(rows, "labels"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("n_jobs", "error"), [(0, ValueError), (1.0, TypeError), ("2", TypeError)])
def test_threads_that_cannot_be_are_refused_for_few_rows_too(n_jobs, error):
    rows = np.random.default_rng(0).standard_normal((20, 2))
    gm = GaussianMixture(1, n_jobs=1).fit(rows)
    gm.predict(rows)
    gm.set_params(n_jobs=n_jobs)
    with pytest.raises(error, match="n_jobs must"):
        gm.predict(rows)


def test_rows_that_lack_entries_and_rows_far_away_are_no_error():
    rows = np.random.default_rng(0).standard_normal((N, 2))
    gm = GaussianMixture(2, missing="em", random_state=0).fit(rows)
    rows[3, 0], rows[7] = np.nan, 1e200
    assert gm.score_samples(rows)[7] == -np.inf
    assert np.isfinite(gm.predict_proba(rows)).all()
    assert gm.predict(rows).shape == (N,)


def test_a_pass_amid_another_has_memory_of_its_own(fitted):
    gm, rows = fitted
    gm.predict(rows)
    writer = prediction.Predictor.of(gm)._few_writers[rows.dtype, False]
    share, used = writer._share, []

    def run(*arguments):
        *_, scratch, _, _, labels, lost = arguments
        used.append((scratch, labels, lost))
        if len(used) == 1:  # as another thread may
            gm.predict(rows[:9])
        share(*arguments)

    writer._share = run
    try:
        gm.predict(rows)
        gm.predict(rows)
    finally:
        writer._share = share
    first, amid, after = used
    assert not any(np.shares_memory(one, other) for one, other in zip(first, amid, strict=True))
    assert after[0] is first[0] or after[0] is amid[0]
