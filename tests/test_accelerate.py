"""Leaps ahead of a map's steps: the formula, a published problem, and laws of accelerated fits in every structure."""

import math
import warnings

import numpy as np
import pytest
import reference
from scipy.special import expit, gammaln, logit

from bench.panel import SLOW, draw_rows
from fastgmm import GaussianMixture
from fastgmm.covariance import STRUCTURES
from fastgmm.em.accelerate import PACES, Pace, Squarem
from fastgmm.em.step import maximise
from fastgmm.sources import ArrayRows

every_structure = pytest.mark.parametrize("structure", reference.FAMILIAR)

PLAIN = (lambda point, origin: point - origin, lambda vector, origin: origin + vector)


def follow(pace, point, step, objective, steps):
    """What the engine does: the points taken in, and the number of leaps that led down."""
    highest, points, rejected = -math.inf, [], 0
    for _ in range(steps):
        height = objective(point)
        if pace.leapt and height < highest:
            point, rejected = pace.retreat(), rejected + 1
            continue
        highest = height
        points.append(point)
        point = pace.go_on(step(point))
    return points, rejected


# Days with so many deaths of women over 80, The Times 1910-1912 (Hasselblad 1969; Varadhan and Roland 2008, table 1).
DEATHS = np.array([162, 267, 271, 185, 111, 61, 27, 8, 3, 1])
COUNTS = np.arange(10)


def poissons(point):
    """Log of p and 1 - p times their Poisson densities, (2, 10); the point is (logit p, log μ₁, log μ₂)."""
    shares = np.array([expit(point[0]), expit(-point[0])])
    return np.log(shares)[:, None] + COUNTS * point[1:, None] - np.exp(point[1:, None]) - gammaln(COUNTS + 1)


def deaths_likelihood(point):
    return DEATHS @ np.logaddexp(*poissons(point))


def deaths_step(point):
    densities = poissons(point)
    held = DEATHS * np.exp(densities - np.logaddexp(*densities))
    return np.array([logit(held[0].sum() / DEATHS.sum()), *np.log(held @ COUNTS / held.sum(axis=1))])


DEATHS_START = np.array([logit(0.3), math.log(1.0), math.log(2.5)])


def test_the_published_mixture_of_deaths_takes_a_fifth_of_the_steps():
    plain, _ = follow(Pace(DEATHS_START, *PLAIN), DEATHS_START, deaths_step, deaths_likelihood, 3000)
    pace = Squarem(DEATHS_START, *PLAIN)
    leaping, rejected = follow(pace, DEATHS_START, deaths_step, deaths_likelihood, 300)
    p, first, second = expit(leaping[-1][0]), *np.exp(leaping[-1][1:])
    assert (round(p, 4), round(first, 3), round(second, 3)) == (0.3599, 1.256, 2.663)
    assert round(deaths_likelihood(leaping[-1]), 3) == -1989.946

    def steps_to_the_top(points):
        heights = np.array([deaths_likelihood(point) for point in points])
        return int(np.argmax(heights > heights[-1] - 1e-6))

    assert 5 * steps_to_the_top(leaping) < steps_to_the_top(plain)
    assert rejected > 0 and 0.5 < pace.saved / (steps_to_the_top(plain) - steps_to_the_top(leaping)) < 2.0


def test_a_leap_is_the_formula():
    """Scheme S3 from three points of a map that bends, while it is no longer than what has served."""

    def step(x):
        return np.tanh(0.9 * x) + np.array([0.0, 0.02])

    zero, one, two = (start := np.array([1.0, -0.5])), step(start), step(step(start))
    pace = Squarem(start, *PLAIN)
    assert pace.go_on(one) is one and not pace.leapt
    found = pace.go_on(two)
    r, v = one - zero, two - 2 * one + zero
    length = min(np.linalg.norm(r) / np.linalg.norm(v), 2.0)
    assert pace.leapt and length > 1.0
    np.testing.assert_allclose(found, zero + 2 * length * r + length**2 * v, rtol=1e-14)
    np.testing.assert_array_equal(pace.retreat(), two)
    assert not pace.leapt and pace.saved == -1.0


