"""Hard data, one case a test: fits stay sound, or the error says what is wrong.

Queries at 1e200, `max_iter=0` and warm starts with other shapes are in test_estimator.py.
"""

import warnings

import mpmath
import numba
import numpy as np
import pytest
from reference import DISTINCT, FAMILIAR, shape_of
from sklearn import mixture as theirs
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler

from fastgmm import DegenerateComponentWarning, DegenerateFitError, GaussianMixture, Mixture, RegularisationWarning
from fastgmm.covariance import STRUCTURES
from fastgmm.em.initialise import STARTS
from fastgmm.kernels._jit import COMPILED, RANGE_ROWS

every_structure = pytest.mark.parametrize("covariance_type", DISTINCT if COMPILED else FAMILIAR)
every_start = pytest.mark.parametrize("init_params", STARTS)

X, LABELS = make_blobs(120, n_features=2, centers=[[0, 0], [6, 1], [0, 7]], random_state=3)


def fit(rows, k=3, **options):
    """Fit silently and check that every attribute is finite and positive where it must be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gm = GaussianMixture(k, **({"random_state": 0} | options)).fit(rows)
    check_sound(gm)
    return gm


def check_sound(gm):
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_", "lower_bound_"):
        assert np.isfinite(getattr(gm, name)).all(), name
    assert gm.weights_.sum() == pytest.approx(1)
    if STRUCTURES[gm.covariance_type].MATRICES:
        assert (np.linalg.eigvalsh(gm.covariances_) > 0).all()
    else:
        assert (gm.covariances_ > 0).all()


def begin(offset=0.0, scale=1.0, covariance_type="full"):
    """A start that needs no search, moved and scaled with the data."""
    precisions = {"full": [np.eye(2)] * 3, "tied": np.eye(2), "diag": np.ones((3, 2)), "spherical": np.ones(3)}
    return {
        "covariance_type": covariance_type,
        "weights_init": np.full(3, 1 / 3),
        "means_init": scale * np.array([[1.0, 0.0], [5.0, 2.0], [0.0, 6.0]]) + offset,
        "precisions_init": np.asarray(precisions[shape_of(covariance_type)]) / scale**2,
        "tol": 0.0,
        "max_iter": 5,
    }


OUTLIER = np.concatenate([X[:50], [[1e6, 1e6]]])


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_far_outlier(covariance_type):
    with pytest.warns(DegenerateComponentWarning) as caught:
        gm = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(OUTLIER)
    check_sound(gm)
    far = gm.weights_.argmin()
    assert f"Degenerate components: {far} (collapsed onto one point" in str(caught[0].message)
    assert gm.weights_[far] == pytest.approx(1 / 51)
    np.testing.assert_array_equal(gm.means_[far], [1e6, 1e6])
    with pytest.raises(DegenerateFitError, match=f"the covariance of component {far} is not positive-definite"):
        fit(OUTLIER, 2, covariance_type=covariance_type, reg_covar=0.0)


def test_far_outlier_under_a_tied_covariance():
    """The component of one row borrows the width of the other: nothing is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gm = GaussianMixture(2, covariance_type="tied", random_state=0, reg_covar=0.0).fit(OUTLIER)
    assert gm.weights_.min() == pytest.approx(1 / 51)
    np.testing.assert_allclose(gm.covariances_, 50 / 51 * np.cov(X[:50].T, bias=True), rtol=1e-9)


@pytest.mark.slow
@every_structure
def test_more_components_than_distinct_points(covariance_type):
    rows = np.repeat([[0.0, 0.0], [1.0, 2.0]], 20, axis=0)
    with pytest.raises(DegenerateFitError, match="ill-defined empirical covariance"):
        fit(rows, 10, covariance_type=covariance_type, reg_covar=0.0, n_init=3)
    with pytest.warns(DegenerateComponentWarning, match="collapsed|empty"):
        gm = GaussianMixture(10, covariance_type=covariance_type, random_state=0).fit(rows)
    check_sound(gm)
    distances = np.abs(gm.means_[:, None] - rows[[0, 20]]).max(axis=2).min(axis=1)
    np.testing.assert_allclose(distances[gm.weights_ > 1e-3], 0.0, atol=1e-9)


