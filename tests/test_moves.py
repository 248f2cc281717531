"""Moves around a mixture: their formulas' own, to all digits, whatever the number of lanes."""

import math

import mpmath
import numpy as np
import pytest
import reference_moves as reference
from scipy import stats

from fastgmm import Mixture, sample
from fastgmm.kernels._jit import COMPILED, TILE_ROWS, TILE_STRIDE
from fastgmm.kernels.random import numbers_per_step
from fastgmm.mcmc.mixture_proposals import Independence, MixtureLocal, ModeJump
from fastgmm.mcmc.proposals import Mixed, RandomWalk

STRUCTURES = ["full", "tied", "diag", "spherical"]
GUARD = -7.25
FALSE_ALARM = 1e-6
ROWS = TILE_ROWS if COMPILED else 12


def make_mixture(structure, k, d, seed=0, spread=2.0):
    random = np.random.default_rng(seed)
    root = random.normal(size=(k, d, d)) * 0.5 + np.eye(d)
    full = root @ root.swapaxes(1, 2) + 0.2 * np.eye(d)
    covariances = {
        "full": full,
        "tied": full[0],
        "diag": np.diagonal(full, axis1=1, axis2=2),
        "spherical": full[:, 0, 0],
    }[structure]
    return Mixture(random.dirichlet(np.full(k, 3.0)), spread * random.normal(size=(k, d)), covariances, structure)


KERNELS = {
    "independence": lambda m: Independence(m),
    "even tail": lambda m: Independence(m, tail=2, defensive=0.3),
    "tail of one": lambda m: Independence(m, tail=1, defensive=0.5),
    "no tail": lambda m: Independence(m, defensive=0.0),
    "widened": lambda m: Independence(m, widen=1.7),
    "local": lambda m: MixtureLocal(m),
    "small steps": lambda m: MixtureLocal(m, scale=0.1),
    "jump": lambda m: ModeJump(m),
    "jump by odds": lambda m: ModeJump(m, odds=np.arange(1.0, m.n_components + 1.0)),
}
every_kernel = pytest.mark.parametrize("make", KERNELS.values(), ids=KERNELS)


@every_kernel
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(("k", "d"), [(2, 1), (1, 2), (3, 2), (4, 5)])
def test_moves_are_the_twins(make, structure, k, d):
    mixture, random = make_mixture(structure, k, d), np.random.default_rng(1)
    if k == 1 and make in (KERNELS["jump"], KERNELS["jump by odds"]):
        pytest.skip("nowhere to jump")
    kernel = make(mixture)
    move = reference.only_move(kernel)
    x = mixture.rvs(ROWS, random) * 1.5
    noise = reference.draw_noise(move, *x.shape, random)
    y, log_q_ratio = reference.apply_move(move, x, *noise)
    expected, ratio = reference.TWINS[move.name](kernel, x, *noise)
    np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(log_q_ratio, ratio, rtol=1e-10, atol=1e-10)


def places(x, width):
    """Rows (n, j) as a flat array of lanes with guards around."""
    tile = np.full((width, TILE_STRIDE), GUARD)
    tile[: x.shape[1], : len(x)] = x.T
    return tile.ravel()


@pytest.mark.compiled
@every_kernel
@pytest.mark.parametrize("structure", ["full", "diag"])
def test_a_lane_has_the_same_bits_beside_any_number_of_others(make, structure):
    mixture, random = make_mixture(structure, 3, 3), np.random.default_rng(2)
    move = reference.only_move(make(mixture))
    x = mixture.rvs(TILE_ROWS, random)
    noise = reference.draw_noise(move, *x.shape, random)
    whole = reference.apply_move(move, x, *noise)
    for first, n in ((0, 1), (3, 2), (7, 8), (100, 13), (200, 56)):
        lanes = slice(first, first + n)
        y, log_q_ratio = reference.apply_move(move, x[lanes], *(part[lanes] for part in noise))
        assert (y == whole[0][lanes]).all() and (log_q_ratio == whole[1][lanes]).all()


