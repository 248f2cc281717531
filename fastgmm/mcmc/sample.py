"""The public call of the sampler: checks, chains on threads, a result."""

import functools
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastgmm.kernels import chain as kernels
from fastgmm.kernels._jit import count_threads
from fastgmm.mcmc.result import Chains
from fastgmm.mcmc.targets import Target, make_target
from fastgmm.mixture import Mixture

# A block is long enough that its call (0.1 ms) is lost in it, and short enough for Ctrl-C.
_BLOCK_SECONDS = 0.03
_FIRST_BLOCK = 16
# Plain Python is slow on large data: once the dry runs have taken this long, the other starts are spared.
_DRY_RUN_SECONDS = 0.5
# Plain and compiled arithmetic differ by rounding, reordered sums and float32; memory that is not x differs by more.
_DRY_RUN_TOLERANCE = 1e-3

Seed = int | np.random.SeedSequence | np.random.Generator | None


class _Plan(NamedTuple):
    """How every chain runs."""

    target: Target
    factor: np.ndarray  # (d, d), Cholesky factor of the proposal's covariance
    warmup: int
    thin: int


class _Result(NamedTuple):
    """What a chain reports beside its draws."""

    acceptance_rate: float
    state: kernels.ChainState


def sample(
    target: Any,
    start: ArrayLike | None = None,
    draws: int = 1000,
    *,
    args: tuple[Any, ...] = (),
    chains: int = 4,
    warmup: int = 1000,
    thin: int = 1,
    seed: Seed = None,
    proposal_cov: ArrayLike | None = None,
    n_jobs: int | None = None,
) -> Chains:
    """Draw from a density by random-walk Metropolis-Hastings.

    From its position x a chain proposes a candidate y ~ N(x, proposal_cov) and moves there with probability
    min(1, p(y) / p(x)), computed from log-densities; otherwise it stays.

    Parameters
    ----------
    target : function or Mixture
        The log-density, up to a constant: a `numba.njit` function `target(x, *args) -> float` of a 1-D float64 array
        x of shape (dim,), -inf outside its support; or a `Mixture`. It should depend on its arguments alone, and
        with several chains it is called from several threads.
    start : array_like of shape (dim,) or (chains, dim), optional
        Where the chains start: one point for all of them, or one each. May be left out for a `Mixture`: then every
        chain starts from an exact draw.
    draws : int, default=1000
        Number of draws that each chain keeps.
    args : tuple, default=()
        Further arguments of the function: numbers, bools, numeric arrays (which are not copied where they are
        C-contiguous), and tuples of those.
    chains : int, default=4
        Number of chains.
    warmup : int, default=1000
        Number of steps that each chain takes, and discards, before the first counted one. The proposal is the same
        during warm-up as after it.
    thin : int, default=1
        Keep every `thin`-th state: the draws are the states after steps `thin`, `2 thin`, ..., counted after
        warm-up, so that a chain takes `warmup + thin * draws` steps.
    seed : int, SeedSequence, Generator or None, default=None
        Chain c uses the c-th child of this seed's `SeedSequence` and is the same whatever `chains` and `n_jobs` are.
        A Generator is drawn from once and a SeedSequence spawns, so each serves a second call with new chains. None
        takes fresh entropy.
    proposal_cov : array_like of shape (dim, dim), optional
        Covariance of the candidates about the current position; the identity if None.
    n_jobs : int, optional
        Number of threads: None as many as Numba is set to use, -1 all, -2 all but one.

    Returns
    -------
    Chains
        `.draws` (chain, draw, dim), `.log_density` (chain, draw), `.acceptance_rate` (chain,), and more.

    Raises
    ------
    TypeError
        If the target is not compiled, does not compile for these `args`, or returns no real number; if an argument
        is of a wrong kind.
    ValueError
        If a start lies outside the support, is not finite, has the wrong dimension, or has a density of NaN or
        +inf; if the density changes its argument, or gives another value compiled than in plain Python; if
        `proposal_cov` is not a positive definite matrix; if a chain meets a density of +inf.
    MemoryError
        If the draws would not fit into this machine's memory.
    Exception
        Whatever the density raises, with a note that names the chain, the step and the point.

    Warns
    -----
    RuntimeWarning
        If the density was NaN at candidates, which were rejected.

    References
    ----------
    Metropolis, Rosenbluth, Rosenbluth, Teller and Teller (1953), Equation of state calculations by fast computing
    machines. Journal of Chemical Physics 21, 1087-1092.
    Hastings (1970), Monte Carlo sampling methods using Markov chains and their applications. Biometrika 57, 97-109.

    Examples
    --------
    >>> import numba
    >>> import numpy as np
    >>> from fastgmm.mcmc import sample
    >>> @numba.njit
    ... def log_density(x, scale):
    ...     return -0.5 * np.sum((x / scale) ** 2)
    >>> chains = sample(log_density, start=np.zeros(2), draws=500, args=(3.0,), thin=10, seed=0)
    >>> chains.draws.shape
    (4, 500, 2)
    >>> bool(abs(chains.flat().std() - 3.0) < 0.5)
    True
    """
    draws = _checked_count(draws, "draws", 1)
    chains = _checked_count(chains, "chains", 1)
    warmup = _checked_count(warmup, "warmup", 0)
    thin = _checked_count(thin, "thin", 1)
    workers = min(chains, count_threads(n_jobs))
    if warmup + thin * draws >= 2**63:
        raise ValueError(f"warmup + thin * draws = {warmup + thin * draws} steps; a chain counts at most 2**63 - 1.")
    starts = None if start is None else _checked_starts(start, chains)
    if starts is None and not isinstance(target, Mixture):
        raise ValueError("start=None is only for a Mixture target; pass a start of shape (dim,) or (chains, dim).")
    checked_target = make_target(target, args)
    dimensions = target.n_features if starts is None else starts.shape[1]
    if isinstance(target, Mixture) and dimensions != target.n_features:
        raise ValueError(f"start has {dimensions} dimensions but the Mixture has {target.n_features} features.")
    factor = _checked_factor(proposal_cov, dimensions)
    _check_memory(chains, draws, dimensions)
    generators = _generators(seed, chains)
    if starts is None:
        # Each from its own chain's stream, so that it does not depend on the number of chains.
        starts = np.array([target.rvs(1, random_state=generator)[0] for generator in generators])
    start_densities = _checked_densities(checked_target, starts)

    plan = _Plan(checked_target, factor, warmup, thin)
    positions = np.empty((chains, draws, dimensions))
    log_densities = np.empty((chains, draws))
    kernels.block_kernel()  # here, so that the threads do not wait for one another
    stop = threading.Event()
    tasks = [
        functools.partial(
            _run_chain, plan, c, starts[c], start_densities[c], generators[c], positions[c], log_densities[c], stop
        )
        for c in range(chains)
    ]
    results = _run_all(tasks, workers, stop)
    _warn_of_nan([result.state for result in results])
    tallies = np.array([result.state.tally for result in results])
    return Chains(
        draws=positions,
        log_density=log_densities,
        acceptance_rate=np.array([result.acceptance_rate for result in results]),
        rejected_nan=tallies[:, kernels.REJECTED_NAN],
        rejected_overflow=tallies[:, kernels.REJECTED_OVERFLOW],
        thin=thin,
        warmup=warmup,
    )