def test_one_slow_direction_is_left_in_one_leap():
    """Of a linear map the fixed point is hit once leaps may be as long as 1 / (1 - rate)."""
    start, rate = np.array([3.0]), 0.99
    points, _ = follow(Squarem(start, *PLAIN), start, lambda x: 1 + rate * (x - 1), lambda x: -((x - 1) ** 2), 30)
    assert abs(points[-1] - 1) < 1e-12
    assert rate**30 * (3 - 1) > 1  # away are plain steps


def test_leaps_that_lead_down_are_taken_back():
    """A map whose steps turn: no height is ever lost, and retreats go where two steps led."""
    turn = np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    stretch = 0.97 * turn
    start = np.array([1.0, 0.0])
    points, rejected = follow(Squarem(start, *PLAIN), start, lambda x: stretch @ x, lambda x: -(x @ x), 60)
    heights = [-(x @ x) for x in points]
    assert rejected > 0 and (np.diff(heights) > 0).all()


def test_without_a_valid_point_there_is_no_leap():
    start = np.array([3.0])
    pace = Squarem(start, PLAIN[0], lambda vector, origin: None)
    points, _ = follow(pace, start, lambda x: 0.9 * x, lambda x: -(x @ x), 12)
    np.testing.assert_allclose(np.concatenate(points), 3.0 * 0.9 ** np.arange(12), rtol=1e-12)
    assert pace.saved == 0.0


def test_a_fixed_point_is_kept():
    start = np.array([3.0])
    points, _ = follow(Squarem(start, *PLAIN), start, lambda x: x, lambda x: -(x @ x), 9)
    assert np.concatenate(points).tolist() == [3.0] * 9


def two_points(structure, k=3, d=3, seed=0):
    """Two parameters not far apart."""
    random = np.random.default_rng(seed)
    one = reference.random_parameters(structure, k, d, random)
    own = STRUCTURES[structure]
    other = own.from_vector(0.3 * random.normal(size=own.to_vector(one, one).size), one)
    return one, other


@every_structure
def test_coordinates_of_parameters_and_back(structure):
    own = STRUCTURES[structure]
    origin, point = two_points(structure)
    np.testing.assert_allclose(own.to_vector(origin, origin), 0.0, atol=1e-14)
    again = own.from_vector(own.to_vector(point, origin), origin)
    for left, right in zip(again, point, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-12)
    assert point.weights.sum() == pytest.approx(1.0, rel=1e-14)
    np.testing.assert_allclose(own.factorise(point.covariances)[0], point.factors, rtol=1e-9, atol=1e-12)


@every_structure
def test_any_vector_is_of_a_mixture(structure):
    own = STRUCTURES[structure]
    origin, _ = two_points(structure)
    for size in (1.0, 30.0, 1e6):
        vector = size * np.random.default_rng(1).normal(size=own.to_vector(origin, origin).size)
        point = own.from_vector(vector, origin)
        assert all(np.isfinite(part).all() for part in point) and point.weights.sum() == pytest.approx(1.0)
        assert (point.weights >= 0.0).all()


@every_structure
def test_length_is_the_divergence(structure):
    """|x|² is twice Σ w log(w / w') + Σ w KL(N_c, N'_c), to second order."""
    own = STRUCTURES[structure]
    origin, _ = two_points(structure)
    direction = np.random.default_rng(1).normal(size=own.to_vector(origin, origin).size)
    point = own.from_vector(1e-3 * direction, origin)
    k, d = origin.means.shape
    dense = [(p.weights, p.means, own.dense(p.covariances, k, d)) for p in (origin, point)]
    divergence = 0.0
    for w, m, s, w_, m_, s_ in zip(*dense[0], *dense[1], strict=True):
        inverse = np.linalg.inv(s_)
        within = np.trace(inverse @ s) - d + (m - m_) @ inverse @ (m - m_) - np.linalg.slogdet(inverse @ s)[1]
        divergence += w * (np.log(w / w_) + within / 2)
    vector = own.to_vector(point, origin)
    assert vector @ vector == pytest.approx(2 * divergence, rel=1e-2)


