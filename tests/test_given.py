"""Starts that the user gives: labels, responsibilities, a function; and what is wrong with them."""

import warnings

import numpy as np
import pandas
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from fastgmm import GaussianMixture
from fastgmm.covariance import STRUCTURES

every_structure = pytest.mark.parametrize("covariance_type", STRUCTURES)

X, LABELS = make_blobs(150, n_features=2, centers=[[0, 0], [6, 1], [0, 7]], random_state=3)
SHARES = np.random.default_rng(0).dirichlet(np.ones(3), size=150)


def begin(init, rows=X, k=3, sample_weight=None, **options):
    """What a fit starts from."""
    gm = GaussianMixture(k, init_params=init, max_iter=0, random_state=0, **options)
    return gm.fit(rows, sample_weight=sample_weight)


def assert_starts_alike(one, two, rtol=1e-10):
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=rtol, atol=1e-12)


@every_structure
@pytest.mark.parametrize("kind", [np.int32, np.uint8, float, list, pandas.Series])
def test_labels_are_responsibilities_of_ones(covariance_type, kind):
    labels = LABELS.astype(kind) if isinstance(kind, type) and issubclass(kind, np.generic | float) else kind(LABELS)
    ones = np.eye(3)[LABELS]
    expected = begin(ones, covariance_type=covariance_type)
    assert_starts_alike(begin(labels, covariance_type=covariance_type), expected)
    for c in range(3):
        np.testing.assert_allclose(expected.means_[c], X[c == LABELS].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(expected.weights_, np.bincount(LABELS) / 150, rtol=1e-12)


@pytest.mark.parametrize("kind", [np.asarray, list, pandas.DataFrame])
def test_responsibilities_weigh_rows(kind):
    found = begin(kind(SHARES))
    counts = SHARES.sum(axis=0)
    np.testing.assert_allclose(found.weights_, counts / 150, rtol=1e-12)
    np.testing.assert_allclose(found.means_, SHARES.T @ X / counts[:, None], rtol=1e-12)
    for c in range(3):
        covariance = np.cov(X.T, aweights=SHARES[:, c], bias=True) + 1e-6 * np.eye(2)
        np.testing.assert_allclose(found.covariances_[c], covariance, rtol=1e-10)


@every_structure
def test_far_from_zero_labels_are_as_at_zero(covariance_type):
    rows = np.round(64 * X) / 64
    near = begin(LABELS, rows, covariance_type=covariance_type)
    far = begin(LABELS, rows + 1e8, covariance_type=covariance_type)
    np.testing.assert_allclose(far.covariances_, near.covariances_, rtol=1e-6)


def test_a_function_gets_the_rows_and_is_asked_for_each_start():
    asked = []

    def init(rows, k, random):
        asked.append((rows, k, random))
        return random.randint(k, size=len(rows))

    gm = GaussianMixture(3, init_params=init, n_init=4, random_state=0, max_iter=3, tol=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gm.fit(pandas.DataFrame(X, columns=["a", "b"]))
    assert len(asked) == len(gm.fit_report_.starts) == 4
    assert all(k == 3 and isinstance(random, np.random.RandomState) for _, k, random in asked)
    np.testing.assert_array_equal(asked[0][0], X)
    assert len({start.log_likelihood for start in gm.fit_report_.starts}) == 4


@pytest.mark.parametrize("found", [LABELS, SHARES, SHARES.tolist()])
def test_what_a_function_returns_is_as_if_given(found):
    assert_starts_alike(begin(lambda *given: found), begin(found))


@every_structure
def test_means_take_the_rows_nearest_to_them(covariance_type):
    """With another library's k-means the start is that library's."""
    centres = KMeans(3, n_init=1, random_state=0).fit(X).cluster_centers_
    nearest = ((X[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    found = begin(lambda *given: centres, covariance_type=covariance_type)
    assert_starts_alike(found, begin(nearest, covariance_type=covariance_type))
    moved = begin(lambda *given: centres + 0.1, covariance_type=covariance_type)
    np.testing.assert_array_equal(moved.means_, centres + 0.1)


def test_what_could_be_either_is_responsibilities():
    rows = np.array([[0.0, 0.0], [4.0, 0.0]])
    shares = np.array([[0.25, 0.75], [0.75, 0.25]])
    assert_starts_alike(begin(lambda *given: shares, rows, k=2), begin(shares, rows, k=2))


def test_rows_of_no_weight_are_left_out():
    weights = np.where(np.arange(150) % 3 == 0, 0.0, np.random.default_rng(0).uniform(size=150))
    kept = weights > 0
    for values in (LABELS, SHARES):
        expected = begin(values[kept], X[kept], sample_weight=weights[kept])
        assert_starts_alike(begin(values, sample_weight=weights), expected)
        assert_starts_alike(begin(lambda *given, values=values: values, sample_weight=weights), expected)


@pytest.mark.parametrize("missing", [0, 30])
def test_missing_entries_are_their_columns_mean(missing):
    rows = X.copy()
    rows[:missing, 1] = np.nan
    filled = np.where(np.isnan(rows), np.nanmean(rows, axis=0), rows)
    for values in (LABELS, SHARES):
        assert_starts_alike(begin(values, rows, missing="em"), begin(values, filled))


def test_an_array_is_one_start_whatever_n_init():
    gm = GaussianMixture(3, init_params=LABELS, n_init=5).fit(X)
    assert len(gm.fit_report_.starts) == 1 and adjusted_rand_score(gm.predict(X), LABELS) > 0.98
    np.testing.assert_array_equal(gm.means_, GaussianMixture(3, init_params=LABELS).fit(X).means_)


def test_other_inits_override_what_is_given():
    assert begin(LABELS, weights_init=[0.2, 0.3, 0.5]).weights_.tolist() == [0.2, 0.3, 0.5]


ONE_OFF, GAP = LABELS.copy(), np.where(LABELS == 2, 1, LABELS)
ONE_OFF[7] = 3
NEGATIVE, TOO_MUCH, UNUSED = SHARES.copy(), SHARES.copy(), SHARES * [1, 1, 0]
NEGATIVE[5] = [-0.5, 0.5, 1.0]
TOO_MUCH[9] *= 1.5
UNUSED /= UNUSED.sum(axis=1, keepdims=True)
WRONG = {
    "too short": (LABELS[:-1], r"labels of shape \(150,\) or responsibilities of shape \(150, 3\).*shape \(149,\)"),
    "transposed": (SHARES.T, r"but has shape \(3, 150\)"),
    "too many labels": (ONE_OFF, "whole numbers from 0 to 2, but row 7 has 3"),
    "a negative label": (np.where(ONE_OFF == 3, -1, ONE_OFF), "from 0 to 2, but row 7 has -1"),
    "half a label": (np.where(ONE_OFF == 3, 0.5, ONE_OFF), "from 0 to 2, but row 7 has 0.5"),
    "words": (np.array(["a", "b", "c"])[LABELS], "should be finite numbers"),
    "NaN": (np.where(ONE_OFF == 3, np.nan, ONE_OFF), "should be finite numbers"),
    "a component without rows": (GAP, "leaves component 2 without a row that counts"),
    "a negative share": (NEGATIVE, r"not be negative and sum to 1 in each row, but row 5 has \[-0.5  0.5  1. \]"),
    "more than 1": (TOO_MUCH, "row 9 has .*, which sums to 1.5"),
    "no shares of a component": (UNUSED, "leaves component 2 without a row"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(case):
    values, message = WRONG[case]
    gm = GaussianMixture(3, init_params=values)
    with pytest.raises(ValueError, match=message) as caught:
        gm.fit(X)
    assert "init_params" in str(caught.value) and not hasattr(gm, "means_")
    with pytest.raises(ValueError, match=message) as caught:
        GaussianMixture(3, init_params=lambda *given: values).fit(X)
    assert "hat init_params returned" in str(caught.value)


def test_means_are_no_array_to_start_from_but_a_function_may_return_them():
    with pytest.raises(ValueError, match="starting means go into means_init, but has shape"):
        GaussianMixture(3, init_params=X[:3]).fit(X)
    with pytest.raises(ValueError, match=r"or means of shape \(3, 2\), but has shape \(4, 2\)"):
        GaussianMixture(3, init_params=lambda *given: X[:4]).fit(X)


def test_a_component_whose_rows_all_weigh_nothing_is_named():
    with pytest.raises(ValueError, match="leaves component 1 without a row that counts"):
        GaussianMixture(3, init_params=LABELS).fit(X, sample_weight=(LABELS != 1) * 1.0)


def test_other_kinds_of_init_are_refused():
    for init in ("magic", 3, None):
        with pytest.raises(ValueError, match="The 'init_params' parameter of GaussianMixture must be a str among"):
            GaussianMixture(init_params=init).fit(X)


def test_an_error_of_the_function_is_the_callers():
    with pytest.raises(ZeroDivisionError):
        GaussianMixture(3, init_params=lambda *given: 1 / 0).fit(X)
