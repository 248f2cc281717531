"""What one asks of a mixture: parts of it, quantiles, information, order; against SciPy, quadrature and mpmath."""

import mpmath
import numpy as np
import pytest
from reference import DISTINCT
from scipy import stats
from sklearn.exceptions import NotFittedError
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as ScikitLearnMixture
from test_mixture import component_pdfs, dense, every_structure, make_mixture

from fastgmm import GaussianMixture, Mixture
from fastgmm.covariance import STRUCTURES, Parameters

GRID = np.arange(-45.0, 45.0, 0.05)  # sums over it are integrals to rounding: densities are smooth and end at zero
SUBSETS = [[0], [2, 0], [1, 2]]


@every_structure
@pytest.mark.parametrize("dims", [*SUBSETS, [2, 1, 0]], ids=str)
def test_marginals_are_scipys(covariance_type, dims):
    mixture = make_mixture(covariance_type, d=3)
    marginal = mixture.marginal(dims)
    points = np.random.default_rng(1).normal(scale=3.0, size=(20, len(dims)))
    covariances = dense(mixture)[np.ix_(range(3), dims, dims)]
    expected = component_pdfs(Mixture(mixture.weights, mixture.means[:, dims], covariances), points).sum(axis=1)
    np.testing.assert_allclose(marginal.pdf(points), expected, rtol=1e-11)
    assert marginal.covariance_type == covariance_type
    np.testing.assert_array_equal(dense(marginal), covariances)


@every_structure
def test_marginals_are_integrals(covariance_type):
    mixture = make_mixture(covariance_type)
    at = np.array([-3.0, 0.5, 4.0])
    joint = mixture.pdf(np.stack(np.meshgrid(at, GRID, indexing="ij"), axis=-1))
    np.testing.assert_allclose(mixture.marginal(0).pdf(at), joint.sum(axis=1) * 0.05, rtol=1e-11)


@pytest.mark.parametrize("structure", DISTINCT)
def test_parts_of_mclusts_structures_are_familiar(structure):
    """What some features of all components share, others need not."""
    shape = STRUCTURES[structure].SHAPE
    covariances = make_mixture(shape, d=3).covariances
    mixture, plain = (Mixture([0.2, 0.3, 0.5], np.zeros((3, 3)), covariances, name) for name in (structure, shape))
    assert mixture.marginal([0, 2]) == plain.marginal([0, 2])
    assert mixture.condition(1, 0.5) == plain.condition(1, 0.5)


def test_features_are_named_by_index_indices_or_mask():
    mixture = make_mixture("full", d=3)
    assert mixture.marginal(-1) == mixture.marginal([2]) == mixture.marginal([False, False, True])
    assert mixture.marginal(np.array([True, False, True])) == mixture.marginal((0, -1))


@every_structure
@pytest.mark.parametrize("dims", SUBSETS, ids=str)
def test_the_product_rule(covariance_type, dims):
    """p(a, b) = p(a) p(b | a), far from the components too."""
    mixture = make_mixture(covariance_type, d=3)
    rest = [j for j in range(3) if j not in dims]
    points = np.random.default_rng(1).normal(scale=6.0, size=(40, 3))
    conditional = mixture.condition(dims, points[:, dims])
    total = mixture.marginal(dims).logpdf(points[:, dims]) + conditional.logpdf(points[:, rest])
    np.testing.assert_allclose(total, mixture.logpdf(points), rtol=1e-11)
    np.testing.assert_allclose(conditional.pdf(points[:, rest]), np.exp(conditional.logpdf(points[:, rest])))


@every_structure
def test_regression_is_an_integral(covariance_type):
    mixture = make_mixture(covariance_type)
    given = np.array([-3.0, 0.5, 4.0])
    density = mixture.pdf(np.stack(np.meshgrid(GRID, given), axis=-1))
    density /= density.sum(axis=1, keepdims=True)
    mean = density @ GRID
    variance = (density * (GRID - mean[:, None]) ** 2).sum(axis=1)
    conditional = mixture.condition(1, given)
    np.testing.assert_allclose(conditional.mean, mean[:, None], rtol=1e-10)
    np.testing.assert_allclose(conditional.cov, variance[:, None, None], rtol=1e-10)
    for q, found in zip([0.05, 0.5], conditional.ppf([0.05, 0.5]).T, strict=True):
        below = [(row * (x >= GRID)).sum() for row, x in zip(density, found, strict=True)]
        np.testing.assert_allclose(below, q, atol=density.max())
        np.testing.assert_array_equal(conditional.ppf(q), found)


