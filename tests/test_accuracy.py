"""Log-densities of every route against fifty digits, and the choice between the routes at its borders.

The stored factors, weights and means are taken as exact: what is measured is the evaluation, not the factorisation.
"""

import mpmath
import numpy as np
import pytest
import reference
from reference import DISTINCT, FAMILIAR, shape_of

from fastgmm import Mixture
from fastgmm.covariance import STRUCTURES, Parameters, flat
from fastgmm.kernels import forms
from fastgmm.kernels._jit import COMPILED
from fastgmm.kernels.triangular import LARGEST_CENTRED_SPREAD, SMALL_SIZES
from fastgmm.mixture.evaluation import Evaluator
from fastgmm.sources import ArrayRows

ROWS = 12 if COMPILED else 6
DIMENSIONS = (1, 2, 3, 4, 5, 8, 16, 17, 40) if COMPILED else (1, 4, 5, 17)
NEW = [structure for structure in DISTINCT if structure not in FAMILIAR]
# Structures that borrow the forms of another need not try them in as many features.
every_case = pytest.mark.parametrize(
    ("structure", "d"), [(s, d) for s in FAMILIAR for d in DIMENSIONS] + [(s, d) for s in NEW for d in (1, 5, 17)]
)
DOUBLE, SINGLE = np.dtype(np.float64), np.dtype(np.float32)
EPS = {dtype: float(np.finfo(dtype).eps) for dtype in (DOUBLE, SINGLE)}


def rotation(d, random):
    return np.linalg.qr(random.normal(size=(d, d)))[0]


def covariance_matrix(d, condition, random):
    """Variances from 1 down to 1 / condition along random axes."""
    axes = rotation(d, random)
    matrix = axes * condition ** -np.linspace(0.0, 1.0, d) @ axes.T
    return (matrix + matrix.T) / 2


def parameters_of(structure, k, d, condition, separation, random):
    """A mixture's parameters: means `separation` apart, covariances of a condition number (spherical: between them).

    All have the same eigenvalues; where they have the same axes too, they are those of one.
    """
    count = 1 if structure in ("tied", "EEI") else k
    shape = shape_of(structure)
    if shape == "spherical":
        covariances = np.full(k, 1 / condition) if structure == "EII" else condition ** -np.linspace(0.0, 1.0, k)
    elif shape == "diag":
        covariances = np.array([random.permutation(condition ** -np.linspace(0.0, 1.0, d)) for _ in range(count)])
        covariances = np.repeat(covariances, k // count, axis=0)
    else:
        covariances = np.array([covariance_matrix(d, condition, random) for _ in range(count)])
        covariances = covariances[0] if structure == "tied" else covariances
    factors, failed = STRUCTURES[structure].factorise(covariances)
    assert failed == -1
    means = separation * random.normal(size=(k, d))
    return Parameters(random.dirichlet(np.full(k, 5.0)), means, covariances, factors)


def rows_of(parameters, structure, random, n=ROWS):
    """Rows of the components, some of them stretched: a row may be tens of widths away."""
    rows = reference.random_rows(parameters, structure, n, random)
    centre = parameters.means[0]
    rows[::4] = centre + 30 * (rows[::4] - centre)
    return rows


def shifted(parameters, rows, offset):
    """Rows and means at an offset, both rounded there; what is rounded is then taken as exact."""
    return parameters._replace(means=parameters.means + offset), rows + offset


def exact_logpdf(mixture, rows):
    """log Σ_c w_c |F_c| (2π)**(-d/2) exp(-|F_c (x - μ_c)|² / 2) in fifty digits."""
    d = mixture.n_features
    factors, out = mixture.factors_dense, []
    with mpmath.workdps(50):
        exact = np.vectorize(mpmath.mpf, otypes=[object])
        triangles, means = exact(factors), exact(mixture.means)
        constants = [
            mpmath.log(mpmath.mpf(float(w)))
            + mpmath.fsum(mpmath.log(triangle[j, j]) for j in range(d))
            - mpmath.mpf(d) / 2 * mpmath.log(2 * mpmath.pi)
            for w, triangle in zip(mixture.weights, triangles, strict=True)
        ]
        for row in exact(np.asarray(rows, dtype=np.float64)):
            densities = [
                constant - mpmath.fsum(y * y for y in triangle @ (row - mean)) / 2
                for constant, triangle, mean in zip(constants, triangles, means, strict=True)
            ]
            largest = max(densities)
            out.append(largest + mpmath.log(mpmath.fsum(mpmath.exp(density - largest) for density in densities)))
        return np.array([mpmath.nstr(value, 30) for value in out]).astype(np.longdouble)


def error(found, expected):
    """Largest error in units of max(1, |log-density|)."""
    return float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max())


