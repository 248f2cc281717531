"""Tests for kernels: does a kernel leave a distribution as it is?"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import special, stats

from fastgmm.mcmc.sample import sample
from fastgmm.mixture import Mixture
from fastgmm.table import format_table

_BINS = 50
_BINS_OF_PAIRS = 20
_BINS_OF_PLANES = 6  # of each of two functions
_LEAST_EXPECTED = 10.0  # cells of a contingency table below this count are left out, or joined
_RANDOM_PROJECTIONS = 3
_MOST_CHAINS = 2**14  # of a batch
_LEAST_BATCHES = 8  # a mixed kernel takes the same moves in all chains of a batch
_STORED_TOLERANCE = 1e-8


@dataclasses.dataclass(frozen=True)
class InvarianceTest:
    """One of the tests that a kernel was put to.

    Attributes
    ----------
    statistic : str
        Of which function of the position: "x[0]", "projection 1", "log-density", "component".
    test : str
        "chi2" or "KS" for its distribution, "symmetry" for that of pairs of successive positions, "stored" for
        whether the log-densities that the sampler reports are those at its positions.
    step : int
        After how many steps from exact draws.
    p_value : float
        Chance of a departure as large as that found, if there is none.
    """

    statistic: str
    test: str
    step: int
    p_value: float


@dataclasses.dataclass(frozen=True, repr=False)
class InvarianceReport:
    """What `check_invariance` found; printed as a table, smallest p-value of each kind of test first.

    Attributes
    ----------
    tests : tuple of InvarianceTest
        All tests.
    n : int
        Number of chains.
    alpha : float
        Chance that a kernel without fault fails.
    """

    tests: tuple[InvarianceTest, ...]
    n: int
    alpha: float

    @property
    def p_value(self) -> float:
        """Smallest p-value times the number of tests (Bonferroni), at most 1."""
        return min(1.0, len(self.tests) * min(test.p_value for test in self.tests))

    @property
    def passed(self) -> bool:
        """Whether no departure was found."""
        return self.p_value >= self.alpha

    @property
    def failures(self) -> tuple[InvarianceTest, ...]:
        """Tests whose p-value, times their number, is below `alpha`; smallest first."""
        failed = [test for test in self.tests if len(self.tests) * test.p_value < self.alpha]
        return tuple(sorted(failed, key=lambda test: test.p_value))

    def assert_passed(self) -> None:
        """Raise with the table unless the kernel passed.

        Raises
        ------
        AssertionError
            If it did not.
        """
        if not self.passed:
            raise AssertionError(f"The kernel does not leave the target as it is.\n{self!r}")

    def __repr__(self) -> str:
        ordered = sorted(self.tests, key=lambda test: test.p_value)
        rows = [[test.statistic, test.test, str(test.step), f"{test.p_value:.3g}"] for test in ordered]
        table = format_table(["statistic", "test", "step", "p"], rows)
        verdict = "passed" if self.passed else f"{len(self.failures)} failed"
        of = f"{len(self.tests)} tests of {self.n} chains at a false-alarm rate of {self.alpha:.3g}"
        return f"{table}\n{of}: {verdict}, p = {self.p_value:.3g} after Bonferroni."


def check_invariance(
    kernel: Any,
    target: Mixture,
    *,
    n: int = 200_000,
    steps: Sequence[int] = (1, 3, 10),
    alpha: float = 1e-6,
    reversible: bool = True,
    seed: int | None = None,
) -> InvarianceReport:
    """Test whether a kernel leaves a mixture invariant, from exact draws of it.

    Many chains start from exact independent draws and take a few steps, after which their positions must still be
    exact independent draws: there is no warm-up, no adaptation, and no error of a Monte Carlo estimate to allow for.
    Tested are, after each of `steps`,

    - the coordinates and three random projections: a projected mixture is one of one dimension, whose distribution
      function is known. Its values at the draws are uniform: χ² on 50 bins, and Kolmogorov and Smirnov;
    - the log-densities, against those of as many other exact draws, by both tests for two samples;
    - components, drawn with the responsibilities at each position: frequencies against the weights, by χ²;
    - and after the first step, unless `reversible` is false, whether pairs (position before, position after) are as
      frequent as the reverse: the symmetry of contingency tables (Bowker 1948) of the same projections, one by one and
      two by two, of the log-densities and of the components.

    Parameters
    ----------
    kernel : kernel or function
        A kernel such as `RandomWalk()`, which is run by `sample` without adaptation; or a function
        `step(positions, generator) -> positions` that takes one step of all chains, positions of shape (n, dim),
        with randomness from a NumPy Generator.
    target : Mixture
        The distribution that the kernel should leave as it is: a function must have it built in.
    n : int, default=200_000
        Number of chains.
    steps : sequence of int, default=(1, 3, 10)
        After how many steps to test.
    alpha : float, default=1e-6
        Chance that a kernel without fault fails: all p-values are multiplied by the number of tests (Bonferroni).
    reversible : bool, default=True
        Whether to test reversibility as well. Metropolis-Hastings kernels, and random mixtures of such, are
        reversible; those that take several in a fixed order are not.
    seed : int, optional
        For the draws, the projections and the chains.

    Returns
    -------
    InvarianceReport
        `.passed`, the p-values of all tests, and `.assert_passed()` for a test's last line.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.

    Notes
    -----
    Power: with n chains and m tests, about 60 by default, a distribution function that is wrong by D somewhere is found
    with a probability above 0.999 if D > sqrt(log(2 m / alpha) / (2 n)) + 2 / sqrt(n): 0.012 for the default n, 0.036
    for 20,000 chains; in log-densities, compared with a sample, if D is sqrt(2) times that. What is smaller, such as a
    constant of 0.02 in the logarithm of an acceptance ratio, is not found: test the ratio itself. Whether every region
    is reached is another question, which exact starts do not ask.

    References
    ----------
    Geweke (2004), Getting it right: joint distribution tests of posterior simulators. Journal of the American
    Statistical Association 99, 799-804.
    Bouchard-Côté et al. (2022), Blang: Bayesian declarative modeling of general data structures and inference via
    algorithms based on distribution continua. Journal of Statistical Software 103 (11), section 10.5.
    Bowker (1948), A test for symmetry in contingency tables. Journal of the American Statistical Association 43,
    572-574.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgmm import Mixture
    >>> from fastgmm.testing import check_invariance
    >>> normal = Mixture([1.0], [[0.0]], [1.0], "spherical")
    >>> def flip(positions, generator):
    ...     return -positions
    >>> check_invariance(flip, normal, n=10_000, seed=0).passed
    True
    >>> def shrink(positions, generator):
    ...     return 0.9 * positions
    >>> check_invariance(shrink, normal, n=10_000, seed=0).passed
    False
    """
    _check_arguments(target, n, steps, alpha)
    random = np.random.default_rng(seed)
    projections = _projections(target, random)
    wanted = sorted({1, *steps} if reversible else set(steps))
    start = target.rvs(n, random)
    positions, stored = _run(kernel, target, start, wanted, random)
    tests: list[InvarianceTest] = []
    for step in steps:
        tests += _test_distribution(target, projections, positions[step], step, random)
    if reversible:
        tests += _test_symmetry(target, projections, start, positions[1], random)
    for step, values in stored.items():
        tests.append(_test_stored(target, positions[step], values, step))
    return InvarianceReport(tuple(tests), n, alpha)


def _check_arguments(target: Any, n: int, steps: Sequence[int], alpha: float) -> None:
    if not isinstance(target, Mixture):
        raise TypeError(f"target must be a Mixture, of which exact draws can be taken, not {type(target).__name__}.")
    if n < 1000:
        raise ValueError(f"n must be at least 1000, or hardly any fault is found, but is {n}.")
    if len(steps) == 0 or min(steps) < 1:
        raise ValueError(f"steps must hold numbers of steps, each at least 1, but is {steps!r}.")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is a probability between 0 and 1, not {alpha}.")


# Which function of the position is tested, and its distribution function under the target.
Projection = tuple[str, Callable[[np.ndarray], np.ndarray]]


def _projections(target: Mixture, random: np.random.Generator) -> list[Projection]:
    d = target.n_features
    directions = [(f"x[{j}]", row) for j, row in enumerate(np.eye(d))]
    if d > 1:
        # In the target's own units, or one wide feature would be all that a projection shows.
        rows = random.standard_normal((_RANDOM_PROJECTIONS, d)) / np.sqrt(np.diagonal(target.cov))
        directions += [(f"projection {i + 1}", row) for i, row in enumerate(rows)]
    return [(name, _distribution_function(target, row)) for name, row in directions]


def _distribution_function(target: Mixture, direction: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """P(direction · X <= direction · x) for X from the target: a mixture of one dimension."""
    means = target.means @ direction
    deviations = np.sqrt(np.einsum("i,cij,j->c", direction, target.covariances_dense, direction))

    def distribution(x: np.ndarray) -> np.ndarray:
        values = x @ direction
        total = np.zeros(len(x))
        for weight, mean, deviation in zip(target.weights, means, deviations, strict=True):
            total += weight * special.ndtr((values - mean) / deviation)
        return np.clip(total, 0.0, 1.0)

    return distribution


def _run(
    kernel: Any, target: Mixture, start: np.ndarray, steps: list[int], random: np.random.Generator
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Positions of all chains after each of `steps`; and the log-densities that the sampler reports for them."""
    size = min(_MOST_CHAINS, -(-len(start) // _LEAST_BATCHES))
    run = _run_kernel if hasattr(kernel, "prepare") else _run_function
    if not (hasattr(kernel, "prepare") or callable(kernel)):
        raise TypeError(f"kernel must be a kernel or a function of positions and a generator, not {kernel!r}.")
    positions: dict[int, list[np.ndarray]] = {step: [] for step in steps}
    stored: dict[int, list[np.ndarray]] = {}
    for begin in range(0, len(start), size):
        batch = start[begin : begin + size]
        for step, after, log_densities in run(kernel, target, batch, steps, random):
            positions[step].append(after)
            if log_densities is not None:
                stored.setdefault(step, []).append(log_densities)
    return _concatenated(positions), _concatenated(stored)


Visit = tuple[int, np.ndarray, np.ndarray | None]


def _run_kernel(
    kernel: Any, target: Mixture, start: np.ndarray, steps: list[int], random: np.random.Generator
) -> Iterator[Visit]:
    # Without warm-up nothing adapts.
    chains = sample(target, start, steps[-1], chains=len(start), warmup=0, seed=random, kernel=kernel)
    for step in steps:
        yield step, chains.draws[:, step - 1], chains.log_density[:, step - 1]


def _run_function(
    kernel: Any, target: Mixture, start: np.ndarray, steps: list[int], random: np.random.Generator
) -> Iterator[Visit]:
    positions = start.copy()
    for step in range(1, steps[-1] + 1):
        positions = kernel(positions, random)
        if np.shape(positions) != start.shape:
            raise ValueError(f"The kernel took positions of shape {start.shape} to ones of {np.shape(positions)}.")
        if step in steps:
            yield step, positions.copy(), None


def _concatenated(parts: dict[int, list[np.ndarray]]) -> dict[int, np.ndarray]:
    return {step: np.concatenate(arrays) for step, arrays in parts.items()}


def _test_distribution(
    target: Mixture, projections: list[Projection], x: np.ndarray, step: int, random: np.random.Generator
) -> Iterator[InvarianceTest]:
    for name, distribution in projections:
        uniform = distribution(x)
        counts = np.bincount(_bins(uniform, _BINS), minlength=_BINS)
        yield InvarianceTest(name, "chi2", step, float(stats.chisquare(counts).pvalue))
        yield InvarianceTest(name, "KS", step, float(stats.kstest(uniform, "uniform", method="asymp").pvalue))
    found, exact = target.logpdf(x), target.logpdf(target.rvs(len(x), random))
    yield InvarianceTest("log-density", "chi2", step, _same_distribution(found, exact))
    yield InvarianceTest("log-density", "KS", step, float(stats.ks_2samp(found, exact, method="asymp").pvalue))
    if target.n_components > 1:
        counts = np.bincount(_components(target, x, random), minlength=target.n_components)
        yield InvarianceTest("component", "chi2", step, _agree(counts, len(x) * target.weights))


def _test_symmetry(
    target: Mixture, projections: list[Projection], before: np.ndarray, after: np.ndarray, random: np.random.Generator
) -> Iterator[InvarianceTest]:
    uniform = {name: (distribution(before), distribution(after)) for name, distribution in projections}
    cells = {name: tuple(_bins(u, _BINS_OF_PAIRS) for u in pair) for name, pair in uniform.items()}
    # One function alone never shows a rotation: of a normal distribution (f(x), f(y)) is symmetric whatever links them.
    for name, neighbour in itertools.pairwise(uniform):
        planes = zip(uniform[name], uniform[neighbour], strict=True)
        cells[f"{name}, {neighbour}"] = tuple(
            _bins(u, _BINS_OF_PLANES) * _BINS_OF_PLANES + _bins(v, _BINS_OF_PLANES) for u, v in planes
        )
    of_before, of_after = target.logpdf(before), target.logpdf(after)
    edges = _edges(of_before, of_after, _BINS_OF_PAIRS)
    cells["log-density"] = (np.searchsorted(edges, of_before), np.searchsorted(edges, of_after))
    if target.n_components > 1:
        # A chain that stayed is in one component: with coins of its own each time it would be drawn into another.
        coins = random.random(len(before))
        cells["component"] = (_components(target, before, coins), _components(target, after, coins))
    for name, (of_before, of_after) in cells.items():
        yield InvarianceTest(name, "symmetry", 1, _symmetric(of_before, of_after))


def _test_stored(target: Mixture, x: np.ndarray, values: np.ndarray, step: int) -> InvarianceTest:
    """Exact but for rounding: not a question of probability."""
    exact = target.logpdf(x)
    agrees = np.abs(values - exact) <= _STORED_TOLERANCE * np.maximum(np.abs(exact), 1.0)
    return InvarianceTest("log-density", "stored", step, float(agrees.all()))


def _bins(uniform: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((uniform * bins).astype(np.int64), bins - 1)


def _components(target: Mixture, x: np.ndarray, random: np.random.Generator | np.ndarray) -> np.ndarray:
    """Draw a component with the responsibilities at each position: its law is the weights."""
    coins = random if isinstance(random, np.ndarray) else random.random(len(x))
    cumulative = np.cumsum(target.responsibilities(x), axis=1)
    return (coins[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1)


def _edges(first: np.ndarray, second: np.ndarray, bins: int) -> np.ndarray:
    """Inner edges of bins of equal counts of both samples together."""
    return np.quantile(np.concatenate([first, second]), np.linspace(0.0, 1.0, bins + 1)[1:-1])


def _same_distribution(first: np.ndarray, second: np.ndarray) -> float:
    """χ² test of two samples of equal size, on bins of equal counts of both together."""
    edges = _edges(first, second, _BINS)
    a = np.bincount(np.searchsorted(edges, first), minlength=_BINS)
    b = np.bincount(np.searchsorted(edges, second), minlength=_BINS)
    return float(stats.chi2_contingency(np.array([a, b])[:, a + b > 0], correction=False).pvalue)


def _agree(counts: np.ndarray, expected: np.ndarray) -> float:
    """χ² test of counts; cells of small expectation count together."""
    order = np.argsort(expected)[::-1]
    cells = max(1, int(np.count_nonzero(expected >= _LEAST_EXPECTED)))
    begins = np.arange(cells)
    counts, expected = np.add.reduceat(counts[order], begins), np.add.reduceat(expected[order], begins)
    if cells == 1:
        return 1.0
    return float(stats.chisquare(counts, expected * (counts.sum() / expected.sum())).pvalue)


def _symmetric(before: np.ndarray, after: np.ndarray) -> float:
    """Bowker's χ² test of whether (a, b) is as frequent as (b, a), over the pairs that occur often enough."""
    size = int(max(before.max(), after.max())) + 1
    table = np.bincount(before * size + after, minlength=size * size).reshape(size, size).astype(np.float64)
    upper = np.triu_indices(size, 1)
    there, back = table[upper], table.T[upper]
    often = there + back >= _LEAST_EXPECTED
    if not often.any():
        return 1.0
    statistic = ((there - back)[often] ** 2 / (there + back)[often]).sum()
    return float(stats.chi2.sf(statistic, often.sum()))
