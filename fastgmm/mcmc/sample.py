"""The public call of the sampler: checks, a run in blocks, a result."""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastgmm.kernels._threads import count_threads
from fastgmm.mcmc.proposals import Kernel, Move, RandomWalk
from fastgmm.mcmc.result import Chains, Origin
from fastgmm.mcmc.run import Progress, Run, State, chain_generators, name_chains, new_state, show
from fastgmm.mcmc.starts import draw_starts, first_densities, given_starts, is_drawn
from fastgmm.mcmc.targets import Target, check_kind, make_target
from fastgmm.mixture import Mixture

# Neighbouring float64 are further apart than this beyond 1e14: differences of log-densities are lost.
_LARGEST_DENSITY = 1e14
# Fewer steps say nothing about a share of acceptances of 1 %.
_STEPS_TO_JUDGE = 500
_LEAST_ACCEPTED, _MOST_ACCEPTED = 0.01, 0.95

Seed = int | np.random.SeedSequence | np.random.Generator | None
Callback = Callable[[Progress], Any]


def sample(
    target: Any,
    start: Any = None,
    draws: int = 1000,
    *,
    args: tuple[Any, ...] = (),
    chains: int = 4,
    warmup: int = 1000,
    thin: int = 1,
    seed: Seed = None,
    kernel: Kernel | str = "auto",
    vectorized: bool = False,
    proposal_cov: ArrayLike | None = None,
    store_warmup: bool = False,
    n_jobs: int | None = None,
    progress: bool = False,
    callback: Callback | None = None,
    nan: str = "reject",
) -> Chains:
    """Draw from a density by Metropolis-Hastings.

    From its position x a chain proposes a candidate y and moves there with probability
    min(1, p(y) q(x | y) / p(x) q(y | x)), q being the law of its proposals; otherwise it stays.

    Parameters
    ----------
    target : function or Mixture
        The log-density, up to a constant: a function `target(x, *args) -> float` of a 1-D float64 array x of shape
        (dim,), -inf outside its support; or a `Mixture`. A plain Python function is compiled by `numba.njit`, one with
        `parallel=True` without that: it is called from several threads. It should depend on its arguments alone. It may
        be asked at points that no chain proposes; what it raises there, NaN and +inf do not count.
    start : array_like of shape (dim,) or (chains, dim), Mixture or callable, optional
        Where the chains start: one point for all of them, or one each; or what they are drawn from, a `Mixture` or a
        function `start(generator) -> (dim,)`, each up to 100 times until its density is finite. May be left out for a
        target that is a `Mixture`: then every chain starts from an exact draw.
    draws : int, default=1000
        Number of draws that each chain keeps.
    args : tuple, default=()
        Further arguments of the function: numbers, bools, numeric arrays (which are not copied where they are
        C-contiguous), and tuples of those.
    chains : int, default=4
        Number of chains; tens of thousands are no trouble.
    warmup : int, default=1000
        Number of steps that each chain takes before the first counted one, and in which its kernel may adapt.
    thin : int, default=1
        Keep every `thin`-th state: the draws are the states after steps `thin`, `2 thin`, ..., counted after
        warm-up, so that a chain takes `warmup + thin * draws` steps.
    seed : int, SeedSequence, Generator or None, default=None
        Chain c uses the c-th child of this seed's `SeedSequence` and is the same whatever `chains` and `n_jobs` are.
        A Generator is drawn from once and a SeedSequence spawns, so each serves a second call with new chains. None
        takes fresh entropy.
    kernel : kernel or "auto", default="auto"
        How candidates are proposed. "auto" is `RandomWalk()`, which adapts during warm-up, and without warm-up
        `RandomWalk(adapt=None)`, whose steps have the identity for covariance.
    vectorized : bool, default=False
        Whether the target is a function `target(X, out, *args)` that sets out[w] to the log-density at X[:, w] for
        all w; X has shape (dim, W), W at most 256 whatever `chains` is, and is its to overwrite.
    proposal_cov : array_like of shape (dim, dim), optional
        Short for `kernel=RandomWalk(cov=proposal_cov, adapt=None)`.
    store_warmup : bool, default=False
        Whether to keep the states after steps `thin`, `2 thin`, ... of warm-up too.
    n_jobs : int, optional
        Number of threads: None as many as Numba is set to use, -1 all, -2 all but one.
    progress : bool, default=False
        Whether to show a bar; needs tqdm.
    callback : callable, optional
        Called as `callback(progress)` some thirty times a second. `progress` has `done` and `total`, steps of each
        chain; `warming_up`; and `draws` and `log_density`, views of those that are there. Sampling ends early if it
        returns True or raises StopIteration.
    nan : {"reject", "raise"}, default="reject"
        Whether a density of NaN at a candidate is a rejection, counted and warned of, or an error.

    Returns
    -------
    Chains
        `.draws` (chain, draw, dim), `.log_density` (chain, draw), `.acceptance_rate` (chain, move), and more. When
        interrupted from the keyboard after warm-up it has the draws so far and `.interrupted` is True.

    Raises
    ------
    TypeError
        If the target does not compile for these `args`, or returns no real number; if an argument is of a wrong kind.
    ValueError
        If a start lies outside the support, is not finite, has the wrong dimension, or has a density of NaN or
        +inf; if the density changes its argument, or gives another value compiled than in plain Python; if a
        covariance is not a positive definite matrix; if a chain meets a density of +inf.
    MemoryError
        If the draws would not fit into this machine's memory.
    KeyboardInterrupt
        If interrupted before there is a draw.
    Exception
        Whatever the density raises, with a note that names the chain, the step and the point.

    Warns
    -----
    RuntimeWarning
        If the density was NaN at candidates, which were rejected; if log-densities are so large that their
        differences are lost; if a random walk's candidates are nearly all rejected, or accepted; if several chains
        start at one point without warm-up.

    References
    ----------
    Metropolis, Rosenbluth, Rosenbluth, Teller and Teller (1953), Equation of state calculations by fast computing
    machines. Journal of Chemical Physics 21, 1087-1092.
    Hastings (1970), Monte Carlo sampling methods using Markov chains and their applications. Biometrika 57, 97-109.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgmm.mcmc import sample
    >>> def log_density(x, scale):
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
    _check_steps(warmup, thin, draws)
    _check_callback(callback)
    if nan not in ("reject", "raise"):
        raise ValueError(f"nan must be 'reject' or 'raise', not {nan!r}.")
    kernel = _checked_kernel(kernel, proposal_cov, warmup)
    check_kind(target)
    if start is None:
        if not isinstance(target, Mixture):
            raise ValueError(
                "start=None is only for a Mixture target; pass a start of shape (dim,) or (chains, dim), or what to "
                "draw it from."
            )
        start = target
    starts = None if is_drawn(start) else given_starts(start, chains)
    if starts is not None:
        dimensions = starts.shape[1]
    elif isinstance(start, Mixture):
        dimensions = start.n_features
    else:
        dimensions = np.size(start(np.random.default_rng(0)))
    if isinstance(target, Mixture) and dimensions != target.n_features:
        raise ValueError(f"start has {dimensions} dimensions but the Mixture has {target.n_features} features.")
    moves = _checked_moves(kernel, dimensions, proposal_cov is not None)
    _check_memory(chains, draws + (warmup // thin if store_warmup else 0), dimensions, moves)
    checked = make_target(target, args, vectorized)
    sequence = _seed_sequence(seed, chains)
    if starts is None:
        starts, densities = draw_starts(checked, start, chains, sequence)
    else:
        densities = first_densities(checked, starts)
    _warn_of_size(densities)
    if warmup == 0:
        _warn_of_starts(starts)

    origin = Origin(target, args, vectorized, kernel)
    state = new_state(sequence, moves, starts, densities, chain_generators(sequence, chains))
    schedule = _Schedule(warmup, thin, draws, store_warmup)
    return _run(origin, checked, moves, state, schedule, nan, workers, progress, callback, None)


def resume(
    before: Chains,
    draws: int,
    *,
    target: Any = None,
    args: tuple[Any, ...] | None = None,
    kernel: Kernel | None = None,
    vectorized: bool | None = None,
    n_jobs: int | None = None,
    progress: bool = False,
    callback: Callback | None = None,
) -> Chains:
    """Let chains take so many more draws; what `Chains.resume` does."""
    draws = _checked_count(draws, "draws", 1)
    _check_callback(callback)
    state = before.state
    if state is None:
        raise ValueError("These chains do not know where they were left; only results of `sample` can be resumed.")
    origin = _resumed_origin(before, target, args, kernel, vectorized)
    checked = make_target(origin.target, origin.args, origin.vectorized)
    chains, _, dimensions = before.draws.shape
    if isinstance(origin.target, Mixture) and dimensions != origin.target.n_features:
        raise ValueError(
            f"The chains have {dimensions} dimensions but the Mixture has {origin.target.n_features} features."
        )
    moves = _checked_moves(origin.kernel, dimensions, False)
    if tuple(move.name for move in moves) != before.moves:
        names = tuple(move.name for move in moves)
        raise ValueError(f"The chains were made by {before.moves}, not {names}; pass the kernel they were made by.")
    _check_memory(chains, before.draws.shape[1] + draws, dimensions, moves)
    _check_same_density(checked, state)
    workers = min(chains, count_threads(n_jobs))
    schedule = _Schedule(0, before.thin, draws, False)
    return _run(origin, checked, moves, state, schedule, before.nan, workers, progress, callback, before)


@dataclasses.dataclass(frozen=True)
class _Schedule:
    """How many steps there are, and which of them leave a draw."""

    warmup: int
    thin: int
    draws: int
    store_warmup: bool


@dataclasses.dataclass(frozen=True)
class _Left:
    """Draws that a run left, and how it ended."""

    draws: np.ndarray
    log_density: np.ndarray
    warmup_draws: np.ndarray | None
    warmup_log_density: np.ndarray | None
    interrupted: bool


def _run(
    origin: Origin,
    target: Target,
    moves: Sequence[Move],
    state: State,
    schedule: _Schedule,
    nan: str,
    workers: int,
    progress: bool,
    callback: Callback | None,
    before: Chains | None,
) -> Chains:
    with Run(target, moves, state, workers, nan == "reject") as run, _bar(progress, schedule) as show_steps:
        left = _take_all(run, state, schedule, show_steps, callback)
        after = run.state()
    depth = 4 if before is None else 5  # from the warning up to the caller of `sample` or `Chains.resume`
    _warn_of_nan(run, state, after, depth)
    _warn_of_acceptance(moves, state, after, depth)
    draws, log_density = left.draws, left.log_density
    if before is not None:
        draws = np.concatenate([before.draws, draws], axis=1)
        log_density = np.concatenate([before.log_density, log_density], axis=1)
    with np.errstate(invalid="ignore"):  # a move that was never taken has no rate
        rates = after.accepted / after.proposed
    return Chains(
        draws=draws,
        log_density=log_density,
        acceptance_rate=rates,
        rejected_nan=after.rejected_nan,
        rejected_overflow=after.rejected_overflow,
        thin=schedule.thin,
        warmup=schedule.warmup if before is None else before.warmup,
        moves=tuple(move.name for move in moves),
        nan=nan,
        interrupted=left.interrupted,
        warmup_draws=left.warmup_draws if before is None else before.warmup_draws,
        warmup_log_density=left.warmup_log_density if before is None else before.warmup_log_density,
        state=after,
        origin=origin,
    )


def _take_all(
    run: Run, state: State, schedule: _Schedule, show_steps: Callable[[int], Any], callback: Callback | None
) -> _Left:
    """Warm up and draw; an interrupt, or a callback that has seen enough, ends it with what is there."""
    chains, dimensions = state.position.shape
    begin, thin = run.steps, schedule.thin
    total = schedule.warmup + thin * schedule.draws
    warm = schedule.warmup // thin if schedule.store_warmup else 0

    def stops(kept: np.ndarray, densities: np.ndarray, warming_up: bool) -> bool:
        done = run.steps - begin
        show_steps(done)
        if callback is None:
            return False
        there = 0 if warming_up else run.kept
        try:
            answer = callback(Progress(done, total, warming_up, kept[:, :there], densities[:, :there]))
        except StopIteration:
            return True
        return isinstance(answer, (bool, np.bool_)) and bool(answer)

    warm_draws, warm_densities = np.empty((chains, warm, dimensions)), np.empty((chains, warm))
    draws = np.empty((chains, schedule.draws, dimensions))
    densities = np.empty((chains, schedule.draws))
    run.keep_into(thin if warm else -1)
    for _ in run.take(schedule.warmup, thin, True, warm_draws, warm_densities):
        if stops(draws, densities, True):
            raise ValueError("The callback ended the run during warm-up, before there was a draw.")
    run.keep_into(state.until_kept or thin)
    interrupted = False
    steps = (state.until_kept or thin) + thin * (schedule.draws - 1)
    try:
        for _ in run.take(steps, thin, False, draws, densities):
            if stops(draws, densities, False):
                break
    except KeyboardInterrupt:
        if run.kept == 0:
            raise
        interrupted = True
    if run.kept < schedule.draws:
        draws, densities = draws[:, : run.kept].copy(), densities[:, : run.kept].copy()
    if schedule.store_warmup:
        return _Left(draws, densities, warm_draws, warm_densities, interrupted)
    return _Left(draws, densities, None, None, interrupted)


@contextlib.contextmanager
def _bar(wanted: bool, schedule: _Schedule) -> Iterator[Callable[[int], Any]]:
    """What is told of the steps taken: a bar if wanted, else nobody."""
    if not wanted:
        yield lambda done: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError("progress=True needs tqdm: `pip install 'fastgmm[progress]'`.") from None
    with tqdm(total=schedule.warmup + schedule.thin * schedule.draws, unit="step", unit_scale=True) as bar:
        yield lambda done: bar.update(done - bar.n)


def _checked_count(value: Any, name: str, least: int) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, not {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")
    return int(value)


def _check_steps(warmup: int, thin: int, draws: int) -> None:
    if warmup + thin * draws >= 2**63:
        raise ValueError(f"warmup + thin * draws = {warmup + thin * draws} steps; a chain counts at most 2**63 - 1.")


def _check_callback(callback: Any) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of one argument or None, not {callback!r}.")


def _checked_kernel(kernel: Any, proposal_cov: ArrayLike | None, warmup: int) -> Kernel:
    if isinstance(kernel, str) and kernel == "auto":
        if proposal_cov is not None:
            return RandomWalk(cov=proposal_cov, adapt=None)
        return RandomWalk(adapt="ram" if warmup else None)
    if proposal_cov is not None:
        raise ValueError("proposal_cov is short for a kernel of its own; pass it or kernel, not both.")
    if not hasattr(kernel, "prepare") or isinstance(kernel, type):
        raise TypeError(f"kernel must be 'auto' or a kernel such as RandomWalk(), not {kernel!r}.")
    checked: Kernel = kernel
    return checked


def _checked_moves(kernel: Kernel, dimensions: int, short: bool) -> tuple[Move, ...]:
    """Let the kernel prepare; by the short way its errors are about `proposal_cov`."""
    if not short:
        return kernel.prepare(dimensions)
    assert isinstance(kernel, RandomWalk)
    return kernel.prepare(dimensions, name="proposal_cov")


def _check_memory(chains: int, draws: int, dimensions: int, moves: Sequence[Move]) -> None:
    """Refuse a run whose draws and factors cannot fit, before anything is allocated."""
    learning = sum(move.adapt is not None for move in moves)
    factors = 2 * learning * dimensions * (dimensions + 1) // 2  # as they are, and as they were
    wanted = 8 * chains * (draws * (dimensions + 1) + factors)
    try:
        present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        present = 2**47
    if wanted > present:
        raise MemoryError(
            f"{chains} chain{'s' * (chains != 1)} of {draws} draw{'s' * (draws != 1)} of {dimensions} "
            f"dimension{'s' * (dimensions != 1)} need {wanted} bytes, but this machine has {present}; ask for fewer "
            "chains or draws, or thin them."
        )


def _seed_sequence(seed: Seed, chains: int) -> np.random.SeedSequence:
    """Return the sequence whose c-th child serves chain c."""
    if isinstance(seed, np.random.Generator):
        return np.random.SeedSequence(seed.integers(2**32, size=4, dtype=np.uint64).tolist())
    if isinstance(seed, np.random.SeedSequence):
        spawned = seed.n_children_spawned
        seed.spawn(chains)
        key = (*seed.spawn_key, spawned) if spawned else seed.spawn_key
        return np.random.SeedSequence(seed.entropy, spawn_key=key, pool_size=seed.pool_size)
    if seed is None or (isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)):
        if seed is not None and seed < 0:
            raise ValueError(f"seed must not be negative, but is {seed}.")
        return np.random.SeedSequence(None if seed is None else int(seed))
    raise TypeError(f"seed must be an integer, a SeedSequence, a Generator or None, not {type(seed).__name__}.")


def _resumed_origin(
    before: Chains, target: Any, args: tuple[Any, ...] | None, kernel: Kernel | None, vectorized: bool | None
) -> Origin:
    """What the chains were made of, with what the caller names anew."""
    known: Origin | None = before.origin
    if known is None:
        if target is None:
            raise ValueError("Loaded chains do not know their target; pass it as resume(draws, target=..., args=...).")
        if kernel is None and set(before.moves) != {"RandomWalk"}:
            raise ValueError(
                f"Loaded chains do not know their kernel; pass resume(draws, kernel=...) with the one of moves "
                f"{', '.join(before.moves)}."
            )
        assert before.state is not None
        kernel = kernel or RandomWalk(adapt="ram" if before.state.factors.size else None)
        return Origin(target, args or (), bool(vectorized), kernel)
    changes = {"target": target, "args": args, "kernel": kernel, "vectorized": vectorized}
    return dataclasses.replace(known, **{name: value for name, value in changes.items() if value is not None})


def _check_same_density(target: Target, state: State) -> None:
    """Refuse to go on with another density than the chains have had so far."""
    found = first_densities(target, state.position)
    wrong = np.flatnonzero(found != state.log_density)
    if len(wrong):
        c = wrong[0]
        raise ValueError(
            f"The log-density {target.name!r} is {found[c]} where {name_chains(wrong)} stopped, e.g. at "
            f"x = {show(state.position[c])}, but was {state.log_density[c]}; is it another target, or other args?"
        )


def _warn_of_size(densities: np.ndarray) -> None:
    largest = np.abs(densities).max()
    if largest > _LARGEST_DENSITY:
        warnings.warn(
            f"Log-densities are as large as {largest:.3g}, where differences below {np.spacing(largest):.2g} are lost "
            "to rounding, so that candidates are accepted which should not be; leave out constants.",
            RuntimeWarning,
            stacklevel=3,
        )


def _warn_of_starts(starts: np.ndarray) -> None:
    if len(starts) > 1 and (starts == starts[0]).all():
        warnings.warn(
            f"All {len(starts)} chains start at one point and without warm-up, so that R-hat can hardly tell whether "
            "they have found the same density. Give each a start of its own, or a Mixture or a function to draw them "
            "from, or let warmup lead them apart.",
            RuntimeWarning,
            stacklevel=3,
        )


def _warn_of_nan(run: Run, before: State, after: State, depth: int) -> None:
    first = run.first_nan()
    if first is None:
        return
    step, c, point = first
    counts = after.rejected_nan - before.rejected_nan
    warnings.warn(
        f"The log-density was NaN at {counts.sum()} candidates of {name_chains(np.flatnonzero(counts))}, which were "
        f"rejected; first in chain {c} at step {step} (warm-up included), x = {show(point)}.",
        RuntimeWarning,
        stacklevel=depth,
    )


def _warn_of_acceptance(moves: Sequence[Move], before: State, after: State, depth: int) -> None:
    """Tell of chains whose random walks, one and all, take steps that are far too large or too small."""
    proposed = after.proposed - before.proposed
    walks = [m for m, move in enumerate(moves) if move.factor is not None and proposed[m] >= _STEPS_TO_JUDGE]
    if not walks:
        return
    rates = (after.accepted - before.accepted)[:, walks] / proposed[walks]
    names = " and ".join(moves[m].name for m in walks)
    for wrong, much, how in (
        (rates.max(axis=1) < _LEAST_ACCEPTED, "less than 1 %", "too large"),
        (rates.min(axis=1) > _MOST_ACCEPTED, "more than 95 %", "too small, or the density flat"),
    ):
        if wrong.any():
            warnings.warn(
                f"{name_chains(np.flatnonzero(wrong)).capitalize()} accepted {much} of the candidates of {names}: the "
                f"steps are {how}. Change their covariance, or let RandomWalk adapt in a longer warm-up.",
                RuntimeWarning,
                stacklevel=depth,
            )
