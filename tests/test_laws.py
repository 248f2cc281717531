"""Laws of a fit, held for every structure."""

import numpy as np
import pytest
import reference
from sklearn.mixture import GaussianMixture as ScikitLearnMixture

from fastgmm import DegenerateFitError, GaussianMixture
from fastgmm.covariance import STRUCTURES, Parameters, flat
from fastgmm.em import engine
from fastgmm.kernels import expanded, forms, triangular
from fastgmm.kernels._jit import COMPILED
from fastgmm.sources import ArrayRows
from fastgmm.statistics import Statistics, add

every_structure = pytest.mark.parametrize("structure", reference.DISTINCT)
ROWS = 1500 if COMPILED else 240
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def set_largest_spread(monkeypatch, spread):
    for dtype in forms.LARGEST_SPREAD:
        monkeypatch.setitem(forms.LARGEST_SPREAD, dtype, spread)
    if spread == np.inf:
        monkeypatch.setattr(forms, "FARTHEST_MEAN", np.inf)


# Uncompiled, rows are too few for many features.
FAMILIAR_ROUTES = [route for route in reference.ROUTES if COMPILED or route[1] <= 5]
# Beside those that have bodies of their own, structures that borrow them, which takes long uncompiled.
ROUTES = FAMILIAR_ROUTES + [
    (structure, 5 if STRUCTURES[structure].MATRICES else 2, kind)
    for structure in reference.DISTINCT
    if COMPILED and structure not in reference.FAMILIAR
    for kind in ("centred", "expanded")
]
# And one where some components are centred within an expanded form.
MIXED = ("full", 5, "mixed")


def name_route(route):
    return "-".join(map(str, route))


@pytest.fixture(params=[*ROUTES, MIXED], ids=name_route)
def route(request, monkeypatch):
    """A structure and a number of features for which EM takes the one kind of form, then the other."""
    structure, d, kind = request.param
    if kind == "centred":
        set_largest_spread(monkeypatch, 0.0)
    elif kind == "mixed":
        weights, means, covariances, _ = problem(structure, d)[1]
        _, offsets = forms.about_reference(weights, means)
        distances = (offsets**2 / np.einsum("cjj->cj", covariances)).max(axis=1)
        monkeypatch.setattr(forms, "FARTHEST_MEAN", np.median(distances))
        assert reference.kind_of(STRUCTURES[structure].form(problem(structure, d)[1])) == "mixed"
    else:
        reference.form_of(structure, kind, problem(structure, d)[1])
    return structure, d


def problem(structure, d=2, k=3, n=ROWS, seed=0):
    """Rows of a mixture on a grid of 2**-8, and parameters to start from that are not its own."""
    random = np.random.default_rng(seed)
    truth = reference.random_parameters(structure, k, d, random)
    truth = truth._replace(means=4 * truth.means)
    rows = np.rint(256 * reference.random_rows(truth, structure, n, random)) / 256
    start = reference.random_parameters(structure, k, d, random)
    return rows, start._replace(means=rows[:k].copy())


def follow(rows, start, structure, iterations, row_weights=None, reg_covar=0.0):
    return engine.run(
        ArrayRows(rows, row_weights),
        start,
        STRUCTURES[structure],
        tol=0.0,
        prior=flat(reg_covar, rows.shape[1]),
        max_iter=iterations,
    )


def estimator(start, structure, iterations, kind=GaussianMixture, reg_covar=0.0):
    return kind(
        len(start.weights),
        covariance_type=structure,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=STRUCTURES[structure].precisions(start.factors),
        tol=0.0,
        reg_covar=reg_covar,
        max_iter=iterations,
    )


def assert_close(a, b, rtol, parts=("weights", "means", "covariances")):
    for part in parts:
        left, right = getattr(a, part), getattr(b, part)
        assert np.allclose(left, right, rtol=rtol, atol=rtol * np.abs(right).max()), part


def test_a_step_is_the_twin(route):
    structure, d = route
    rows, start = problem(structure, d)
    row_weights = np.random.default_rng(0).uniform(size=len(rows))
    run = follow(rows, start, structure, 1, row_weights, reg_covar=1e-3)
    log_likelihood, *expected = reference.em_step(rows, *start[:3], structure, row_weights, 1e-3)
    assert run.lower_bound * row_weights.sum() == pytest.approx(log_likelihood, rel=1e-13)
    assert_close(run.parameters, Parameters(*expected, factors=None), 1e-12)


def test_statistics_of_halves_add_to_the_whole(route):
    structure, d = route
    rows, start = problem(structure, d)
    form = STRUCTURES[structure].form(start)
    row_weights = np.random.default_rng(0).uniform(size=len(rows))
    cut = len(rows) // 3
    whole = ArrayRows(rows, row_weights).reduce(form)
    parts = [ArrayRows(rows[part], row_weights[part]).reduce(form) for part in (slice(cut), slice(cut, None))]
    for left, right in zip(add(*parts), whole, strict=True):
        assert np.allclose(left, right, rtol=1e-12, atol=1e-12 * np.abs(right).max())