@every_structure
@every_start
def test_duplicated_rows(covariance_type, init_params):
    rows = np.repeat(X[:12], 10, axis=0)
    fit(rows, 4, covariance_type=covariance_type, init_params=init_params)


@every_structure
@every_start
@pytest.mark.parametrize("k", [1, 3])
def test_identical_rows(covariance_type, init_params, k):
    rows = np.full((20, 2), 3.7)
    with pytest.warns(DegenerateComponentWarning, match="collapsed onto one point, where only reg_covar"):
        gm = GaussianMixture(k, covariance_type=covariance_type, init_params=init_params, random_state=0).fit(rows)
    check_sound(gm)
    np.testing.assert_allclose(gm.means_[gm.weights_ > 1e-3], 3.7, rtol=1e-15)
    np.testing.assert_allclose(gm.mixture_.cov, 1e-6 * np.eye(2), rtol=1e-6, atol=1e-12)


@every_structure
@pytest.mark.parametrize("offset", [1e6, 1e8, 1e10])
def test_offset_in_float64(covariance_type, offset):
    moved = X + offset
    exact = moved - offset  # what the rounding of the input left
    ours = fit(moved, **begin(offset, covariance_type=covariance_type))
    reference = fit(exact, **begin(covariance_type=covariance_type))
    tolerance = max(1e-9, 2 * np.spacing(offset))
    np.testing.assert_allclose(ours.covariances_, reference.covariances_, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(ours.weights_, reference.weights_, rtol=tolerance)
    np.testing.assert_allclose(ours.means_ - offset, reference.means_, atol=2 * np.spacing(offset))
    np.testing.assert_allclose(ours.lower_bounds_, reference.lower_bounds_, rtol=tolerance)


@every_structure
@pytest.mark.parametrize("offset", [1e6, 1e8, 1e10])
def test_offset_with_default_starts(covariance_type, offset):
    gm = fit(X + offset, covariance_type=covariance_type)
    assert adjusted_rand_score(LABELS, gm.predict(X + offset)) > 0.95


@every_structure
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4])
def test_offset_in_float32(covariance_type, offset):
    rows = (X + offset).astype(np.float32)
    exact = rows.astype(np.float64) - offset
    ours = fit(rows, **begin(offset, covariance_type=covariance_type))
    reference = fit(exact, **begin(covariance_type=covariance_type))
    np.testing.assert_allclose(ours.covariances_, reference.covariances_, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.weights_, reference.weights_, rtol=1e-5)
    np.testing.assert_allclose(ours.means_, reference.means_ + offset, rtol=2e-7, atol=1e-6)
    assert adjusted_rand_score(LABELS, fit(rows, covariance_type=covariance_type).predict(rows)) > 0.95


@every_structure
@pytest.mark.parametrize("reg_covar", [1e-6, 0.1])
def test_two_far_numbers_in_float32(covariance_type, reg_covar):
    rows = np.array([[9999], [0]], dtype=np.float32)
    each = fit(rows, 2, covariance_type=covariance_type, reg_covar=reg_covar)
    np.testing.assert_allclose(each.covariances_.ravel(), reg_covar, rtol=1e-6)
    both = fit(rows, 1, covariance_type=covariance_type, reg_covar=reg_covar)
    np.testing.assert_allclose(both.covariances_.ravel(), 4999.5**2 + reg_covar, rtol=1e-7)


@pytest.mark.slow
@every_structure
@pytest.mark.parametrize("scale", [1e-4, 1e-6, 1e-12, 1e-30, 1e-150])
def test_small_scale(covariance_type, scale):
    """Default `reg_covar` swamps such data, which a warning says; a relative one, or none, fits as at scale 1."""
    with pytest.warns(RegularisationWarning, match=r"of features 0, 1 .* let it be relative: reg_covar='auto'"):
        gm = GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(scale * X)
    check_sound(gm)
    for options in ({"reg_covar": 0.0}, {"reg_covar": "auto"}, {"prior": "default"}):
        gm = fit(scale * X, covariance_type=covariance_type, **options)
        assert adjusted_rand_score(LABELS, gm.predict(scale * X)) > 0.95


