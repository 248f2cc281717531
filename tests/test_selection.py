"""GaussianMixtureIC: the table is that of single fits, the best of it is chosen, and failures leave the rest alone."""

import pickle
import sys
import warnings
from typing import ClassVar

import matplotlib
import numpy as np
import pandas
import pytest
from reference import DISTINCT
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from fastgmm import (
    DegenerateComponentWarning,
    DegenerateFitError,
    GaussianMixture,
    GaussianMixtureIC,
    Prior,
    RegularisationWarning,
    selection,
)
from fastgmm.em import initialise

matplotlib.use("Agg")
X = make_blobs(150, n_features=2, centers=[[0, 0], [6, 1], [0, 7]], random_state=3)[0]
COLUMNS = [
    "n_components",
    "covariance_type",
    "n_parameters",
    "log_likelihood",
    "bic",
    "aic",
    "icl",
    "heldout",
    "converged",
    "n_iter",
    "seconds",
    "failure",
]


def choose(sizes=(1, 4), rows=X, weights=None, **options):
    options = {"random_state": 0, "covariance_type": ["full", "spherical", "EEI"]} | options
    return GaussianMixtureIC(sizes, **options).fit(rows, sample_weight=weights)


@pytest.mark.slow
@pytest.mark.parametrize("init_params", ["kmeans", "random"])
def test_models_are_single_fits_to_the_bit(init_params):
    """So k-means that is done once for all structures is the k-means of each, also with several starts."""
    options = {"init_params": init_params, "n_init": 3, "max_iter": 20}
    weights = np.random.default_rng(0).integers(1, 4, size=len(X))
    found = choose(weights=weights, **options)
    assert list(found.results_) == COLUMNS
    for place, model in enumerate(found.estimators_):
        row = {name: column[place] for name, column in found.results_.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone = GaussianMixture(
                row["n_components"], covariance_type=row["covariance_type"], random_state=0, **options
            ).fit(X, sample_weight=weights)
        for name in ("weights_", "means_", "covariances_", "lower_bounds_"):
            np.testing.assert_array_equal(getattr(model, name), getattr(alone, name))
        for name in ("bic", "aic", "icl"):
            assert row[name] == pytest.approx(getattr(alone, name)(X, sample_weight=weights), rel=1e-12)
        assert row["log_likelihood"] == pytest.approx(alone.score(X, sample_weight=weights), rel=1e-12)
        assert (row["n_parameters"], row["converged"], row["n_iter"], row["failure"]) == (
            alone.n_parameters_,
            alone.converged_,
            alone.n_iter_,
            "",
        )


@pytest.mark.parametrize("criterion", ["bic", "aic", "icl", "heldout"])
def test_the_lowest_is_chosen(criterion):
    found = choose(criterion=criterion)
    best = int(np.nanargmin(found.results_[criterion]))
    np.testing.assert_array_equal(found.criterion_, found.results_[criterion])
    assert found.n_components_ == found.results_["n_components"][best] == found.best_estimator_.n_components == 3
    assert found.covariance_type_ == found.results_["covariance_type"][best]
    assert np.isnan(found.results_["heldout"]).all() == (criterion != "heldout")
    assert pandas.DataFrame(found.results_).shape == (12, len(COLUMNS))


def test_k_means_is_done_once_a_size(monkeypatch):
    calls, kmeans = [], initialise.kmeans
    monkeypatch.setattr(initialise, "kmeans", lambda sample, k, random: calls.append(k) or kmeans(sample, k, random))
    choose((1, 3), n_init=2)
    assert calls == [1, 1, 2, 2, 3, 3]
    GaussianMixture(2).fit(X)
    GaussianMixture(2).fit(X)
    assert calls[6:] == [2, 2]


def test_of_equal_models_the_first_is_chosen():
    """With one component most structures are one of three, but for the last digits."""
    found = choose(1, rows=np.random.default_rng(0).normal(size=(80, 2)), covariance_type="all")
    assert list(found.results_["covariance_type"]) == DISTINCT
    assert len(set(np.round(found.results_["bic"], 8))) == 3
    assert found.covariance_type_ == "spherical"
    assert choose(1, covariance_type=["EVV", "EEE", "full"], rows=X @ [[1, 2], [0, 1]]).covariance_type_ == "EVV"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((2, 4), [2, 3, 4]),
        (range(1, 6, 2), [1, 3, 5]),
        ([4, 2, 4], [4, 2]),
        (np.array([3, 1]), [3, 1]),
        (2, [2]),
        ((2, 2), [2]),
    ],
)
def test_numbers_of_components(sizes, expected):
    assert list(choose(sizes, covariance_type="diag").results_["n_components"]) == expected