@every_kernel
def test_moves_write_where_they_may(make):
    mixture, random = make_mixture("full", 3, 3), np.random.default_rng(3)
    move, n, d = reference.only_move(make(mixture)), 21, 3
    normals, uniforms = reference.draw_noise(move, n, d, random)
    numbers = np.concatenate([normals, np.ones((n, numbers_per_step(d) - d)), uniforms], axis=1)
    x, noise = places(mixture.rvs(n, random), d + 1), places(numbers, numbers.shape[1] + 1)
    candidate, log_q_ratio = places(np.zeros((n, d)), d + 1), places(np.zeros((n, 1)), 2)
    work, packed = places(np.zeros((n, move.work)), move.work + 1), move.packed.copy()
    x_before, noise_before = x.copy(), noise.copy()
    move.function(x, n, noise, candidate, log_q_ratio, work, packed)
    assert (x == x_before).all() and (noise == noise_before).all() and (packed == move.packed).all()
    for written, features in ((candidate, d), (log_q_ratio, 1), (work, move.work)):
        assert (written[features * TILE_STRIDE :] == GUARD).all()
    assert (candidate.reshape(-1, TILE_STRIDE)[:, n + 8 :] == GUARD).all()


def precise_log_density(x, mean, covariance):
    difference = mpmath.matrix([mpmath.mpf(float(a)) - mpmath.mpf(float(b)) for a, b in zip(x, mean, strict=True)])
    matrix = mpmath.matrix(covariance.tolist())
    square = (difference.T * mpmath.lu_solve(matrix, difference))[0]
    return -(square + mpmath.log(mpmath.det(matrix)) + len(x) * mpmath.log(2 * mpmath.pi)) / 2


def precise_components(mixture, x):
    covariances = mixture.covariances_dense
    return [
        mpmath.mpf(float(w)) * mpmath.exp(precise_log_density(x, mean, covariance))
        for w, mean, covariance in zip(mixture.weights, mixture.means, covariances, strict=True)
    ]


def precise_independence(kernel, x, y):
    def q(point):
        mixture, nu, d = kernel.mixture, mpmath.mpf(kernel.tail), len(point)
        scale = mpmath.matrix(mixture.cov.tolist())
        difference = mpmath.matrix([mpmath.mpf(float(a)) for a in point]) - mpmath.matrix(mixture.mean.tolist())
        square = (difference.T * mpmath.lu_solve(scale, difference))[0]
        student = mpmath.gamma((nu + d) / 2) / (mpmath.gamma(nu / 2) * mpmath.sqrt((nu * mpmath.pi) ** d))
        student *= (1 + square / nu) ** (-(nu + d) / 2) / mpmath.sqrt(mpmath.det(scale))
        return (1 - mpmath.mpf(kernel.defensive)) * sum(precise_components(mixture, point)) + kernel.defensive * student

    return mpmath.log(q(x)) - mpmath.log(q(y))


def precise_local(kernel, x, y):
    def q(to, origin):
        shares = precise_components(kernel.mixture, origin)
        scale = mpmath.mpf(kernel.scale) ** 2
        steps = [
            mpmath.exp(precise_log_density(to, origin, scale * mpmath.matrix(covariance.tolist())))
            for covariance in kernel.mixture.covariances_dense
        ]
        return sum(a * b for a, b in zip(shares, steps, strict=True)) / sum(shares)

    return mpmath.log(q(x, y)) - mpmath.log(q(y, x))


@pytest.mark.parametrize(
    ("kernel", "precise"),
    [
        (Independence(make_mixture("full", 3, 2), tail=3, defensive=0.25), precise_independence),
        (MixtureLocal(make_mixture("full", 3, 2), scale=0.8), precise_local),
    ],
    ids=["independence", "local"],
)
@pytest.mark.parametrize("distance", [0.5, 5.0, 40.0])
def test_ratios_keep_their_digits(kernel, precise, distance):
    random = np.random.default_rng(4)
    move = reference.only_move(kernel)
    x = kernel.mixture.rvs(4, random) * distance
    y, found = reference.apply_move(move, x, *reference.draw_noise(move, *x.shape, random))
    with mpmath.workdps(60):
        exact = np.array([float(precise(kernel, a, b)) for a, b in zip(x, y, strict=True)])
    size = np.abs(kernel.mixture.logpdf(x)) + np.abs(kernel.mixture.logpdf(y)) + 1.0
    assert (np.abs(found - exact) <= 1e-14 * size).all()