@every_structure
def test_each_row_of_a_conditional_is_a_mixture(covariance_type):
    mixture = make_mixture(covariance_type, d=3)
    given = np.random.default_rng(1).normal(size=(4, 1))
    points = np.random.default_rng(2).normal(size=(4, 2))
    conditional = mixture.condition([1], given)
    assert len(conditional) == 4 and conditional.weights.shape == (4, 3) and conditional.means.shape == (4, 3, 2)
    for i, row in enumerate(conditional):
        assert row == mixture.condition(1, given[i, 0]) and row.covariance_type == covariance_type
        np.testing.assert_array_equal(row.weights, conditional.weights[i])
        np.testing.assert_allclose(row.means, conditional.means[i], rtol=1e-14)
        np.testing.assert_allclose(row.mean, conditional.mean[i], rtol=1e-13)
        np.testing.assert_allclose(row.cov, conditional.cov[i], rtol=1e-12)
        assert row.logpdf(points[i]) == pytest.approx(conditional.logpdf(points)[i], rel=1e-13)
        rebuilt = Mixture(row.weights, row.means, row.covariances, covariance_type)  # they are sound
        np.testing.assert_allclose(rebuilt.factors, row.factors, rtol=1e-9)


def test_parts_of_an_ill_conditioned_mixture_keep_its_digits():
    """At a condition of 1e12, from the factor to fifty digits; a difference of covariances keeps four."""
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    covariance = (basis * np.logspace(0, -12, 4)) @ basis.T
    factor, failed = STRUCTURES["full"].factorise(covariance[None])
    assert failed == -1
    mixture = Mixture.from_parameters(Parameters(np.ones(1), np.zeros((1, 4)), covariance[None], factor), "full")
    values = np.array([1e-3, -2e-3])
    conditional = mixture.condition([3, 1], values)
    with mpmath.workdps(50):
        F = mpmath.matrix(factor[0].tolist())
        precision = F.T * F
        wanted, given = [0, 2], [3, 1]
        inner = mpmath.inverse(mpmath.matrix(2, 2) + mpmath.matrix([[precision[i, j] for j in wanted] for i in wanted]))
        shift = mpmath.matrix([[precision[i, j] for j in given] for i in wanted]) * mpmath.matrix(values.tolist())
        mean, cov = -inner * shift, inner
    np.testing.assert_allclose(conditional.covariances[0], np.array(cov.tolist(), dtype=float), rtol=1e-8)
    np.testing.assert_allclose(conditional.means[0], np.array(mean.tolist(), dtype=float)[:, 0], rtol=1e-8)


@every_structure
def test_what_is_given_may_be_far_away(covariance_type):
    conditional = make_mixture(covariance_type).condition(0, [1e200, 0.0])
    assert np.isfinite(conditional.mean).all() and np.isfinite(conditional.cov).all()
    assert sorted(conditional.weights[0]) == [0, 0, 1]
    assert conditional.logpdf([-1e200, 0.0])[0] == -np.inf


PARTS = {
    "dims must be the index of a feature, or some indices, but got [].": lambda m: m.marginal([]),
    "dims must be the index of a feature, or some indices, but got 0.5.": lambda m: m.marginal(0.5),
    "dims must be the index of a feature, or some indices, but got [True].": lambda m: m.marginal([True]),
    "dims must be from 0 to 2, the last of 3 features; got 3.": lambda m: m.marginal(3),
    "dims must be from 0 to 2, the last of 3 features; got -4.": lambda m: m.condition(-4, 0.0),
    "dims must name each feature once, but got [0, -3].": lambda m: m.marginal([0, -3]),
    "dims names all 3 features, so that none is left to describe.": lambda m: m.condition([0, 1, 2], np.zeros(3)),
    "values must have shape (..., 2), features last, but got (3,).": lambda m: m.condition([0, 1], np.zeros(3)),
    "values must have shape (2,) or (n, 2), but got (1, 1, 2).": lambda m: m.condition([0, 1], np.zeros((1, 1, 2))),
    "Input values contains NaN.": lambda m: m.condition([0, 1], [0.0, np.nan]),
    "Y must have a row for each of the 2 given ones, but got (3, 2).": lambda m: m.condition(0, [0.0, 1.0]).logpdf(
        np.zeros((3, 2))
    ),
    "Y must have shape (..., 2), features last, but got (2, 1).": lambda m: m.condition(0, [0.0, 1.0]).pdf(
        np.zeros((2, 1))
    ),
    "Quantiles are of one feature, but 2 are left": lambda m: m.condition(0, [0.0, 1.0]).ppf(0.5),
    "Of 3 features together there is no cdf or ppf": lambda m: m.cdf(0.0),
    "direction must have shape (3,) and not be zero, but is [1.0, 0.0].": lambda m: m.cdf(0.0, [1.0, 0.0]),
    "direction must have shape (3,) and not be zero, but is [0, 0, 0].": lambda m: m.ppf(0.5, [0, 0, 0]),
    "direction must be finite, but direction[0] is nan.": lambda m: m.ppf(0.5, [np.nan, 1, 1]),
    "Probabilities must be from 0 to 1, but got 1.5.": lambda m: m.marginal(0).ppf([0.5, 1.5]),
    "Probabilities must be from 0 to 1, but got nan.": lambda m: m.marginal(0).ppf(np.nan),
    "The divergence is from another Mixture of 3 features, not": lambda m: m.kl(m.marginal(0)),
    "n must be at least 2, but got 1.": lambda m: m.kl(m, 1),
    "by must be \"weight\" or the index of a feature, but got 'size'.": lambda m: m.sort("size"),
    "dims must be from 0 to 2": lambda m: m.sort(3),
}


