"""Every kernel leaves mixtures as they are, and faults in kernels are found."""

import dataclasses

import mpmath
import numpy as np
import pytest
import reference_moves as reference
from test_moves import STRUCTURES, make_mixture, precise_components
from test_steps import accepts

from fastgmm import Mixture, sample
from fastgmm.kernels.moves import unpack
from fastgmm.mcmc.mixture_proposals import Independence, MixtureLocal, ModeJump
from fastgmm.mcmc.proposals import Mixed, RandomWalk
from fastgmm.mcmc.starts import first_densities
from fastgmm.mcmc.targets import make_target
from fastgmm.testing import InvarianceReport, InvarianceTest, check_invariance

CHAINS = 20_000

# Around another mixture than the target: around the target itself most ratios are 1.
KERNELS = {
    "random walk": lambda m: RandomWalk(cov=m.cov),
    "independence": lambda m: Independence(m),
    "no tail": lambda m: Independence(m, defensive=0.0, widen=1.5),
    "heavy tail": lambda m: Independence(m, tail=2, defensive=0.5),
    "local": lambda m: MixtureLocal(m, scale=1.0),
    "jump": lambda m: Mixed([(RandomWalk(cov=m.cov), 0.3), (ModeJump(m), 0.7)]),
    "mixed": lambda m: Mixed([(Independence(m), 0.4), (MixtureLocal(m), 0.4), (ModeJump(m), 0.2)]),
}


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("structure", "k", "d"), [("full", 1, 1), *((s, k, d) for s in STRUCTURES for k, d in ((2, 2), (5, 3)))]
)
@pytest.mark.parametrize("make", KERNELS.values(), ids=KERNELS)
def test_kernels_leave_mixtures_as_they_are(make, structure, k, d):
    target, other = make_mixture(structure, k, d), make_mixture(structure, max(k, 2), d, seed=1)
    check_invariance(make(other), target, n=CHAINS // 2, seed=0).assert_passed()


@pytest.mark.compiled
@pytest.mark.parametrize("adapt", ["ram", "am"])
def test_adapted_walks_are_exact_once_they_are_frozen(adapt):
    """Every chain has learned a factor of its own; then they are put to exact draws."""
    mixture = make_mixture("full", 3, 2)
    compiled, size = make_target(mixture, ()), CHAINS // 8
    learned = sample(mixture, draws=1, chains=size, warmup=200, seed=0, kernel=RandomWalk(adapt=adapt))
    assert len(np.unique(learned.state.factors[:, 0])) == size

    def step(x, generator):
        nonlocal learned
        start = learned.state._replace(position=x, log_density=first_densities(compiled, x))
        learned = dataclasses.replace(learned, state=start, draws=learned.draws[:, :0], log_density=np.empty((size, 0)))
        learned = learned.resume(1)
        return learned.draws[:, 0]

    factors = learned.state.factors
    check_invariance(step, mixture, n=CHAINS, seed=0).assert_passed()
    assert (learned.state.factors == factors).all()


target, other = make_mixture("full", 3, 2), make_mixture("full", 3, 2, seed=1)
ACTUAL = {"independence": Independence(other), "local": MixtureLocal(other, scale=1.5), "jump": ModeJump(other)}
every_move = pytest.mark.parametrize("kernel", ACTUAL.values(), ids=ACTUAL)


def check(kernel, n=CHAINS, seed=0, **faults):
    step = reference.metropolis_hastings(target, reference.only_move(kernel), **faults)
    return check_invariance(step, target, n=n, seed=seed)


@pytest.mark.compiled
@every_move
def test_the_plain_loop_passes_with_every_move(kernel):
    check(kernel).assert_passed()


@pytest.mark.compiled
@every_move
def test_a_dropped_hastings_term_is_found(kernel):
    assert not check(kernel, change=np.zeros_like).passed


@pytest.mark.compiled
@every_move
def test_an_inverted_hastings_term_is_found(kernel):
    """Of `MixtureLocal`, this is the ratio of responsibilities inverted."""
    assert not check(kernel, change=np.negative).passed


@pytest.mark.compiled
def test_a_dropped_jacobian_is_found(monkeypatch):
    exact = ModeJump._log_balance

    def without_volumes(self):
        determinants = np.linalg.slogdet(self.mixture.covariances_dense)[1]
        return exact(self) - 0.5 * determinants

    monkeypatch.setattr(ModeJump, "_log_balance", without_volumes)
    assert not check(ModeJump(other)).passed
    mixed = Mixed([(RandomWalk(cov=other.cov), 0.3), (ModeJump(other), 0.7)])
    assert not check_invariance(mixed, target, n=CHAINS, seed=0).passed


@pytest.mark.compiled
def test_dropped_odds_are_found(monkeypatch):
    monkeypatch.setattr(ModeJump, "_log_balance", lambda self: np.zeros(3))
    assert not check(ModeJump(other, odds=[0.02, 0.08, 0.9])).passed


@pytest.mark.compiled
@every_move
def test_accepting_improvements_alone_is_found(kernel):
    assert not check(kernel, accepts=lambda log_ratio: log_ratio > 0.0).passed


@pytest.mark.compiled
@every_move
def test_a_stale_density_is_found(kernel):
    """The density at the start, which acceptance should have replaced."""
    move = reference.only_move(kernel)
    cache = {}

    def step(x, generator):
        if cache.get("after") is not x:
            cache["density"] = target.logpdf(x)
        y, log_q_ratio = reference.propose(move, x, generator)
        log_ratio = target.logpdf(y) - cache["density"] + log_q_ratio
        cache["after"] = np.where((generator.exponential(size=len(x)) > -log_ratio)[:, None], y, x)
        return cache["after"]

    assert not check_invariance(step, target, n=CHAINS, seed=0).passed


class OtherWeights:
    """A kernel whose compiled moves take the ratio of a mixture with other weights than they draw from."""

    def __init__(self, kernel, factors):
        self.kernel, self.factors = kernel, factors

    def prepare(self, dimensions):
        (move,) = self.kernel.prepare(dimensions)
        changed = unpack(move.packed)[3] + np.log(self.factors)  # log weights are a part of the constants
        packed = move.packed.copy()
        packed[5 : 5 + len(changed)] = changed.view(np.int64)
        assert (unpack(packed)[3] == changed).all()
        return (move._replace(packed=packed),)


@pytest.mark.compiled
def test_a_fault_of_compiled_moves_is_found_through_the_sampler():
    kernel = Independence(other, defensive=0.0)
    check_invariance(OtherWeights(kernel, np.ones(3)), target, n=CHAINS, seed=0).assert_passed()
    assert not check_invariance(OtherWeights(kernel, [4.0, 0.5, 1.0]), target, n=CHAINS, seed=0).passed


@every_move
def test_acceptance_turns_at_the_exact_ratio(kernel):
    """Candidates are accepted for every exponential above minus the ratio of 60 digits, and rejected below."""
    random = np.random.default_rng(1)
    x = target.rvs(12, random)
    move = reference.only_move(kernel)
    y, log_q_ratio = reference.apply_move(move, x, *reference.draw_noise(move, *x.shape, random))
    found = (target.logpdf(y) - target.logpdf(x)) + log_q_ratio
    with mpmath.workdps(60):
        densities = [[mpmath.log(sum(precise_components(target, point))) for point in rows] for rows in (x, y)]
    for i in range(len(x)):
        exact = float(densities[1][i] - densities[0][i]) + log_q_ratio[i]
        size = 1e-14 * (abs(float(densities[0][i])) + abs(float(densities[1][i])) + abs(log_q_ratio[i]) + 1.0)
        assert accepts(-exact + size, found[i])
        assert not accepts(-exact - size, found[i])


@pytest.mark.parametrize(
    ("exponential", "log_ratio", "accepted"),
    [
        (1e-300, 0.0, True),
        (0.0, 1e-300, True),
        (0.0, 0.0, False),  # the uniform is 1, and must be less than the ratio
        (2.0, np.nextafter(-2.0, 0.0), True),
        (2.0, -2.0, False),
        (36.7, -np.inf, False),
        (0.0, np.inf, True),
        (36.7, np.nan, False),
    ],
)
def test_acceptance_at_the_edges(exponential, log_ratio, accepted):
    assert accepts(exponential, log_ratio) == accepted


def fold(share):
    """Moves that share of the chains to the right half: the distribution function is wrong by share / 2 at 0."""

    def step(x, generator):
        return np.where(generator.random(len(x))[:, None] < share, np.abs(x), x)

    return step


normal = Mixture([1.0], [[0.0]], [1.0], "spherical")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_stated_power_is_there(seed):
    """Of n = 20,000 a distribution function that is wrong by 0.036 is found; one step, which folds once."""
    report = check_invariance(fold(0.072), normal, n=20_000, steps=(1,), reversible=False, seed=seed)
    assert not report.passed
    assert "KS" in {test.test for test in report.failures}


@pytest.mark.compiled
def test_false_alarms_are_as_rare_as_stated():
    """At a rate of 0.05, of 100 checks of what changes nothing some 5 fail at most; 14 or more by a chance of 1e-3."""

    def redraw(x, generator):
        return generator.standard_normal(x.shape)

    failed = sum(
        not check_invariance(redraw, normal, n=1000, steps=(1,), alpha=0.05, seed=seed).passed for seed in range(100)
    )
    assert failed <= 13


@pytest.mark.compiled
def test_asymmetry_is_found_where_the_distribution_stays():
    """A rotation: each position is exact, but there is no way back."""
    circle = Mixture([1.0], [[0.0, 0.0]], [1.0], "spherical")
    turn = np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])

    def rotate(x, generator):
        return x @ turn.T

    assert check_invariance(rotate, circle, n=CHAINS, reversible=False, seed=0).passed
    report = check_invariance(rotate, circle, n=CHAINS, seed=0)
    assert {test.test for test in report.failures} == {"symmetry"}


