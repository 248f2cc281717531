"""The sampler: its law, its streams, and what it says to bad input."""

import hashlib
import itertools
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from reference_chain import metropolis, noise_of_chain
from scipy import stats

from fastgmm.estimator import GaussianMixture
from fastgmm.kernels._jit import COMPILED
from fastgmm.mcmc import Chains, Independence, Mixed, ModeJump, RandomWalk, mcse, run, sample, starts
from fastgmm.mcmc.proposals import Move
from fastgmm.mcmc.targets import make_target
from fastgmm.mixture import Mixture

compiled_only = pytest.mark.skipif(not COMPILED, reason="about compilation, which is off")

ARTICLE = Mixture([0.38, 0.62], [[-1, -1], [1, 2]], [[[1, -0.8], [-0.8, 1]], [[2.25, 0.6], [0.6, 0.64]]])


@numba.njit
def normal(x):
    total = 0.0
    for i in range(len(x)):
        total += (i + 1) * x[i] * x[i]
    return -0.5 * total


@numba.njit
def half_normal(x):
    return -0.5 * x[0] ** 2 if x[0] > 0 else -math.inf


@numba.njit
def holed(x):
    return math.nan if x[0] > 1 else -0.5 * x[0] ** 2


@numba.njit
def peaked(x):
    return math.inf if x[0] > 1 else -0.5 * x[0] ** 2


@numba.njit
def failing(x):
    if x[0] > 1:
        raise RuntimeError("no value here")
    return -0.5 * x[0] ** 2


@numba.njit
def overwriting(x):
    value = -0.5 * x[0] ** 2
    x[0] = 100.0
    return value


def plain(target):
    return getattr(target, "py_func", target)


def covariance_of(d):
    root = np.random.default_rng(d).normal(size=(d, d))
    return root @ root.T + np.eye(d)