@every_structure
@pytest.mark.parametrize("scale", [1e-19, 1e-15, 1e15, 1e18, 1e19])
def test_any_scale_of_float32(covariance_type, scale):
    """Whether or not float32 has the range of precisions, attributes are sound and agree with what the fit reports."""
    rows = (scale * X).astype(np.float32)
    gm = fit(rows, covariance_type=covariance_type, reg_covar="auto")
    assert adjusted_rand_score(LABELS, gm.predict(rows)) > 0.95
    assert gm.means_.dtype == (np.float32 if 1e-18 < scale < 1e19 else np.float64)
    assert gm.score(rows) == pytest.approx(gm.fit_report_.starts[0].log_likelihood, rel=1e-5)


@every_structure
@pytest.mark.parametrize("scale", [1e3, 1e30, 1e100, 1e150])
def test_large_scale(covariance_type, scale):
    gm = fit(scale * X, **begin(scale=scale, covariance_type=covariance_type))
    reference = fit(X, **begin(covariance_type=covariance_type), reg_covar=0.0)
    np.testing.assert_allclose(gm.means_ / scale, reference.means_, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(gm.covariances_ / scale**2, reference.covariances_, rtol=1e-9, atol=1e-9)
    default = fit(scale * X, covariance_type=covariance_type)
    assert adjusted_rand_score(LABELS, default.predict(scale * X)) > 0.95


@every_structure
@every_start
def test_scale_whose_squares_overflow(covariance_type, init_params):
    with pytest.raises(ValueError, match=r"overflow|scale the input data|Scale the data"), np.errstate(all="ignore"):
        fit(1e160 * X, covariance_type=covariance_type, init_params=init_params)


@every_structure
def test_given_start_whose_squares_overflow(covariance_type):
    with pytest.raises(ValueError, match="overflow"), np.errstate(all="ignore"):
        fit(1e160 * X, **begin(covariance_type=covariance_type))


@every_structure
@pytest.mark.parametrize("kind", ["collinear", "constant"])
def test_singular_data(covariance_type, kind):
    column = X[:, :1]
    rows = np.hstack([X, column + X[:, 1:]] if kind == "collinear" else [X, np.full_like(column, 1e3 / 3)])
    gm = fit(rows, covariance_type=covariance_type)
    assert adjusted_rand_score(LABELS, gm.predict(rows)) > 0.95
    shape = shape_of(covariance_type)
    singular = shape in ("full", "tied") or (kind == "constant" and shape == "diag")
    if singular:
        with pytest.raises(DegenerateFitError, match="not positive-definite"):
            fit(rows, covariance_type=covariance_type, reg_covar=0.0)
    else:
        fit(rows, covariance_type=covariance_type, reg_covar=0.0)


@pytest.mark.parametrize("covariance_type", [name for name in DISTINCT if STRUCTURES[name].MATRICES])
def test_digits_that_float32_has_not(covariance_type):
    """Covariances that float32 would round to singular ones are kept in float64."""
    # A hundred thousandth is far above what float64 loses of a covariance, and far below what float32 does.
    total = X.sum(axis=1, keepdims=True) + 1e-5 * np.random.default_rng(0).normal(size=(len(X), 1))
    rows = np.hstack([X, total]).astype(np.float32)
    for options in ({"reg_covar": 0.0}, {}, {"prior": "default"}):
        gm = fit(rows, covariance_type=covariance_type, **options)
        assert gm.covariances_.dtype == np.float64 and gm.mixture_.n_features == 3
        assert gm.score(rows) == pytest.approx(gm.fit_report_.starts[0].log_likelihood, rel=1e-9)
    assert fit(rows[:, :2], covariance_type=covariance_type).covariances_.dtype == np.float32


HARD = {
    "far outlier": (OUTLIER, 2),
    "few distinct rows": (np.repeat([[0.0, 0.0], [1.0, 2.0]], 20, axis=0), 10),
    "duplicated rows": (np.repeat(X[:12], 10, axis=0), 4),
    "identical rows": (np.full((20, 2), 3.7), 3),
    "zeros": (np.zeros((20, 2)), 3),
    "offset": (X + 1e10, 3),
    "tiny": (1e-150 * X, 3),
    "huge": (1e150 * X, 3),
    "unequal units": (X * [1e-8, 1e8], 3),
    "constant column": (np.column_stack([X, np.full(len(X), 1e15 / 7)]), 3),
    "collinear columns": (np.column_stack([X, X.sum(axis=1)]), 3),
    "as many components as rows": (X[:6], 6),
    "more features than rows": (np.random.default_rng(0).normal(size=(8, 12)), 2),
    "one-hot rows": (np.eye(3)[np.random.default_rng(0).integers(3, size=40)], 12),
    "two far numbers": (np.array([[9999.0], [0.0]]), 2),
    "ill-conditioned": (X @ np.array([[1.0, 1.0], [0.0, 1e-6]]), 3),
}


@pytest.mark.slow
@every_structure
@pytest.mark.parametrize("name", HARD)
def test_the_default_prior_fits_hard_data(covariance_type, name):
    """Neither an error nor a posterior that falls by more than the rounding of precisions a million times as large."""
    rows, k = HARD[name]
    gm = fit(rows, k, covariance_type=covariance_type, prior="default", tol=0.0, max_iter=20)
    bounds = np.array(gm.lower_bounds_)
    assert (np.diff(bounds) >= -1e-10 * np.maximum(np.abs(bounds[1:]), 1.0)).all()
    assert gm.score(rows) == pytest.approx(gm.fit_report_.starts[0].log_likelihood, rel=1e-12)


@pytest.mark.compiled
@pytest.mark.parametrize("covariance_type", DISTINCT)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", HARD)
def test_hard_data_fit_soundly_in_every_structure_or_the_error_is_clear(covariance_type, dtype, name):
    """Of all, only a constant beyond the digits of its squares needs a prior; the report says what `score` does."""
    rows, k = HARD[name]
    with np.errstate(over="ignore"):
        rows = np.asarray(rows).astype(dtype)
    if not np.isfinite(rows).all():
        pytest.skip("beyond the range of float32")
    for options in ({}, {"reg_covar": "auto"}):
        if name == "constant column" and not options and covariance_type not in ("spherical", "EII"):
            with pytest.raises(DegenerateFitError, match=r"ill-defined .* not positive-definite"):
                fit(rows, k, covariance_type=covariance_type, max_iter=5)
            continue
        gm = fit(rows, k, covariance_type=covariance_type, max_iter=5, **options)
        tolerance = 1e-9 if dtype == np.float64 else 1e-4
        reported = gm.fit_report_.starts[0].log_likelihood
        assert gm.score(rows) == pytest.approx(reported, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("covariance_type", [name for name in DISTINCT if shape_of(name) != "spherical"])
@pytest.mark.parametrize("constant", [0.1, 1e3 / 3, 1e5 * np.pi, 1e12 / 7])
def test_constant_column_far_from_the_given_start(covariance_type, constant):
    """Rounding alone leaves a variance of some eps² constant², which must count as none at once."""
    rows = np.column_stack([X, np.full(len(X), constant)])
    precisions = {"full": [np.eye(3)] * 2, "tied": np.eye(3), "diag": np.ones((2, 3))}
    start = {
        "weights_init": [0.5, 0.5],
        "means_init": rows[:2] + max(1.0, constant) * np.array([0.0, 0.0, 0.37]),
        "precisions_init": np.asarray(precisions[shape_of(covariance_type)]) / constant**2,
    }
    with pytest.raises(DegenerateFitError, match=r"start 0 at iteration 1: .* is not positive-definite"):
        fit(rows, 2, covariance_type=covariance_type, reg_covar=0.0, **start)


@every_structure
@pytest.mark.parametrize("distance", [1e4, 1e8])
def test_start_that_is_many_widths_away(covariance_type, distance):
    """One step jumps to the data, whose covariance must not be the difference of two large numbers."""
    wide = {"full": [np.eye(2)], "tied": np.eye(2), "diag": np.ones((1, 2)), "spherical": np.ones(1)}
    start = {"weights_init": [1.0], "means_init": [[distance, -distance]], "max_iter": 1, "reg_covar": 0.0}
    precisions = np.asarray(wide[shape_of(covariance_type)]) / distance**2
    gm = fit(X, 1, covariance_type=covariance_type, precisions_init=precisions, **start)
    exact = fit(X, 1, covariance_type=covariance_type, reg_covar=0.0)
    np.testing.assert_allclose(gm.covariances_, exact.covariances_, rtol=1e-9)


@every_structure
@every_start
def test_as_many_components_as_rows(covariance_type, init_params):
    gm = fit(X[:6], 6, covariance_type=covariance_type, init_params=init_params)
    assert gm.predict(X[:6]).shape == (6,)


@pytest.mark.parametrize("rows", [X[:2], X[:1], np.where(X > 6, np.nan, X), np.where(X > 6, -np.inf, X)])
def test_unusable_rows(rows):
    with pytest.raises(ValueError) as expected:
        theirs.GaussianMixture(3).fit(rows)
    with pytest.raises(ValueError) as ours:
        GaussianMixture(3).fit(rows)
    assert str(ours.value) == str(expected.value)


def test_one_feature():
    """Structures are two, whether components share a variance or not, and with one component one."""
    rows = X[:, :1]
    own = [name for name in FAMILIAR if name != "tied"]
    fits = [fit(rows, 2, covariance_type=name, tol=1e-8, max_iter=500) for name in own]
    shared = [name for name in DISTINCT if name not in own]
    alike = [fit(rows, 2, covariance_type=name, tol=1e-8, max_iter=500) for name in shared]
    single = [fit(rows, 1, covariance_type=name) for name in DISTINCT]
    assert len({round(gm.bic(rows), 8) for gm in fits}) == 1
    np.testing.assert_allclose([gm.bic(rows) for gm in alike], alike[0].bic(rows), rtol=1e-6)
    assert len({round(gm.bic(rows), 8) for gm in single}) == 1


@pytest.mark.parametrize(("n", "d"), [(2, 3), pytest.param(200, 500, marks=pytest.mark.compiled)])
def test_more_features_than_rows(n, d):
    rows = np.random.default_rng(0).normal(size=(n, d))
    with pytest.warns(DegenerateComponentWarning, match="fewer rows than their covariance needs"):
        gm = GaussianMixture(1, random_state=0).fit(rows)
    check_sound(gm)
    with pytest.raises(DegenerateFitError):
        fit(rows, 1, reg_covar=0.0)


@every_structure
def test_one_component_on_three_rows(covariance_type):
    rows = X[:3]
    gm = fit(rows, 1, covariance_type=covariance_type, reg_covar=0.0)
    np.testing.assert_allclose(gm.means_, [rows.mean(axis=0)], rtol=1e-14)
    dense = STRUCTURES[covariance_type].dense(gm.covariances_, 1, 2)[0]
    expected = np.cov(rows.T, bias=True)
    shape = shape_of(covariance_type)
    if shape in ("diag", "spherical"):
        expected = np.diag(np.diag(expected))
    if shape == "spherical":
        expected = np.eye(2) * np.trace(expected) / 2
    np.testing.assert_allclose(dense, expected, rtol=1e-12)
    assert gm.n_iter_ == theirs.GaussianMixture(1, covariance_type=shape).fit(rows).n_iter_
    assert gm.sample(5)[0].shape == (5, 2)


@every_structure
def test_empty_component(covariance_type):
    """It keeps its mean and is named."""
    options = begin(covariance_type=covariance_type) | {"tol": 1e-3, "max_iter": 100}
    options["means_init"][2] = [1e5, -1e5]
    with pytest.warns(DegenerateComponentWarning, match=r"Degenerate components: 2 \(empty\)"):
        gm = GaussianMixture(3, **options).fit(X)
    check_sound(gm)
    np.testing.assert_array_equal(gm.means_[2], [1e5, -1e5])
    assert gm.weights_[2] < 1e-15


@every_structure
def test_weight_of_zero_stays_dead(covariance_type):
    options = begin(covariance_type=covariance_type) | {"weights_init": [0.0, 0.5, 0.5]}
    gm = fit(X, **options)
    assert gm.weights_[0] < 1e-15
    assert 0 not in gm.predict(X)


def ill_conditioned(d=3, condition=1e9):
    basis, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))
    covariance = (basis * np.logspace(0, -np.log10(condition), d)) @ basis.T
    return (covariance + covariance.T) / 2