def chosen(mixture, single=False):
    return STRUCTURES[mixture.covariance_type].form(mixture.parameters, single)


def measured(structure, parameters, rows, kind):
    """The error of the public log-density, having made sure which form computes it."""
    mixture = Mixture.from_parameters(parameters, structure)
    assert reference.kind_of(chosen(mixture)) == kind
    return error(mixture.logpdf(rows), exact_logpdf(mixture, rows))


# Condition, separation of the means, and which kind of form they lead to. The spread of a centred form's components is
# that of their condition, or else of means a thousand widths apart.
CENTRED_CASES = [(1e6, 1.0), (1e6, 1e3), (1.0, 1e3)]
EXPANDED_CASES = [(1.0, 1.0), (10.0, 2.0), (10.0, 4.0)]
# In units of the data's own extent; 0.1 makes the sums inexact.
OFFSETS = [0.0, 1e6 + 0.1]


@pytest.fixture
def any_distance(monkeypatch):
    """Only the spread decides, however far apart the means that give it."""
    monkeypatch.setattr(forms, "FARTHEST_MEAN", np.inf)


def in_range(structure, d):
    return shape_of(structure) != "full" or d > SMALL_SIZES[-1]


@every_case
@pytest.mark.parametrize("offset", OFFSETS)
def test_centred_log_densities_are_exact_to_nine_digits(structure, d, offset):
    random = np.random.default_rng(d)
    for condition, separation in CENTRED_CASES:
        parameters = parameters_of(structure, 3, d, condition, separation, random)
        parameters, rows = shifted(parameters, rows_of(parameters, structure, random), offset * separation)
        kind = reference.kind_of(chosen(Mixture.from_parameters(parameters, structure)))
        # A condition of 1e6 alone may leave a spread below its limit.
        assert kind == "centred" or separation == 1.0
        assert measured(structure, parameters, rows, kind) <= 1e-9


@every_case
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.usefixtures("any_distance")
def test_expanded_log_densities_are_exact_to_nine_digits(structure, d, offset):
    if not in_range(structure, d):
        pytest.skip("no such form")
    random = np.random.default_rng(d)
    for k, (condition, separation) in zip((3, 4, 3), EXPANDED_CASES, strict=True):
        parameters = parameters_of(structure, k, d, condition, separation, random)
        parameters, rows = shifted(parameters, rows_of(parameters, structure, random), offset * separation)
        assert measured(structure, parameters, rows, "expanded") <= 1e-9


@every_case
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_float32_log_densities_are_exact_to_four_digits(structure, d, offset):
    if not in_range(structure, d):
        pytest.skip("no such form")
    random = np.random.default_rng(d)
    parameters = parameters_of(structure, 3, d, 2.0, 2.0, random)
    parameters, rows = shifted(parameters, rows_of(parameters, structure, random), offset)
    mixture, rows = Mixture.from_parameters(parameters, structure), rows.astype(np.float32)
    assert chosen(mixture, single=True).means.dtype == SINGLE
    found = Evaluator(mixture.parameters, structure, single=True).evaluate(rows, "log_likelihoods").log_likelihoods
    assert error(found, exact_logpdf(mixture, rows)) <= 1e-4
    # The public log-density does not ask for float32.
    assert error(mixture.logpdf(rows), exact_logpdf(mixture, rows)) <= 1e-9


