"""Predictions read the rows once: what is not finite is found by the pass, and refused as scikit-learn refuses it."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as Reference

from fastgmm import GaussianMixture, data, prediction
from fastgmm.covariance import STRUCTURES

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


@pytest.mark.parametrize("name", ["weights_", "means_", "precisions_cholesky_"])
def test_a_number_edited_in_place_counts(fitted, name):
    gm, rows = fitted
    before, array = gm.score_samples(rows), getattr(gm, name)
    first = array.flat[0]
    array.flat[0] = 0.5 * first + 0.125
    edited = gm.score_samples(rows)
    prediction._remembered_predictor.cache_clear()
    np.testing.assert_array_equal(gm.score_samples(rows), edited)
    array.flat[0] = first
    np.testing.assert_array_equal(gm.score_samples(rows), before)
    assert not np.allclose(edited, before)


def test_what_is_large_is_not_kept():
    rows = np.random.default_rng(0).standard_normal((70, 65))
    few, many = rows[:, :2], GaussianMixture(1).fit(rows)
    small = GaussianMixture(1).fit(few)
    prediction._remembered_predictor.cache_clear()
    for _ in range(2):
        small.predict(few)
        many.predict(rows)
    assert prediction._remembered_predictor.cache_info().currsize == 1
    wide = GaussianMixture.from_parameters(np.full(500, 0.002), np.arange(500.0)[:, None], np.ones(500), "spherical")
    for gm, kept in ((small, 1), (wide, 0)):
        gm.predict(np.zeros((3, gm.n_features_in_)))
        (writer,) = prediction.Predictor.of(gm)._few_writers.values()
        assert len(writer._idle) == kept


@pytest.mark.compiled  # or else one thread runs at a time
def test_threads_predict_few_rows_side_by_side(fitted):
    gm, rows = fitted
    expected = gm.predict_proba(rows)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: gm.predict_proba(rows[i % 7 :]), range(2_000)))
    for i, values in enumerate(found):
        np.testing.assert_array_equal(values, expected[i % 7 :])