BAD = [
    ({"n_components": (1, 2, 3)}, r"n_components as a tuple is \(least, most\), but got \(1, 2, 3\)"),
    ({"n_components": (3, 2)}, r"the least is more than the most: \(3, 2\)"),
    ({"n_components": []}, "n_components must be whole numbers of at least 1"),
    ({"n_components": [1, 2.5]}, "n_components must be whole numbers of at least 1"),
    ({"n_components": (0, 2)}, "n_components must be whole numbers of at least 1"),
    ({"n_components": 0}, "The 'n_components' parameter of GaussianMixtureIC"),
    ({"covariance_type": "round"}, "The 'covariance_type' parameter of GaussianMixtureIC"),
    ({"covariance_type": ["full", "round"]}, "covariance_type must be 'all' or some of full, .*, but got 'round'"),
    ({"covariance_type": []}, "but got none"),
    ({"criterion": "best"}, "The 'criterion' parameter of GaussianMixtureIC"),
    ({"validation_fraction": 1.0}, "The 'validation_fraction' parameter of GaussianMixtureIC"),
    ({"tol": -1.0}, "The 'tol' parameter of GaussianMixtureIC"),
    ({"criterion": "heldout", "validation_fraction": 1e-4}, "Of 150 rows, validation_fraction=0.0001 holds 0 out"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_unusable_parameters(options, message):
    estimator = GaussianMixtureIC(**options)
    with pytest.raises(ValueError, match=message):
        estimator.fit(X)
    assert vars(estimator) == vars(clone(estimator))


def test_models_that_fail_are_marked_and_skipped():
    rows = np.concatenate([X[:4], np.repeat([[9.0, 9.0]], 8, axis=0)])
    found = choose((1, 14), rows=rows, covariance_type=["full", "EII"], reg_covar=0.0)
    failed = found.results_["failure"] != ""
    assert [model is None for model in found.estimators_] == failed.tolist()
    table = pandas.DataFrame(found.results_)
    too_many = table[table.n_components > 12].failure
    assert too_many.str.startswith("Expected n_samples >= n_components").all()
    assert table[failed & (table.n_components <= 12)].failure.str.contains("not positive-definite").any()
    assert table[failed][["bic", "aic", "icl", "log_likelihood"]].isna().all(axis=None)
    assert not table[failed].converged.any() and (table.n_parameters > 0).all()
    assert found.criterion_[failed].size and np.isfinite(found.criterion_[~failed]).all()


def test_only_if_all_models_fail_does_the_fit():
    estimator = GaussianMixtureIC([2, 3], covariance_type=["full", "diag"], reg_covar=0.0, random_state=0)
    with pytest.raises(DegenerateFitError, match=r"None of 4 models could be fitted. 2 full: Fitting the mixture"):
        estimator.fit(np.full((20, 2), 3.7))
    assert not hasattr(estimator, "best_estimator_") and not hasattr(estimator, "n_features_in_")
    fitted = choose()
    before = vars(fitted).copy()
    with pytest.raises(DegenerateFitError):
        fitted.set_params(reg_covar=0.0).fit(np.full((20, 3), 3.7))
    assert vars(fitted) == before | {"reg_covar": 0.0}


def test_only_the_best_model_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = choose((1, 12), covariance_type=["diag"], max_iter=8)
    assert not found.results_["converged"].all() and found.converged_
    with pytest.warns(ConvergenceWarning, match="did not converge") as caught:
        choose((3, 3), covariance_type="full", max_iter=1, tol=0.0)
    assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(RegularisationWarning, match="tenth of the variance"):
        choose((1, 2), rows=1e-4 * X)
    with pytest.warns(DegenerateComponentWarning, match="collapsed"):
        choose((1, 2), rows=np.full((20, 2), 3.7), covariance_type="diag")


def test_held_out_rows_have_no_part_in_the_models_but_in_the_best():
    found = choose((1, 4), criterion="heldout", validation_fraction=0.3)
    again = choose((1, 4), criterion="heldout", validation_fraction=0.3)
    np.testing.assert_array_equal(found.criterion_, again.criterion_)
    held = np.isin(np.arange(150), np.random.RandomState(0).permutation(150)[:45])
    for model, value in zip(found.estimators_, found.criterion_, strict=True):
        assert value == pytest.approx(-2 * 45 * model.score(X[held]), rel=1e-12)
    best = int(found.criterion_.argmin())
    kept = found.estimators_[best]
    alone = GaussianMixture(kept.n_components, covariance_type=kept.covariance_type, random_state=0).fit(X[~held])
    np.testing.assert_array_equal(kept.means_, alone.means_)
    assert found.best_estimator_.score(X) > kept.score(X)
    assert found.best_estimator_ is not kept


def test_held_out_rows_bring_their_weights():
    weights = np.arange(150) % 3
    found = choose((2, 3), criterion="heldout", weights=weights)
    rows, weights = X[weights > 0], weights[weights > 0]
    held = np.isin(np.arange(100), np.random.RandomState(0).permutation(100)[:20])
    for model, value in zip(found.estimators_, found.criterion_, strict=True):
        likelihood = model.score(rows[held], sample_weight=weights[held]) * weights[held].sum()
        assert value == pytest.approx(-2 * likelihood, rel=1e-12)


@pytest.mark.slow
def test_weights_prior_missing_values_and_acceleration_reach_the_grid():
    times = np.random.default_rng(0).integers(0, 4, size=150)
    ours, theirs = choose(weights=times), choose(rows=np.repeat(X, times, axis=0))
    np.testing.assert_allclose(ours.criterion_, theirs.criterion_, rtol=1e-11)
    prior = Prior(shrinkage=5.0)
    assert choose(prior=prior).best_estimator_.prior_.shrinkage == 5.0
    rows = X.copy()
    rows[::7, 0] = np.nan
    found = choose(rows=rows, missing="em")
    alone = GaussianMixture(3, covariance_type=found.covariance_type_, random_state=0, missing="em").fit(rows)
    assert found.n_components_ == 3 and found.bic(rows) == alone.bic(rows)
    assert choose(acceleration="squarem").best_estimator_.acceleration == "squarem"
    rows[:, 1] = np.nan
    with pytest.raises(ValueError, match="no observed value of feature 1"):
        choose(rows=rows, missing="em")


def test_what_is_asked_of_the_best():
    found = choose()
    best = found.best_estimator_
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        np.testing.assert_array_equal(getattr(found, name), getattr(best, name))
    for name in ("predict", "predict_proba", "score_samples", "score", "bic", "aic", "icl"):
        np.testing.assert_array_equal(getattr(found, name)(X), getattr(best, name)(X))
    assert found.n_iter_ == best.n_iter_ and found.converged_ == best.converged_
    assert found.lower_bound_ == best.lower_bound_ and found.mixture_ == best.mixture_
    assert found.n_parameters_ == best.n_parameters_
    np.testing.assert_array_equal(found.sample(5)[0], best.sample(5)[0])
    for ours, theirs in zip(found.sample(5, 3), best.sample(5, 3), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(found.sample(5, 3)[0], found.sample(5)[0])
    kept = found.predict_proba(X, top=1)
    np.testing.assert_array_equal(kept.toarray(), best.predict_proba(X, top=1).toarray())
    assert kept.nnz == len(X)
    np.testing.assert_array_equal(clone(found).fit_predict(X), found.predict(X))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).predict(X), found.predict(X))


@pytest.mark.parametrize("name", ["predict", "score", "icl", "plot", "mixture_"])
def test_before_a_fit_there_is_no_answer(name):
    with pytest.raises(NotFittedError):
        getattr(GaussianMixtureIC(), name)(*[X] * (name != "plot"))


def test_frames_and_float32():
    frame = pandas.DataFrame(X.astype(np.float32), columns=["a", "b"])
    found = choose((2, 3), rows=frame)
    assert list(found.feature_names_in_) == list(found.best_estimator_.feature_names_in_) == ["a", "b"]
    assert found.means_.dtype == np.float32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found.predict(frame)


def test_the_random_state_is_one_for_all_models():
    found = choose((2, 3), random_state=None)
    assert len({model.random_state for model in found.estimators_}) == 1
    state = np.random.RandomState(5)
    seeds = {choose((1, 1), random_state=state).best_estimator_.random_state for _ in range(2)}
    assert len(seeds) == 2


def interrupt(monkeypatch, at):
    """Ctrl-C in the search for the `at`-th start."""
    calls, kmeans = [], initialise.STARTS["kmeans"]

    def start(*given):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return kmeans(*given)

    monkeypatch.setitem(initialise.STARTS, "kmeans", start)


def test_an_interrupt_keeps_the_models_so_far(monkeypatch):
    interrupt(monkeypatch, 5)
    with pytest.warns(ConvergenceWarning, match="Interrupted: 4 of 12 models were fitted") as caught:
        found = choose()
    assert len(caught) == 1 and len(found.results_["bic"]) == len(found.estimators_) == 4
    assert found.n_components_ in (1, 2)


def test_an_interrupt_before_there_is_a_model_is_one(monkeypatch):
    interrupt(monkeypatch, 1)
    estimator = GaussianMixtureIC()
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X)
    assert not hasattr(estimator, "n_features_in_")