@pytest.mark.parametrize("message", PARTS)
def test_questions_that_have_no_answer(message):
    with pytest.raises(ValueError) as caught:
        PARTS[message](make_mixture("full", d=3))
    assert str(caught.value).startswith(message)


@every_structure
def test_cdf_is_the_integral_of_the_density(covariance_type):
    mixture = make_mixture(covariance_type, d=1)
    steps = mixture.pdf(GRID) * 0.05
    np.testing.assert_allclose(mixture.cdf(GRID + 0.025), steps.cumsum(), atol=1e-4)
    np.testing.assert_allclose(np.diff(mixture.cdf(GRID + 0.025)), steps[1:], atol=1e-5)
    assert mixture.cdf(-np.inf) == 0.0 and mixture.cdf(np.inf) == 1.0 and isinstance(mixture.cdf(0.0), float)
    assert mixture.cdf(np.zeros((2, 3))).shape == mixture.ppf(np.full((2, 3), 0.5)).shape == (2, 3)


@every_structure
def test_projections_are_scipys(covariance_type):
    mixture = make_mixture(covariance_type, d=3)
    direction = np.array([1.0, -2.0, 0.5])
    centres, widths = mixture.means @ direction, np.sqrt(direction @ dense(mixture) @ direction)
    x = np.linspace(-40.0, 40.0, 41)
    expected = stats.norm.cdf(x[:, None], centres, widths) @ mixture.weights
    np.testing.assert_allclose(mixture.cdf(x, direction), expected, rtol=1e-12)
    np.testing.assert_allclose(mixture.cdf(x, -direction), mixture.cdf(x, direction=-direction))
    np.testing.assert_allclose(mixture.cdf(-x, -direction), 1.0 - expected, atol=1e-14)
    np.testing.assert_allclose(mixture.cdf(x, [0, 0, 1]), mixture.marginal(2).cdf(x), rtol=1e-13)


PROBABILITIES = np.array([5e-324, 1e-300, 1e-40, 1e-16, 1e-3, 0.2, 0.5, 0.7, 1 - 1e-3, 1 - 2**-53])


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_quantiles_are_mpmaths(offset):
    """To the last digits that float64 has of x, or that a probability determines."""
    mixture = Mixture([0.3, 0.6, 0.1], [[offset - 3.0], [offset], [offset + 0.5]], [0.25, 4.0, 1e-4], "spherical")
    found = mixture.ppf(PROBABILITIES)
    widths = np.sqrt(mixture.covariances)
    with mpmath.workdps(60):
        total = mpmath.fsum(map(mpmath.mpf, mixture.weights))

        def lower(x):
            parts = zip(mixture.weights, mixture.means[:, 0], widths, strict=True)
            return mpmath.fsum(w / total * mpmath.ncdf((x - mpmath.mpf(m)) / mpmath.mpf(s)) for w, m, s in parts)

        for q, x in zip(PROBABILITIES, found, strict=True):
            exact = mpmath.findroot(lambda y, q=q: mpmath.log(lower(y)) - mpmath.log(mpmath.mpf(q)), mpmath.mpf(x))
            undetermined = min(q, 1.0 - q) / mixture.pdf(x) if mixture.pdf(x) > 1e-300 else 0.0
            assert abs(exact - x) < 4e-16 * (abs(exact) + undetermined), q


