"""The sampler: its law, its streams, and what it says to bad input."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
import warnings

import numba
import numpy as np
import pytest
from reference_chain import metropolis
from scipy import stats

from fastgmm.kernels import chain
from fastgmm.kernels._jit import COMPILED
from fastgmm.mcmc import Chains, sample
from fastgmm.mcmc.targets import make_target
from fastgmm.mixture import Mixture

sample_module = sys.modules["fastgmm.mcmc.sample"]  # the function hides the module of its name
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


def stream(seed, c):
    return np.random.default_rng(np.random.SeedSequence(seed).spawn(c + 1)[c])


def covariance_of(d):
    root = np.random.default_rng(d).normal(size=(d, d))
    return root @ root.T + np.eye(d)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("identity", [True, False])
def test_chains_equal_the_twin_bit_for_bit(d, identity):
    covariance = np.eye(d) if identity else covariance_of(d)
    start = np.linspace(-1, 1, d)
    chains = sample(normal, start, 300, chains=2, warmup=0, seed=7, proposal_cov=None if identity else covariance)
    for c in range(2):
        states, log_densities, accepted = metropolis(
            plain(normal), start, stream(7, c), np.linalg.cholesky(covariance), 300
        )
        np.testing.assert_array_equal(chains.draws[c], states)
        np.testing.assert_array_equal(chains.log_density[c], log_densities)
        assert chains.acceptance_rate[c] == accepted / 300


def test_draws_are_the_states_after_every_thin_steps_since_warm_up():
    every = sample(normal, np.zeros(2), 5 + 3 * 20, chains=2, warmup=0, seed=1)
    thinned = sample(normal, np.zeros(2), 20, chains=2, warmup=5, thin=3, seed=1)
    np.testing.assert_array_equal(thinned.draws, every.draws[:, 5 + 3 - 1 :: 3])
    np.testing.assert_array_equal(thinned.log_density, every.log_density[:, 5 + 3 - 1 :: 3])


def test_log_densities_belong_to_the_draws():
    chains = sample(ARTICLE, np.zeros(2), 50, warmup=10, seed=0)
    np.testing.assert_allclose(chains.log_density, ARTICLE.logpdf(chains.draws), rtol=1e-12)


def test_a_chain_depends_on_the_seed_and_its_number_alone():
    few = sample(normal, np.zeros(2), 100, chains=3, warmup=20, seed=5, n_jobs=1)
    many = sample(normal, np.zeros(2), 100, chains=8, warmup=20, seed=5, n_jobs=2)
    for name in ("draws", "log_density", "acceptance_rate"):
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[:3])
    assert len(np.unique(many.draws[:, -1, 0])) == 8


def test_so_does_a_chain_that_starts_from_a_draw_of_its_mixture():
    few = sample(ARTICLE, draws=20, chains=2, warmup=0, seed=5)
    many = sample(ARTICLE, draws=20, chains=5, warmup=0, seed=5, n_jobs=1)
    np.testing.assert_array_equal(few.draws, many.draws[:2])


@pytest.mark.parametrize("first_block, seconds", [(1, 0.0), (7, 1e-5), (10**6, 1.0)])
def test_a_chain_does_not_depend_on_how_it_is_cut(monkeypatch, first_block, seconds):
    whole = sample(normal, np.zeros(2), 60, chains=1, warmup=11, thin=3, seed=0)
    monkeypatch.setattr(sample_module, "_FIRST_BLOCK", first_block)
    monkeypatch.setattr(sample_module, "_BLOCK_SECONDS", seconds)
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


def make_driver(accepts=None):
    """Compile a loop over many short chains, with another acceptance rule if one is given."""
    run_block = chain.block_kernel()
    if accepts is not None:
        mutant = types.FunctionType(chain.run_block.__code__, {**vars(chain), "accepts": numba.njit(accepts)})
        run_block = numba.njit(chain.block_signature(), error_model="numpy")(mutant) if COMPILED else mutant

    @numba.njit
    def drive(log_density, packed, generator, factor, state, steps, points, log_densities):
        for i in range(len(points)):
            for j in range(len(state.position)):
                state.position[j] = points[i, j]
            state.log_density[0] = log_densities[i]
            run_block(log_density, packed, generator, factor, state, steps, 1, points, log_densities)
            for j in range(len(state.position)):
                points[i, j] = state.position[j]

    if COMPILED:
        drive.compile((*chain.block_signature().args[:6], numba.float64[:, ::1], numba.float64[::1]))
        drive.disable_compile()
    return drive


def projected_p_value(points, direction):
    """Test draws against the exact distribution of a projection, a mixture of univariate normals."""
    means = ARTICLE.means @ direction
    deviations = np.sqrt(np.einsum("i,cij,j->c", direction, ARTICLE.covariances, direction))

    def cdf(t):
        return stats.norm.cdf((np.asarray(t)[:, None] - means) / deviations) @ ARTICLE.weights

    return stats.kstest(points @ direction, cdf, method="asymp").pvalue


def smallest_p_value(driver, n, steps):
    """Move exact draws by 1, 3 and 10 steps and test them: nine tests, so nine times the smallest p-value."""
    generator = np.random.default_rng(11)
    target = make_target(ARTICLE, ())
    p_values = []
    for count in steps:
        points = ARTICLE.rvs(n, random_state=generator)
        state = chain.new_state(np.zeros(2), 0.0, until_kept=-1)
        driver(*target[:2], generator, np.eye(2), state, count, points, ARTICLE.logpdf(points))
        p_values += [projected_p_value(points, np.array(u)) for u in ([1.0, 0.0], [0.0, 1.0], [0.6, -0.8])]
    return len(p_values) * min(p_values)


FALSE_ALARM = 1e-6
REPLICATES = 40_000 if COMPILED else 3_000


def test_exact_draws_stay_exact():
    assert smallest_p_value(make_driver(), REPLICATES, (1, 3, 10)) > FALSE_ALARM


@pytest.mark.parametrize(
    "broken",
    [lambda u, r: True, lambda u, r: r > 0.0, lambda u, r: math.log(1.0 - u) < 0.5 * r],
    ids=["accept everything", "accept improvements", "half the ratio"],
)
def test_a_broken_acceptance_rule_is_found_out(broken):
    assert smallest_p_value(make_driver(broken), REPLICATES, (10,)) < FALSE_ALARM


def test_moments_of_a_long_run():
    # The standard error of a mean is taken from the effective sample size; six of them is one in 10^9.
    chains = sample(ARTICLE, np.zeros(2), 20_000 if COMPILED else 1_000, chains=4, warmup=200, seed=2)
    errors = np.sqrt(np.diag(ARTICLE.cov) / chains.effective_sample_size())
    assert np.all(np.abs(chains.flat().mean(axis=0) - ARTICLE.mean) < 6 * errors)


def test_one_start_serves_all_chains_or_each_has_its_own():
    starts = np.array([[5.0, 5.0], [-5.0, 5.0]])
    both = sample(normal, starts, 30, chains=2, warmup=0, seed=0)
    first = sample(normal, [5, 5], 30, chains=2, warmup=0, seed=0)
    np.testing.assert_array_equal(both.draws[0], first.draws[0])
    assert both.draws[1, 0, 0] < 0 < first.draws[1, 0, 0]


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
    ],
    ids=str,
)
def test_bad_starts_are_refused(start, error, said):
    with pytest.raises(error, match=said):
        sample(normal, start, 10)


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


def test_even_then_the_chain_is_safe():
    def run(log_density):
        target = make_target(log_density, ())
        state = chain.new_state(np.zeros(1), 0.0, 1)
        draws, log_densities = np.empty((50, 1)), np.empty(50)
        chain.block_kernel()(*target[:2], np.random.default_rng(0), np.eye(1), state, 50, 1, draws, log_densities)
        return draws

    @numba.njit
    def same(x):
        return -0.5 * x[0] ** 2

    np.testing.assert_array_equal(run(overwriting), run(same))


def test_a_slow_dry_run_is_not_repeated_for_every_chain(monkeypatch):
    monkeypatch.setattr(sample_module, "_DRY_RUN_SECONDS", -1.0)

    @numba.njit
    def needs_python(x):
        return -abs(x[0])

    target = make_target(needs_python, ())._replace(plain=lambda x: pytest.fail("was run"))
    assert sample_module._checked_densities(target, np.ones((2, 1))).tolist() == [-1.0, -1.0]


def test_nan_is_rejected_counted_and_told_once():
    with pytest.warns(RuntimeWarning, match="NaN") as caught:
        chains = sample(holed, [0.0], 200, chains=3, warmup=50, seed=0)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert chains.draws.max() <= 1.0 and np.isfinite(chains.log_density).all()
    # The first candidate beyond 1, found by the twin.
    candidates = []

    def watched(x):
        candidates.append(x[0])
        return plain(holed)(x)

    metropolis(watched, np.zeros(1), stream(0, 0), np.eye(1), 250)
    beyond = np.flatnonzero(np.array(candidates) > 1)
    assert chains.rejected_nan[0] == len(beyond)
    message = str(caught[0].message)
    assert f"{chains.rejected_nan.sum()} candidates of chains 0, 1, 2" in message
    assert f"first in chain 0 at step {beyond[0]} " in message
    assert np.array2string(np.array([candidates[beyond[0]]]), precision=6) in message
    assert "density NaN" in repr(chains)


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


def test_candidates_that_overflow_are_rejected_and_counted():
    target = make_target(normal, ())
    state = chain.new_state(np.array([1e308, 0.0]), -1.0, 1)
    draws, log_densities = np.empty((200, 2)), np.empty(200)
    with np.errstate(over="ignore"):
        status = chain.block_kernel()(
            *target[:2], np.random.default_rng(0), 1e308 * np.eye(2), state, 200, 1, draws, log_densities
        )
    assert status == chain.DONE
    assert state.tally[chain.REJECTED_OVERFLOW] > 10
    assert np.isfinite(draws).all()


def test_a_flat_density_on_a_bounded_support_is_sampled_uniformly():
    @numba.njit
    def flat(x):
        return 0.0 if 0.0 < x[0] < 1.0 else -math.inf

    chains = sample(flat, [0.5], 2_000 if COMPILED else 300, thin=10, warmup=10, seed=0)
    assert stats.kstest(chains.flat()[:, 0], "uniform").pvalue > FALSE_ALARM


def test_a_constant_in_the_log_density_changes_nothing():
    @numba.njit
    def shifted(x, constant):
        return normal(x) + constant

    one = sample(shifted, np.zeros(2), 200, args=(0.0,), seed=0, chains=1)
    other = sample(shifted, np.zeros(2), 200, args=(1e4,), seed=0, chains=1)
    np.testing.assert_array_equal(one.draws, other.draws)


# Not under coverage, as the interpreted runs are: an interrupt inside its collector leaves its lock taken for good.
@pytest.mark.compiled
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to oneself on Windows")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_ctrl_c_ends_a_long_run_soon(n_jobs):
    # A shell's background job ignores the signal, and Python then leaves it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    chain.block_kernel()
    make_target(normal, ())
    began = time.perf_counter()
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            sample(normal, np.zeros(2), 10, thin=10**9, warmup=0, chains=2, n_jobs=n_jobs)
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    assert time.perf_counter() - began < 5.0


@pytest.mark.parametrize("name, least", [("draws", 1), ("chains", 1), ("warmup", 0), ("thin", 1)])
def test_counts_are_checked_by_name(name, least):
    for value, error in [(least - 1, ValueError), (1.5, TypeError), (True, TypeError), ("3", TypeError)]:
        with pytest.raises(error, match=f"^{name} must be"):
            sample(normal, np.zeros(2), **{name: value})
    with pytest.raises(ValueError, match="steps"):
        sample(normal, np.zeros(2), 10, thin=2**62)


def test_n_jobs_is_scikit_learns():
    with pytest.raises(ValueError, match="n_jobs must not be 0"):
        sample(normal, np.zeros(2), 10, n_jobs=0)
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


def test_more_memory_than_there_is_is_refused_in_bytes():
    with pytest.raises(MemoryError, match="240000000000000000 bytes"):
        sample(normal, np.zeros(2), 10**16, chains=1)


@pytest.mark.parametrize("d, n_chains, draws", [(1, 1, 1), (100, 1, 3), (1, 7, 2)])
def test_shapes_at_the_edges(d, n_chains, draws):
    chains = sample(normal, np.zeros(d), draws, chains=n_chains, warmup=0, thin=5, seed=0)
    assert chains.draws.shape == (n_chains, draws, d)
    assert chains.log_density.shape == (n_chains, draws)
    for name in ("acceptance_rate", "rejected_nan", "rejected_overflow"):
        assert getattr(chains, name).shape == (n_chains,)
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
        np.testing.assert_array_equal(getattr(loaded, name), value)
        assert type(getattr(loaded, name)) is type(value)


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