def test_the_report_reads_as_a_table():
    report = InvarianceReport(
        (InvarianceTest("x[0]", "KS", 1, 0.5), InvarianceTest("component", "chi2", 3, 1e-9)), 1000, 1e-6
    )
    assert not report.passed and report.p_value == 2e-9
    assert [test.statistic for test in report.failures] == ["component"]
    lines = repr(report).splitlines()
    assert lines[0].split() == ["statistic", "test", "step", "p"]
    assert lines[1].split() == ["component", "chi2", "3", "1e-09"]
    assert lines[-1].startswith("2 tests of 1000 chains at a false-alarm rate of 1e-06: 1 failed, p = 2e-09")
    with pytest.raises(AssertionError, match="component"):
        report.assert_passed()


def test_a_seed_gives_the_same_report():
    first, second = (check_invariance(fold(0.0), normal, n=2000, seed=5) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": "normal"}, TypeError, "must be a Mixture"),
        ({"n": 10}, ValueError, "at least 1000"),
        ({"steps": ()}, ValueError, "steps must hold"),
        ({"steps": (0,)}, ValueError, "steps must hold"),
        ({"alpha": 0.0}, ValueError, "probability"),
        ({"kernel": 3}, TypeError, "kernel or a function"),
        ({"kernel": lambda x, generator: x[:, 0]}, ValueError, "took positions of shape"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        check_invariance(**{"kernel": fold(0.0), "target": normal, "n": 1000, **arguments})