@pytest.mark.parametrize("structure", DISTINCT)
@pytest.mark.parametrize("d", (2, 4, 5, 16, 40) if COMPILED else (4, 5))
def test_centred_log_densities_of_extreme_condition_are_exact_to_six_digits(structure, d):
    random = np.random.default_rng(d)
    parameters = parameters_of(structure, 2, d, 1e12, 1e3, random)
    rows = rows_of(parameters, structure, random)
    assert measured(structure, parameters, rows, "centred") <= 1e-6


def spreads_of(structure, parameters):
    """Σ_rj F_rj² E[x_j²] for each component, x about the mixture's mean: what the chooser goes by."""
    k, d = parameters.means.shape
    factors = reference.dense(parameters.factors, structure, k, d)
    variances = np.einsum("cjj->cj", reference.dense(parameters.covariances, structure, k, d))
    squares = (parameters.means - parameters.weights @ parameters.means) ** 2
    sizes = variances + (squares.max(axis=0) if structure == "tied" else squares)
    return np.einsum("crj,cj->c", factors**2, sizes)


def with_narrow(parameters, component, condition, random):
    """The same full mixture but for the condition of one component's covariance."""
    covariances = parameters.covariances.copy()
    covariances[component] = covariance_matrix(parameters.means.shape[1], condition, random)
    factors, failed = STRUCTURES["full"].factorise(covariances)
    assert failed == -1
    return parameters._replace(covariances=covariances, factors=factors)


def at_spread(structure, k, d, spread, random):
    """Parameters of a given spread: means moved apart until it is reached."""
    base = parameters_of(structure, k, d, 10.0, 1.0, random)
    least = spreads_of(structure, base._replace(means=0 * base.means))
    stretch = np.sqrt(((spread - least) / (spreads_of(structure, base) - least)).min())
    return base._replace(means=stretch * base.means)


BORDERS = [("full", k, d) for k in (2, 3) for d in (4, 5, 16, 17)] + [
    (structure, k, d) for structure in ("tied", "diag", "spherical") for k, d in ((1, 5), (2, 1), (3, 4), (3, 17))
]


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE])
@pytest.mark.parametrize(("structure", "k", "d"), BORDERS)
@pytest.mark.usefixtures("any_distance")
def test_the_choice_at_its_borders(structure, k, d, dtype):
    random = np.random.default_rng(d)
    limit, single = forms.LARGEST_SPREAD[dtype], dtype == SINGLE
    if k == 1:
        # One component is its own reference, and its spread no more than its condition.
        parameters = parameters_of(structure, k, d, 1.0, 1e6, random)
        assert reference.kind_of(STRUCTURES[structure].form(parameters, single)) == "expanded"
        return
    for factor in (0.999, 1.001):
        parameters = at_spread(structure, k, d, factor * limit, random)
        form = STRUCTURES[structure].form(parameters, single)
        kind = reference.kind_of(form)
        if not in_range(structure, d):
            assert kind == "centred"
        elif factor < 1:
            assert kind == "expanded" and form.means.dtype == dtype
        elif structure == "full":
            # What is too wide is centred, which with float32 goes further.
            wide = spreads_of(structure, parameters) > limit
            assert wide.any() and np.array_equal(form.centred, wide) and form.means.dtype == dtype
        elif single:
            # Beyond the digits of float32 there are those of float64.
            assert kind == "expanded" and form.means.dtype == DOUBLE
        else:
            assert kind == "centred"