def test_quantiles_undo_probabilities():
    """Many widths and many probabilities: cdf(ppf(q)) = q, in the upper tail by the projection turned round."""
    random = np.random.default_rng(0)
    mixture = Mixture(
        random.dirichlet(np.full(20, 0.3)), random.normal(scale=100.0, size=(20, 1)), 10.0 ** random.uniform(-6, 6, 20),
        "spherical",
    )  # fmt: skip
    q = np.concatenate([10.0 ** -np.arange(1.0, 308.0), random.uniform(size=500)])
    x = mixture.ppf(q)
    np.testing.assert_allclose(mixture.cdf(x), q, rtol=1e-11)
    assert (np.diff(x[np.argsort(q)]) >= 0).all()
    upper = mixture.ppf(1 - q[:15])
    np.testing.assert_allclose(mixture.cdf(-upper, [-1.0]), 1 - (1 - q[:15]), rtol=1e-11)
    middle = mixture.rvs(500, 0)[:, 0]
    np.testing.assert_allclose(mixture.ppf(mixture.cdf(middle)), middle, rtol=1e-6)


def test_quantiles_in_a_gap_and_at_the_ends():
    mixture = Mixture([0.25, 0.75, 0.0], [[0.0], [1000.0], [-1e200]], [1.0, 1.0, 1.0], "spherical")
    assert list(mixture.ppf([0.0, 1.0])) == [-np.inf, np.inf]
    gap = mixture.ppf(0.25)
    assert 5 < gap < 995 and mixture.cdf(gap) == 0.25
    assert mixture.ppf(1e-300) > -100  # the component without weight does not count
    even = Mixture([0.5, 0.5], [[-7.0], [7.0]], [1.0, 1.0], "spherical")
    assert even.ppf(0.5) == 0.0
    one = Mixture([1.0], [[2.0]], [9.0], "spherical")
    q = np.linspace(0, 1, 11)
    np.testing.assert_allclose(one.ppf(q), stats.norm(2, 3).ppf(q), rtol=1e-14)


def naive_bounds(mixture):
    """The four bounds from their formulas, with inverses and determinants."""
    (k, d), covariances = mixture.means.shape, dense(mixture)
    own = [stats.multivariate_normal(m, c).entropy() for m, c in zip(mixture.means, covariances, strict=True)]
    bhattacharyya, overlap, divergence = np.empty((3, k, k))
    for a in range(k):
        for b in range(k):
            shift, middle = mixture.means[a] - mixture.means[b], (covariances[a] + covariances[b]) / 2
            det = np.linalg.det
            bhattacharyya[a, b] = shift @ np.linalg.inv(middle) @ shift / 8 + 0.5 * np.log(
                det(middle) / np.sqrt(det(covariances[a]) * det(covariances[b]))
            )
            overlap[a, b] = stats.multivariate_normal(mixture.means[b], 2 * middle).pdf(mixture.means[a])
            inverse = np.linalg.inv(covariances[b])
            divergence[a, b] = 0.5 * (
                np.trace(inverse @ covariances[a]) + shift @ inverse @ shift - d
                + np.log(det(covariances[b]) / det(covariances[a]))
            )  # fmt: skip
    weights = mixture.weights
    lower = [weights @ (own - np.log(np.exp(-bhattacharyya) @ weights)), -weights @ np.log(overlap @ weights)]
    highest = stats.multivariate_normal(mixture.mean, mixture.cov).entropy()
    return lower, [weights @ (own - np.log(np.exp(-divergence) @ weights)), highest]


@pytest.mark.slow
@every_structure
@pytest.mark.parametrize("spread", [0.2, 1.0, 30.0])
def test_entropy_is_between_its_bounds(covariance_type, spread):
    made = make_mixture(covariance_type)
    mixture = Mixture(made.weights, spread * made.means, made.covariances, covariance_type)
    bounds = mixture.entropy_bounds()
    lower, upper = naive_bounds(mixture)
    np.testing.assert_allclose(bounds, (max(lower), min(upper)), rtol=1e-12)
    surprises = -mixture.logpdf(mixture.rvs(20_000, 0))
    error = 5 * surprises.std() / np.sqrt(len(surprises))
    assert bounds.lower - error < surprises.mean() < bounds.upper + error
    if spread == 30.0:
        assert bounds.upper - bounds.lower < 1e-9


def test_the_bounds_of_entropy_take_turns():
    """Each of the four is the best somewhere."""
    narrow = Mixture(
        [*np.full(39, 0.5 / 39), 0.5], [*np.random.default_rng(0).normal(size=(39, 1)), [0.0]], [0.01] * 39 + [1.0],
        "spherical",
    )  # fmt: skip
    best = set()
    for mixture in (narrow, make_mixture("full"), Mixture([0.5, 0.5], [[0.0], [30.0]], [1.0, 1.0], "spherical")):
        lower, upper = naive_bounds(mixture)
        np.testing.assert_allclose(mixture.entropy_bounds(), (max(lower), min(upper)), rtol=1e-12)
        best |= {int(np.argmax(lower)), 2 + int(np.argmin(upper))}
    assert best == {0, 1, 2, 3}


