"""Rows with missing entries: the likelihood of what is observed, its maximum, and what is said of the rest."""

import mpmath
import numpy as np
import pytest
import reference
from reference import FAMILIAR
from scipy.optimize import minimize
from sklearn.utils import get_tags

from fastgmm import GaussianMixture, GaussianMixtureIC, Mixture, criteria
from fastgmm.covariance import STRUCTURES
from fastgmm.covariance.prior import flat
from fastgmm.em import engine
from fastgmm.kernels._jit import COMPILED, RANGE_ROWS
from fastgmm.kernels._threads import threads
from fastgmm.sources import ArrayRows, IncompleteRows
from fastgmm.statistics import Statistics

AWAY = np.array([[1.0], [0.0], [-2.0]])
every_structure = pytest.mark.parametrize("structure", FAMILIAR)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ROWS = 150 if COMPILED else 60


def problem(structure, d=4, k=3, n=ROWS, share=0.3, seed=0):
    """Rows of a mixture on a grid of 2**-8, some entries missing and one row all of them; its parameters; a start."""
    random = np.random.default_rng(seed)
    truth = reference.random_parameters(structure, k, d, random)
    truth = truth._replace(means=4 * truth.means)
    rows = np.rint(256 * reference.random_rows(truth, structure, n, random)) / 256
    start = reference.random_parameters(structure, k, d, random)._replace(means=rows[:k].copy())
    rows = reference.knock_out(rows, share, random)
    rows[n // 2] = np.nan
    return rows, truth, start


def dense(parameters, structure):
    return reference.dense(parameters.covariances, structure, *parameters.means.shape)


def follow(rows, start, structure, iterations, weights=None):
    return engine.run(
        IncompleteRows(rows, weights),
        start,
        STRUCTURES[structure],
        tol=0.0,
        prior=flat(0.0, rows.shape[1]),
        max_iter=iterations,
    )


def estimator(start, structure, **options):
    return GaussianMixture(
        len(start.weights),
        covariance_type=structure,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=STRUCTURES[structure].precisions(start.factors),
        missing="em",
        **options,
    )


def assert_close(a, b, rtol):
    for part in ("weights", "means", "covariances"):
        left, right = getattr(a, part), getattr(b, part)
        assert np.allclose(left, right, rtol=rtol, atol=rtol * np.abs(right).max()), part


@every_structure
def test_densities_are_those_of_the_observed_entries(structure):
    rows, truth, _ = problem(structure)
    densities = reference.observed_log_densities(rows, truth.weights, truth.means, dense(truth, structure))
    mixture = Mixture.from_parameters(truth, structure)
    out = mixture.evaluate(rows, "log_likelihoods", "responsibilities", "labels", missing=True)
    assert np.allclose(out.log_likelihoods, reference.log_likelihoods(densities), rtol=1e-12, atol=1e-12)
    assert np.allclose(out.responsibilities, reference.responsibilities(densities), rtol=1e-11, atol=1e-12)
    observed = ~np.isnan(rows).all(axis=1)
    assert np.array_equal(out.labels[observed], densities.argmax(axis=1)[observed])
    assert out.lost == 0


@every_structure
def test_moments_are_those_of_completed_rows(structure):
    rows, truth, _ = problem(structure)
    weights = np.random.default_rng(1).exponential(size=len(rows))
    densities = reference.observed_log_densities(rows, truth.weights, truth.means, dense(truth, structure))
    shares = weights[:, None] * reference.responsibilities(densities)
    source = IncompleteRows(rows, weights)
    for form, centres in (
        (source.form(STRUCTURES[structure], truth), None),
        (source.centred_form(STRUCTURES[structure], truth), truth.means + AWAY),
    ):
        found = source.reduce(form, centres)
        weight, first, second = reference.completed_moments(
            rows, shares, truth.means, dense(truth, structure), found.centres
        )
        expected = weight, first, reference.IN_SHAPE[structure](second)
        for part, right in zip(reference.counted(found[1:4], structure), expected, strict=True):
            assert np.allclose(part, right, rtol=1e-11, atol=1e-12 * np.abs(right).max())
        assert found.log_likelihood == pytest.approx(weights @ reference.log_likelihoods(densities), rel=1e-12)
        assert found.lost == 0
    assert np.allclose(found.centres, truth.means + AWAY, rtol=0, atol=1e-15)


@every_structure
def test_rows_that_lack_nothing_are_as_good_as_any(structure):
    """The form for incomplete rows and the one for complete rows, and what a fit makes of either."""
    rows, _, start = problem(structure, share=0.0)
    rows = rows[~np.isnan(rows).any(axis=1)]
    plain = ArrayRows(rows).reduce(STRUCTURES[structure].centred_form(start))
    found = ArrayRows(rows).reduce(STRUCTURES[structure].masked_form(start))
    parts = [(*reference.counted(s[1:4], structure), s.log_likelihood) for s in (found, plain)]
    for left, right in zip(*parts, strict=True):
        assert np.allclose(left, right, rtol=1e-12, atol=1e-12 * np.abs(right).max())


def test_without_nan_a_fit_is_the_plain_one_to_the_bit(monkeypatch):
    rows, _, start = problem("full", share=0.0)
    rows = rows[~np.isnan(rows).any(axis=1)]
    monkeypatch.setattr(IncompleteRows, "__init__", None)  # nobody makes any
    options = {"max_iter": 3, "tol": 0.0}
    allowed = estimator(start, "full", **options).fit(rows)
    refused = estimator(start, "full", **options).set_params(missing="error").fit(rows)
    for name in ("weights_", "means_", "covariances_", "lower_bounds_"):
        assert np.array_equal(getattr(allowed, name), getattr(refused, name))
    assert np.array_equal(allowed.predict_proba(rows), refused.predict_proba(rows))
    assert allowed.bic(rows) == refused.bic(rows)


@pytest.mark.parametrize("structure", reference.DISTINCT)
def test_the_likelihood_of_what_is_observed_never_falls(structure):
    rows, _, start = problem(structure, share=0.4)
    likelihoods = np.array(follow(rows, start, structure, 200 if COMPILED else 5).log_likelihoods)
    assert (np.diff(likelihoods) >= -1e-12 * np.abs(likelihoods[1:])).all()
    assert likelihoods[-1] > likelihoods[0] + 0.1


@pytest.mark.parametrize("structure", reference.DISTINCT)
def test_a_step_maximises_the_completed_moments(structure):
    """Of every structure: the twin's moments of completed rows, and the covariances likeliest for those."""
    rows, _, start = problem(structure)
    densities = reference.observed_log_densities(rows, start.weights, start.means, dense(start, structure))
    shares = reference.responsibilities(densities)
    moments = reference.completed_moments(rows, shares, start.means, dense(start, structure), start.means)
    shape = STRUCTURES[structure].SHAPE
    moments = moments[0], moments[1], reference.IN_SHAPE[shape](moments[2])
    expected = STRUCTURES[structure].maximise(Statistics(start.means, *moments, 0.0, 0), flat(0.0, 4)).parameters
    assert_close(follow(rows, start, structure, 1).parameters, expected, rtol=1e-9)


def test_all_structures_are_chosen_among_where_entries_are_missing():
    rows, *_ = problem("full", d=3, k=2, n=80)
    chosen = GaussianMixtureIC((1, 2), missing="em", max_iter=20 if COMPILED else 3, random_state=0).fit(rows)
    assert sorted(set(chosen.results_["covariance_type"])) == sorted(reference.DISTINCT)
    assert not any(chosen.results_["failure"])
    for place, model in enumerate(chosen.estimators_):
        mixture = model.mixture_
        densities = reference.observed_log_densities(rows, mixture.weights, mixture.means, mixture.covariances_dense)
        likelihood = reference.log_likelihoods(densities).sum()
        bic = criteria.bic(likelihood, model.n_parameters_, len(rows))
        assert chosen.results_["bic"][place] == pytest.approx(bic, rel=1e-10) == model.bic(rows)
    assert chosen.n_components_ == 2


def unpack(vector, structure, k, d):
    """Any vector as weights, means and covariances (k, d, d) of a mixture."""
    logits, means, rest = vector[: k - 1], vector[k - 1 : k - 1 + k * d].reshape(k, d), vector[k - 1 + k * d :]
    weights = np.exp(np.append(logits, 0.0))
    weights /= weights.sum()
    if structure in ("diag", "spherical"):
        covariances = np.exp(rest).reshape(k, -1)[:, :, None] * np.eye(d)
    else:
        lower = np.zeros((len(rest) // (d * (d + 1) // 2), d, d))
        lower[:, *np.tril_indices(d)] = rest.reshape(len(lower), -1)
        covariances = lower @ lower.swapaxes(1, 2)
    return weights, means, np.broadcast_to(covariances, (k, d, d))


def pack(parameters, structure):
    """The vector of which `unpack` makes these parameters."""
    covariances, d = parameters.covariances, parameters.means.shape[1]
    if structure in ("diag", "spherical"):
        rest = np.log(covariances)
    else:
        rest = np.linalg.cholesky(covariances).reshape(-1, d, d)[:, *np.tril_indices(d)]
    logits = np.log(parameters.weights[:-1] / parameters.weights[-1])
    return np.concatenate([logits, parameters.means.ravel(), rest.ravel()])


def pair_log_likelihood(rows, weights, means, covariances):
    """Log-likelihood of the observed entries of rows in two features."""
    densities = np.repeat(np.log(weights)[None], len(rows), axis=0)
    both, one = ~np.isnan(rows).any(axis=1), np.isnan(rows).sum(axis=1) == 1
    for c, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        away = rows - mean
        exponent = np.einsum("ij,jl,il->i", away[both], np.linalg.inv(covariance), away[both])
        densities[both, c] -= 0.5 * (exponent + np.log(np.linalg.det(covariance))) + np.log(2 * np.pi)
        alone = np.nansum(away[one] ** 2 / np.diag(covariance), axis=1)
        variance = np.where(np.isnan(rows[one, 0]), covariance[1, 1], covariance[0, 0])
        densities[one, c] -= 0.5 * (alone + np.log(2 * np.pi * variance))
    return np.logaddexp.reduce(densities, axis=1).sum()


@pytest.mark.compiled  # EM takes hundreds of iterations to such an end
@every_structure
def test_direct_maximisation_finds_the_same(structure):
    k, d = 2, 2
    rows, _, start = problem(structure, d, k, n=50, share=0.25, seed=3)
    near = follow(rows, start, structure, 20).parameters
    run = follow(rows, near, structure, 3000)
    found = run.parameters
    mine = pair_log_likelihood(rows, found.weights, found.means, dense(found, structure))
    assert run.log_likelihood * len(rows) == pytest.approx(mine, rel=1e-12)
    best = minimize(
        lambda vector: -pair_log_likelihood(rows, *unpack(vector, structure, k, d)),
        pack(near, structure),
        options={"gtol": 1e-6},
    )
    assert -best.fun == pytest.approx(mine, abs=1e-7)
    parts = found.weights, found.means, dense(found, structure)
    for part, right in zip(parts, unpack(best.x, structure, k, d), strict=True):
        assert np.allclose(part, right, rtol=0, atol=1e-3)


@every_structure
def test_the_order_of_rows_does_not_matter(structure):
    rows, _, start = problem(structure)
    shuffled = np.random.default_rng(1).permutation(rows)
    here, there = (follow(r, start, structure, 3).parameters for r in (rows, shuffled))
    assert_close(there, here, 1e-11)


@every_structure
def test_whole_weights_are_repeated_rows(structure):
    rows, _, start = problem(structure)
    times = np.random.default_rng(3).integers(1, 4, len(rows))
    weighted = follow(rows, start, structure, 3, times.astype(float))
    repeated = follow(np.repeat(rows, times, axis=0), start, structure, 3)
    assert weighted.log_likelihoods == pytest.approx(repeated.log_likelihoods, rel=1e-12)
    assert_close(weighted.parameters, repeated.parameters, 1e-11)


@every_structure
def test_a_row_with_nothing_observed_says_nothing(structure):
    rows, truth, start = problem(structure)
    nothing = np.isnan(rows).all(axis=1)
    mixture = Mixture.from_parameters(truth, structure)
    out = mixture.evaluate(rows, "log_likelihoods", "responsibilities", missing=True)
    assert np.abs(out.log_likelihoods[nothing]).max() <= 4 * reference.EPS
    assert np.allclose(out.responsibilities[nothing], truth.weights, rtol=1e-15, atol=0)
    assert np.allclose(mixture.impute(rows[nothing]), mixture.mean, rtol=1e-14)
    # It waits for the others: where EM ends, it makes no difference.
    here, there = (follow(r, start, structure, 150 if COMPILED else 3) for r in (rows, rows[~nothing]))
    if COMPILED:
        assert_close(here.parameters, there.parameters, 1e-3)


@every_structure
def test_imputed_values_are_conditional_means(structure):
    rows, truth, _ = problem(structure, n=40)
    mixture, covariances = Mixture.from_parameters(truth, structure), dense(truth, structure)
    shares = reference.responsibilities(reference.observed_log_densities(rows, *truth[:2], covariances))
    expected = [
        sum(s * reference.conditional(row, m, v)[0] for s, m, v in zip(mine, truth.means, covariances, strict=True))
        for row, mine in zip(rows, shares, strict=True)
    ]
    found = mixture.impute(rows)
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-11)
    observed = ~np.isnan(rows)
    assert np.array_equal(found[observed], rows[observed])
    assert np.array_equal(mixture.impute(rows.reshape(2, 20, 4)), found.reshape(2, 20, 4))
    assert np.array_equal(mixture.impute(rows[7]), mixture.impute(rows[7:8])[0])


@every_structure
def test_draws_have_the_conditional_moments(structure):
    n = 20_000 if COMPILED else 3000
    rows, truth, _ = problem(structure)
    mixture, covariances = Mixture.from_parameters(truth, structure), dense(truth, structure)
    row = np.array([rows[np.isfinite(rows[:, 0]), 0][0], np.nan, truth.means[0, 2], np.nan])
    copies = mixture.rvs_missing([row, truth.means[0]], n, random_state=0)
    assert copies.shape == (n, 2, 4)
    assert (copies[:, 0, [0, 2]] == row[[0, 2]]).all() and (copies[:, 1] == truth.means[0]).all()
    (shares,) = reference.responsibilities(reference.observed_log_densities(row[None], *truth[:2], covariances))
    parts = [reference.conditional(row, m, v) for m, v in zip(truth.means, covariances, strict=True)]
    mean = sum(s * x for s, (x, _) in zip(shares, parts, strict=True))
    cov = sum(s * (v + np.outer(x - mean, x - mean)) for s, (x, v) in zip(shares, parts, strict=True))
    draws, m = copies[:, 0, [1, 3]], np.ix_([1, 3], [1, 3])
    errors = (draws.mean(axis=0) - mean[[1, 3]]) / np.sqrt(np.diag(cov[m]) / n)
    assert np.abs(errors).max() < 4
    away = draws - mean[[1, 3]]
    products = away[:, :, None] * away[:, None, :]
    assert np.abs((products.mean(axis=0) - cov[m]) / (products.std(axis=0) / np.sqrt(n))).max() < 4


def test_draws_are_repeatable_and_come_in_any_number():
    rows, truth, _ = problem("full", n=20)
    mixture = Mixture.from_parameters(truth, "full")
    assert np.array_equal(mixture.rvs_missing(rows, 3, random_state=5), mixture.rvs_missing(rows, 3, random_state=5))
    assert mixture.rvs_missing(rows[0], 2, np.random.default_rng(0)).shape == (2, 4)
    assert mixture.rvs_missing(rows, 0).shape == (0, 20, 4)
    with pytest.raises(ValueError, match="n must not be negative"):
        mixture.rvs_missing(rows, -1)


@every_structure
def test_an_estimator_takes_nan_where_it_may(structure):
    """Both types of rows, and everything an estimator says of them."""
    rows, _, start = problem(structure)
    fitted = estimator(start, structure, max_iter=5).fit(rows)
    mixture = fitted.mixture_
    densities = reference.observed_log_densities(rows, *mixture.parameters[:2], mixture.covariances_dense)
    values = reference.log_likelihoods(densities)
    assert np.allclose(fitted.score_samples(rows), values, rtol=1e-11)
    assert np.allclose(fitted.predict_proba(rows), reference.responsibilities(densities), rtol=1e-9, atol=1e-12)
    assert np.array_equal(fitted.predict(rows), fitted.predict_proba(rows).argmax(axis=1))
    assert fitted.score(rows) == pytest.approx(values.mean(), rel=1e-12)
    n, parameters = len(rows), fitted._n_parameters()
    assert fitted.bic(rows) == pytest.approx(parameters * np.log(n) - 2 * values.sum(), rel=1e-12)
    assert fitted.aic(rows) == pytest.approx(2 * parameters - 2 * values.sum(), rel=1e-12)
    single = estimator(start, structure, max_iter=5).fit(rows.astype(np.float32))
    assert single.means_.dtype == np.float32 and single.score_samples(rows.astype(np.float32)).dtype == np.float32
    assert np.allclose(single.means_, fitted.means_, rtol=1e-4, atol=1e-4)
    assert np.allclose(single.score_samples(rows.astype(np.float32)), values, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("start", ["kmeans", "k-means++", "random", "random_from_data"])
def test_to_starts_a_missing_entry_is_its_columns_mean(start):
    rows, *_ = problem("diag")
    weights = np.random.default_rng(2).uniform(0.1, 1.0, len(rows))
    total = np.where(np.isnan(rows), 0.0, weights[:, None]).sum(axis=0)
    filled = np.where(np.isnan(rows), (weights @ np.nan_to_num(rows)) / total, rows)
    options = {"covariance_type": "diag", "init_params": start, "max_iter": 0, "random_state": 0}
    found = GaussianMixture(2, missing="em", **options).fit(rows, sample_weight=weights)
    assert_close(found.mixture_, GaussianMixture(2, **options).fit(filled, sample_weight=weights).mixture_, 1e-9)


def test_what_may_not_be_missing_is_an_error_that_says_so():
    rows, _, start = problem("diag")
    pandas = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match="NaN"):
        estimator(start, "diag").set_params(missing="error").fit(rows)
    rows[3, 1] = np.inf
    fitted = estimator(start, "diag", max_iter=1).fit(rows[4:])
    for ask in (fitted.fit, fitted.predict, fitted.score, fitted.mixture_.impute, fitted.mixture_.rvs_missing):
        with pytest.raises(ValueError, match="infinity"):
            ask(rows)
    rows[:, [1, 3]] = np.nan
    with pytest.raises(ValueError, match=r"no observed value of features 1, 3; leave them out"):
        estimator(start, "diag").fit(rows)
    frame = pandas.DataFrame(rows, columns=["age", "height", "weight", "pulse"]).assign(pulse=1.0)
    with pytest.raises(ValueError, match=r"no observed value of feature height; leave it out"):
        estimator(start, "diag").fit(frame)
    assert np.isfinite(fitted.predict_proba(rows)).all()  # but a prediction needs none
    with pytest.raises(ValueError, match="missing"):
        GaussianMixture(missing="ignore").fit(rows)


def test_a_feature_seen_only_in_rows_of_no_weight_was_not_seen():
    rows, _, start = problem("diag")
    rows[1:, 2], rows[0, 2] = np.nan, 1.0
    weights = np.ones(len(rows))
    weights[0] = 0.0
    with pytest.raises(ValueError, match="no observed value of feature 2"):
        estimator(start, "diag").fit(rows, sample_weight=weights)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_the_error_about_nan_names_the_cure(method):
    with pytest.raises(ValueError, match="Input X contains NaN") as caught:
        getattr(GaussianMixture(2), method)([[0.0], [1.0], [np.nan]])
    assert caught.value.__notes__ == ['With missing="em" such entries are integrated out.']
    with pytest.raises(ValueError) as caught:
        getattr(GaussianMixture(2), method)([[0.0], [1.0], [np.inf]])
    assert not hasattr(caught.value, "__notes__")


def test_it_says_whether_it_takes_nan():
    assert get_tags(GaussianMixture(missing="em")).input_tags.allow_nan
    assert not get_tags(GaussianMixture()).input_tags.allow_nan


@pytest.mark.threads
@pytest.mark.parametrize("structure", ["full", "diag"])
def test_the_bits_do_not_depend_on_the_number_of_threads(structure):
    rows, _, start = problem(structure, n=3 * RANGE_ROWS if COMPILED else 300, share=0.1)
    source = IncompleteRows(rows)
    form = source.form(STRUCTURES[structure], start)
    found = []
    for count in (1, 2):
        with threads(count):
            found.append((*source.reduce(form), *source.map(form, "log_likelihoods", "responsibilities")))
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


@every_structure
def test_data_far_from_zero_fit_as_at_zero(structure):
    rows, _, start = problem(structure)
    there = follow(rows + 1e8, start._replace(means=start.means + 1e8), structure, 3).parameters
    here = follow(rows, start, structure, 3).parameters
    assert_close(there._replace(means=there.means - 1e8), here, 1e-6)


def test_narrow_covariances_cost_only_the_digits_of_their_factor():
    """A condition number of 1e12, against 50 digits: densities, and what is expected in the place of NaN."""
    random = np.random.default_rng(0)
    d, n = 7, 30
    axes, widths = np.linalg.qr(random.normal(size=(d, d)))[0], np.logspace(0, -6, d)
    mixture = Mixture([1.0], np.zeros((1, d)), (axes * widths**2 @ axes.T)[None])
    rows = reference.knock_out(random.normal(size=(n, d)) * widths @ axes.T, 0.4, random)
    rows[0] = np.nan
    found = mixture.evaluate(rows, "log_likelihoods", missing=True).log_likelihoods
    imputed = mixture.impute(rows)
    with mpmath.workdps(50):
        lower = mpmath.inverse(mpmath.matrix(mixture.factors[0].tolist()))
        exact = lower * lower.T
        for row, value, completed in zip(rows[1:], found[1:], imputed[1:], strict=True):
            o, m = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
            marginal = mpmath.matrix([[exact[int(i), int(j)] for j in o] for i in o])
            x = mpmath.matrix(row[o].tolist())
            solved = mpmath.lu_solve(marginal, x)
            exponent = (x.T * solved)[0] + mpmath.log(mpmath.det(marginal)) + len(o) * mpmath.log(2 * mpmath.pi)
            assert abs(value + exponent / 2) <= 1e-10
            for i in m:
                right = mpmath.fsum(exact[int(i), int(j)] * s for j, s in zip(o, solved, strict=True))
                assert abs(completed[i] - right) <= 1e-13
    assert found[0] == 0.0 and not imputed[0].any()
    # The same where many rows lack the same and share their regression coefficients.
    form = STRUCTURES["full"].masked_form(mixture.parameters)
    first = ArrayRows(np.repeat(rows, 40, axis=0)).reduce(form).first
    assert np.abs(first[0] / 40 - imputed.sum(axis=0)).max() <= 1e-12


def test_rows_too_far_for_float64_belong_to_the_nearest_component():
    # Were the missing entry at its mean, the first row would be nearer to the second component.
    covariances = np.array([[[1.0, 0.99], [0.99, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    far = Mixture([0.5, 0.5], [[0.0, 0.0], [1e200, 0.0]], covariances)
    rows = np.array([[2e199, np.nan], [1e201, np.nan], [np.nan, 1.0]])
    out = far.evaluate(rows, "log_likelihoods", "responsibilities", "labels", missing=True)
    assert np.array_equal(out.log_likelihoods[:2], [-np.inf, -np.inf])
    assert np.array_equal(out.responsibilities, [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    assert np.array_equal(out.labels[:2], [0, 1])