STEPS = 300 if COMPILED else 60


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("identity", [True, False])
def test_chains_are_the_twins(d, identity):
    covariance = np.eye(d) if identity else covariance_of(d)
    start = np.linspace(-1, 1, d)
    chains = sample(normal, start, STEPS, chains=2, warmup=0, seed=7, proposal_cov=None if identity else covariance)
    for c in range(2):
        states, log_densities, accepted, _ = metropolis(
            plain(normal), start, noise_of_chain(7, c, STEPS, d), np.linalg.cholesky(covariance)
        )
        np.testing.assert_allclose(chains.draws[c], states, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(chains.log_density[c], log_densities, rtol=1e-11, atol=1e-11)
        assert chains.acceptance_rate[c, 0] == accepted.mean()


@pytest.mark.parametrize(("d", "adapt"), [(1, "ram"), (2, "ram"), (5, "ram"), (12, "ram"), (1, "am"), (5, "am")])
def test_adaptation_is_the_twins(d, adapt):
    chains = sample(
        normal, np.ones(d), 5, chains=3, warmup=STEPS, seed=3, kernel=RandomWalk(np.eye(d), adapt), store_warmup=True
    )
    lower = np.tril_indices(d)
    for c in range(3):
        states, _, _, factor = metropolis(plain(normal), np.ones(d), noise_of_chain(3, c, STEPS, d), np.eye(d), adapt)
        np.testing.assert_allclose(chains.warmup_draws[c], states, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(chains.state.factors[c], factor[lower], rtol=1e-7, atol=1e-7)


def loss_of(factor, covariance):
    """How many times as long a walk with steps of this factor takes as the best one (Roberts and Rosenthal 2001)."""
    lower = np.zeros(covariance.shape)
    lower[np.tril_indices(len(lower))] = factor
    widths = np.linalg.svd(np.linalg.solve(np.linalg.cholesky(covariance), lower), compute_uv=False)
    return len(widths) * (widths**-2.0).sum() / (1.0 / widths).sum() ** 2


@numba.njit
def correlated(x, width):
    total = x[0] * x[0]
    for i in range(1, len(x)):
        total += (x[i] - 0.9 * x[i - 1]) ** 2 / 0.19
    return -0.5 * total / width**2


@compiled_only
@pytest.mark.parametrize(("d", "width"), [(1, 1.0), (2, 1e-3), (5, 1e3), (10, 1.0)])
def test_robust_adaptation_comes_to_its_target_and_is_frozen(d, width):
    chains = sample(correlated, np.zeros(d), 2_000, args=(width,), chains=16, warmup=4_000, seed=1)
    assert abs(chains.acceptance_rate.mean() - (0.44 if d == 1 else 0.234)) < 0.02
    np.testing.assert_array_equal(chains.resume(10).state.factors, chains.state.factors)
    covariance = 0.9 ** np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    assert np.median([loss_of(factor, covariance) for factor in chains.state.factors]) < 1.1


@compiled_only
def test_robust_adaptation_leaves_what_is_right_in_many_dimensions():
    target = Mixture([1.0], np.zeros((1, 50)), np.ones(1), "spherical")
    chains = sample(target, draws=5, chains=16, seed=1)
    assert np.median([loss_of(factor, np.eye(50)) for factor in chains.state.factors]) < 1.1


@compiled_only
def test_robust_adaptation_learns_one_mode_where_others_move_between_modes():
    """The shape of positions would be that of the modes' places."""
    far = Mixture([0.5, 0.5], [[0.0, 0.0], [0.0, 1e3]], [1.0, 1.0], "spherical")
    chains = sample(far, seed=0, kernel=Mixed([(RandomWalk(), 0.8), (ModeJump(far), 0.2)]), draws=10, warmup=2_000)
    assert (chains.mode_occupancy(far).switches > 0).all()
    assert max(loss_of(factor, np.eye(2)) for factor in chains.state.factors) < 1.1


def test_a_flat_density_does_not_make_the_walk_overflow():
    @numba.njit
    def constant(x):
        return 0.0

    with pytest.warns(RuntimeWarning, match="more than 95 %"):
        chains = sample(constant, np.zeros(2), 600, warmup=500, seed=0)
    assert (chains.acceptance_rate == 1.0).all() and np.isfinite(chains.draws).all()


def test_draws_are_the_states_after_every_thin_steps_since_warm_up():
    every = sample(normal, np.zeros(2), 5 + 3 * 20, chains=2, warmup=0, seed=1)
    thinned = sample(normal, np.zeros(2), 20, chains=2, warmup=5, thin=3, seed=1, proposal_cov=np.eye(2))
    np.testing.assert_array_equal(thinned.draws, every.draws[:, 5 + 3 - 1 :: 3])
    np.testing.assert_array_equal(thinned.log_density, every.log_density[:, 5 + 3 - 1 :: 3])


def test_log_densities_belong_to_the_draws():
    chains = sample(ARTICLE, np.zeros(2), 50, warmup=10, seed=0)
    np.testing.assert_allclose(chains.log_density, ARTICLE.logpdf(chains.draws), rtol=1e-12)


@numba.njit
def normals(X, out):
    for w in range(X.shape[1]):
        total = 0.0
        for i in range(X.shape[0]):
            total += (i + 1) * X[i, w] * X[i, w]
        out[w] = -0.5 * total


@pytest.mark.slow
@pytest.mark.parametrize("target", ["scalar", "batch", "mixture"])
def test_a_chain_depends_on_the_seed_and_its_number_alone(target):
    density = {"scalar": normal, "batch": normals, "mixture": ARTICLE}[target]

    def drawn(chains, n_jobs):
        return sample(
            density, np.zeros(2), 40, chains=chains, warmup=20, seed=5, n_jobs=n_jobs, vectorized=target == "batch"
        )

    most = 300 if COMPILED else 20
    many = drawn(most, 2)
    assert len(np.unique(many.draws[:, -1, 0])) > 0.9 * most
    for chains in (1, 3, 16):
        for n_jobs in (1, 2):
            few = drawn(chains, n_jobs)
            for name in ("draws", "log_density", "acceptance_rate"):
                np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[:chains])


@pytest.mark.slow
@pytest.mark.parametrize("adapt", ["ram", "am", None])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_a_chain_that_looks_ahead_is_the_chain_that_does_not(d, adapt):
    """One chain of a mixture asks about the candidates of several steps at once, two chains do not."""
    target = Mixture([0.3, 0.7], np.outer([-1.0, 1.0], np.arange(d)), [covariance_of(d), np.eye(d)])

    def run(chains, thin):
        kernel = RandomWalk(covariance_of(d), adapt)
        return sample(target, np.zeros(d), STEPS, chains=chains, warmup=25, thin=thin, seed=2, kernel=kernel)

    for thin in (1, 2, 7):
        one, two = run(1, thin), run(2, thin)
        for name in ("draws", "log_density", "acceptance_rate"):
            np.testing.assert_array_equal(getattr(one, name)[0], getattr(two, name)[0])
        assert one.state.steps == two.state.steps and one.state.proposed == two.state.proposed
        assert 0.0 < one.acceptance_rate[0, 0] < 1.0


def test_looking_ahead_does_not_count_what_is_never_proposed():
    """Candidates that overflow are counted as they come, not as they are looked at."""
    wide = Mixture([1.0], [[0.0, 0.0]], [1e300], "spherical")
    far = RandomWalk(np.eye(2), None).prepare(2)[0]._replace(factor=1.5e308 * np.eye(2))

    class Far:
        def prepare(self, dimensions):
            return (far,)

    one, two = (sample(wide, np.zeros(2), 200, chains=n, warmup=0, seed=0, kernel=Far()) for n in (1, 2))
    assert 10 < one.rejected_overflow[0] == two.rejected_overflow[0] < 190
    np.testing.assert_array_equal(one.draws[0], two.draws[0])


def test_a_batch_density_of_the_same_arithmetic_gives_the_same_chain():
    one = sample(normal, np.zeros(3), 50, chains=5, warmup=20, seed=5)
    all_ = sample(normals, np.zeros(3), 50, chains=5, warmup=20, seed=5, vectorized=True)
    np.testing.assert_array_equal(one.draws, all_.draws)
    np.testing.assert_array_equal(one.log_density, all_.log_density)


@pytest.mark.parametrize("thin", [1, 3])
@pytest.mark.parametrize("saved", [True, False])
def test_a_resumed_run_is_one_longer_run(tmp_path, thin, saved):
    whole = sample(normal, np.zeros(2), 50, warmup=30, thin=thin, seed=4)
    part = sample(normal, np.zeros(2), 20, warmup=30, thin=thin, seed=4)
    if saved:
        part.save(tmp_path / "part.npz")
        part = Chains.load(tmp_path / "part.npz")
        with pytest.raises(ValueError, match="pass it as resume"):
            part.resume(5)
        part = part.resume(5, target=normal)
    again = part.resume(50 - part.draws.shape[1])
    for name in ("draws", "log_density", "acceptance_rate", "rejected_nan"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    assert (again.state.generators == whole.state.generators).all() and again.state.steps == whole.state.steps


def test_resuming_with_another_density_is_refused():
    @numba.njit
    def other(x):
        return -abs(x[0])

    chains = sample(normal, np.zeros(2), 5, warmup=0, seed=0)
    with pytest.raises(ValueError, match="is it another target"):
        chains.resume(5, target=other)


@pytest.mark.parametrize("done", ["ends", "ends by NumPy", "stops"])
def test_a_callback_may_end_a_run(monkeypatch, done):
    monkeypatch.setattr(run, "_BLOCK_SECONDS", 0.0)
    seen = []

    def enough(progress):
        seen.append((progress.done, progress.warming_up, progress.draws.shape))
        if progress.draws.shape[1] >= 3:
            if done == "stops":
                raise StopIteration
            return np.True_ if done == "ends by NumPy" else True

    chains = sample(normal, np.zeros(2), 50, warmup=3, seed=0, thin=2, callback=enough)
    whole = sample(normal, np.zeros(2), 50, warmup=3, seed=0, thin=2)
    n = chains.draws.shape[1]
    assert 3 <= n < 50 and not chains.interrupted
    np.testing.assert_array_equal(chains.draws, whole.draws[:, :n])
    np.testing.assert_array_equal(chains.resume(50 - n).draws, whole.draws)
    assert seen[0][1] and not seen[-1][1] and seen[-1][2] == (4, n, 2)


def test_a_callback_is_a_function():
    with pytest.raises(TypeError, match="callback must be a function of one argument or None, not 3"):
        sample(normal, np.zeros(2), 5, callback=3)
    with pytest.raises(TypeError, match="callback must be"):
        sample(normal, np.zeros(2), 5, warmup=0, seed=0).resume(5, callback="x")


def test_a_bar_changes_nothing():
    pytest.importorskip("tqdm")
    with_bar = sample(normal, np.zeros(2), 20, warmup=5, seed=0, progress=True)
    np.testing.assert_array_equal(with_bar.draws, sample(normal, np.zeros(2), 20, warmup=5, seed=0).draws)


def test_nothing_is_warned_of_while_there_is_a_bar(monkeypatch):
    events = []

    class Bar:
        n = 0

        def __init__(self, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            events.append("the bar is closed")

        def update(self, steps):
            pass

    monkeypatch.setitem(sys.modules, "tqdm.auto", SimpleNamespace(tqdm=Bar))
    monkeypatch.setattr(warnings, "warn", lambda message, *given, **options: events.append(message[:19]))
    sample(lambda x: np.nan if x[0] > 1.0 else -x[0] ** 2, np.zeros(1), 50, seed=0, progress=True)
    assert events == ["the bar is closed", "The log-density was"]


def test_warm_up_is_kept_if_wanted():
    chains = sample(normal, np.zeros(2), 5, warmup=7, thin=2, seed=0, store_warmup=True)
    assert chains.warmup_draws.shape == (4, 3, 2) and chains.warmup_log_density.shape == (4, 3)
    assert sample(normal, np.zeros(2), 5, warmup=7, seed=0).warmup_draws is None


def test_so_does_a_chain_that_starts_from_a_draw_of_its_mixture():
    few = sample(ARTICLE, draws=20, chains=2, warmup=0, seed=5)
    many = sample(ARTICLE, draws=20, chains=5, warmup=0, seed=5, n_jobs=1)
    np.testing.assert_array_equal(few.draws, many.draws[:2])


@pytest.mark.parametrize("first_block, seconds", [(1, 0.0), (7, 1e-5), (10**6, 1.0)])
def test_a_chain_does_not_depend_on_how_it_is_cut(monkeypatch, first_block, seconds):
    whole = sample(normal, np.zeros(2), 60, chains=1, warmup=11, thin=3, seed=0)
    monkeypatch.setattr(run, "_FIRST_BLOCK", first_block)
    monkeypatch.setattr(run, "_BLOCK_SECONDS", seconds)
    cut = sample(normal, np.zeros(2), 60, chains=1, warmup=11, thin=3, seed=0)
    np.testing.assert_array_equal(whole.draws, cut.draws)


def test_seeds_of_every_kind():
    def run(seed):
        return sample(normal, np.zeros(2), 20, chains=2, warmup=0, seed=seed).draws

    np.testing.assert_array_equal(run(3), run(np.random.SeedSequence(3)))
    np.testing.assert_array_equal(run(3), run(np.int32(3)))
    np.testing.assert_array_equal(run(np.random.default_rng(3)), run(np.random.default_rng(3)))
    generator = np.random.default_rng(3)
    assert not np.array_equal(run(generator), run(generator))
    assert not np.array_equal(run(None), run(None))


@pytest.mark.parametrize("seed, error", [(-1, ValueError), ("a", TypeError), (1.0, TypeError), (True, TypeError)])
def test_other_seeds_are_refused(seed, error):
    with pytest.raises(error, match="seed"):
        sample(normal, np.zeros(2), 20, seed=seed)


def projected_p_value(points, direction):
    """Test draws against the exact distribution of a projection, a mixture of univariate normals."""
    means = ARTICLE.means @ direction
    deviations = np.sqrt(np.einsum("i,cij,j->c", direction, ARTICLE.covariances, direction))

    def cdf(t):
        return stats.norm.cdf((np.asarray(t)[:, None] - means) / deviations) @ ARTICLE.weights

    return stats.kstest(points @ direction, cdf, method="asymp").pvalue


def smallest_p_value(density, steps):
    """Move exact draws by 1, 3 and 10 steps and test them: nine tests, so nine times the smallest p-value."""
    n = REPLICATES
    points = ARTICLE.rvs(n, random_state=np.random.default_rng(11))
    p_values = []
    for count in steps:
        moved = sample(density, points, 1, thin=count, chains=n, warmup=0, seed=count).draws[:, 0]
        p_values += [projected_p_value(moved, np.array(u)) for u in ([1.0, 0.0], [0.0, 1.0], [0.6, -0.8])]
    return len(p_values) * min(p_values)


FALSE_ALARM = 1e-6
REPLICATES = 20_000 if COMPILED else 1_000


@pytest.mark.slow
def test_exact_draws_stay_exact():
    assert smallest_p_value(ARTICLE, (1, 3, 10)) > FALSE_ALARM


@compiled_only
def test_a_density_that_is_wrong_is_found_out():
    assert smallest_p_value(Mixture([0.5, 0.5], ARTICLE.means, ARTICLE.covariances), (10,)) < FALSE_ALARM


def test_moments_of_a_long_run():
    # The standard error of a mean is taken from the effective sample size; six of them is one in 10^9.
    chains = sample(ARTICLE, np.zeros(2), 20_000 if COMPILED else 500, chains=4, warmup=200, seed=2)
    errors = np.sqrt(np.diag(ARTICLE.cov) / chains.effective_sample_size())
    assert np.all(np.abs(chains.flat().mean(axis=0) - ARTICLE.mean) < 6 * errors)


def test_one_start_serves_all_chains_or_each_has_its_own():
    starts = np.array([[5.0, 5.0], [-5.0, 5.0]])
    both = sample(normal, starts, 30, chains=2, warmup=0, seed=0)
    first = sample(normal, [5, 5], 30, chains=2, warmup=0, seed=0)
    np.testing.assert_array_equal(both.draws[0], first.draws[0])
    assert both.draws[1, 0, 0] < 0 < first.draws[1, 0, 0]


def test_chains_that_start_at_one_point_without_warmup_are_warned_of():
    with pytest.warns(RuntimeWarning, match="All 3 chains start at one point and without warm-up") as caught:
        sample(normal, [1.0, 2.0], 5, chains=3, warmup=0, seed=0)
    assert caught[0].filename == __file__
    for start, chains, warmup in (([1.0, 2.0], 1, 0), ([1.0, 2.0], 3, 5), ([[1.0, 2.0], [1.0, 2.5]], 2, 0)):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="All .* chains start")
            sample(normal, start, 5, chains=chains, warmup=warmup, seed=0)


def test_the_start_is_left_alone():
    start = np.ones(2)
    sample(normal, start, 30, warmup=0, seed=0)
    np.testing.assert_array_equal(start, [1.0, 1.0])


@pytest.mark.parametrize(
    "start, error, said",
    [
        (np.zeros((3, 2)), ValueError, "start has 3 rows but chains=4"),
        (np.zeros((4, 2, 1)), ValueError, r"\(dim,\) or \(chains, dim\)"),
        (0.0, ValueError, r"\(dim,\) or \(chains, dim\)"),
        ([], ValueError, r"\(dim,\) or \(chains, dim\)"),
        ([1j, 0], TypeError, "real numbers"),
        (["a", "b"], TypeError, "real numbers"),
        ([[0, 0], [0, np.nan], [0, 0], [np.inf, 0]], ValueError, "not finite for chains 1, 3"),
        (None, ValueError, "start=None is only for a Mixture"),
        ([[0.0, 0.0], [0.0]], ValueError, "rows of start differ in length"),
        (GaussianMixture(2), TypeError, "or be a Mixture or a function that draws them, not GaussianMixture"),
    ],
    ids=str,
)
def test_bad_starts_are_refused(start, error, said):
    with pytest.raises(error, match=said):
        sample(normal, start, 10)


def test_a_function_that_draws_starts_of_several_dimensions_is_refused():
    dimensions = itertools.count(1)
    with pytest.raises(ValueError, match="rows of start differ in length"):
        sample(normal, lambda generator: np.zeros(next(dimensions)), 10)


@pytest.mark.parametrize("start", [None, [0.0, 0.0]])
def test_what_is_no_density_is_said_before_anything_else(start):
    with pytest.raises(TypeError, match="such as `mixture_` of a fitted GaussianMixture, not GaussianMixture"):
        sample(GaussianMixture(2), start, 10)


def test_a_start_outside_the_support_names_its_chains():
    with pytest.raises(ValueError, match=r"-inf \(outside the support\) at the start of chains 1, 3, .*\[-1\.\]"):
        sample(half_normal, [[1.0], [-1.0], [2.0], [-2.0]], 10)


def test_a_start_where_the_density_is_nan_or_infinite_names_its_chain():
    with pytest.raises(ValueError, match=r"NaN at the start of chain 2, .*\[3\.\]"):
        sample(holed, [[0.0], [0.0], [3.0], [0.0]], 10)
    with pytest.raises(ValueError, match=r"\+inf at the start of chains 0, 1, 2, 3, .*\[3\.\]"):
        sample(peaked, [3.0], 10)


def test_a_start_of_the_wrong_dimension():
    with pytest.raises(ValueError, match="start has 3 dimensions but the Mixture has 2"):
        sample(ARTICLE, np.zeros(3), 10)

    @numba.njit
    def needs_eight(x):
        return -x[7] * x[7]

    with pytest.raises(IndexError) as caught:
        sample(needs_eight, np.zeros(2), 10)
    assert "at the start of chain 0, x = [0., 0.]" in caught.value.__notes__[0]


@numba.njit
def refused_in_python(x):
    return math.log(x[0]) - x[7] ** 2


@numba.njit
def overflowing_in_python(x):
    return -math.exp(x[0]) - x[7] ** 2


@numba.njit
def reading_far(X, out):
    out[:] = -(X[7] ** 2)


@pytest.mark.parametrize(
    ("density", "start", "vectorized"),
    [(refused_in_python, -1.0, False), (overflowing_in_python, 800.0, False), (reading_far, 0.0, True)],
)
def test_a_wrong_dimension_is_found_before_other_memory_is_read(monkeypatch, density, start, vectorized):
    """Also where plain Python refuses something else before it comes to that."""
    monkeypatch.setattr(starts, "evaluate", lambda *arguments: pytest.fail("was run without checks"))
    refusals = IndexError if COMPILED else (IndexError, ArithmeticError, ValueError)
    with pytest.raises(refusals) as caught:
        sample(density, [start], 10, vectorized=vectorized)
    assert "at the start of chain 0" in caught.value.__notes__[0]


def test_python_refusals_that_compiled_code_does_not_share_are_no_errors():
    @numba.njit
    def soft(x):
        return -math.log(1.0 + math.exp(-x[0])) - math.log(1.0 + math.exp(x[0]))

    if COMPILED:  # exp(800) is inf when compiled, an OverflowError in Python
        with pytest.raises(ValueError, match="-inf"):
            sample(soft, [800.0], 10)

    @numba.njit
    def capped(x):
        return -min(math.exp(x[0]), 5.0)

    if COMPILED:
        assert sample(capped, [800.0], 5, warmup=0).log_density[0, 0] == -5.0


@compiled_only
def test_a_density_that_differs_from_its_python_self_is_refused():
    @numba.njit
    def random(x):
        return np.random.normal()

    with pytest.raises(ValueError, match=r"in plain Python but .* compiled, at the start of chain 0"):
        sample(random, np.zeros(2), 10)


def test_a_density_that_changes_its_argument_is_refused():
    with pytest.raises(ValueError, match=r"'overwriting' changes its argument: x = \[0\.5\] became \[100\.\]"):
        sample(overwriting, [0.5], 10)


@pytest.mark.parametrize("vectorized", [False, True])
def test_even_then_the_chain_is_safe(monkeypatch, vectorized):
    monkeypatch.setattr(starts, "_DRY_RUN_SECONDS", -1.0)  # in which it would be found out

    @numba.njit
    def same(x):
        return -0.5 * x[0] ** 2

    @numba.njit
    def overwriting_all(X, out):
        out[:] = -0.5 * X[0] ** 2
        X[:] = 100.0

    density = overwriting_all if vectorized else overwriting
    found = sample(density, [0.5], 50, warmup=10, seed=0, vectorized=vectorized)
    np.testing.assert_array_equal(found.draws, sample(same, [0.5], 50, warmup=10, seed=0).draws)


def test_what_a_batch_density_forgets_is_found_out():
    @numba.njit
    def forgetful(X, out):
        out[0] = -(X[0, 0] ** 2)

    with pytest.raises(ValueError, match="NaN at the start of chains 1, 2, 3"):
        sample(forgetful, [0.5], 5, vectorized=True)


def test_a_slow_dry_run_is_not_repeated_for_every_chain(monkeypatch):
    monkeypatch.setattr(starts, "_DRY_RUN_SECONDS", -1.0)

    @numba.njit
    def needs_python(x):
        return -abs(x[0])

    target = make_target(needs_python, ())._replace(plain=lambda x: pytest.fail("was run"))
    assert starts.first_densities(target, np.ones((2, 1))).tolist() == [-1.0, -1.0]


def test_nan_is_rejected_counted_and_told_once():
    with pytest.warns(RuntimeWarning, match="NaN") as caught:
        chains = sample(holed, [0.0], 200, chains=3, warmup=50, seed=0, proposal_cov=[[1.0]])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert chains.draws.max() <= 1.0 and np.isfinite(chains.log_density).all()
    # The first candidate beyond 1, found by the twin.
    candidates = []

    def watched(x):
        candidates.append(x[0])
        return plain(holed)(x)

    metropolis(watched, np.zeros(1), noise_of_chain(0, 0, 250, 1), np.eye(1))
    beyond = np.flatnonzero(np.array(candidates) > 1)
    assert chains.rejected_nan[0] == len(beyond)
    message = str(caught[0].message)
    assert f"{chains.rejected_nan.sum()} candidates of chains 0, 1, 2" in message
    assert f"first in chain 0 at step {beyond[0]} " in message
    assert np.array2string(np.array([candidates[beyond[0]]]), precision=6) in message
    assert "density NaN" in repr(chains)


def test_the_first_nan_is_the_first_of_this_run():
    @numba.njit
    def holed_above(x, limit):
        return math.nan if x[0] > limit else -0.5 * x[0] ** 2

    with pytest.warns(RuntimeWarning, match="first in chain 0 at step") as caught:
        chains = sample(holed_above, [0.0], 30, args=(1.0,), chains=1, warmup=0, seed=0)
    with pytest.warns(
        RuntimeWarning, match=r"NaN at \d+ candidates of chain 0, .* at step (3[1-9]|[4-9]\d) \(.*x = \[[1-9]"
    ) as caught:
        again = chains.resume(50)
    assert caught[0].filename == __file__
    assert f"NaN at {again.rejected_nan[0] - chains.rejected_nan[0]} cand" in str(caught[0].message)
    # Chain 1 comes to it first.
    with pytest.warns(RuntimeWarning, match=r"of chains 0, 1, .* first in chain 1 at step 2 "):
        sample(holed_above, [[-10.0], [0.9]], 500, args=(1.0,), chains=2, seed=1, proposal_cov=[[100.0]], warmup=0)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_plus_infinity_is_an_error_that_names_the_place(n_jobs):
    with pytest.raises(ValueError, match=r"\+inf, in chain [0-3] at step \d+ \(warm-up included\), x = \[[1-9]"):
        sample(peaked, [0.0], 500, seed=0, n_jobs=n_jobs)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_the_density_raises_comes_through_with_the_place(n_jobs):
    with pytest.raises(RuntimeError, match="no value here") as caught:
        sample(failing, [0.0], 500, seed=0, n_jobs=n_jobs)
    note = caught.value.__notes__[0]
    assert "in chain" in note and "at step" in note and "x = [" in note


def test_what_the_density_raises_at_the_start_comes_through_with_the_place():
    with pytest.raises(RuntimeError, match="no value here") as caught:
        sample(failing, [[0.0], [2.0]], 500, chains=2)
    assert "at the start of chain 1, x = [2.]" in caught.value.__notes__[0]


def test_nan_may_be_an_error():
    with pytest.raises(ValueError, match=r"is NaN, in chain \d at step \d+ .*x = \[[1-9]"):
        sample(holed, [0.0], 200, seed=0, nan="raise")
    with pytest.raises(ValueError, match="nan must be"):
        sample(holed, [0.0], 200, nan="ignore")


@pytest.mark.parametrize("saved", [True, False])
def test_what_nan_is_to_chains_they_remember(tmp_path, saved):
    part = sample(holed, [-3.0], 2, warmup=0, seed=0, nan="raise", proposal_cov=[[0.1]])
    if saved:
        part.save(tmp_path / "part.npz")
        part = Chains.load(tmp_path / "part.npz")
    with pytest.raises(ValueError, match="is NaN, in chain"):
        part.resume(1000, target=holed)


@pytest.mark.parametrize("bad", ["raises", "is infinite"])
def test_a_batch_density_in_trouble_is_placed_too(bad):
    @numba.njit
    def failing_all(X, out):
        for w in range(X.shape[1]):
            if X[0, w] > 1:
                raise RuntimeError("no value here")
            out[w] = -0.5 * X[0, w] ** 2

    @numba.njit
    def peaked_all(X, out):
        for w in range(X.shape[1]):
            out[w] = math.inf if X[0, w] > 1 else -0.5 * X[0, w] ** 2

    if bad == "raises":
        with pytest.raises(RuntimeError) as caught:
            sample(failing_all, [0.0], 500, seed=0, vectorized=True, n_jobs=1)
        assert "in one of chains 0 to 3 at step" in caught.value.__notes__[0]
    else:
        with pytest.raises(ValueError, match=r"\+inf, in chain [0-3] at step \d+ .*x = \[[1-9]"):
            sample(peaked_all, [0.0], 500, seed=0, vectorized=True)


def test_candidates_that_overflow_are_rejected_and_counted():
    @numba.njit
    def flat(x):
        return 0.0

    # Without warm-up, or the walk would learn; half of the first candidates are beyond the largest float64.
    chains = sample(flat, [1.7e308, 0.0], 200, warmup=0, seed=0, proposal_cov=1e307 * np.eye(2) * 1e-1)
    assert np.isfinite(chains.draws).all()
    far = RandomWalk(np.eye(2), None).prepare(2)[0]._replace(factor=1e308 * np.eye(2))

    class Far:
        def prepare(self, dimensions):
            return (far,)

    chains = sample(flat, [1e308, 0.0], 200, warmup=0, seed=0, kernel=Far())
    assert (chains.rejected_overflow > 10).all() and "infinite candidates" in repr(chains)
    assert np.isfinite(chains.draws).all()


def test_moves_share_the_steps_by_their_weights():
    """The schedule is the same for all chains, however many and wherever the run is cut."""

    class Two:
        def prepare(self, dimensions):
            fixed = Move("near", weight=1.0, factor=0.1 * np.eye(dimensions))
            return (fixed, Move("far", weight=3.0, factor=3.0 * np.eye(dimensions), adapt="ram"))

    whole = sample(normal, np.zeros(2), 400, chains=5, warmup=20, seed=1, kernel=Two())
    assert whole.moves == ("near", "far") and whole.acceptance_rate.shape == (5, 2)
    assert (whole.acceptance_rate[:, 0] > whole.acceptance_rate[:, 1] + 0.3).all()
    assert whole.state.proposed.sum() == 400 and abs(whole.state.proposed[1] - 300) < 45
    part = sample(normal, np.zeros(2), 150, chains=2, warmup=20, seed=1, kernel=Two())
    np.testing.assert_array_equal(part.resume(250).draws, whole.draws[:2])
    assert "(near)" in repr(whole)


def test_a_flat_density_on_a_bounded_support_is_sampled_uniformly():
    @numba.njit
    def flat(x):
        return 0.0 if 0.0 < x[0] < 1.0 else -math.inf

    chains = sample(flat, [0.5], 2_000 if COMPILED else 100, thin=20, warmup=10, seed=0)
    assert stats.kstest(chains.flat()[:, 0], "uniform").pvalue > FALSE_ALARM


@pytest.mark.parametrize("adapt", ["ram", "am", None])
def test_a_constant_in_the_log_density_changes_no_bit(adapt):
    @numba.njit
    def shifted(x, constant):
        return normal(x) + constant

    def run(constant):
        kernel = RandomWalk(adapt=adapt)
        return sample(shifted, np.zeros(2), STEPS, args=(constant,), warmup=STEPS, seed=0, chains=2, kernel=kernel)

    expected = run(0.0).draws
    for constant in (1e4, -1e6, 1e6):
        np.testing.assert_array_equal(run(constant).draws, expected)
    with pytest.warns(RuntimeWarning, match="lost to rounding"):
        run(1e300)


@pytest.mark.parametrize("adapt", ["ram", "am", None])
@pytest.mark.parametrize("unit", [2.0**490, 2.0**-490])
def test_units_do_not_matter(adapt, unit):
    """Coordinates of 1e147 or 1e-147: chains in another unit of length, a power of two, are the same to the bit."""

    @numba.njit
    def scaled(x, unit):
        return -0.5 * ((x[0] / unit) ** 2 + (x[1] / unit - x[0] / unit) ** 2)

    def run(unit):
        kernel = RandomWalk(cov=unit**2 * np.eye(2), adapt=adapt)
        return sample(scaled, unit * np.ones(2), 100, args=(unit,), chains=2, warmup=100, seed=0, kernel=kernel)

    one, other = run(1.0), run(unit)
    np.testing.assert_array_equal(other.draws, unit * one.draws)
    np.testing.assert_array_equal(other.log_density, one.log_density)
    assert one.acceptance_rate.min() > 0.1


@numba.njit
def cauchy(x):
    return -math.log1p(x[0] ** 2)


@compiled_only
@pytest.mark.parametrize("kernel", [RandomWalk(), Independence(Mixture([1.0], [[0.0]], [[1.0]], "diag"), tail=1)])
def test_heavy_tails(kernel):
    chains = sample(cauchy, [0.0], 5_000, chains=16, thin=10, seed=0, kernel=kernel)
    for prob, expected in ((0.25, -1.0), (0.5, 0.0), (0.75, 1.0)):
        error = mcse(chains.draws, "quantile", prob=prob)
        assert abs(np.quantile(chains.draws, prob) - expected) < 5.0 * error
    beyond = (np.abs(chains.draws) > 10.0).astype(float)
    assert abs(beyond.mean() - 2.0 * stats.cauchy.sf(10.0)) < 5.0 * mcse(beyond)


def test_starts_are_drawn_until_they_are_in_the_support():
    calls = []

    def draw(generator):
        calls.append(0)
        return generator.normal(size=1)

    chains = sample(half_normal, draw, 5, chains=6, warmup=0, seed=3)
    assert chains.draws.shape == (6, 5, 1) and len(calls) > 7
    few = sample(half_normal, draw, 5, chains=2, warmup=0, seed=3)
    np.testing.assert_array_equal(few.draws, chains.draws[:2])
    mixed = sample(normal, ARTICLE, 5, chains=6, warmup=0, seed=3)
    assert len(np.unique(mixed.draws[:, 0, 0])) == 6


def test_a_drawn_start_of_infinite_density_is_not_tried_again():
    with pytest.raises(ValueError, match=r"\+inf at the start of chains 0, 1, .*\[3\.\]"):
        sample(peaked, lambda generator: np.array([3.0]), 5, chains=2)


def test_starts_that_are_never_in_the_support_name_their_chains():
    with pytest.raises(ValueError, match=r"In 100 tries .* for chains 0, 1, 2; the last was -inf at x = \[-"):
        sample(half_normal, lambda generator: -generator.random(1), 5, chains=3)
    with pytest.raises(ValueError, match=r"must return a point of shape \(dim,\)"):
        sample(half_normal, lambda generator: 1.0, 5, chains=3)


@pytest.mark.parametrize(("scale", "said"), [(1e6, "less than 1 %.*too large"), (1e-6, "more than 95 %.*too small")])
def test_steps_of_a_wrong_size_are_told(scale, said):
    with pytest.warns(RuntimeWarning, match=f"Chains 0, 1 accepted {said}"):
        sample(normal, np.zeros(2), 600, chains=2, warmup=0, seed=0, proposal_cov=scale**2 * np.eye(2))


def test_steps_of_a_wrong_size_are_not_told_where_another_walk_has_the_right_one():
    walks = [RandomWalk(cov=scale**2 * np.eye(2), adapt=None) for scale in (1.0, 1e6)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel = Mixed([(walk, 1.0) for walk in walks])
        chains = sample(normal, np.zeros(2), 1500, chains=1, warmup=0, seed=0, kernel=kernel)
    assert (chains.acceptance_rate[:, 1] < 0.01).all()


def test_a_plain_function_is_compiled():
    def density(x, scale):
        return -abs(x[0]) / scale

    chains = sample(density, [1.0], 20, args=(2.0,), seed=0)
    np.testing.assert_array_equal(chains.draws, sample(numba.njit(density), [1.0], 20, args=(2.0,), seed=0).draws)


def test_kernels_are_checked():
    for kernel, error in (("ram", TypeError), (RandomWalk, TypeError), (3, TypeError)):
        with pytest.raises(error, match="kernel must be"):
            sample(normal, np.zeros(2), 5, kernel=kernel)
    with pytest.raises(ValueError, match="not both"):
        sample(normal, np.zeros(2), 5, kernel=RandomWalk(), proposal_cov=np.eye(2))
    with pytest.raises(ValueError, match="adapt must be"):
        RandomWalk(adapt="yes")


@compiled_only
def test_a_chain_is_frozen_in_its_bits():
    chains = sample(normal, np.zeros(2), 100, chains=3, warmup=100, seed=0)
    assert hashlib.sha256(chains.draws.tobytes()).hexdigest()[:16] == "2afea67ed8f5a245"


# Not under coverage, as the interpreted runs are: an interrupt inside its collector leaves its lock taken for good.
@pytest.mark.compiled
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to oneself on Windows")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_ctrl_c_ends_a_long_run_soon_with_what_there_is(n_jobs):
    # A shell's background job ignores the signal, and Python then leaves it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    sample(normal, np.zeros(2), 10, chains=2)  # what has to be compiled is
    began = time.perf_counter()
    timer.start()
    try:
        chains = sample(normal, np.zeros(2), 100_000, thin=10_000, warmup=0, chains=2, n_jobs=n_jobs, seed=0)
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    assert time.perf_counter() - began < 5.0
    n = chains.draws.shape[1]
    assert chains.interrupted and 0 < n < 100_000 and "interrupted" in repr(chains)
    whole = sample(normal, np.zeros(2), n + 3, thin=10_000, warmup=0, chains=2, seed=0)
    np.testing.assert_array_equal(chains.resume(3).draws, whole.draws)


@pytest.mark.parametrize("name, least", [("draws", 1), ("chains", 1), ("warmup", 0), ("thin", 1)])
def test_counts_are_checked_by_name(name, least):
    for value, error in [(least - 1, ValueError), (1.5, TypeError), (True, TypeError), ("3", TypeError)]:
        with pytest.raises(error, match=f"^{name} must be"):
            sample(normal, np.zeros(2), **{name: value})
    with pytest.raises(ValueError, match="steps"):
        sample(normal, np.zeros(2), 10, thin=2**62)


@pytest.mark.slow
def test_n_jobs_is_scikit_learns():
    with pytest.raises(ValueError, match="n_jobs must not be 0"):
        sample(normal, np.zeros(2), 10, n_jobs=0)
    with pytest.raises(TypeError, match="n_jobs must be an integer or None, not 'all'"):
        sample(normal, np.zeros(2), 10, n_jobs="all")
    before = numba.get_num_threads()
    sample(normal, np.zeros(2), 10, n_jobs=-1)
    assert numba.get_num_threads() == before


@pytest.mark.parametrize(
    "covariance, said",
    [
        (np.eye(3), r"of shape \(2, 2\), as start has 2 dimensions, not \(3, 3\)"),
        (np.ones(2), r"not \(2,\)"),
        ([[1.0, 0.5], [0.4, 1.0]], r"not symmetric: entries \(0, 1\) and \(1, 0\) are 0.5 and 0.4"),
        ([[1.0, 2.0], [2.0, 1.0]], "not positive definite: its smallest eigenvalue is -1"),
        (np.zeros((2, 2)), "not positive definite: its smallest eigenvalue is 0"),
        ([[1.0, 1.0], [1.0, 1.0]], "not positive definite"),
        ([[np.nan, 0.0], [0.0, 1.0]], "NaN or infinity"),
    ],
    ids=str,
)
def test_bad_proposal_covariances_are_refused(covariance, said):
    with pytest.raises(ValueError, match=said):
        sample(normal, np.zeros(2), 10, proposal_cov=covariance)


def test_a_proposal_covariance_holds_real_numbers():
    with pytest.raises(TypeError, match="proposal_cov must hold real numbers"):
        sample(normal, np.zeros(2), 10, proposal_cov=np.eye(2) * 1j)


@pytest.mark.parametrize(
    ("d", "chains", "draws", "bytes_"),
    [
        (2, 1, 10**16, 8 * (3 * 10**16 + 6)),
        (2, 10**15, 1, 8 * 10**15 * (3 + 6)),
        (500, 10**9, 1, 8 * 10**9 * (501 + 500 * 501)),  # what is adapted
    ],
)
def test_more_memory_than_there_is_is_refused_in_bytes(d, chains, draws, bytes_):
    tracemalloc.start()
    try:
        many = f"{chains} chain{'s' * (chains != 1)} of {draws} draw{'s' * (draws != 1)} of {d} dimensions"
        with pytest.raises(MemoryError, match=f"{many} need {bytes_} bytes, but this machine has"):
            sample(normal, np.zeros(d), draws, chains=chains)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


MEMORY_OF_THINNED_STEPS = """
    import numpy as np
    from fastgmm import Mixture, sample

    target = Mixture([1.0], [[0.0, 0.0]], [1.0], "spherical")

    def peak():  # not of `resource`, where a process begins with the peak of the one that started it
        with open("/proc/self/status") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))

    def growth(**steps):
        before = peak()
        sample(target, np.zeros(2), chains=1024, seed=0, **steps)
        return peak() - before

    growth(draws=50, warmup=20)
    print(growth(draws=50, warmup=0, thin=1000), growth(draws=1, warmup=10_000), growth(draws=5_000, warmup=0))
"""


@pytest.mark.compiled
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="this system tells no peak of a process")
def test_memory_is_that_of_the_draws_whatever_is_thinned_away():
    script = textwrap.dedent(MEMORY_OF_THINNED_STEPS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    thinned, warmed, drawn = map(int, done.stdout.split())
    step = 8 * 1024 * 3  # bytes: a draw and its log-density of every chain
    assert thinned < 1_000 * step and warmed < 1_000 * step  # of 50,000 steps and of 10,000
    assert abs(drawn - 5_000 * step) < 1_000 * step


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_samples_after_its_parent_did():
    def run():
        return sample(normal, np.zeros(2), 20, chains=20, warmup=10, seed=0, n_jobs=2).draws

    expected = run()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(run()))
    child.start()
    assert receiver.poll(60)
    np.testing.assert_array_equal(receiver.recv(), expected)
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.slow
def test_threads_may_sample_at_once():
    def run(seed):
        return sample(normal, np.zeros(2), 50, chains=20, warmup=10, seed=seed, n_jobs=2).draws

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, range(4)))
    for seed, draws in enumerate(together):
        np.testing.assert_array_equal(draws, run(seed))