def _checked_count(value: Any, name: str, least: int) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, not {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")
    return int(value)


def _checked_starts(start: ArrayLike, chains: int) -> np.ndarray:
    """Return one start for each chain, of shape (chains, d)."""
    given = np.asarray(start)
    if given.dtype.kind not in "biuf":
        raise TypeError(f"start must hold real numbers, not dtype {given.dtype}.")
    starts = given.astype(np.float64)
    if starts.ndim not in (1, 2) or starts.size == 0:
        raise ValueError(f"start must be of shape (dim,) or (chains, dim), dim at least 1, not {starts.shape}.")
    if starts.ndim == 2 and len(starts) != chains:
        raise ValueError(f"start has {len(starts)} rows but chains={chains}; pass a row for each chain, or one point.")
    starts = np.array(np.broadcast_to(starts, (chains, starts.shape[-1])))
    wrong = np.flatnonzero(~np.isfinite(starts).all(axis=1))
    if len(wrong):
        raise ValueError(f"start is not finite for {_name_chains(wrong)}: {_show(starts[wrong[0]])}.")
    return starts


def _checked_factor(proposal_cov: ArrayLike | None, dimensions: int) -> np.ndarray:
    """Return the lower Cholesky factor of the proposal's covariance."""
    if proposal_cov is None:
        return np.eye(dimensions)
    covariance = np.asarray(proposal_cov)
    if covariance.dtype.kind not in "biuf":
        raise TypeError(f"proposal_cov must hold real numbers, not dtype {covariance.dtype}.")
    covariance = covariance.astype(np.float64)
    if covariance.shape != (dimensions, dimensions):
        raise ValueError(
            f"proposal_cov must be of shape {(dimensions, dimensions)}, as start has {dimensions} dimensions, "
            f"not {covariance.shape}."
        )
    if not np.isfinite(covariance).all():
        raise ValueError("proposal_cov contains NaN or infinity.")
    asymmetry = np.abs(covariance - covariance.T)
    if asymmetry.max() > 1e-10 * np.abs(covariance).max():
        i, j = np.unravel_index(asymmetry.argmax(), asymmetry.shape)
        raise ValueError(
            f"proposal_cov is not symmetric: entries ({i}, {j}) and ({j}, {i}) are {covariance[i, j]:.6g} and "
            f"{covariance[j, i]:.6g}."
        )
    eigenvalues = np.linalg.eigvalsh(covariance)
    if eigenvalues[0] <= 0.0:
        raise ValueError(f"proposal_cov is not positive definite: its smallest eigenvalue is {eigenvalues[0]:.6g}.")
    try:
        return np.ascontiguousarray(np.linalg.cholesky(covariance))
    except np.linalg.LinAlgError:
        raise ValueError(
            f"proposal_cov is not positive definite to working precision: its smallest eigenvalue is "
            f"{eigenvalues[0]:.6g}, its largest {eigenvalues[-1]:.6g}."
        ) from None


def _check_memory(chains: int, draws: int, dimensions: int) -> None:
    """Refuse a run whose draws cannot fit, before anything is allocated."""
    wanted = 8 * chains * draws * (dimensions + 1)
    try:
        present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        present = 2**47
    if wanted > present:
        raise MemoryError(
            f"{chains} chains of {draws} draws of {dimensions} dimensions need {wanted} bytes, but this machine has "
            f"{present}; ask for fewer draws, or thin them."
        )


def _generators(seed: Seed, chains: int) -> list[np.random.Generator]:
    """Return one stream for each chain; the c-th depends on `seed` and c alone."""
    if isinstance(seed, np.random.Generator):
        sequence = np.random.SeedSequence(seed.integers(2**32, size=4, dtype=np.uint64).tolist())
    elif isinstance(seed, np.random.SeedSequence):
        sequence = seed
    elif seed is None or (isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)):
        if seed is not None and seed < 0:
            raise ValueError(f"seed must not be negative, but is {seed}.")
        sequence = np.random.SeedSequence(None if seed is None else int(seed))
    else:
        raise TypeError(f"seed must be an integer, a SeedSequence, a Generator or None, not {type(seed).__name__}.")
    return [np.random.default_rng(child) for child in sequence.spawn(chains)]