def exact_log_density(point, mean, factor):
    """log |F| - |F (x - μ)|²/2 - d/2 log 2π with fifty digits."""
    with mpmath.workdps(50):
        difference = [mpmath.mpf(float(x)) - mpmath.mpf(float(m)) for x, m in zip(point, mean, strict=True)]
        squares = [mpmath.fdot([mpmath.mpf(float(f)) for f in row], difference) ** 2 for row in factor]
        log_determinant = mpmath.fsum(mpmath.log(abs(mpmath.mpf(float(f)))) for f in np.diag(factor))
        return float(log_determinant - mpmath.fsum(squares) / 2 - len(mean) * mpmath.log(2 * mpmath.pi) / 2)


def test_ill_conditioned_covariance():
    """As exact as the stored factor, for draws, whose distance is moderate but made of large parts."""
    mixture = Mixture([1.0], [[1.0, 1.5, 2.0]], [ill_conditioned()])
    points = mixture.rvs(20, 0)
    expected = [exact_log_density(x, mixture.means[0], mixture.factors[0]) for x in points]
    # The product of rows that nearly cancel leaves eps * |F| |x - μ|, here some 1e-16 * 3e4 * 1.
    np.testing.assert_allclose(mixture.logpdf(points), expected, rtol=0, atol=1e-10)