def test_statistics_about_different_centres_do_not_add():
    one = Statistics(np.zeros((1, 1)), np.ones(1), np.zeros((1, 1)), np.ones(1), 0.0, 0)
    with pytest.raises(ValueError, match="different centres"):
        add(one, one._replace(centres=np.ones((1, 1))))


def test_the_likelihood_never_falls(route):
    structure, d = route
    rows, start = problem(structure, d, n=ROWS // 3)
    likelihoods = np.array(follow(rows, start, structure, 200 if COMPILED else 15).log_likelihoods)
    assert (np.diff(likelihoods) >= -1e-12 * np.abs(likelihoods[1:])).all()
    assert likelihoods[-1] > likelihoods[0]


def test_shifted_and_scaled_data_shift_and_scale_the_fit(route):
    structure, d = route
    scale, shift = 3.7, np.resize([11.0, -23.0, 0.0, 5.0, 1.0], d)
    rows, start = problem(structure, d)
    moved = Parameters(start.weights, scale * start.means + shift, scale**2 * start.covariances, start.factors / scale)
    here = follow(rows, start, structure, 5).parameters
    there = follow(scale * rows + shift, moved, structure, 5).parameters
    expected = Parameters(here.weights, scale * here.means + shift, scale**2 * here.covariances, here.factors / scale)
    assert_close(there, expected, 1e-10, Parameters._fields)


def test_the_order_of_rows_does_not_matter(route):
    structure, d = route
    rows, start = problem(structure, d)
    shuffled = np.random.default_rng(1).permutation(rows)
    here, there = (follow(r, start, structure, 5).parameters for r in (rows, shuffled))
    assert_close(there, here, 1e-11)


def test_permuted_components_permute_the_answer(route):
    structure, d = route
    rows, start = problem(structure, d)
    order = np.array([2, 0, 1])

    def permute(p):
        covariances, factors = p.covariances, p.factors
        if not STRUCTURES[structure].SHARED:
            covariances, factors = covariances[order], factors[order]
        return Parameters(p.weights[order], p.means[order], covariances, factors)

    here = permute(follow(rows, start, structure, 5).parameters)
    assert_close(follow(rows, permute(start), structure, 5).parameters, here, 1e-11)


@every_structure
def test_precisions_are_the_inverses_of_covariances(structure):
    rows, start = problem(structure, 3, k=2)
    fitted = estimator(start, structure, 3).fit(rows)
    covariances, precisions = (reference.dense(v, structure, 2, 3) for v in (fitted.covariances_, fitted.precisions_))
    assert np.allclose(precisions @ covariances, np.eye(3), rtol=0, atol=1e-12)
    factors = reference.dense(fitted.precisions_cholesky_, structure, 2, 3)
    assert np.allclose(factors @ factors.swapaxes(1, 2), precisions, rtol=1e-12)
    assert np.array_equal(factors, np.triu(factors))


@pytest.mark.parametrize("route", [*FAMILIAR_ROUTES, MIXED], indirect=True, ids=name_route)
@pytest.mark.parametrize("iterations", [1, 2, 20] if COMPILED else [1, 3])
def test_scikit_learn_has_the_same_answer_from_the_same_start(route, iterations):
    structure, d = route
    rows, start = problem(structure, d, n=600 if COMPILED else 150)
    ours, theirs = (
        estimator(start, structure, iterations, kind, reg_covar=1e-6).fit(rows)
        for kind in (GaussianMixture, ScikitLearnMixture)
    )
    assert ours.n_iter_ == theirs.n_iter_ == iterations
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-10)
    assert ours.score(rows) == pytest.approx(theirs.score(rows), rel=1e-10)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        assert np.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-11), name
    assert np.allclose(ours.predict_proba(rows), theirs.predict_proba(rows), rtol=1e-8, atol=1e-11)
    assert np.array_equal(ours.predict(rows), theirs.predict(rows))


def narrow_problem(k=8, d=5, condition=1e8):
    """A mixture of which one component has an ill-conditioned covariance, and its rows."""
    random = np.random.default_rng(0)
    truth = reference.random_parameters("full", k, d, random)
    covariances = truth.covariances.copy()
    axes = np.linalg.qr(random.normal(size=(d, d)))[0]
    covariances[2] = axes * condition ** -np.linspace(0.0, 1.0, d) @ axes.T
    factors, _ = STRUCTURES["full"].factorise(covariances)
    truth = truth._replace(means=3 * truth.means, covariances=covariances, factors=factors)
    return reference.random_rows(truth, "full", ROWS, random), truth


