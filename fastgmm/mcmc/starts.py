"""Where chains start: given or drawn, inside the support, and the first look at the density."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fastgmm.mcmc.run import evaluate, name_chains, show
from fastgmm.mcmc.targets import Target
from fastgmm.mixture import Mixture

# Plain Python is slow on large data: once the dry runs have taken this long, the other starts are spared.
_DRY_RUN_SECONDS = 0.05
# Plain and compiled arithmetic differ by rounding, reordered sums and float32; memory that is not x differs by more.
_DRY_RUN_TOLERANCE = 1e-3
_TRIES = 100


def is_drawn(start: Any) -> bool:
    """Whether starts are to be drawn rather than taken as they are."""
    return isinstance(start, Mixture) or callable(start)


def given_starts(start: Any, chains: int) -> np.ndarray:
    """Return one start for each chain, of shape (chains, d); where all are one point, that point's memory alone.

    Raises
    ------
    TypeError, ValueError
        If they are no finite real numbers, or too many or too few.
    """
    try:
        given = np.asarray(start)
    except ValueError:
        raise ValueError("The rows of start differ in length; every chain needs a point of shape (dim,).") from None
    if given.dtype == object and given.ndim == 0:
        raise TypeError(
            f"start must hold real numbers, or be a Mixture or a function that draws them, not {type(start).__name__}."
        )
    if given.dtype.kind not in "biuf":
        raise TypeError(f"start must hold real numbers, not dtype {given.dtype}.")
    if given.ndim not in (1, 2) or given.size == 0:
        raise ValueError(f"start must be of shape (dim,) or (chains, dim), dim at least 1, not {given.shape}.")
    if given.ndim == 2 and len(given) != chains:
        raise ValueError(f"start has {len(given)} rows but chains={chains}; pass a row for each chain, or one point.")
    starts = np.broadcast_to(given.astype(np.float64), (chains, given.shape[-1]))
    finite = np.isfinite(given).all(axis=-1)
    if not finite.all():
        wrong = np.flatnonzero(~finite) if given.ndim == 2 else range(chains)
        raise ValueError(f"start is not finite for {name_chains(wrong)}: {show(starts[wrong[0]])}.")
    return starts


def first_densities(target: Target, starts: np.ndarray) -> np.ndarray:
    """Evaluate the target at given starts and refuse those that are no good."""
    values = _looked_at(target, starts, np.arange(len(starts)))
    check_support(values, starts)
    return values


def draw_starts(
    target: Target, start: Any, chains: int, sequence: np.random.SeedSequence
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a start for each chain until its density is finite; return starts (chains, d) and log-densities.

    Raises
    ------
    ValueError
        If a chain found none in 100 tries, or one where the density is +inf.
    """
    generators = [
        np.random.default_rng(
            np.random.SeedSequence(
                sequence.entropy, spawn_key=(*sequence.spawn_key, c, 0), pool_size=sequence.pool_size
            )
        )
        for c in range(chains)
    ]
    draw = _drawer(start)
    wanting = np.arange(chains)
    for attempt in range(_TRIES):
        points = given_starts([draw(generators[c]) for c in wanting], len(wanting))
        if attempt == 0:
            starts, values = np.array(points), np.full(chains, -np.inf)
        starts[wanting], values[wanting] = points, _looked_at(target, points, wanting)
        _refuse(values == np.inf, "+inf", starts)  # where no chain could leave, so not to be tried again
        wanting = np.flatnonzero(~np.isfinite(values))
        if not len(wanting):
            return starts, values
    raise ValueError(
        f"In {_TRIES} tries no start with a finite log-density was drawn for {name_chains(wanting)}; the last was "
        f"{values[wanting[0]]} at x = {show(starts[wanting[0]])}. Draw them from nearer the support."
    )


def _drawer(start: Any) -> Callable[[np.random.Generator], np.ndarray]:
    """Make of a Mixture or a callable what draws one start."""
    if isinstance(start, Mixture):
        return lambda generator: start.rvs(1, random_state=generator)[0]

    def draw(generator: np.random.Generator) -> np.ndarray:
        point = np.asarray(start(generator))
        if point.ndim != 1 or point.size == 0:
            raise ValueError(f"start(generator) must return a point of shape (dim,), not an array of {point.shape}.")
        return point

    return draw


def _looked_at(target: Target, points: np.ndarray, chain_of_point: np.ndarray) -> np.ndarray:
    """Evaluate the target at points, compiled and in plain Python, and compare.

    Compiled code does not check its indices: the dry run notices a density that reads more dimensions than there are.
    """
    plain = _dry_runs(target, points, chain_of_point)
    values = evaluate(target, points, lambda p: _at_start(chain_of_point[p], points[p]))
    for p, value in plain.items():
        _compare(target, value, values[p], points[p], chain_of_point[p])
    return values


def _dry_runs(target: Target, points: np.ndarray, chain_of_point: np.ndarray) -> dict[int, Any]:
    """Values in plain Python of the points that differ, the first of them as far as time allows."""
    found: dict[int, Any] = {}
    if target.plain is None:
        return found
    deadline = time.perf_counter() + _DRY_RUN_SECONDS
    firsts = np.unique(points, axis=0, return_index=True)[1]
    for p in np.sort(firsts).tolist():  # in the order of the chains, so that the first that fails is named
        if time.perf_counter() > deadline:
            break
        found[p] = _dry_run(target, points[p], chain_of_point[p])
    return found


def _dry_run(target: Target, point: np.ndarray, c: int) -> Any:
    """Call the density as plain Python, on a copy, and return its value."""
    assert target.plain is not None
    copy = point.copy()
    try:
        with np.errstate(all="ignore"):
            value = target.plain(copy)
    except Exception as error:
        error.add_note(_at_start(c, point))
        raise
    if not np.array_equal(copy, point):
        raise ValueError(
            f"The log-density {target.name!r} changes its argument: x = {show(point)} became {show(copy)}; "
            "compute on a copy, e.g. `y = x.copy()`."
        )
    return value


def _compare(target: Target, plain: Any, compiled: float, point: np.ndarray, c: int) -> None:
    if np.isclose(plain, compiled, _DRY_RUN_TOLERANCE, _DRY_RUN_TOLERANCE, equal_nan=True):
        return
    raise ValueError(
        f"The log-density {target.name!r} is {plain} in plain Python but {compiled} compiled, {_at_start(c, point)}: "
        "does it read beyond the end of an array, or depend on something else than its arguments?"
    )


def check_support(values: np.ndarray, starts: np.ndarray) -> None:
    """Refuse starts with a log-density that is not finite.

    Raises
    ------
    ValueError
        Naming the chains.
    """
    _refuse(np.isnan(values), "NaN", starts)
    _refuse(values == np.inf, "+inf", starts)
    _refuse(values == -np.inf, "-inf (outside the support)", starts)


def _refuse(wrong: np.ndarray, what: str, starts: np.ndarray) -> None:
    named = np.flatnonzero(wrong)
    if len(named):
        raise ValueError(
            f"The log-density is {what} at the start of {name_chains(named)}, e.g. x = {show(starts[named[0]])}; start "
            "where it is finite."
        )


def _at_start(c: int, point: np.ndarray) -> str:
    return f"at the start of chain {c}, x = {show(point)}"