@every_structure
def test_units_do_not_matter(structure):
    own = STRUCTURES[structure]
    origin, point = two_points(structure)
    unit = np.array([1e-3, 1.0, 1e4]) if structure != "spherical" else np.full(3, 1e4)
    columns = {"full": unit[:, None] * unit, "tied": unit[:, None] * unit, "diag": unit**2, "spherical": 1e8}[structure]

    def scaled(p):
        covariances = p.covariances * columns
        return p._replace(means=unit * p.means, covariances=covariances, factors=own.factorise(covariances)[0])

    expected = own.to_vector(point, origin)
    np.testing.assert_allclose(own.to_vector(scaled(point), scaled(origin)), expected, rtol=1e-8, atol=1e-10)


@every_structure
def test_share_of_the_ridge_is_that_of_the_worst_axis(structure):
    """The least multiple of the covariance that is nowhere below the ridge."""
    own = STRUCTURES[structure]
    origin, _ = two_points(structure)
    ridge = np.array([0.5, 0.2, 1.0]) if structure != "spherical" else np.full(3, 0.5)
    for scale in (1.0, 1e-3):
        found = own.ridge_share(origin.factors, scale * ridge)
        dense = own.dense(origin.covariances, 3, 3)[: len(found)]
        expected = np.linalg.eigvals(np.linalg.solve(dense, np.diag(scale * ridge))).real.max(axis=1)
        exact = found if scale == 1.0 else np.maximum(found, expected)
        np.testing.assert_allclose(exact, expected if scale == 1.0 else found, rtol=1e-10)
        assert (found >= expected * (1 - 1e-12)).all()


RANDOM = np.random.default_rng(5)
MEANS = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.5]])
OVERLAPPING = MEANS[RANDOM.integers(3, size=500)] + RANDOM.normal(size=(500, 2))


