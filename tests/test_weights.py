"""Sample weights: rows of weight 3 are three rows, rows of weight 0 are none, from the start to the criteria."""

import warnings

import numpy as np
import pandas
import pytest
import sklearn
from reference import DISTINCT, shape_of
from scipy import stats
from sklearn.datasets import make_blobs
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks, shuffle

from fastgmm import GaussianMixture
from fastgmm.covariance import STRUCTURES, flat
from fastgmm.em import initialise, kmeans
from fastgmm.em.initialise import STARTS
from fastgmm.sources import ArrayRows

every_structure = pytest.mark.parametrize("covariance_type", DISTINCT)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X = make_blobs(120, n_features=2, centers=[[0, 0], [6, 1], [0, 7]], random_state=3)[0]
TIMES = np.random.default_rng(0).integers(0, 5, size=len(X))
REPEATED = np.repeat(X, TIMES, axis=0)
ARRAYS = ("weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bounds_")


def begin(covariance_type, **options):
    """A start that is not looked for."""
    precisions = {"full": [np.eye(2)] * 3, "tied": np.eye(2), "diag": np.ones((3, 2)), "spherical": np.ones(3)}
    start = {"weights_init": np.full(3, 1 / 3), "means_init": X[:3]}
    start |= {"covariance_type": covariance_type, "precisions_init": precisions[shape_of(covariance_type)]}
    return {"max_iter": 10, "tol": 0.0, **start, **options}


def assert_same(one, two, rtol=1e-12, arrays=ARRAYS):
    for name in arrays:
        ours, theirs = np.asarray(getattr(one, name)), np.asarray(getattr(two, name))
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * np.abs(theirs).max(), err_msg=name)


@pytest.mark.slow
@every_structure
@pytest.mark.parametrize("options", [{}, {"prior": "default"}, {"reg_covar": "auto"}], ids=["plain", "prior", "auto"])
def test_weights_are_repeated_and_absent_rows(covariance_type, options):
    options = begin(covariance_type, **options)
    weighted, repeated = GaussianMixture(3, **options).fit(X, sample_weight=TIMES), GaussianMixture(3, **options)
    assert_same(weighted, repeated.fit(REPEATED))
    for criterion in ("score", "bic", "aic"):
        ours, theirs = getattr(weighted, criterion)(X, sample_weight=TIMES), getattr(repeated, criterion)(REPEATED)
        assert ours == pytest.approx(theirs, rel=1e-12)
    np.testing.assert_array_equal(weighted.predict(X), repeated.predict(X))
    rows = weighted.fit_report_.components
    assert [c.rows for c in rows] == pytest.approx([c.rows for c in repeated.fit_report_.components], rel=1e-11)
    assert weighted.fit_report_.starts[0].log_likelihood == pytest.approx(weighted.score(X, sample_weight=TIMES))


def test_weights_of_one_are_none():
    options = {"n_components": 3, "random_state": 0}
    assert_same(GaussianMixture(**options).fit(X, sample_weight=1.0), GaussianMixture(**options).fit(X), rtol=1e-14)


@every_structure
def test_only_the_proportions_of_weights_matter_to_a_likelihood(covariance_type):
    options = begin(covariance_type)
    fits = [GaussianMixture(3, **options).fit(X, sample_weight=scale * TIMES) for scale in (1.0, 1e-40, 1e40)]
    for scaled in fits[1:]:
        assert_same(scaled, fits[0])
        assert scaled.score(X, sample_weight=TIMES) == pytest.approx(fits[0].score(X, sample_weight=TIMES), rel=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-43, 1e40])
def test_weights_of_float32_rows_may_be_large_and_small(scale):
    options = begin("diag")
    weighted = GaussianMixture(3, **options).fit(X.astype(np.float32), sample_weight=scale * TIMES)
    assert_same(weighted, GaussianMixture(3, **options).fit(REPEATED), rtol=1e-4, arrays=ARRAYS[:3])


def test_rows_of_weight_zero_may_be_anywhere():
    far = np.concatenate([X, [[1e200, -1e200]]])
    options = {"n_components": 3, "random_state": 0}
    gm = GaussianMixture(**options).fit(far, sample_weight=np.append(np.ones(len(X)), 0.0))
    assert_same(gm, GaussianMixture(**options).fit(X))
    assert gm.score(far, sample_weight=np.append(np.ones(len(X)), 0.0)) == pytest.approx(gm.score(X))
    labels = GaussianMixture(**options).fit_predict(far, sample_weight=np.append(np.ones(len(X)), 0.0))
    np.testing.assert_array_equal(labels[:-1], gm.predict(X))


def start_of(rows, weights, init_params, covariance_type, seed=0, k=3):
    prior, random = flat(1e-6, rows.shape[1]), np.random.RandomState(seed)
    source = ArrayRows(rows, None if weights is None else weights.astype(float))
    return STARTS[init_params](source, k, STRUCTURES[covariance_type], prior, random).parameters


