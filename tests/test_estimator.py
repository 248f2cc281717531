"""GaussianMixture behaves as scikit-learn's does, and the few things it does better."""

import inspect
import pickle
import re
import tracemalloc
import warnings

import numba
import numpy as np
import pandas
import polars
import pytest
import sklearn
from reference import FAMILIAR
from sklearn import mixture as theirs
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.fixes import parse_version

from fastgmm import DegenerateComponentWarning, DegenerateFitError, GaussianMixture, Mixture, RegularisationWarning
from fastgmm.covariance import STRUCTURES
from fastgmm.data import lend_random
from fastgmm.em.initialise import STARTS
from fastgmm.mixture import evaluation
from fastgmm.sources import ArrayRows

ARRAYS = ["weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"]
FITTED = [*ARRAYS, "converged_", "n_iter_", "lower_bound_", "lower_bounds_", "n_features_in_"]

every_structure = pytest.mark.parametrize("covariance_type", FAMILIAR)
every_start = pytest.mark.parametrize("init_params", STARTS)
like_release_1_9 = pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.9"),
    reason="attributes, messages and frames are those of scikit-learn 1.9",
)


@pytest.fixture(scope="module")
def X():
    return make_blobs(150, n_features=2, centers=[[0, 0], [6, 1], [0, 7]], random_state=3)[0]


@pytest.fixture(scope="module")
def fitted(X):
    return {name: GaussianMixture(3, covariance_type=name, random_state=0).fit(X) for name in FAMILIAR}


def start(X, k=2):
    """Options that make both libraries start from the same parameters."""
    precisions = np.stack([np.eye(X.shape[1])] * k)
    return {"weights_init": np.full(k, 1 / k), "means_init": X[:k], "precisions_init": precisions}


def test_constructor_begins_as_scikit_learns():
    ours = [(p.name, p.default, p.kind) for p in inspect.signature(GaussianMixture).parameters.values()]
    expected = [(p.name, p.default, p.kind) for p in inspect.signature(theirs.GaussianMixture).parameters.values()]
    assert ours[: len(expected)] == expected
    more = {"n_jobs": None, "progress": False, "callback": None, "prior": None, "missing": "error"}
    more |= {"acceleration": None, "learning_decay": 0.7, "learning_offset": 1.0}
    assert ours[len(expected) :] == [(*item, inspect.Parameter.KEYWORD_ONLY) for item in more.items()]


def test_public_methods_of_scikit_learn_are_all_there():
    public = {name for name in dir(theirs.GaussianMixture) if not name.startswith("_")}
    assert public - set(dir(GaussianMixture)) == set()
    for name in public:
        expected = inspect.signature(getattr(theirs.GaussianMixture, name)).parameters
        assert list(inspect.signature(getattr(GaussianMixture, name)).parameters)[: len(expected)] == list(expected)


def test_get_and_set_params_and_clone():
    gm = GaussianMixture(3, covariance_type="diag", means_init=[[0.0], [1.0], [2.0]], n_jobs=2)
    copy = clone(gm)
    assert copy.get_params() == gm.get_params() | {"means_init": copy.means_init}
    assert copy.set_params(n_components=5, tol=0.1).get_params()["n_components"] == 5
    assert gm.n_components == 3


@every_structure
def test_attributes_after_fit(fitted, covariance_type):
    gm = fitted[covariance_type]
    k, d = 3, 2
    shape = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}[covariance_type]
    assert gm.weights_.shape == (k,) and gm.means_.shape == (k, d)
    assert gm.covariances_.shape == gm.precisions_.shape == gm.precisions_cholesky_.shape == shape
    assert {getattr(gm, name).dtype for name in ARRAYS} == {np.dtype(np.float64)}
    assert gm.converged_ is True and gm.n_iter_ == len(gm.lower_bounds_) and gm.lower_bound_ == gm.lower_bounds_[-1]
    assert gm.n_features_in_ == 2 and not hasattr(gm, "feature_names_in_")
    assert abs(gm.weights_.sum() - 1) < 1e-14


@every_structure
def test_precisions_and_their_factor_invert_the_covariances(fitted, covariance_type):
    gm = fitted[covariance_type]
    if covariance_type in ("diag", "spherical"):
        np.testing.assert_allclose(gm.precisions_ * gm.covariances_, 1, rtol=1e-13)
        np.testing.assert_allclose(gm.precisions_cholesky_**2, gm.precisions_, rtol=1e-13)
        return
    product = gm.precisions_ @ gm.covariances_
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(2), product.shape), atol=1e-12)
    upper = gm.precisions_cholesky_
    np.testing.assert_array_equal(upper, np.triu(upper))
    np.testing.assert_allclose(upper @ upper.swapaxes(-1, -2), gm.precisions_, rtol=1e-12)