def test_factor_of_an_ill_conditioned_covariance():
    """|F Σ Fᵀ - 1| stays at eps times the condition, far from the garbage of an explicit inverse."""
    covariance = ill_conditioned()
    factor = Mixture([1.0], [np.zeros(3)], [covariance]).factors[0]
    np.testing.assert_allclose(factor @ covariance @ factor.T, np.eye(3), atol=1e9 * 2.3e-16 * 3)
    with mpmath.workdps(50):
        exact = mpmath.cholesky(mpmath.matrix(covariance.tolist())) ** -1
        exact = np.array(exact.tolist(), dtype=float)
    np.testing.assert_allclose(factor, exact, rtol=1e-6, atol=1e-7 * np.abs(exact).max())


def test_fit_of_ill_conditioned_rows():
    rows = Mixture([1.0], [np.zeros(3)], [ill_conditioned()]).rvs(300, 0)
    gm = fit(rows, 1, reg_covar=0.0)
    sample = np.cov(rows.T, bias=True)
    np.testing.assert_allclose(gm.covariances_[0], sample, rtol=0, atol=1e-14)
    # At its maximum the mean log-likelihood is -(d (1 + log 2π) + log |Σ|) / 2.
    expected = -(3 * (1 + np.log(2 * np.pi)) + np.linalg.slogdet(sample)[1]) / 2
    assert gm.score(rows) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("k", "categories", "n", "covariance_type"),
    [
        (12, 3, 40, "full"),
        (12, 3, 40, "tied"),
        pytest.param(500, 284, 1000, "diag", marks=pytest.mark.compiled),
        *(pytest.param(500, 20, 1000, name, marks=pytest.mark.compiled) for name in DISTINCT),
        pytest.param(60, 40, 300, "full", marks=pytest.mark.compiled),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_one_hot_rows(k, categories, n, covariance_type, dtype):
    random = np.random.default_rng(0)
    rows = np.eye(categories, dtype=dtype)[random.integers(categories, size=n)]
    gm = fit(rows, k, covariance_type=covariance_type, max_iter=5)
    assert gm.predict(rows).max() < k


def test_unequal_scales_are_cured_by_scaling():
    rows = np.stack([X[:, 0] / 6, 1e3 * np.random.default_rng(0).normal(size=len(X))], axis=1)
    labels = LABELS == 1
    scaled = StandardScaler().fit_transform(rows)
    gm = fit(scaled, 2, n_init=5)
    assert adjusted_rand_score(labels, gm.predict(scaled)) > 0.9


def test_smaller_tol_climbs_further():
    rows = Mixture([0.5, 0.5], [[0.0], [2.0]], [1.0, 1.0], "spherical").rvs(200, 0)
    options = {"init_params": "random"}
    loose, tight = fit(rows, 2, **options), fit(rows, 2, **options, tol=1e-6, max_iter=1000)
    assert loose.converged_ and tight.converged_
    assert tight.n_iter_ > loose.n_iter_ and tight.score(rows) > loose.score(rows)


@every_structure
def test_likelihood_never_falls(covariance_type):
    steps = 300 if COMPILED else 20
    rows = np.random.default_rng(5).normal(size=(90, 2)) ** 3
    options = {"reg_covar": 0.0, "tol": 0.0, "max_iter": 1, "warm_start": True, "init_params": "random"}
    gm = GaussianMixture(4, covariance_type=covariance_type, random_state=1, **options)
    last = -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            try:
                gm.fit(rows)
            except DegenerateFitError:  # a component reached a single row: no maximum beyond
                break
            assert gm.lower_bound_ >= last - 1e-14 * abs(last)
            last = gm.lower_bound_
    assert last > -np.inf


def test_densities_that_underflow():
    d = 1000
    mixture = Mixture([0.3, 0.7], [np.zeros(d), np.full(d, 0.1)], [1.0, 1.0], "spherical")
    rows = mixture.rvs(30, 0)
    assert (mixture.pdf(rows) == 0).all()
    # log r_1 - log r_0 = log 7/3 + 0.1 Σ_j (x_j - 0.05)
    odds = np.log(7 / 3) + 0.1 * (rows - 0.05).sum(axis=1)
    np.testing.assert_allclose(mixture.responsibilities(rows)[:, 1], 1 / (1 + np.exp(-odds)), rtol=1e-9)


@pytest.mark.threads
@every_structure
def test_threads_do_not_change_the_bits(covariance_type):
    n = 5 * RANGE_ROWS + 77 if COMPILED else 100
    rows = make_blobs(n, n_features=2, centers=3, random_state=0)[0]
    one = fit(rows, covariance_type=covariance_type, n_jobs=1, max_iter=5)
    for n_jobs in range(2, numba.config.NUMBA_NUM_THREADS + 1):
        more = fit(rows, covariance_type=covariance_type, n_jobs=n_jobs, max_iter=5)
        np.testing.assert_array_equal(more.covariances_, one.covariances_)
        assert more.lower_bounds_ == one.lower_bounds_
        np.testing.assert_array_equal(more.score_samples(rows), one.score_samples(rows))


def test_random_start_needs_patience():
    """Random responsibilities start near a saddle, which a small `tol` leaves behind."""
    early, patient = (fit(X, init_params="random", tol=tol, max_iter=1000) for tol in (1e-2, 1e-10))
    assert patient.score(X) > early.score(X) + 0.1
    assert patient.score(X) == pytest.approx(fit(X, tol=1e-10).score(X), abs=1e-6)


def test_not_converging_is_said():
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        GaussianMixture(3, random_state=0, max_iter=1, tol=0.0).fit(X)