@pytest.mark.slow
@every_structure
@pytest.mark.parametrize("init_params", ["kmeans", "kmeans-whitened", "k-means++"])
@pytest.mark.parametrize("seed", range(3))
def test_starts_know_no_difference_between_weights_and_repeats_in_any_order(init_params, covariance_type, seed):
    kept = TIMES > 0
    rows, times = shuffle(X[kept], TIMES[kept], random_state=seed)
    weighted = start_of(rows, times, init_params, covariance_type, seed, k=5)
    for ours, theirs in zip(weighted, start_of(REPEATED, None, init_params, covariance_type, seed, k=5), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def test_nor_do_exchanges(monkeypatch):
    monkeypatch.setattr(kmeans, "_MANY", 5)
    kept = TIMES > 0
    weighted = start_of(X[kept], TIMES[kept], "kmeans", "full", k=9)
    for ours, theirs in zip(weighted, start_of(REPEATED, None, "kmeans", "full", k=9), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("module", "limit"), [(initialise, "KMEANS_ROWS"), (kmeans, "_SEEDING_ROWS")])
@every_structure
def test_nor_do_samples_of_the_rows(monkeypatch, module, limit, covariance_type):
    """Of repeats that follow each other; clusters small in the sample take the moments of all rows."""
    monkeypatch.setattr(module, limit, 40)
    monkeypatch.setattr(initialise, "_ROWS_PER_COMPONENT", 1)
    monkeypatch.setattr(kmeans, "_SEEDING_ROWS_PER_CLUSTER", 1)
    kept = TIMES > 0
    weighted = start_of(X[kept], TIMES[kept], "kmeans", covariance_type, k=5)
    repeated = start_of(REPEATED, None, "kmeans", covariance_type, k=5)
    for ours, theirs in zip(weighted, repeated, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def frequencies(rows, weights, seeds, k=2):
    """How often each value of single rows (n, 1) is a mean."""
    means = [start_of(rows, weights, "random_from_data", "spherical", seed, k).means.ravel() for seed in range(seeds)]
    assert all(len(set(drawn)) == k for drawn in means)
    return np.bincount(np.concatenate(means).astype(int), minlength=8)


def test_random_rows_are_drawn_by_weight():
    """As often as from repeated rows, and never two alike; by weight is not evenly."""
    values, times = np.arange(8.0)[:, None], np.array([1, 1, 1, 2, 2, 4, 8, 16])
    repeated = np.repeat(values, times, axis=0)
    ours, theirs, even = (
        frequencies(values, times, 400),
        frequencies(repeated, None, 400),
        frequencies(values, None, 400),
    )
    assert stats.chi2_contingency([ours, theirs]).pvalue > 1e-3
    assert stats.chi2_contingency([ours, even]).pvalue < 1e-9


@every_structure
@pytest.mark.parametrize("seed", range(3))
def test_random_responsibilities_are_those_of_repeated_rows(covariance_type, seed):
    kept = TIMES > 0
    weighted = start_of(X[kept], TIMES[kept], "random", covariance_type, seed, k=5)
    for ours, theirs in zip(weighted, start_of(REPEATED, None, "random", covariance_type, seed, k=5), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12 * np.abs(theirs).max())


def begin_with(shares, rows, weights):
    """A start from given responsibilities (n, k)."""
    source = ArrayRows(rows, np.array(weights, dtype=float))
    return initialise.start_from_responsibilities(
        source, lambda i, j: shares[i:j], shares.shape[1], STRUCTURES["full"], flat(1e-6, rows.shape[1])
    ).parameters


# Sets of three rows, and what each counts as: whole units and a fraction; no more than three a row; or than six in all.
COUNTED = {
    "fractions": ({}, [2.5, 0.3, 1.0], [[1, 1, 0.5], [0.3], [1]]),
    "of a row": ({"_MOST_SETS": 3}, [10.0, 2.25, 3.0], [[10 / 3] * 3, [1, 1, 0.25], [1, 1, 1]]),
    "in all": ({"_MOST_SETS_IN_ALL": 6}, [1e300, 2.5, 1.0], [[5e299] * 2, [1.25] * 2, [1]]),
    "next to nothing": ({}, [5e-324, 1e-300, 1e-308], [[5e-324], [1e-300], [1e-308]]),
}


@pytest.mark.parametrize("case", COUNTED)
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_a_row_has_the_mean_of_as_many_sets_of_responsibilities_as_it_is_rows(case, piece, monkeypatch):
    limits, weights, counted = COUNTED[case]
    for name, value in limits.items():
        monkeypatch.setattr(initialise, name, value)
    monkeypatch.setattr(initialise, "_CHUNK_BYTES", piece)
    rows = np.array([[0.0, 1.0], [5.0, 0.0], [2.0, 7.0]])
    random = np.random.RandomState(4)
    sets = [random.uniform(size=(len(each), 2)) for each in counted]
    shares = np.stack([
        np.divide(of, max(of)) @ (each / each.sum(axis=1, keepdims=True)) / np.divide(of, max(of)).sum()
        for each, of in zip(sets, counted, strict=True)
    ])  # fmt: skip
    found = start_of(rows, np.array(weights), "random", "full", 4, k=2)
    for ours, theirs in zip(found, begin_with(shares, rows, weights), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fastgmm.DegenerateComponentWarning")
@pytest.mark.parametrize("init_params", [name for name in STARTS if name != "random_from_data"])
@every_structure
def test_fits_know_no_difference_between_weights_and_repeats(init_params, covariance_type):
    """Weights of zero among them; but for rows picked at random, which are the same in distribution."""
    options = {"covariance_type": covariance_type, "init_params": init_params, "random_state": 0, "max_iter": 3}
    weighted = GaussianMixture(3, **options).fit(X, sample_weight=TIMES)
    assert_same(weighted, GaussianMixture(3, **options).fit(REPEATED), rtol=1e-10)


def test_samples_of_large_data_are_drawn_by_weight(monkeypatch):
    monkeypatch.setattr(initialise, "KMEANS_ROWS", 200)
    monkeypatch.setattr(initialise, "_ROWS_PER_COMPONENT", 1)
    values, times = np.arange(1000.0)[:, None], np.arange(1000) % 4 * (np.arange(1000) > 499)
    kept = times > 0

    def sample(rows, weights):
        found = initialise._some_rows(ArrayRows(rows, weights), 2, np.random.RandomState(1))
        assert found.weights.sum() == pytest.approx(times.sum())
        return np.sort(found.rows.ravel())

    ours = sample(values[kept], times[kept].astype(float))
    np.testing.assert_array_equal(ours, sample(np.repeat(values, times, axis=0), None))
    share = (ours.astype(int) % 4 == 3).mean()
    assert abs(share - 0.5) < 0.1  # a third of the rows that count has half of the weight


CHECKS = [name for name in dir(estimator_checks) if name.startswith("check_") and "sample_weight" in name]


@pytest.mark.slow
@pytest.mark.parametrize("n_components", [1, 3])
@pytest.mark.parametrize("check", [name for name in CHECKS if "sparse" not in name and "classifiers" not in name])
@every_structure
def test_scikit_learns_checks_of_weights_also_with_several_components(check, n_components, covariance_type):
    estimator = GaussianMixture(n_components, covariance_type=covariance_type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(estimator_checks, check)("GaussianMixture", estimator)


def test_a_pipeline_hands_weights_on():
    kept = TIMES > 0
    with sklearn.config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        gm = GaussianMixture(3, random_state=0).set_fit_request(sample_weight=True)
        pipeline = make_pipeline(scaler, gm.set_score_request(sample_weight=True))
        pipeline.fit(X, sample_weight=TIMES)
        score = pipeline.score(X, sample_weight=TIMES)
    scaled = StandardScaler().fit(X).transform(X)
    direct = GaussianMixture(3, random_state=0).fit(scaled[kept], sample_weight=TIMES[kept])
    assert_same(pipeline[-1], direct)
    assert score == pytest.approx(direct.score(np.repeat(scaled, TIMES, axis=0)), rel=1e-12)


def read_only(weights):
    weights = weights.astype(float)
    weights.flags.writeable = False
    return weights


@pytest.mark.parametrize("wrap", [list, np.float32, pandas.Series, np.int8, read_only])
def test_weights_of_any_kind(wrap):
    options = {"n_components": 3, "random_state": 0}
    weights = wrap(TIMES)
    assert_same(GaussianMixture(**options).fit(X, sample_weight=weights), GaussianMixture(**options).fit(REPEATED))
    np.testing.assert_array_equal(weights, TIMES)


BAD = [
    (np.where(TIMES == 1, -1.0, TIMES), "Negative values in data passed to `sample_weight`"),
    (np.where(TIMES == 1, np.nan, TIMES), "Input sample_weight contains NaN"),
    (np.where(TIMES == 1, np.inf, TIMES), "Input sample_weight contains infinity"),
    (np.zeros(len(X)), "Sample weights must contain at least one non-zero number"),
    (0.0, "Sample weights must contain at least one non-zero number"),
    (TIMES[:-1], r"sample_weight.shape == \(119,\), expected \(120,\)"),
    (TIMES[:, None], "Sample weights must be 1D array or scalar, got 2D array"),
    (np.full(len(X), 1e308), "Sample weights are too large: their sum overflows"),
    (np.eye(len(X))[0], "Expected n_samples >= n_components but got n_components = 3, n_samples = 1 of weight above 0"),
]


@pytest.mark.parametrize(("weights", "message"), BAD)
def test_unusable_weights(weights, message):
    gm = GaussianMixture(3)
    with pytest.raises(ValueError, match=message):
        gm.fit(X, sample_weight=weights)
    assert "means_" not in vars(gm)
    if "n_samples >=" not in message:
        gm = GaussianMixture(3, random_state=0).fit(X)
        for criterion in (gm.score, gm.bic, gm.aic):
            with pytest.raises(ValueError, match=message):
                criterion(X, sample_weight=weights)