def test_scikit_learn_has_the_same_answer_with_a_narrow_component(monkeypatch):
    rows, start = narrow_problem()
    seen = []
    reduce = ArrayRows.reduce
    monkeypatch.setattr(ArrayRows, "reduce", lambda self, form, *a: seen.append(form) or reduce(self, form, *a))
    for iterations in (1, 2, 8) if COMPILED else (1, 2):
        ours, theirs = (
            estimator(start, "full", iterations, kind).fit(rows) for kind in (GaussianMixture, ScikitLearnMixture)
        )
        assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-9)
        assert ours.score(rows) == pytest.approx(theirs.score(rows), rel=1e-9)
        for name in ("weights_", "means_"):
            assert np.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-9), name
    assert all(list(np.flatnonzero(form.centred)) == [2] for form in seen)


def offset_errors(rows, start, structure, offset, dtype, iterations=5):
    """How far a fit at `offset` is from the one at 0: means in standard deviations, covariances in widths."""
    here = estimator(start, structure, iterations).fit(rows.astype(dtype))
    moved = start._replace(means=start.means + offset)
    there = estimator(moved, structure, iterations).fit((rows + offset).astype(dtype))
    assert there.means_.dtype == dtype
    means = np.abs((there.means_.astype(float) - offset) - here.means_).max() / rows.std()
    k, d = here.means_.shape
    covariances = [reference.dense(fit.covariances_.astype(float), structure, k, d) for fit in (here, there)]
    widths = np.sqrt(np.einsum("cjj->cj", covariances[0]))
    return means, np.abs((covariances[1] - covariances[0]) / (widths[:, :, None] * widths[:, None, :])).max()


# Rows are on a grid that both types resolve at the offset. Fitted means cannot be closer than half of their own last
# place there, 1e-8 and 5e-4; float64 covariances inherit that rounding through the next step's responsibilities. Of
# float32's covariances eps times their spread is lost, which here is 70.
OFFSETS = [(1e8, np.float64, 3e-8, 1e-6), (1e4, np.float32, 1e-3, 70 * 2.0**-23)]


@pytest.mark.parametrize(("offset", "dtype", "means", "covariances"), OFFSETS)
def test_data_far_from_zero_fit_as_at_zero(route, offset, dtype, means, covariances):
    structure, d = route
    centred = forms.LARGEST_SPREAD[np.dtype(dtype)] == 0
    if centred and dtype == np.float32 and route != ("full", 2):
        pytest.skip("another form for float32 rows compiles for seconds, and one that centres is enough")
    rows, start = problem(structure, d)
    found = offset_errors(rows, start, structure, offset, dtype)
    assert found[0] <= means and found[1] <= covariances


def never_look_again(monkeypatch):
    def maximise(source, statistics, parameters, structure, prior):
        return structure.maximise(statistics, prior)

    monkeypatch.setattr("fastgmm.em.step.maximise", maximise)


def take_moments_about_zero(monkeypatch):
    """What Σ x² / N - μ² gives, for either kind of form."""
    reduce = ArrayRows.reduce
    monkeypatch.setattr(
        ArrayRows, "reduce", lambda self, form, centres=None: reduce(self, form, np.zeros((3, self.n_features)))
    )
    monkeypatch.setattr(ArrayRows, "prepare", lambda self, form: None)
    for module in (expanded, triangular):
        monkeypatch.setattr(module, "about_reference", lambda weights, means: (np.zeros(means.shape[1]), means))
    never_look_again(monkeypatch)


def test_moments_about_zero_would_break_the_law_of_offsets(route, monkeypatch):
    structure, d = route
    rows, start = problem(structure, d)
    take_moments_about_zero(monkeypatch)
    if forms.LARGEST_SPREAD[np.dtype(np.float64)] > 0:
        set_largest_spread(monkeypatch, np.inf)
    assert max(offset_errors(rows, start, structure, 0.0, np.float64)) <= 1e-6
    try:
        covariances = offset_errors(rows, start, structure, 1e8, np.float64)[1]
    except DegenerateFitError:
        return
    assert covariances > 1e-3


@pytest.mark.parametrize("structure", ["tied", "diag", "spherical"])
def test_without_the_guard_of_the_spread_narrow_components_break_the_law_of_offsets(structure, monkeypatch):
    """A component far from the rest and a million times narrower: the guard turns to the form that centres."""
    rows, start = problem(structure)
    far = np.concatenate([rows, rows + 2.0**24])
    start = start._replace(means=np.concatenate([start.means[:2], start.means[2:] + 2.0**24]))
    row_weights = np.ones(len(far))
    good = follow(far, start, structure, 1, row_weights).parameters
    expected = reference.em_step(reference.exact(far), *start[:3], structure)[3]
    assert np.abs(good.covariances / expected.astype(float) - 1).max() <= 1e-9
    set_largest_spread(monkeypatch, np.inf)
    never_look_again(monkeypatch)
    bad = follow(far, start, structure, 1, row_weights)
    assert bad.failure or np.abs(bad.parameters.covariances / expected.astype(float) - 1).max() > 1e-6