def _checked_densities(target: Target, starts: np.ndarray) -> np.ndarray:
    """Evaluate the target at each start, compiled and in plain Python, and refuse starts that are no good.

    Compiled code does not check its indices: only the dry run notices a density that reads more dimensions than
    the start has.
    """
    points, chain_of_point, point_of_chain = np.unique(starts, axis=0, return_index=True, return_inverse=True)
    values = np.empty(len(points))
    deadline = time.perf_counter() + _DRY_RUN_SECONDS
    # In the order of the chains, so that the first that fails is named.
    for p in np.argsort(chain_of_point):
        dry = target.plain is not None and time.perf_counter() < deadline
        plain = _dry_run(target, points[p], chain_of_point[p]) if dry else None
        values[p] = _evaluate(target, points[p], chain_of_point[p])
        _compare(target, plain, values[p], points[p], chain_of_point[p])
    values = values[point_of_chain.ravel()]
    _check_support(values, starts)
    return values


def _dry_run(target: Target, point: np.ndarray, c: int) -> Any:
    """Call the density as plain Python, on a copy; return its value, or None where only Python has none."""
    assert target.plain is not None
    copy = point.copy()
    try:
        with np.errstate(all="ignore"):
            value = target.plain(copy)
    except (ArithmeticError, ValueError):
        # Python refuses log(0) and exp(1000), compiled code gives -inf and inf, and that is what counts. An error
        # that the author raises comes again from the compiled function.
        return None
    except Exception as error:
        error.add_note(_at_start(c, point))
        raise
    if not np.array_equal(copy, point):
        raise ValueError(
            f"The log-density {target.name!r} changes its argument: x = {_show(point)} became {_show(copy)}; "
            "compute on a copy, e.g. `y = x.copy()`."
        )
    return value


def _evaluate(target: Target, point: np.ndarray, c: int) -> float:
    try:
        with np.errstate(all="ignore"):
            return target.function(point.copy(), target.packed)
    except Exception as error:
        error.add_note(_at_start(c, point))
        raise


def _compare(target: Target, plain: Any, compiled: float, point: np.ndarray, c: int) -> None:
    if plain is None or np.isclose(plain, compiled, _DRY_RUN_TOLERANCE, _DRY_RUN_TOLERANCE, equal_nan=True):
        return
    raise ValueError(
        f"The log-density {target.name!r} is {plain} in plain Python but {compiled} compiled, {_at_start(c, point)}: "
        "does it read beyond the end of an array, or depend on something else than its arguments?"
    )