PARALLEL_DENSITY = """
    import numba, numpy as np
    from fastgmm import sample

    def density(x):
        total = 0.0
        for i in numba.prange(len(x)):
            total += x[i] ** 2
        return -0.5 * total

    parallel, serial = (
        sample(numba.njit(parallel=on)(density), np.zeros(50), 500, chains=20, seed=0, n_jobs=2) for on in (True, False)
    )
    print((parallel.draws == serial.draws).all())
"""


@pytest.mark.compiled
def test_a_density_with_threads_of_its_own_is_asked_without_them():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    environment["NUMBA_THREADING_LAYER"] = "workqueue"  # which ends a process when two threads enter it
    command = [sys.executable, "-c", textwrap.dedent(PARALLEL_DENSITY)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"]


@pytest.mark.parametrize("d, n_chains, draws, warmup", [(1, 1, 1, 0), (200, 1, 3, 2), (1, 7, 2, 3)])
def test_shapes_at_the_edges(d, n_chains, draws, warmup):
    chains = sample(normal, np.zeros(d), draws, chains=n_chains, warmup=warmup, thin=5, seed=0)
    assert chains.draws.shape == (n_chains, draws, d)
    assert chains.log_density.shape == (n_chains, draws)
    for name in ("rejected_nan", "rejected_overflow"):
        assert getattr(chains, name).shape == (n_chains,)
    assert chains.acceptance_rate.shape == (n_chains, 1)
    assert chains.flat().shape == (n_chains * draws, d)
    assert chains.effective_sample_size().shape == (d,)


def test_flat_goes_chain_after_chain():
    chains = sample(normal, np.zeros(2), 10, chains=3, warmup=0, seed=0)
    np.testing.assert_array_equal(chains.flat()[10:20], chains.draws[1])


def test_chains_survive_a_file(tmp_path):
    chains = sample(normal, np.zeros(2), 10, chains=3, warmup=4, thin=2, seed=0)
    path = tmp_path / "chains.saved"
    chains.save(path)
    loaded = Chains.load(path)
    assert path.exists() and repr(loaded) == repr(chains)
    for name, value in vars(chains).items():
        if name == "origin":
            assert loaded.origin is None
            continue
        for mine, theirs in zip(*(v if name == "state" else (v,) for v in (value, getattr(loaded, name))), strict=True):
            np.testing.assert_array_equal(mine, theirs)
            assert type(mine) is type(theirs)


def test_other_files_are_not_chains(tmp_path):
    np.savez(tmp_path / "other.npz", a=1)
    np.save(tmp_path / "other.npy", np.zeros(3))
    for name in ("other.npz", "other.npy"):
        with pytest.raises(ValueError, match=r"was not written by Chains\.save"):
            Chains.load(tmp_path / name)


def test_chains_are_frozen_and_readable():
    chains = sample(normal, np.zeros(2), 10, chains=1, warmup=4, thin=2, seed=0)
    with pytest.raises(AttributeError):
        chains.thin = 3
    assert repr(chains).startswith("<Chains: 1 chain x 10 draws of 2 dimensions, every 2 steps, after 4 of warm-up, ")


def test_a_run_without_trouble_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(half_normal, [1.0], 50, seed=0)


OWN_DENSITY = """
    import os, sys
    import numba, numpy as np
    from fastgmm.mcmc import sample
    from fastgmm.kernels import chain

    assert chain.block_kernel.cache_info().currsize == 0, "importing compiled the loop"

    @numba.njit
    def density(x, scale):
        return -abs(x[0]) * scale

    chains = sample(density, np.zeros(1), 100, args=(2.0,), seed=0)
    hits = sum(chain.block_kernel().stats.cache_hits.values())
    files = sorted(os.path.join(folder, name) for folder, _, names in os.walk(sys.argv[1]) for name in names)
    print(hits, len(files), chains.draws[-1, -1, 0])
"""


@compiled_only
def test_the_next_process_finds_the_kernel_also_for_a_users_density(tmp_path):
    script = tmp_path / "own_density.py"
    script.write_text(textwrap.dedent(OWN_DENSITY))
    cache = tmp_path / "cache"
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(cache),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }

    def run():
        command = [sys.executable, str(script), str(cache)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        hits, files, last = done.stdout.split()
        return int(hits), int(files), last

    first, second = run(), run()
    assert first[0] == 0 and first[1] > 0
    assert second[0] == 1
    assert second[1:] == first[1:]