def test_rows_of_weight_zero_are_as_good_as_absent(route):
    structure, d = route
    rows, start = problem(structure, d)
    kept = np.random.default_rng(2).uniform(size=len(rows)) < 0.6
    form = STRUCTURES[structure].form(start)
    weighted = ArrayRows(rows, kept.astype(float)).reduce(form)
    for left, right in zip(weighted, ArrayRows(rows[kept]).reduce(form), strict=True):
        assert np.allclose(left, right, rtol=1e-12, atol=1e-12 * np.abs(right).max())


def test_whole_weights_are_repeated_rows(route):
    structure, d = route
    rows, start = problem(structure, d)
    times = np.random.default_rng(3).integers(0, 4, len(rows))
    form = STRUCTURES[structure].form(start)
    weighted = ArrayRows(rows, times.astype(float)).reduce(form)
    for left, right in zip(weighted, ArrayRows(np.repeat(rows, times, axis=0)).reduce(form), strict=True):
        assert np.allclose(left, right, rtol=1e-12, atol=1e-12 * np.abs(right).max())


def far_start(structure, rows, k):
    """Components next to zero for data many widths away; the second, if any, faces the mirrored data."""
    start = problem(structure, k=k)[1]
    shape = STRUCTURES[structure].covariances_shape(k, 2)
    unit = np.broadcast_to(np.eye(2), shape).copy() if STRUCTURES[structure].MATRICES else np.ones(shape)
    means = np.array([[1.0, 1.0], [-1.0, -1.0]])[:k]
    return start._replace(weights=np.full(k, 1 / k), means=means, covariances=unit, factors=unit)


@every_structure
@pytest.mark.parametrize("k", [1, 2])
def test_variances_come_right_in_one_step_from_a_start_many_widths_away(structure, k):
    near = np.rint(2.0**20 * np.random.default_rng(0).normal(size=(ROWS, 2))) / 2.0**20
    rows = np.concatenate([near + 1e8, near - 1e8][:k])
    run = follow(rows, far_start(structure, rows, k), structure, 1)
    assert not run.failure
    expected = reference.maximise(near, np.ones((ROWS, 1)), structure)[2]
    assert np.allclose(run.parameters.covariances, expected, rtol=0, atol=1e-6)


@every_structure
def test_without_a_second_look_those_variances_are_wrong(structure, monkeypatch):
    never_look_again(monkeypatch)
    near = np.random.default_rng(0).normal(size=(ROWS, 2))
    run = follow(near + 1e8, far_start(structure, near, 1), structure, 1)
    expected = reference.maximise(near, np.ones((ROWS, 1)), structure)[2]
    assert run.failure or not np.allclose(run.parameters.covariances, expected, rtol=0, atol=0.1)


def test_a_stationary_fit_takes_one_pass_a_step_and_one_for_what_it_reached(route, monkeypatch):
    structure, d = route
    passes = []
    reduce = ArrayRows.reduce
    monkeypatch.setattr(ArrayRows, "reduce", lambda *a, **k: passes.append(1) or reduce(*a, **k))
    rows, start = problem(structure, d)
    follow(rows, start, structure, 7)
    assert len(passes) == 7 + 1


@pytest.mark.parametrize(("structure", "d"), [r[:2] for r in ROUTES if r[2] == "expanded"])
@pytest.mark.parametrize("exponent", [-90, -66, -64, -63, -62, 62] if COMPILED else [-63])
def test_the_unit_of_float32_rows_does_not_matter(structure, d, exponent):
    # A power of two changes no digit: charges in coulombs fit as charges in electrons do.
    rows, start = problem(structure, d)
    unit = 2.0**exponent
    narrow = np.array([1.0, 2.0, 1.0]).reshape(3, *[1] * (start.factors.ndim - 1)) if structure != "tied" else 2.0
    start = start._replace(covariances=start.covariances / narrow**2, factors=narrow * start.factors)
    other = Parameters(start.weights, unit * start.means, unit**2 * start.covariances, start.factors / unit)
    here, there = (
        follow((scale * rows).astype(np.float32), parameters, structure, 2).parameters
        for scale, parameters in ((1.0, start), (unit, other))
    )
    assert np.allclose(there.weights, here.weights, rtol=0, atol=1e-4)
    assert np.allclose(there.means / unit, here.means, rtol=1e-4, atol=1e-4)
    assert np.allclose(there.covariances / unit**2, here.covariances, rtol=1e-3, atol=1e-4)