def _check_support(values: np.ndarray, starts: np.ndarray) -> None:
    """Refuse starts with a log-density that is not finite."""
    for wrong, what in (
        (np.isnan(values), "is NaN at"),
        (values == np.inf, "is +inf at"),
        (values == -np.inf, "is -inf (outside the support) at"),
    ):
        named = np.flatnonzero(wrong)
        if len(named):
            raise ValueError(
                f"The log-density {what} the start of {_name_chains(named)}, "
                f"e.g. x = {_show(starts[named[0]])}; start where it is finite."
            )


def _run_all(tasks: Sequence[Callable[[], _Result | None]], workers: int, stop: threading.Event) -> list[_Result]:
    """Run the chains on threads, whose kernels hold no lock; when one fails, the others end with their block."""
    if workers == 1:
        results = [task() for task in tasks]
    else:
        with ThreadPoolExecutor(workers) as executor:
            futures: list[Future[_Result | None]] = [executor.submit(task) for task in tasks]
            try:
                results = [future.result() for future in futures]
            except BaseException:
                stop.set()
                executor.shutdown(wait=True, cancel_futures=True)
                raise
    return [result for result in results if result is not None]


def _run_chain(
    plan: _Plan,
    c: int,
    start: np.ndarray,
    start_density: float,
    generator: np.random.Generator,
    draws: np.ndarray,
    log_densities: np.ndarray,
    stop: threading.Event,
) -> _Result | None:
    """Run chain c to its end, writing its draws in place; None if it was told to stop."""
    state = kernels.new_state(start, start_density, until_kept=plan.warmup + plan.thin)
    for steps in (plan.warmup, plan.thin * len(draws)):
        state.tally[kernels.ACCEPTED] = 0
        if not _run_steps(plan, c, generator, state, steps, draws, log_densities, stop):
            return None
    return _Result(state.tally[kernels.ACCEPTED] / (plan.thin * len(draws)), state)


def _run_steps(
    plan: _Plan,
    c: int,
    generator: np.random.Generator,
    state: kernels.ChainState,
    steps: int,
    draws: np.ndarray,
    log_densities: np.ndarray,
    stop: threading.Event,
) -> bool:
    """Take `steps` steps in blocks; False if the chain was told to stop."""
    run_block = kernels.block_kernel()
    block = _FIRST_BLOCK
    while steps > 0 and not stop.is_set():
        block = min(block, steps)
        began = time.perf_counter()
        try:
            with np.errstate(all="ignore"):
                status = run_block(
                    *plan.target[:2], generator, plan.factor, state, block, plan.thin, draws, log_densities
                )
        except Exception as error:
            stop.set()
            error.add_note(_at_step(plan, c, state))
            raise
        if status == kernels.INFINITE:
            stop.set()
            raise ValueError(
                f"The log-density {plan.target.name!r} is +inf, {_at_step(plan, c, state)}: it is unbounded, or in "
                "error; no chain can leave such a point."
            )
        steps -= block
        elapsed = max(time.perf_counter() - began, 1e-6)
        block = max(1, min(8 * block, int(block * _BLOCK_SECONDS / elapsed)))
    return steps == 0


def _warn_of_nan(states: list[kernels.ChainState]) -> None:
    counts = np.array([state.tally[kernels.REJECTED_NAN] for state in states])
    if not counts.any():
        return
    c = int(np.flatnonzero(counts)[0])
    warnings.warn(
        f"The log-density was NaN at {counts.sum()} candidates of {_name_chains(np.flatnonzero(counts))}, which were "
        f"rejected; first in chain {c} at step {states[c].tally[kernels.FIRST_NAN]} (warm-up included), "
        f"x = {_show(states[c].first_nan)}.",
        RuntimeWarning,
        stacklevel=3,
    )


def _at_start(c: int, point: np.ndarray) -> str:
    return f"at the start of chain {c}, x = {_show(point)}"


def _at_step(plan: _Plan, c: int, state: kernels.ChainState) -> str:
    return f"in chain {c} at step {state.tally[kernels.STEP]} (warm-up included), x = {_show(state.candidate)}"


def _name_chains(numbers: np.ndarray) -> str:
    names = ", ".join(str(number) for number in numbers[:10]) + (", ..." if len(numbers) > 10 else "")
    return f"chain{'s' * (len(numbers) > 1)} {names}"


def _show(point: np.ndarray) -> str:
    return np.array2string(point, precision=6, threshold=12, separator=", ", max_line_width=10**6)