@pytest.mark.parametrize(("structure", "d"), [("full", 16), ("full", 17), *((name, 5) for name in FAMILIAR)])
@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE])
@pytest.mark.usefixtures("any_distance")
def test_just_below_the_border_expanded_log_densities_keep_their_digits(structure, d, dtype):
    random = np.random.default_rng(d)
    limit = forms.LARGEST_SPREAD[dtype]
    parameters = at_spread(structure, 3, d, 0.999 * limit, random)
    rows = rows_of(parameters, structure, random).astype(dtype)
    mixture = Mixture.from_parameters(parameters, structure)
    evaluator = Evaluator(mixture.parameters, structure, single=dtype == SINGLE)
    found = evaluator.evaluate(rows, "log_likelihoods").log_likelihoods
    assert chosen(mixture, dtype == SINGLE).means.dtype == dtype
    # 1e-10 in float64 and 1e-4 in float32, as the module says.
    assert error(found, exact_logpdf(mixture, rows)) <= EPS[dtype] * limit


@pytest.mark.parametrize("structure", DISTINCT)
def test_means_far_from_each_other_are_centred(structure):
    # Moments about the reference would be taken again about the means.
    random = np.random.default_rng(0)
    base = parameters_of(structure, 3, 5, 1.0, 1.0, random)
    away = base.means - base.weights @ base.means
    variances = np.einsum("cjj->cj", reference.dense(base.covariances, structure, 3, 5))
    for factor, expected in ((0.999, ["expanded"]), (1.001, ["centred", "mixed"])):
        stretch = np.sqrt(factor * forms.FARTHEST_MEAN / (away**2 / variances).max())
        assert reference.kind_of(STRUCTURES[structure].form(base._replace(means=stretch * away))) in expected


NARROW = 5  # the narrow one of eight components


def centred_components(form):
    return list(np.flatnonzero(form.centred))


def one_narrow(d, random, condition=1e8):
    return with_narrow(parameters_of("full", 8, d, 10.0, 2.0, random), NARROW, condition, random)


def one_narrow_at(d, spread, random):
    """As `one_narrow`, round and of a given spread."""
    base = one_narrow(d, random, condition=1.0)
    # At the reference it would be d; what the distance from there adds grows as the component shrinks.
    shrink = np.sqrt((spread - d) / (spreads_of("full", base)[NARROW] - d))
    covariances, factors = base.covariances.copy(), base.factors.copy()
    covariances[NARROW] /= shrink**2
    factors[NARROW] *= shrink
    return base._replace(covariances=covariances, factors=factors)


@pytest.mark.parametrize("d", (5, 8, 16))
@pytest.mark.parametrize("offset", OFFSETS)
def test_one_narrow_component_is_centred_among_expanded_ones(d, offset):
    random = np.random.default_rng(d)
    parameters = one_narrow(d, random)
    parameters, rows = shifted(parameters, rows_of(parameters, "full", random, 3 * ROWS), offset)
    assert centred_components(chosen(Mixture.from_parameters(parameters, "full"))) == [NARROW]
    assert measured("full", parameters, rows, "mixed") <= 1e-9


def moments_error(parameters, rows, kind):
    """How far the covariances of a step are from those by centring, in units of their widths."""
    form = STRUCTURES["full"].form(parameters)
    assert reference.kind_of(form) == kind
    d = rows.shape[1]
    found, exact = (
        STRUCTURES["full"].maximise(ArrayRows(rows).reduce(each), flat(0.0, d)).parameters
        for each in (form, STRUCTURES["full"].centred_form(parameters))
    )
    difference = exact.factors @ (found.covariances - exact.covariances) @ exact.factors.swapaxes(1, 2)
    return np.abs(difference).max()