@like_release_1_9
@every_structure
@pytest.mark.parametrize("max_iter", [1, 2, 20])
def test_same_answer_as_scikit_learn_from_the_same_start(X, covariance_type, max_iter):
    one = GaussianMixture(3, covariance_type=covariance_type, max_iter=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        begin = one.fit(X[:40])
        options = {
            "covariance_type": covariance_type,
            "tol": 0.0,
            "max_iter": max_iter,
            "weights_init": begin.weights_,
            "means_init": begin.means_,
            "precisions_init": begin.precisions_,
        }
        ours = GaussianMixture(3, **options).fit(X)
        expected = theirs.GaussianMixture(3, **options).fit(X)
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(ours, name), getattr(expected, name), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.lower_bounds_, expected.lower_bounds_, rtol=1e-11)
    np.testing.assert_allclose(ours.score_samples(X), expected.score_samples(X), rtol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(X), expected.predict_proba(X), atol=1e-9)
    np.testing.assert_array_equal(ours.predict(X), expected.predict(X))
    assert ours.n_iter_ == expected.n_iter_ and ours.converged_ == expected.converged_
    assert ours.bic(X) == pytest.approx(expected.bic(X), rel=1e-11)
    assert ours.aic(X) == pytest.approx(expected.aic(X), rel=1e-11)


@every_structure
def test_float32_stays_float32(X, covariance_type):
    rows = X.astype(np.float32)
    gm = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(rows)
    assert {getattr(gm, name).dtype for name in ARRAYS} == {np.dtype(np.float32)}
    assert gm.score_samples(rows).dtype == gm.predict_proba(rows).dtype == np.float32
    assert gm.predict(rows).dtype == np.int64
    exact = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(rows.astype(np.float64))
    np.testing.assert_allclose(gm.means_, exact.means_, rtol=1e-4, atol=1e-4)