def noise_of_one_point(move, x, n, random):
    return reference.propose(move, np.broadcast_to(x, (n, len(x))).copy(), random)[0]


def uniform_p_value(values):
    return stats.chisquare(np.histogram(values, bins=50, range=(0.0, 1.0))[0]).pvalue


@pytest.mark.compiled
@pytest.mark.parametrize("tail", [1, 2, 5])
def test_independent_candidates_have_the_density_of_the_ratio(tail):
    mixture = make_mixture("full", 3, 2, seed=5)
    kernel = Independence(mixture, tail=tail, defensive=0.4, widen=1.3)
    y = noise_of_one_point(reference.only_move(kernel), np.zeros(2), 100_000, np.random.default_rng(6))
    direction = np.array([0.6, -0.8])
    values = y @ direction
    cumulative = kernel.defensive * stats.t.cdf(
        values, tail, mixture.mean @ direction, math.sqrt(direction @ mixture.cov @ direction)
    )
    for weight, mean, covariance in zip(mixture.weights, mixture.means, mixture.covariances, strict=True):
        deviation = math.sqrt(kernel.widen * direction @ covariance @ direction)
        cumulative += (1.0 - kernel.defensive) * weight * stats.norm.cdf(values, mean @ direction, deviation)
    assert uniform_p_value(cumulative) > FALSE_ALARM


@pytest.mark.compiled
@pytest.mark.parametrize("x", [-1.0, 0.6, 3.0])
def test_local_candidates_have_the_density_of_the_ratio(x):
    mixture = Mixture([0.4, 0.6], [[0.0], [2.0]], [[0.3], [4.0]], "diag")
    kernel = MixtureLocal(mixture, scale=0.7)
    point = np.array([x])
    y = noise_of_one_point(reference.only_move(kernel), point, 100_000, np.random.default_rng(7))[:, 0]
    deviations = 0.7 * np.sqrt(mixture.covariances[:, 0])
    shares = mixture.responsibilities(point[None])[0]
    cumulative = (shares * stats.norm.cdf(y[:, None], x, deviations)).sum(axis=1)
    assert uniform_p_value(cumulative) > FALSE_ALARM


@pytest.mark.compiled
def test_jumps_go_where_the_odds_say():
    mixture = Mixture([0.2, 0.3, 0.5], [[0.0], [100.0], [300.0]], [1.0, 4.0, 9.0], "spherical")
    move = reference.only_move(ModeJump(mixture, odds=[1.0, 2.0, 5.0]))
    y = noise_of_one_point(move, np.array([100.0 - 2.0 * 0.7]), 20_000, np.random.default_rng(8))[:, 0]
    np.testing.assert_allclose(np.unique(y.round(9)), [-0.7, 300.0 - 3.0 * 0.7])
    count = int((y < 50.0).sum())
    assert stats.binomtest(count, 20_000, 1.0 / 6.0).pvalue > FALSE_ALARM


def test_a_jump_back_undoes_a_jump():
    mixture, random = make_mixture("full", 2, 3), np.random.default_rng(9)
    move = reference.only_move(ModeJump(mixture))
    x = np.concatenate([mixture.means[:1] + 0.1 * random.normal(size=(100, 3))])
    first = (np.zeros((100, 3)), np.full((100, 2), 0.5))
    y, there = reference.apply_move(move, x, *first)
    origin = mixture.responsibilities(y)[:, 0] < 0.5
    # The component at y must be the one jumped to, which the first uniform decides.
    back = (np.zeros((100, 3)), np.where(origin, 1.0, 2.0**-53)[:, None] * np.ones((100, 2)))
    again, ratio = reference.apply_move(move, y, *back)
    moved = np.abs(again - x).max(axis=1) < 1e-9
    assert moved.mean() > 0.9
    np.testing.assert_allclose(ratio[moved], -there[moved], atol=1e-9)