@pytest.mark.filterwarnings("error")
@every_structure
def test_entropy_of_one_component_is_scipys(covariance_type):
    mixture = make_mixture(covariance_type, k=1, d=3)
    exact = stats.multivariate_normal(mixture.means[0], dense(mixture)[0]).entropy()
    np.testing.assert_allclose(mixture.entropy_bounds(), (exact, exact), rtol=1e-13)
    shapes = mixture.covariances if covariance_type == "tied" else np.repeat(mixture.covariances, 3, axis=0)
    same = Mixture([0.7, 0.3, 0.0], np.repeat(mixture.means, 3, axis=0), shapes, covariance_type)
    np.testing.assert_allclose(same.entropy_bounds(), (exact, exact), rtol=1e-13)


@pytest.mark.slow
@every_structure
def test_divergence_of_gaussians_is_the_closed_form(covariance_type):
    p, q = (make_mixture(covariance_type, k=1, seed=seed) for seed in (0, 1))
    inverse, shift = np.linalg.inv(dense(q)[0]), (p.means - q.means)[0]
    log_ratio = np.log(np.linalg.det(dense(q)[0]) / np.linalg.det(dense(p)[0]))
    exact = 0.5 * (np.trace(inverse @ dense(p)[0]) + shift @ inverse @ shift - 2 + log_ratio)
    found = p.kl(q, 20_000, random_state=0)
    assert abs(found.value - exact) < 5 * found.standard_error < 0.2 * exact
    assert p.kl(q, 100, 1) == p.kl(q, 100, 1) != p.kl(q, 100, 2)


def test_divergence_of_mixtures():
    p, q = make_mixture("full"), make_mixture("diag", seed=1)
    assert p.kl(p, 100, 0) == (0.0, 0.0)
    points = p.rvs(500, 0)
    ratios = p.logpdf(points) - q.logpdf(points)
    assert p.kl(q, 500, 0) == pytest.approx((ratios.mean(), stats.sem(ratios)), rel=1e-12)
    far = Mixture([1.0], [[1e200, 0.0]], [1.0], "spherical")
    assert p.kl(far, 10) == (np.inf, np.inf)


@every_structure
@pytest.mark.parametrize("by", ["weight", 0, -1])
def test_sorting_keeps_every_component_to_the_bit(covariance_type, by):
    mixture = make_mixture(covariance_type, k=5, seed=3)
    found = mixture.sort(by)
    keys = -found.weights if by == "weight" else found.means[:, by]
    assert (np.diff(keys) > 0).all() and found.covariance_type == covariance_type
    order = [int(np.flatnonzero(mixture.weights == weight)[0]) for weight in found.weights]
    assert sorted(order) == list(range(5)) and order != list(range(5))
    np.testing.assert_array_equal(found.means, mixture.means[order])
    np.testing.assert_array_equal(dense(found), dense(mixture)[order])
    np.testing.assert_array_equal(found.factors_dense, mixture.factors_dense[order])
    assert found.sort(by) == found


def test_sorting_leaves_equals_in_order():
    places = np.arange(40) % 4
    mixture = Mixture(np.full(40, 0.025), places[:, None], np.arange(1.0, 41.0), "spherical")
    assert mixture.sort() == mixture
    np.testing.assert_array_equal(
        mixture.sort(0).covariances, np.concatenate([np.arange(c, 41, 4) for c in (1, 2, 3, 4)])
    )


@every_structure
@pytest.mark.parametrize("kind", [GaussianMixture, ScikitLearnMixture, BayesianGaussianMixture])
def test_from_estimator(covariance_type, kind):
    rows = make_mixture("full").rvs(200, 0)
    fitted = kind(n_components=2, covariance_type=covariance_type, max_iter=500, random_state=0).fit(rows)
    mixture = Mixture.from_estimator(fitted)
    np.testing.assert_array_equal(mixture.means, fitted.means_)
    np.testing.assert_array_equal(mixture.covariances, fitted.covariances_)
    assert mixture.covariance_type == covariance_type
    if kind is not BayesianGaussianMixture:  # whose scores are expectations over parameters
        np.testing.assert_allclose(mixture.logpdf(rows), fitted.score_samples(rows), rtol=1e-9)
    with pytest.raises(NotFittedError):
        Mixture.from_estimator(kind())