@pytest.mark.usefixtures("any_distance")
def test_expanding_a_narrow_component_would_lose_the_digits_of_its_covariance(monkeypatch):
    random = np.random.default_rng(0)
    parameters = one_narrow(5, random)
    rows = reference.random_rows(parameters, "full", 300, random)
    assert moments_error(parameters, rows, "mixed") <= 1e-9
    monkeypatch.setitem(forms.LARGEST_SPREAD, DOUBLE, 1e16)
    assert moments_error(parameters, rows, "expanded") > 1e-9


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE])
@pytest.mark.usefixtures("any_distance")
def test_how_narrow_a_component_may_be(dtype):
    random = np.random.default_rng(0)
    limit, single = forms.LARGEST_SPREAD[dtype], dtype == SINGLE
    for spread, narrow in ((0.999 * limit, []), (1.001 * limit, [NARROW])):
        form = STRUCTURES["full"].form(one_narrow_at(5, spread, random), single)
        assert form.means.dtype == dtype and centred_components(form) == narrow
    limit = LARGEST_CENTRED_SPREAD[dtype]
    form = STRUCTURES["full"].form(one_narrow_at(5, 0.999 * limit, random), single)
    assert form.means.dtype == dtype and NARROW in centred_components(form)
    # Beyond, rows are read in float64, and beyond that about zero, exactly.
    form = STRUCTURES["full"].form(one_narrow_at(5, 1.001 * limit, random), single)
    assert form.means.dtype == DOUBLE and (single or not form.reference.any())


@pytest.mark.parametrize("d", (5, 16))
@pytest.mark.usefixtures("any_distance")
def test_just_below_that_border_narrow_components_keep_their_digits(d):
    random = np.random.default_rng(d)
    parameters = one_narrow_at(d, 0.999 * LARGEST_CENTRED_SPREAD[DOUBLE], random)
    rows = rows_of(parameters, "full", random, 3 * ROWS)
    assert centred_components(chosen(Mixture.from_parameters(parameters, "full"))) == [NARROW]
    assert measured("full", parameters, rows, "mixed") <= EPS[DOUBLE] * forms.LARGEST_SPREAD[DOUBLE]


def test_a_mean_far_from_the_rest_makes_its_component_narrow():
    parameters = parameters_of("full", 8, 5, 1.0, 1.0, np.random.default_rng(0))
    parameters.means[NARROW] += 100.0
    assert centred_components(STRUCTURES["full"].form(parameters)) == [NARROW]


@pytest.mark.usefixtures("any_distance")
def test_the_accuracy_of_a_log_density_can_fail(monkeypatch):
    """Without the guard of the spread, an ill-conditioned mixture loses the digits that are promised."""
    random = np.random.default_rng(0)
    parameters = parameters_of("tied", 3, 5, 1e6, 1e3, random)
    rows = rows_of(parameters, "tied", random)
    assert measured("tied", parameters, rows, "centred") <= 1e-9
    monkeypatch.setitem(forms.LARGEST_SPREAD, DOUBLE, 1e16)
    assert measured("tied", parameters, rows, "expanded") > 1e-9


@pytest.mark.parametrize(("structure", "d"), [("full", 5), ("full", 17), ("tied", 2), ("diag", 2), ("spherical", 2)])
@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE])
@pytest.mark.usefixtures("any_distance")
def test_covariances_of_a_step_agree_between_expanded_and_centred(structure, d, dtype):
    random = np.random.default_rng(0)
    limit = forms.LARGEST_SPREAD[dtype]
    n = 2000 if COMPILED else 300
    parameters = at_spread(structure, 3, d, 0.9 * limit, random)
    rows = reference.random_rows(parameters, structure, n, random).astype(dtype)
    source = ArrayRows(rows)
    both = (STRUCTURES[structure].form(parameters, source.single), STRUCTURES[structure].centred_form(parameters))
    assert reference.kind_of(both[0]) == "expanded" and both[0].means.dtype == dtype
    fast, exact = (STRUCTURES[structure].maximise(source.reduce(form), flat(0.0, d)).parameters for form in both)
    # In units of the new width: F (Σ' - Σ) Fᵀ for the F of Σ.
    factors = reference.dense(exact.factors, structure, 3, d)
    difference = reference.dense(fast.covariances, structure, 3, d) - reference.dense(
        exact.covariances, structure, 3, d
    )
    assert np.abs(factors @ difference @ factors.swapaxes(1, 2)).max() <= 8 * EPS[dtype] * limit
