"""The prior: its closed forms, its density, and what it is for."""

import warnings

import numpy as np
import pytest
import reference
from scipy import stats

from fastgmm import GaussianMixture, Prior, RegularisationWarning
from fastgmm.covariance import STRUCTURES, flat
from fastgmm.covariance.prior import log_density
from fastgmm.em import engine, step
from fastgmm.em.initialise import regularise
from fastgmm.kernels._jit import COMPILED
from fastgmm.sources import ArrayRows

every_structure = pytest.mark.parametrize("structure", reference.DISTINCT)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
K, D = 3, 2
ROWS = 200 if COMPILED else 60
FAMILIES = {
    "flat means": {"shrinkage": 0.0},
    "shrunk means": {"shrinkage": 2.5},
    "concentrated weights": {"shrinkage": 0.01, "weight_concentration": 4.0},
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def problem(structure, seed=0):
    """Rows of a mixture and parameters to start from."""
    random = np.random.default_rng(seed)
    truth = reference.random_parameters(structure, K, D, random)
    rows = reference.random_rows(truth._replace(means=3 * truth.means), structure, ROWS, random)
    return rows, reference.random_parameters(structure, K, D, random)._replace(means=rows[:K].copy())


def prior_of(structure, family):
    """A prior with a scale that is no multiple of the identity where the structure has more."""
    scale = {"full": [[2.0, 0.7], [0.7, 1.0]], "tied": [[2.0, 0.7], [0.7, 1.0]], "diag": [2.0, 0.5], "spherical": 1.5}
    scale = scale[reference.shape_of(structure)]
    return Prior(mean=np.array([1.0, -2.0]), degrees_of_freedom=3.5, scale=scale, **FAMILIES[family])


def joined(structure, family):
    return prior_of(structure, family).hyperparameters(STRUCTURES[structure], K, D)


def scipy_log_density(prior, weights, means, covariances, structure):
    """log p(θ), constants included, by SciPy's distributions."""
    nu, kappa = prior.degrees_of_freedom, prior.shrinkage
    total = stats.dirichlet.logpdf(weights / weights.sum(), np.full(K, prior.weight_concentration))
    different = covariances[:1] if STRUCTURES[structure].REPEATED else covariances
    if structure == "tied":
        total += stats.invwishart.logpdf(covariances, nu, prior.scale)
    elif STRUCTURES[structure].MATRICES:
        total += sum(stats.invwishart.logpdf(covariance, nu, prior.scale) for covariance in covariances)
    else:
        total += stats.invgamma.logpdf(different, nu / 2, scale=np.asarray(prior.scale) / 2).sum()
    if kappa > 0:
        for mean, covariance in zip(means, reference.dense(covariances, structure, K, D), strict=True):
            total += stats.multivariate_normal.logpdf(mean, prior.mean, covariance / kappa)
    return total


@every_structure
@every_family
def test_a_step_is_the_twin(structure, family):
    rows, start = problem(structure)
    source, own = ArrayRows(rows), STRUCTURES[structure]
    update = step.maximise(source, source.reduce(own.form(start)), start, own, joined(structure, family))
    densities = reference.log_densities(
        rows, start.weights, start.means, reference.dense(start.factors, structure, K, D)
    )
    prior = prior_of(structure, family)
    expected = reference.most_probable(rows, reference.responsibilities(densities), structure, prior)
    for ours, theirs in zip(update.parameters, expected, strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-13)


@every_structure
@every_family
def test_the_density_is_scipys_but_for_a_constant(structure, family):
    prior, random = prior_of(structure, family), np.random.default_rng(1)
    several = [reference.random_parameters(structure, K, D, random) for _ in range(4)]
    ours = [log_density(joined(structure, family), p, STRUCTURES[structure]) for p in several]
    expected = [scipy_log_density(prior, *p[:3], structure) for p in several]
    np.testing.assert_allclose(np.diff(ours), np.diff(expected), rtol=1e-10)
    assert log_density(flat(0.0, D), several[0], STRUCTURES[structure]) == 0.0


@pytest.mark.slow
@every_structure
@every_family
def test_the_posterior_never_falls_and_ends_at_its_mode(structure, family):
    rows, start = problem(structure)
    run = engine.run(
        ArrayRows(rows),
        start,
        STRUCTURES[structure],
        tol=0.0,
        prior=joined(structure, family),
        max_iter=1500 if COMPILED else 250,
    )
    objective = np.array(run.log_likelihoods)
    assert (np.diff(objective) >= -1e-13 * np.abs(objective[1:])).all() and objective[-1] > objective[0]

    def log_posterior(weights, means, covariances):
        factors = reference.factorise(covariances, structure, K, D)
        likelihoods = reference.log_likelihoods(reference.log_densities(rows, weights, means, factors))
        prior = prior_of(structure, family)
        return likelihoods.sum() + scipy_log_density(prior, weights, means, covariances, structure)

    # Its derivatives along random directions vanish beside its curvature.
    mode, random = run.parameters[:3], np.random.default_rng(2)
    best = log_posterior(*mode)
    for _ in range(6):
        move = [random.normal(size=part.shape) for part in mode]
        move[0] = mode[0] * (move[0] - mode[0] @ move[0])
        if STRUCTURES[structure].MATRICES:
            move[2] = move[2] + move[2].swapaxes(-1, -2)
        moved = ([part + h * m for part, m in zip(mode, move, strict=True)] for h in (1e-4, -1e-4))
        ahead, behind = (log_posterior(*p[:2], reference.constrained(p[2], p[0], structure)) for p in moved)
        curvature = (ahead - 2 * best + behind) / 1e-8
        slope = (ahead - behind) / 2e-4
        assert curvature < 0 and abs(slope) < (1e-3 if COMPILED else 1e-1) * -curvature


@every_structure
def test_the_defaults_are_mclusts(structure):
    """Shrinkage 0.01, d + 2 degrees of freedom, the rows' mean, and their covariance over k^(2/d)."""
    rows = np.random.default_rng(0).normal(size=(50, 4)) * [1.0, 2.0, 5.0, 0.1] + 3.0
    prior, _ = regularise(ArrayRows(rows), K, STRUCTURES[structure], Prior(), 1e-6)
    covariance = np.cov(rows.T, bias=True)
    full, variances = covariance, np.diag(covariance)
    expected = {"full": full, "tied": full, "diag": variances, "spherical": variances.mean()}
    expected = expected[reference.shape_of(structure)] / K**0.5
    np.testing.assert_allclose(prior.scale, expected, rtol=3e-6, atol=1e-9)
    np.testing.assert_allclose(prior.mean, rows.mean(axis=0), rtol=1e-14)
    assert (prior.weight_concentration, prior.shrinkage, prior.degrees_of_freedom) == (1.0, 0.01, 6.0)


@every_structure
def test_the_default_is_free_of_units(structure):
    """Of one unit for all features, and where variances differ of one for each; `reg_covar` has no part in it."""
    rows, _ = problem(structure)
    scale = 1e-6 if structure in ("spherical", "EII", "EEV") else np.array([1e-9, 1e7])
    options = {"covariance_type": structure, "prior": "default", "init_params": "random", "random_state": 0}
    here, there = (GaussianMixture(K, **options).fit(units * rows) for units in (1.0, scale))
    np.testing.assert_allclose(there.means_ / scale, here.means_, rtol=1e-6)
    np.testing.assert_allclose(there.weights_, here.weights_, rtol=1e-6)
    np.testing.assert_allclose(there.bic(scale * rows), here.bic(rows) + 2 * ROWS * np.log(scale * np.ones(D)).sum())


@pytest.mark.slow
@every_structure
def test_criteria_use_the_likelihood_and_the_bound_the_posterior(structure):
    rows, _ = problem(structure)
    options = {"covariance_type": structure, "random_state": 0, "tol": 1e-12, "max_iter": 3000 if COMPILED else 100}
    gm = GaussianMixture(K, prior="default", **options).fit(rows)
    n_parameters = gm._n_parameters()
    assert gm.bic(rows) == pytest.approx(-2 * ROWS * gm.score(rows) + n_parameters * np.log(ROWS), rel=1e-12)
    structured = STRUCTURES[structure]
    log_prior = log_density(gm.prior_.hyperparameters(structured, K, D), gm._parameters(), structured)
    assert gm.lower_bound_ == pytest.approx(gm.score(rows) + log_prior / ROWS, rel=1e-9 if COMPILED else 1e-5)


@every_structure
def test_limits_of_the_prior(structure):
    """A faint one changes nothing; a strong one decides everything."""
    rows, start = problem(structure)
    options = {
        "covariance_type": structure,
        "weights_init": start.weights,
        "means_init": start.means,
        "precisions_init": STRUCTURES[structure].precisions(start.factors),
        "max_iter": 5,
        "tol": 0.0,
    }
    likely = GaussianMixture(K, reg_covar=0.0, **options).fit(rows)
    mean, tiny = np.array([1.0, 2.0]), 1e-13
    strong = Prior(1e9, 1e9, mean, 1e9, 2e9).hyperparameters(STRUCTURES[structure], K, D)
    faint = strong._replace(concentration=tiny, shrinkage=tiny, rows=tiny, scale=tiny * strong.scale / 1e9)
    follow = {"tol": 0.0, "max_iter": 5}
    run = engine.run(ArrayRows(rows), start, STRUCTURES[structure], prior=faint, **follow)
    np.testing.assert_allclose(run.parameters.covariances, likely.covariances_, rtol=1e-9)
    run = engine.run(ArrayRows(rows), start, STRUCTURES[structure], prior=strong, **follow)
    np.testing.assert_allclose(run.parameters.weights, 1 / K, rtol=1e-6)
    np.testing.assert_allclose(run.parameters.means, np.tile(mean, (K, 1)), rtol=1e-6)
    variances = np.einsum("cjj->cj", reference.dense(run.parameters.covariances, structure, K, D))
    np.testing.assert_allclose(variances, 2.0, rtol=1e-5)


BAD = [
    ({"weight_concentration": 0.5}, "weight_concentration must be a number from 1 on, but got 0.5"),
    ({"shrinkage": -1.0}, "shrinkage must be a number from 0 on, but got -1.0"),
    ({"shrinkage": np.nan}, "shrinkage must be a number from 0 on"),
    ({"mean": [np.nan, 0.0]}, "mean must be finite"),
    ({"scale": np.inf}, "scale must be finite"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_numbers_that_are_no_prior(options, message):
    with pytest.raises(ValueError, match=message):
        Prior(**options)


UNFIT = [
    ("full", {"mean": [0.0]}, r"mean should have shape \(2,\), but got \(1,\)"),
    ("full", {"degrees_of_freedom": 1.0}, "degrees_of_freedom should exceed 1 here, but got 1"),
    ("diag", {"degrees_of_freedom": 0.0}, "degrees_of_freedom should exceed 0 here"),
    ("full", {"scale": np.eye(3)}, r"scale should have shape \(2, 2\) or fewer axes, but got \(3, 3\)"),
    ("tied", {"scale": [1.0, 2.0, 3.0]}, r"scale should have shape \(2, 2\) or fewer axes, but got \(3,\)"),
    ("tied", {"scale": [[1.0, 0.5], [0.0, 1.0]]}, "scale should be symmetric"),
    ("full", {"scale": [[1.0, 2.0], [2.0, 1.0]]}, "scale should be positive-definite"),
    ("diag", {"scale": [1.0, -1.0]}, "scale should be positive"),
    ("spherical", {"scale": [1.0, 1.0]}, r"scale should have shape \(\) or fewer axes, but got \(2,\)"),
]


@pytest.mark.parametrize(("structure", "options", "message"), UNFIT)
def test_priors_that_do_not_suit_the_data(structure, options, message):
    gm = GaussianMixture(K, covariance_type=structure, prior=Prior(**options))
    with pytest.raises(ValueError, match=message):
        gm.fit(problem(structure)[0])
    assert not hasattr(gm, "prior_")


@pytest.mark.parametrize("structure", ["full", "tied", "diag"])
def test_fewer_axes_of_a_scale_are_equal_variances(structure):
    scales = [2.0, [2.0, 2.0]] + [2.0 * np.eye(2)] * (structure != "diag")
    found = [Prior(mean=[0.0, 0.0], degrees_of_freedom=3.0, scale=scale) for scale in scales]
    found = [prior.hyperparameters(STRUCTURES[structure], K, D).scale for prior in found]
    for scale in found:
        np.testing.assert_array_equal(scale, found[-1])


@every_structure
def test_relative_regularisation_is_free_of_units(structure):
    """As the absolute one at unit variance, and without its warning."""
    rows, _ = problem(structure)
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    options = {"covariance_type": structure, "init_params": "random", "random_state": 0}
    absolute = GaussianMixture(K, **options).fit(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RegularisationWarning)
        for units in (1.0, 1e-12, 1e12):
            gm = GaussianMixture(K, reg_covar="auto", **options).fit(units * rows)
            np.testing.assert_allclose(gm.covariances_ / units**2, absolute.covariances_, rtol=1e-8, atol=1e-12)