@every_start
@every_structure
def test_max_iter_zero_leaves_a_complete_start(X, init_params, covariance_type):
    gm = GaussianMixture(3, covariance_type=covariance_type, init_params=init_params, max_iter=0, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gm.fit(X)
    assert all(hasattr(gm, name) for name in FITTED)
    assert all(np.isfinite(getattr(gm, name)).all() for name in ARRAYS)
    assert gm.n_iter_ == 0 and gm.converged_ is False and gm.lower_bounds_ == [] and gm.lower_bound_ == -np.inf
    assert gm.predict(X).shape == (150,)


def test_max_iter_zero_with_every_init_given(X):
    options = start(X)
    gm = GaussianMixture(2, max_iter=0, **options).fit(X)
    np.testing.assert_array_equal(gm.means_, options["means_init"])
    np.testing.assert_array_equal(gm.weights_, options["weights_init"])
    np.testing.assert_allclose(gm.precisions_, options["precisions_init"], rtol=1e-15)
    np.testing.assert_allclose(gm.covariances_, options["precisions_init"], rtol=1e-15)


@every_start
def test_each_start_fits(X, init_params):
    gm = GaussianMixture(3, init_params=init_params, random_state=0, n_init=5, tol=1e-6, max_iter=500).fit(X)
    assert gm.score(X) == pytest.approx(theirs.GaussianMixture(3, random_state=0, tol=1e-6).fit(X).score(X), abs=1e-3)


@every_start
def test_same_seed_same_bits(X, init_params):
    one, two = (GaussianMixture(3, init_params=init_params, random_state=7).fit(X) for _ in range(2))
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_seeds_are_random_states_that_fits_do_not_share(X):
    with lend_random(5) as one, lend_random(5) as other:
        assert one is not other
        for random in (one, other):
            assert np.array_equal(random.get_state()[1], np.random.RandomState(5).get_state()[1])
            random.normal()  # which leaves half of what it drew
    with lend_random(5) as again:
        assert again in (one, other) and again.normal() == np.random.RandomState(5).normal()
    kept = []
    GaussianMixture(3, init_params=lambda X, k, random: kept.append(random) or X[:k], random_state=5).fit(X)
    before = kept[0].get_state()[1:3]
    GaussianMixture(3, random_state=5).fit(X)
    assert all(map(np.array_equal, before, kept[0].get_state()[1:3]))

    def fit_within(*_):
        if not inner:
            inner.append(GaussianMixture(3, init_params="random", random_state=0).fit(X))

    inner = []
    outer = GaussianMixture(3, init_params="random", n_init=2, random_state=0, callback=fit_within).fit(X)
    alone = GaussianMixture(3, init_params="random", n_init=2, random_state=0).fit(X)
    assert np.array_equal(outer.means_, alone.means_)


def test_lists_serve_as_inits(X):
    from_arrays = GaussianMixture(2, **start(X)).fit(X)
    from_lists = GaussianMixture(2, **{name: value.tolist() for name, value in start(X).items()}).fit(X)
    np.testing.assert_array_equal(from_lists.means_, from_arrays.means_)


def test_inits_are_not_written_to(X):
    options = start(X)
    before = {name: value.copy() for name, value in options.items()}
    GaussianMixture(2, **options).fit(X)
    for name, value in options.items():
        np.testing.assert_array_equal(value, before[name])


def test_best_of_n_init_is_kept(X):
    def fit(random, n_init):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            gm = GaussianMixture(3, init_params="random", random_state=random, n_init=n_init, max_iter=10)
            return gm.fit(X)

    random = np.random.RandomState(5)
    bounds = [fit(random, 1).lower_bound_ for _ in range(6)]
    best = fit(np.random.RandomState(5), 6)
    assert best.lower_bound_ == max(bounds) > min(bounds)


@pytest.mark.compiled
def test_default_starts_are_as_good_as_scikit_learns():
    """Our k-means is our own: over problems and seeds the optima reached are neither worse nor better on average."""
    differences = []
    for problem, (k, d, spread) in enumerate([(3, 2, 1.0), (5, 2, 2.0), (6, 10, 4.0)]):
        X, _ = make_blobs(300, n_features=d, centers=k, cluster_std=spread, random_state=problem)
        for seed in range(8):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ours = GaussianMixture(k, random_state=seed, covariance_type="diag").fit(X).score(X)
                reference = theirs.GaussianMixture(k, random_state=seed, covariance_type="diag").fit(X).score(X)
            differences.append(ours - reference)
    differences = np.array(differences)
    error = differences.std() / np.sqrt(len(differences))
    assert differences.mean() > -3 * error - 1e-3
    assert np.median(differences) > -1e-3


@every_structure
def test_two_warm_steps_are_two_steps(X, covariance_type):
    options = {"covariance_type": covariance_type, "random_state": 0, "tol": 0.0, "init_params": "random"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warm = GaussianMixture(3, warm_start=True, max_iter=1, **options).fit(X).fit(X)
        cold = GaussianMixture(3, max_iter=2, **options).fit(X)
    np.testing.assert_allclose(warm.means_, cold.means_, rtol=1e-12)
    assert warm.lower_bound_ == pytest.approx(cold.lower_bound_, rel=1e-13)
    assert warm.n_iter_ == 1


def test_warm_start_notices_convergence(X):
    gm = GaussianMixture(3, warm_start=True, random_state=0).fit(X)
    assert gm.fit(X).n_iter_ == 1 and gm.converged_


@pytest.mark.parametrize("change", [{"d": 3}, {"k": 2}])
def test_warm_start_with_other_shapes_is_an_error(X, change):
    gm = GaussianMixture(3, warm_start=True, random_state=0).fit(X)
    gm.set_params(n_components=change.get("k", 3))
    rows = np.random.default_rng(0).normal(size=(50, change.get("d", 2)))
    with pytest.raises(ValueError, match="With warm_start=True the fit goes on from 3 components in 2 features"):
        gm.fit(rows)
    assert gm.n_features_in_ == 2 and gm.predict(X).shape == (150,)


def test_without_warm_start_shapes_may_change(X):
    gm = GaussianMixture(3, random_state=0).fit(X)
    assert gm.fit(np.random.default_rng(0).normal(size=(50, 3))).means_.shape == (3, 3)


GOOD = np.random.default_rng(0).normal(size=(20, 2))
SAME_ERRORS = {
    "no components": ({"n_components": 0}, GOOD),
    "fractional components": ({"n_components": 1.5}, GOOD),
    "negative tol": ({"tol": -1}, GOOD),
    "negative max_iter": ({"max_iter": -1}, GOOD),
    "no starts": ({"n_init": 0}, GOOD),
    "random_state": ({"random_state": "dice"}, GOOD),
    "warm_start": ({"warm_start": "yes"}, GOOD),
    "verbose": ({"verbose": -1}, GOOD),
    "verbose_interval": ({"verbose_interval": 0}, GOOD),
    "weights_init of a wrong type": ({"weights_init": 0.5}, GOOD),
    "one row": ({}, GOOD[:1]),
    "no rows": ({}, GOOD[:0]),
    "no features": ({}, GOOD[:, :0]),
    "one axis": ({}, GOOD[:, 0]),
    "three axes": ({}, GOOD[:, :, None]),
    "NaN": ({}, np.where(GOOD > 1, np.nan, GOOD)),
    "infinite": ({}, np.where(GOOD > 1, np.inf, GOOD)),
    "complex": ({}, GOOD + 1j),
    "text": ({}, GOOD.astype(str).astype(object) + "x"),
    "fewer rows than components": ({"n_components": 21}, GOOD),
    "weights of a wrong shape": ({"n_components": 2, "weights_init": [0.5, 0.25, 0.25]}, GOOD),
    "weights below 0": ({"n_components": 2, "weights_init": [-0.5, 1.5]}, GOOD),
    "weights that sum to 0.9": ({"n_components": 2, "weights_init": [0.5, 0.4]}, GOOD),
    "means of a wrong shape": ({"n_components": 2, "means_init": [[0.0, 1.0]]}, GOOD),
    "full precisions of a wrong shape": ({"n_components": 2, "precisions_init": np.eye(2)}, GOOD),
    "full precisions not symmetric": ({"precisions_init": [[[1.0, 1.0], [0.0, 1.0]]]}, GOOD),
    "full precisions not positive": ({"precisions_init": [[[1.0, 2.0], [2.0, 1.0]]]}, GOOD),
    "tied precisions not positive": ({"covariance_type": "tied", "precisions_init": [[1.0, 2.0], [2.0, 1.0]]}, GOOD),
    "tied precisions of a wrong shape": ({"covariance_type": "tied", "precisions_init": np.eye(3)}, GOOD),
    "diag precisions not positive": ({"covariance_type": "diag", "precisions_init": [[1.0, 0.0]]}, GOOD),
    "spherical precisions not positive": ({"covariance_type": "spherical", "precisions_init": [-1.0]}, GOOD),
    "spherical precisions of a wrong shape": ({"covariance_type": "spherical", "precisions_init": [1.0, 1.0]}, GOOD),
}


def message_of(function, *arguments):
    with pytest.raises((ValueError, TypeError)) as caught:
        function(*arguments)
    # scikit-learn lists a set's options in no particular order.
    message = re.sub(r"\{(.*?)\}", lambda found: ", ".join(sorted(found[1].split(", "))), str(caught.value))
    return type(caught.value).__name__, message


@pytest.mark.parametrize("case", SAME_ERRORS)
def test_fit_raises_what_scikit_learn_raises(case):
    options, rows = SAME_ERRORS[case]
    expected = message_of(theirs.GaussianMixture(**options).fit, rows)
    assert message_of(GaussianMixture(**options).fit, rows) == expected
    assert message_of(GaussianMixture(**options).fit_predict, rows) == expected


class Ordinary(GaussianMixture):
    """Every parameter is validated by scikit-learn."""


def test_defaults_are_valid():
    BaseEstimator._validate_params(GaussianMixture())


@pytest.mark.parametrize("name", inspect.signature(GaussianMixture).parameters)
def test_parameters_are_refused_as_scikit_learn_refuses_them(name):
    """Also where an equal value of another type, or the same in another place, has been found valid."""
    values = [
        1,
        1.0,
        True,
        0,
        0.0,
        -0.0,
        -1,
        0.5,
        np.nan,
        np.inf,
        "full",
        "em",
        "kmeans",
        "auto",
        "x",
        None,
        [1.0],
        ...,
    ]
    for value in [*values, *values, *reversed(values), np.int64(1), np.float32(0.7), np.True_, np.array([0.5]), len]:

        def outcome(kind, name=name, value=value):
            try:
                return kind(**{name: value})._validate_params()
            except (ValueError, TypeError) as error:
                return type(error), str(error).replace(kind.__name__, "it")

        assert outcome(GaussianMixture) == outcome(Ordinary), value


def test_nobody_validates_parameters_where_scikit_learn_is_told_not_to():
    with sklearn.config_context(skip_parameter_validation=True):
        GaussianMixture(verbose_interval="never").fit(GOOD)
    with pytest.raises(ValueError, match="verbose_interval"):
        GaussianMixture(verbose_interval="never").fit(GOOD)


class Looked(np.ndarray):
    """Rows that scikit-learn always looks at."""


PLAIN = {
    "float64": GOOD,
    "float32": GOOD.astype(np.float32),
    "columns": np.asfortranarray(GOOD),
    "strided": np.repeat(GOOD, 2, axis=0)[::2, ::-1],
    "read-only": np.frombuffer(GOOD.tobytes()).reshape(GOOD.shape),
    "two rows": GOOD[:2],
    "one row": GOOD[:1],
    "no rows": GOOD[:0],
    "one feature": GOOD[:, :1],
    "no features": GOOD[:, :0],
    "one axis": GOOD[:, 0],
    "three axes": GOOD[:, :, None],
    "NaN": np.where(GOOD > 1, np.nan, GOOD),
    "infinite": np.where(GOOD > 1, np.inf, GOOD),
    "complex": GOOD + 1j,
    "text": GOOD.astype(str),
    "objects": GOOD.astype(object),
    "float16": GOOD.astype(np.float16),
    "long double": GOOD.astype(np.longdouble),
    "swapped": GOOD.astype(">f8"),
    "whole": (9 * GOOD).astype(int),
}


@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict", "score"])
@pytest.mark.parametrize("rows", PLAIN)
def test_arrays_that_scikit_learn_would_leave_as_they_are(rows, method):
    """They are taken without it, to the same answers, errors and numbers of features."""

    def outcome(rows):
        gm = GaussianMixture(random_state=0, max_iter=2, tol=10.0)
        if method in ("predict", "score"):
            gm.fit(GOOD)
        try:
            found = getattr(gm, method)(rows)
        except ValueError as error:
            return str(error), gm.__dict__.keys()
        return (found.means_.tolist(), found.n_features_in_) if found is gm else np.asarray(found).tolist()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert outcome(PLAIN[rows]) == outcome(PLAIN[rows].view(Looked))


def test_arrays_forget_the_names_of_a_frames_features(X):
    gm = GaussianMixture(3, random_state=0).fit(feature_named(pandas.DataFrame, X)).fit(X)
    assert not hasattr(gm, "feature_names_in_")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gm.predict(X)


def test_finite_is_assumed_where_scikit_learn_is_told_so(X):
    spoilt = np.where(X > 6, np.nan, X)
    for rows in (spoilt, spoilt.view(Looked)):
        with sklearn.config_context(assume_finite=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ValueError) as caught:
                GaussianMixture(2, random_state=0).fit(rows)
        assert "NaN" not in str(caught.value)


def test_the_error_about_structures_names_ours_as_well():
    classes = (GaussianMixture, theirs.GaussianMixture)
    ours, expected = (message_of(kind(covariance_type="banana").fit, GOOD) for kind in classes)
    names = ", ".join(f"'{name}'" for name in sorted(STRUCTURES))
    assert ours[0] == expected[0]
    assert ours[1] == expected[1].replace("'diag', 'full', 'spherical', 'tied'", names)


def test_an_error_names_what_scikit_learn_has_not():
    both = r"must be a float in the range \[0.0, inf\) or a str among {'auto'}. Got "
    for bad in (-1, "none"):
        with pytest.raises(ValueError, match=f"{both}{bad!r} instead"):
            GaussianMixture(reg_covar=bad).fit(GOOD)


def test_an_init_with_nan_is_named():
    with pytest.raises(ValueError, match="Input means contains NaN"):
        GaussianMixture(1, means_init=[[0.0, np.nan]]).fit(GOOD)


def test_sparse_input_raises_what_scikit_learn_raises():
    from scipy.sparse import csr_array

    rows = csr_array(GOOD)
    assert message_of(GaussianMixture().fit, rows) == message_of(theirs.GaussianMixture().fit, rows)


METHODS = ("predict", "predict_proba", "score_samples", "score", "bic", "aic")


@pytest.mark.parametrize("method", METHODS)
def test_queries_raise_what_scikit_learn_raises(fitted, X, method):
    reference = theirs.GaussianMixture(3, random_state=0).fit(X)
    for rows in (GOOD[:, :1], GOOD[0], np.full((3, 2), np.nan), GOOD[:0]):
        ours = message_of(getattr(fitted["full"], method), rows)
        assert ours == message_of(getattr(reference, method), rows)


@pytest.mark.parametrize("method", [*METHODS, "sample", "mixture_"])
def test_unfitted(method):
    gm = GaussianMixture()
    with pytest.raises(NotFittedError, match="This GaussianMixture instance is not fitted yet"):
        getattr(gm, method)(*([GOOD] if method in METHODS else []))


def test_sample_of_nothing(fitted):
    message = "Invalid value for 'n_samples': 0 . The sampling requires at least one sample."
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted["full"].sample(0)


@like_release_1_9
@every_structure
def test_ill_defined_covariance(covariance_type):
    """The message begins as scikit-learn's and goes on with what failed."""
    rows = np.repeat([[0.0, 0.0], [1.0, 1.0]], 10, axis=0)
    options = {"covariance_type": covariance_type, "reg_covar": 0, "random_state": 0, "n_components": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, expected = message_of(theirs.GaussianMixture(**options).fit, rows)
    name, message = message_of(GaussianMixture(**options).fit, rows)
    assert name == "DegenerateFitError" and message.startswith(expected)
    assert "start 0 at initialisation" in message and "is not positive-definite" in message


def test_not_converged(X):
    def warning_of(estimator):
        with pytest.warns(ConvergenceWarning) as caught:
            estimator.fit(X)
        return [str(w.message) for w in caught if w.category is ConvergenceWarning], caught[0].filename

    ours, filename = warning_of(GaussianMixture(3, max_iter=1, random_state=0))
    assert ours == warning_of(theirs.GaussianMixture(3, max_iter=1, random_state=0))[0]
    assert filename == __file__


def test_n_jobs_zero(X):
    with pytest.raises(ValueError, match="n_jobs must not be 0"):
        GaussianMixture(n_jobs=0).fit(X)


@pytest.mark.threads
@pytest.mark.parametrize("n_jobs", [None, 1, 2, -1])
def test_n_jobs_leaves_the_callers_setting_and_the_bits(fitted, X, n_jobs):
    before = numba.get_num_threads()
    gm = GaussianMixture(3, random_state=0, n_jobs=n_jobs).fit(X)
    assert numba.get_num_threads() == before
    np.testing.assert_array_equal(gm.covariances_, fitted["full"].covariances_)
    with pytest.raises(ValueError, match="n_samples"):
        GaussianMixture(200, n_jobs=n_jobs).fit(X)
    assert numba.get_num_threads() == before


def printed(capsys, estimator, X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(X)
    return capsys.readouterr().out


@pytest.mark.threads
def test_n_jobs_holds_in_every_pass(X, monkeypatch):
    seen = set()
    for name in ("reduce", "map"):
        verb = getattr(ArrayRows, name)

        def spy(*arguments, verb=verb, **options):
            seen.add(numba.get_num_threads())
            return verb(*arguments, **options)

        monkeypatch.setattr(ArrayRows, name, spy)
    gm = GaussianMixture(3, random_state=0, n_jobs=1)
    gm.fit_predict(X), gm.predict(X), gm.predict_proba(X), gm.score(X), gm.bic(X)
    assert seen == {1}


@pytest.mark.parametrize("verbose", [1, 2])
@pytest.mark.parametrize("max_iter", [3, 100])
def test_verbose_prints_what_scikit_learn_prints(capsys, X, verbose, max_iter):
    options = {"verbose": verbose, "verbose_interval": 2, "max_iter": max_iter, "tol": 1e-2, **start(X)}
    ours = printed(capsys, GaussianMixture(2, **options), X)
    expected = printed(capsys, theirs.GaussianMixture(2, **options), X)
    untimed = re.compile(r"time lapse [\d.]+s")
    assert untimed.sub("", ours) == untimed.sub("", expected)
    assert "Iteration 2" in ours


def test_silent_by_default(capsys, X):
    assert printed(capsys, GaussianMixture(3, random_state=0), X) == ""


@every_structure
def test_queries_agree_with_each_other(fitted, X, covariance_type):
    gm = fitted[covariance_type]
    proba = gm.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_array_equal(gm.predict(X), proba.argmax(axis=1))
    assert gm.score(X) == pytest.approx(gm.score_samples(X).mean(), rel=1e-14)
    np.testing.assert_array_equal(clone(gm).fit_predict(X), gm.predict(X))


@every_structure
def test_far_queries(fitted, covariance_type):
    gm = fitted[covariance_type]
    rows = np.array([[1e200, 0.0], [-1e200, 1e200], [0.0, 0.0], [1e308, -1e308]])
    proba = gm.predict_proba(rows)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_array_equal(gm.predict(rows), proba.argmax(axis=1))
    np.testing.assert_array_equal(np.isneginf(gm.score_samples(rows)), [True, True, False, True])
    assert gm.score(rows) == -np.inf


def test_far_queries_go_to_the_nearest_component():
    gm = GaussianMixture(2, covariance_type="spherical", random_state=0).fit([[-1.0], [-1.2], [1.0], [1.2]])
    proba = gm.predict_proba([[-1e200], [1e200]])
    assert set(proba.ravel()) == {0.0, 1.0}
    wider = gm.covariances_.argmax()
    np.testing.assert_array_equal(proba.argmax(axis=1), [wider, wider])


@every_structure
def test_sample_is_grouped_and_follows_the_mixture(fitted, covariance_type):
    gm = clone(fitted[covariance_type]).fit(fitted[covariance_type].sample(300)[0])
    points, labels = gm.sample(4000)
    assert points.shape == (4000, 2) and labels.shape == (4000,)
    assert (np.diff(labels) >= 0).all()
    np.testing.assert_allclose(np.bincount(labels) / 4000, gm.weights_, atol=0.04)
    np.testing.assert_allclose(points.mean(axis=0), gm.mixture_.mean, atol=0.3)
    np.testing.assert_allclose(np.cov(points.T), gm.mixture_.cov, atol=1.0)


def test_sample_follows_what_it_is_given():
    """None keeps the estimator's own seed; a number is one; a Generator or RandomState goes on."""
    gm = GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [9.0]], [1.0, 1.0], "spherical", random_state=3)
    np.testing.assert_array_equal(gm.sample(20)[0], gm.sample(20)[0])
    np.testing.assert_array_equal(gm.sample(20)[0], gm.sample(20, random_state=3)[0])
    assert not np.array_equal(gm.sample(20, 4)[0], gm.sample(20)[0])
    for make in (np.random.default_rng, np.random.RandomState):
        one, same = make(0), make(0)
        first, second = gm.sample(20, one), gm.sample(20, one)
        assert not np.array_equal(first[0], second[0])
        for points, labels in (first, second):
            found, components = gm.sample(20, same)
            np.testing.assert_array_equal(found, points)
            np.testing.assert_array_equal(components, labels)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("top", [1, 3, 7, 100])
def test_the_largest_probabilities_are_those_of_all(top, dtype, monkeypatch):
    """Also where they are found a few rows at a time."""
    monkeypatch.setattr(evaluation, "_SHARES", 7 * 16)
    random = np.random.default_rng(0)
    gm = GaussianMixture.from_parameters(np.full(7, 1 / 7), random.normal(size=(7, 2)), np.ones(7), "spherical")
    gm.means_ = gm.means_.astype(dtype)
    rows = random.normal(size=(50, 2)).astype(dtype)
    every, kept = gm.predict_proba(rows), gm.predict_proba(rows, top=top)
    m = min(top, 7)
    assert kept.shape == (50, 7) and kept.dtype == every.dtype and kept.nnz == 50 * m and kept.has_canonical_format
    components, shares = kept.indices.reshape(50, m), kept.data.reshape(50, m)
    np.testing.assert_array_equal(shares, np.take_along_axis(every, components, axis=1))
    np.testing.assert_array_equal(np.sort(shares, axis=1), np.sort(every, axis=1)[:, -m:])


@pytest.mark.parametrize("top", [0, -1, 1.5, "all"])
def test_how_many_probabilities_are_kept_is_a_count(top):
    gm = GaussianMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical")
    with pytest.raises(ValueError, match="top must be a whole number of at least 1, but got"):
        gm.predict_proba([[0.0]], top=top)


@pytest.mark.slow
def test_the_largest_probabilities_take_memory_of_their_own_size(monkeypatch):
    n, k, m = 20_000, 64, 1
    random = np.random.default_rng(0)
    gm = GaussianMixture.from_parameters(np.full(k, 1 / k), random.normal(size=(k, 1)), np.ones(k), "spherical")
    rows = random.normal(size=(n, 1))
    gm.predict_proba(rows[:5], top=m)  # compiles
    monkeypatch.setattr(evaluation, "_SHARES", 500 * k)
    tracemalloc.start()
    gm.predict_proba(rows, top=m)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * k * 8 / 4


def test_sample_of_one(fitted):
    points, labels = fitted["full"].sample()
    assert points.shape == (1, 2) and labels.shape == (1,)


@every_structure
def test_edited_attributes_count(fitted, X, covariance_type):
    gm = pickle.loads(pickle.dumps(fitted[covariance_type]))
    swap = [1, 0, 2]
    gm.means_, gm.weights_ = gm.means_[swap], gm.weights_[swap]
    if covariance_type != "tied":
        gm.covariances_, gm.precisions_cholesky_ = gm.covariances_[swap], gm.precisions_cholesky_[swap]
    np.testing.assert_allclose(gm.predict_proba(X), fitted[covariance_type].predict_proba(X)[:, swap], atol=1e-12)
    np.testing.assert_array_equal(gm.mixture_.means, gm.means_)
    assert gm.mixture_ != fitted[covariance_type].mixture_
    gm.means_[0] += 1.0
    np.testing.assert_array_equal(gm.mixture_.means, gm.means_)
    gm.weights_ = np.array([0.0, 0.0, 1.0])
    assert (gm.predict(X) == 2).all()


@every_structure
def test_mixture_has_the_estimators_densities(fitted, X, covariance_type):
    gm = fitted[covariance_type]
    assert isinstance(gm.mixture_, Mixture)
    np.testing.assert_allclose(gm.mixture_.logpdf(X), gm.score_samples(X), rtol=1e-12)
    np.testing.assert_allclose(gm.mixture_.responsibilities(X), gm.predict_proba(X), atol=1e-12)


def test_parameters_set_without_fit(fitted, X):
    gm = GaussianMixture(3)
    for name in ARRAYS:
        setattr(gm, name, getattr(fitted["full"], name))
    np.testing.assert_array_equal(gm.predict(X), fitted["full"].predict(X))


def test_a_failed_fit_leaves_the_estimator_as_it_was(X):
    gm = GaussianMixture(3, random_state=0).fit(pandas.DataFrame(X, columns=["a", "b"]))
    before = {name: np.copy(value) for name, value in vars(gm).items()}
    gm.set_params(reg_covar=0.0)
    before["reg_covar"] = np.array(0.0)
    rows = np.repeat(np.eye(3), 4, axis=0)
    for bad in (rows, np.full((4, 7), np.nan), np.ones((2, 9)), "text"):
        with pytest.raises(ValueError):
            gm.fit(bad)
        assert vars(gm).keys() == before.keys()
        for name, value in before.items():
            np.testing.assert_array_equal(getattr(gm, name), value)


def test_the_exception_carries_the_last_mixture():
    rows = np.concatenate([np.random.default_rng(0).normal(size=(50, 2)), [[30.0, 30.0]]])
    means = [[0.0, 0.0], [20.0, 20.0]]
    gm = GaussianMixture(2, reg_covar=0.0, weights_init=[0.5, 0.5], means_init=means, precisions_init=[np.eye(2)] * 2)
    with pytest.raises(DegenerateFitError, match="start 0 at iteration 1: the covariance of component 1 is") as caught:
        gm.fit(rows)
    assert isinstance(caught.value.mixture, Mixture)
    np.testing.assert_array_equal(caught.value.mixture.means, means)
    assert not hasattr(gm, "means_") and not hasattr(gm, "n_features_in_")


def failing_starts(count):
    """A start that fails its first `count` times, on a singular covariance, and then is as "random"."""
    calls = []

    def start(source, k, structure, prior, random):
        found = STARTS["random"](source, k, structure, prior, random)
        calls.append(1)
        return found._replace(failed=0) if len(calls) <= count else found

    return start


def test_a_failed_start_is_skipped(X, monkeypatch):
    monkeypatch.setitem(STARTS, "kmeans", failing_starts(3))
    gm = GaussianMixture(3, n_init=4, random_state=0).fit(X)
    assert np.isfinite(gm.lower_bound_)


def test_the_error_says_why_each_start_failed(X, monkeypatch):
    monkeypatch.setitem(STARTS, "kmeans", failing_starts(9))
    with pytest.raises(DegenerateFitError) as caught:
        GaussianMixture(3, n_init=7, random_state=0).fit(X)
    assert "start 4 at initialisation: the covariance of component 0" in str(caught.value)
    assert "; and 2 more." in str(caught.value)


def test_degenerate_components_are_named():
    rows = np.concatenate([np.random.default_rng(0).normal(size=(50, 2)), [[1e3, 1e3]]])
    means = [[1e3, 1e3], [0.0, 0.0], [-1e4, 1e4]]
    options = {"weights_init": [0.1, 0.8, 0.1], "means_init": means, "precisions_init": [np.eye(2)] * 3}
    with pytest.warns(DegenerateComponentWarning) as caught:
        GaussianMixture(3, **options).fit(rows)
    message = str(caught[0].message)
    assert "2 (empty)" in message and "0 (collapsed onto one point" in message and " 1 (" not in message
    assert caught[0].filename == __file__


def test_too_few_rows_for_a_full_covariance_are_named():
    rows = np.concatenate([np.random.default_rng(0).normal(size=(50, 3)), 100 + np.eye(3)[:2]])
    with pytest.warns(DegenerateComponentWarning, match="fewer rows than their covariance needs"):
        gm = GaussianMixture(2, random_state=0).fit(rows)
    assert gm.weights_.min() == pytest.approx(2 / 52)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianMixture(2, random_state=0, covariance_type="diag").fit(rows)
        GaussianMixture(2, random_state=0, covariance_type="tied").fit(rows)


@every_structure
def test_sound_fits_warn_of_nothing(X, covariance_type):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
def test_regularisation_that_rivals_a_feature_is_named(X, covariance_type):
    frame = pandas.DataFrame({"wide": X[:, 0], "narrow": 1e-4 * X[:, 1], "constant": 7.0})
    with pytest.warns(RegularisationWarning, match="of feature narrow .*StandardScaler, or lower reg_covar") as caught:
        GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(frame)
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag"])
@pytest.mark.parametrize("constant", [0.1, 1e9 / 3, -1e12 / 7])
def test_constant_features_are_no_matter_of_regularisation(X, covariance_type, constant):
    rows = np.column_stack([X, np.full(len(X), constant)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(rows)


@every_structure
def test_regularisation_warning_begins_at_a_tenth_of_the_variance(X, covariance_type):
    least = X.var(axis=0).min()
    options = {"covariance_type": covariance_type, "random_state": 0}
    if covariance_type != "spherical":
        with pytest.warns(RegularisationWarning, match="feature 0 "):
            GaussianMixture(1, reg_covar=0.105 * least, **options).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RegularisationWarning)
        GaussianMixture(1, reg_covar=0.095 * least, **options).fit(X)
        GaussianMixture(3, reg_covar=0.095 * least, **options).fit(X)


def feature_named(frame_class, X):
    return frame_class({"length": X[:, 0], "width": X[:, 1]})


@pytest.mark.parametrize("frame_class", [pandas.DataFrame, pytest.param(polars.DataFrame, marks=like_release_1_9)])
def test_frames(fitted, X, frame_class):
    frame = feature_named(frame_class, X)
    gm = GaussianMixture(3, random_state=0).fit(frame)
    np.testing.assert_array_equal(gm.feature_names_in_, ["length", "width"])
    np.testing.assert_array_equal(gm.means_, fitted["full"].means_)
    np.testing.assert_array_equal(gm.predict(frame), fitted["full"].predict(X))
    with pytest.warns(UserWarning, match="X does not have valid feature names, but GaussianMixture was fitted with"):
        gm.predict(X)
    with pytest.raises(ValueError, match="The feature names should match those that were passed during fit"):
        gm.predict(frame.rename({"width": "depth"}) if frame_class is polars.DataFrame else frame.add_prefix("x"))


def as_memory_map(X, tmp_path):
    np.save(tmp_path / "rows.npy", X)
    return np.load(tmp_path / "rows.npy", mmap_mode="r")


def as_read_only(X, tmp_path):
    copy = X.copy()
    copy.flags.writeable = False
    return copy


def as_fortran(X, tmp_path):
    return np.asfortranarray(X)


def as_strided(X, tmp_path):
    wide = np.full((2 * len(X), 5), np.nan)
    wide[::2, 1:4:2] = X
    return wide[::2, 1:4:2]


def as_reversed(X, tmp_path):
    return X[::-1, ::-1].copy()[::-1, ::-1]


def as_unaligned(X, tmp_path):
    buffer = np.empty(X.nbytes + 1, np.uint8)
    view = buffer[1:].view(np.float64).reshape(X.shape)
    view[...] = X
    return view


def as_big_endian(X, tmp_path):
    return X.astype(">f8")


def as_list(X, tmp_path):
    return X.tolist()


@pytest.mark.parametrize(
    "view", [as_memory_map, as_read_only, as_fortran, as_strided, as_reversed, as_unaligned, as_big_endian, as_list]
)
def test_any_view_has_the_same_fit(fitted, X, tmp_path, view):
    rows = view(X, tmp_path)
    gm = GaussianMixture(3, random_state=0).fit(rows)
    np.testing.assert_array_equal(gm.covariances_, fitted["full"].covariances_)
    np.testing.assert_array_equal(gm.score_samples(rows), fitted["full"].score_samples(X))
    np.testing.assert_array_equal(np.asarray(rows), X)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, np.float16, bool])
def test_other_types_fit_as_float64(dtype):
    rows = np.random.default_rng(0).integers(0, 2, size=(80, 3)).astype(dtype)
    gm = GaussianMixture(1).fit(rows)
    exact = GaussianMixture(1).fit(rows.astype(np.float64))
    assert gm.means_.dtype == np.float64
    np.testing.assert_array_equal(gm.covariances_, exact.covariances_)
    np.testing.assert_array_equal(gm.score_samples(rows), exact.score_samples(rows.astype(np.float64)))


@pytest.mark.compiled
@pytest.mark.parametrize("kind", ["float64", "int8", "float32", "fortran", "strided"])
def test_input_is_not_copied(kind):
    n, d = 1_000_000, 8  # a copy takes 64 MB; types that must be cast take blocks of 16 MB
    make = {
        "float64": lambda: np.ones((n, d)),
        "int8": lambda: np.ones((n, d), np.int8),
        "float32": lambda: np.ones((n, d), np.float32),
        "fortran": lambda: np.ones((n, d), order="F"),
        "strided": lambda: np.ones((n, 2 * d))[:, ::2],
    }
    rows = make[kind]()
    rows[::2, 0] = 0
    rows[::3, 1] = 5
    gm = GaussianMixture(2, covariance_type="diag", random_state=0, init_params="random_from_data", max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gm.fit(rows[:100])  # compiled before memory is counted
        tracemalloc.start()
        try:
            gm.fit(rows)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 0.75 * n * d * 8


def test_pipeline_and_grid_search(X):
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(random_state=0))
    grid = {"gaussianmixture__n_components": [1, 3], "gaussianmixture__covariance_type": ["full", "spherical"]}
    search = GridSearchCV(pipeline, grid, cv=3, n_jobs=1).fit(X)
    assert search.best_params_["gaussianmixture__n_components"] == 3
    assert search.best_estimator_.predict(X).shape == (150,)


@every_structure
def test_pickle(fitted, X, covariance_type):
    copy = pickle.loads(pickle.dumps(fitted[covariance_type]))
    np.testing.assert_array_equal(copy.score_samples(X), fitted[covariance_type].score_samples(X))
    assert copy.mixture_ == fitted[covariance_type].mixture_


def test_the_exception_pickles():
    error = pickle.loads(pickle.dumps(DegenerateFitError("why", Mixture([1.0], [[0.0]], [1.0], "spherical"))))
    assert str(error) == "why" and error.mixture.n_components == 1