class Bar:
    """What tqdm's bars offer that is used."""

    seen: ClassVar[list] = []

    def __init__(self, models, unit):
        self.models, self.unit = models, unit

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.seen.append("closed")

    def __iter__(self):
        return iter(self.models)

    def set_description(self, text):
        self.seen.append(text)


def test_a_bar_names_models_and_ends_with_the_fit(monkeypatch):
    monkeypatch.setattr(selection, "import_tqdm", lambda: Bar)
    choose((1, 2), progress=True)
    assert Bar.seen == [f"{k} {name}" for k in (1, 2) for name in ("full", "spherical", "EEI")] + ["closed"]


def test_without_tqdm_there_is_no_bar(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="progress=True needs tqdm"):
        choose(progress=True)


def test_the_picture_has_a_line_for_every_structure():
    found = choose((1, 4))
    ax = found.plot()
    lines = {line.get_label(): line for line in ax.get_lines()}
    for name in ("full", "spherical", "EEI"):
        expected = found.criterion_[found.results_["covariance_type"] == name]
        np.testing.assert_array_equal(lines[name].get_ydata(), expected)
        np.testing.assert_array_equal(lines[name].get_xdata(), [1, 2, 3, 4])
    assert ax.get_title() == f"BIC: lowest with 3 components, {found.covariance_type_}"
    assert found.plot("icl", ax=ax) is ax and ax.get_ylabel().startswith("ICL")
    with pytest.raises(ValueError, match="no value of 'heldout'"):
        found.plot("heldout")
    with pytest.raises(ValueError, match="criterion must be one of bic, aic, icl, heldout, but got 'bits'"):
        found.plot("bits")


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks():
    check_estimator(GaussianMixtureIC((1, 2), covariance_type=["full", "EII"], random_state=0))