def fit(structure="full", k=3, rows=OVERLAPPING, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        defaults = {"random_state": 0, "tol": 1e-9, "max_iter": 5000, "covariance_type": structure}
        return GaussianMixture(k, **(defaults | options)).fit(rows)


@pytest.mark.compiled
@pytest.mark.parametrize("structure", reference.DISTINCT)
@pytest.mark.parametrize("options", [{"reg_covar": 0.0}, {"prior": "default"}], ids=["likelihood", "prior"])
def test_an_accelerated_fit_climbs_to_the_same_top_in_fewer_passes(structure, options):
    plain, leaping = fit(structure, **options), fit(structure, acceleration="squarem", **options)
    assert (np.diff(leaping.lower_bounds_) >= -1e-13).all()
    assert leaping.converged_ and leaping.lower_bound_ >= plain.lower_bound_ - 1e-7
    slow, fast = plain.fit_report_.starts[0], leaping.fit_report_.starts[0]
    assert slow.passes == slow.iterations and slow.passes_saved == 0.0
    assert fast.passes >= fast.iterations == leaping.n_iter_ == len(leaping.lower_bounds_)
    assert fast.passes < 0.7 * slow.passes
    assert 0.5 < (fast.passes + fast.passes_saved) / slow.passes < 2.0
    columns = repr(leaping.fit_report_).splitlines()[1].split()
    assert columns[3:5] == [str(fast.passes), f"{fast.passes_saved:.0f}"]


@pytest.mark.compiled
@pytest.mark.parametrize("kind", SLOW, ids=lambda kind: kind.problem.name)
def test_passes_said_to_be_saved_are_those_of_plain_steps_to_the_same_height(kind):
    """From the same start, with no part of the climb left out; leaps into another basin cost the estimate most."""
    rows, problem = draw_rows(kind), kind.problem
    options = {"structure": problem.structure, "k": problem.components, "rows": rows, "reg_covar": 0.0}
    leaping = fit(tol=1e-7, acceleration="squarem", **options)
    start = leaping.fit_report_.starts[0]
    heights = np.array(fit(tol=1e-10, **options).lower_bounds_)
    needed = 1 + int(np.argmax(heights >= leaping.lower_bound_))
    assert heights[-1] >= leaping.lower_bound_ and needed > 2 * start.passes
    assert 0.6 < (start.passes + start.passes_saved) / needed < 1.25


@pytest.mark.slow
@pytest.mark.parametrize("structure", reference.DISTINCT)
def test_before_a_leap_steps_are_plain_and_after_one_the_map_has_been_taken(structure):
    """What is returned is never where a leap led, but the image of that."""
    for max_iter in (1, 2):
        plain, leaping = (fit(structure, tol=0.0, max_iter=max_iter, acceleration=name) for name in PACES)
        np.testing.assert_array_equal(leaping.means_, plain.means_)
        assert leaping.lower_bounds_ == plain.lower_bounds_
    seen = []
    fit(structure, tol=0.0, max_iter=3, acceleration="squarem", callback=lambda *given: seen.append(given[1]))
    leapt = seen[2].parameters
    begin = {"weights_init": leapt.weights, "means_init": leapt.means, "max_iter": 1, "tol": 0.0}
    image = fit(structure, precisions_init=STRUCTURES[structure].precisions(leapt.factors), **begin)
    found = fit(structure, tol=0.0, max_iter=3, acceleration="squarem")
    np.testing.assert_allclose(found.means_, image.means_, rtol=1e-9)
    np.testing.assert_allclose(found.covariances_, image.covariances_, rtol=1e-9)


def test_max_iter_counts_passes(monkeypatch):
    passes = []
    reduce = ArrayRows.reduce
    monkeypatch.setattr(ArrayRows, "reduce", lambda *a, **k: passes.append(1) or reduce(*a, **k))
    found = fit(k=6, tol=0.0, max_iter=60, acceleration="squarem")
    start = found.fit_report_.starts[0]
    assert len(passes) == 60 + 1 and start.passes == 60 > start.iterations


@every_structure
def test_no_leap_leads_below_the_ridge(structure):
    """Where components shrink onto duplicated rows the likelihood below the ridge has no bound."""
    rows = np.concatenate([OVERLAPPING[:100], np.repeat(OVERLAPPING[:4], 12, axis=0)])
    ridge, least = 1e-3, []

    def callback(iteration, mixture, log_likelihood):
        least.append(np.linalg.eigvalsh(mixture.covariances_dense).min())

    fit(structure, 7, rows, reg_covar=ridge, acceleration="squarem", callback=callback, max_iter=200)
    assert min(least) >= ridge * (1 - 2e-6)


@pytest.mark.parametrize("fails", ["to read", "to maximise"])
def test_a_leap_may_land_where_a_step_fails(monkeypatch, fails):
    """Then it is as one that led down."""
    own, landed = STRUCTURES["diag"], []
    from_vector = own.from_vector

    def leap(vector, origin):
        point = from_vector(vector, origin)
        landed.append(point._replace(means=point.means + 1e200) if fails == "to read" else point)
        return landed[-1]

    def step(source, statistics, parameters, *given):
        update = maximise(source, statistics, parameters, *given)
        return update._replace(failed=1) if landed and parameters is landed[-1] else update

    monkeypatch.setattr(own, "from_vector", leap)
    monkeypatch.setattr("fastgmm.em.step.maximise", step)
    found = fit("diag", acceleration="squarem", max_iter=30)
    start = found.fit_report_.starts[0]
    assert start.outcome != "failed" and start.passes - start.iterations == len(landed) > 5
    assert found.lower_bounds_ == fit("diag", max_iter=30).lower_bounds_[: start.iterations]


def test_a_leap_that_gains_little_is_no_sign_of_convergence(monkeypatch):
    class Leaping(Pace):
        leapt = True

    monkeypatch.setitem(PACES, "squarem", Leaping)
    assert fit(tol=1e3, max_iter=5, acceleration="squarem").n_iter_ == 5