def test_components_of_no_weight_are_no_concern():
    mixture = Mixture([0.5, 0.0, 0.5], [[0.0], [1.0], [2.0]], [1.0, 1.0, 1.0], "spherical")
    twin = Mixture([0.5, 0.5], [[0.0], [2.0]], [1.0, 1.0], "spherical")
    for make in KERNELS.values():
        if make is KERNELS["jump by odds"]:
            continue
        kernel, same = make(mixture), make(twin)
        move, other = reference.only_move(kernel), reference.only_move(same)
        random = np.random.default_rng(10)
        x = mixture.rvs(ROWS, random)
        noise = reference.draw_noise(move, *x.shape, random)
        y, log_q_ratio = reference.apply_move(move, x, *noise)
        expected, ratio = reference.apply_move(other, x, *noise)
        np.testing.assert_allclose(y, expected, atol=1e-12)
        # The Student component knows the whole mixture, which is the same.
        np.testing.assert_allclose(log_q_ratio, ratio, atol=1e-12)


def test_positions_beyond_float64_are_rejected():
    mixture = make_mixture("full", 2, 2)
    for make in KERNELS.values():
        kernel = make(mixture)
        move = reference.only_move(kernel)
        x = np.full((8, 2), 1e200)
        noise = reference.draw_noise(move, 8, 2, np.random.default_rng(11))
        with np.errstate(invalid="ignore"):
            _, log_q_ratio = reference.apply_move(move, x, *noise)
        assert (log_q_ratio == -np.inf).all()


two = make_mixture("full", 2, 2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Independence("full"), TypeError, "needs a Mixture"),
        (lambda: Independence(two, tail=2.5), TypeError, "degrees of freedom"),
        (lambda: Independence(two, tail=0), ValueError, "between 1 and 30"),
        (lambda: Independence(two, defensive=1.0), ValueError, "less than 1, not 1.0"),
        (lambda: Independence(two, defensive="x"), TypeError, "defensive must be a number"),
        (lambda: Independence(two, widen=0.0), ValueError, "widen must be positive"),
        (lambda: Independence(two).prepare(3), ValueError, "2 features, but the target has 3"),
        (lambda: MixtureLocal(two, scale=-1.0), ValueError, "scale must be positive"),
        (lambda: MixtureLocal(two, scale=np.nan), ValueError, "scale must be positive"),
        (lambda: ModeJump(Mixture([1.0], [[0.0]], [1.0], "spherical")), ValueError, "two components"),
        (lambda: ModeJump(two, odds=[1.0]), ValueError, r"shape \(2,\)"),
        (lambda: ModeJump(two, odds=[1.0, -1.0]), ValueError, "not negative"),
        (lambda: ModeJump(two, odds=[1.0, 0.0]), ValueError, "two components"),
        (lambda: ModeJump(two).prepare(2), ValueError, "alone does not reach every point"),
        (lambda: Mixed([]), ValueError, "at least one"),
        (lambda: Mixed([RandomWalk()]), TypeError, "pairs"),
        (lambda: Mixed([(RandomWalk, 1.0)]), TypeError, "kernels such as"),
        (lambda: Mixed([(RandomWalk(), 0.0)]), ValueError, "weight of RandomWalk"),
        (lambda: Mixed([(ModeJump(two), 1.0)]), ValueError, "does not reach every point"),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_mixed_kernels_share_the_weights_and_number_equal_names():
    inner = Mixed([(RandomWalk(), 1.0), (MixtureLocal(two), 3.0)])
    moves = Mixed([(inner, 2.0), (RandomWalk(), 1.0), (ModeJump(two), 1.0)]).prepare(2)
    assert [move.name for move in moves] == ["RandomWalk", "MixtureLocal", "RandomWalk 2", "ModeJump"]
    np.testing.assert_allclose([move.weight for move in moves], [0.125, 0.375, 0.25, 0.25])


KERNEL = Mixed([(Independence(two), 0.3), (MixtureLocal(two), 0.3), (ModeJump(two), 0.2), (RandomWalk(), 0.2)])


@pytest.mark.compiled
def test_chains_do_not_depend_on_company_threads_or_interruptions():
    target = make_mixture("tied", 3, 2, seed=1)

    def run(chains, draws=60, **options):
        return sample(target, np.zeros(2), draws, chains=chains, warmup=40, seed=3, kernel=KERNEL, **options)

    whole = run(270, n_jobs=2)
    assert ((whole.acceptance_rate > 0.0) & (whole.acceptance_rate < 1.0)).any(axis=0).all()
    for chains in (1, 5, 9):
        assert (run(chains, n_jobs=1).draws == whole.draws[:chains]).all()
    assert (run(5, draws=23).resume(37).draws == whole.draws[:5]).all()
