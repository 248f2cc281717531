"""The warm-up: compile every kernel beforehand, by tiny fits, predictions and chains.

Written against the public names only, so that what it compiles is what users will ask for.
"""

import contextlib
import itertools
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np

from fastgmm import GaussianMixture, Mixture, sample
from fastgmm.kernels import _jit
from fastgmm.kernels._jit import CACHE_FOLDER, COMPILED
from fastgmm.mcmc import Independence, Mixed, MixtureLocal, ModeJump, RandomWalk
from fastgmm.sources import array

STRUCTURES = ("full", "tied", "diag", "spherical")

# What decides which kernels run, each value standing for all that compile the same. The product reaches every variant.
DTYPES = ("float64", "float32")
FEATURES = (1, 2, 3, 4, 8, 40)  # four that the compiler knows, few enough to expand, and many
COMPONENTS = (1, 3)  # arrays of one component have another layout; of three, squares are expanded
DISTANCES = (10.0, 1e5)  # between components, in widths: ordinary ones, and narrow ones that need more digits
ROWS = {1: 300, 2: 10_000}  # by threads: one range for one; for two, several of complete and of incomplete rows


class NothingToWarm(Exception):
    """Compiled kernels would be lost with this process; the message says why."""


class Case(NamedTuple):
    """One fit and its predictions."""

    structure: str
    dtype: str
    features: int
    components: int
    distance: float
    threads: int


def run(structures: Sequence[str] = STRUCTURES, quiet: bool = False) -> None:
    """Compile what these structures and the sampler need, and print how many kernels that were.

    Parameters
    ----------
    structures : sequence of str
        Values of `covariance_type`.
    quiet : bool
        Print nothing.

    Raises
    ------
    NothingToWarm
        If no folder for compiled kernels can be written, or nothing is compiled at all.
    """
    folder = _require_folder()
    before, started = _count_kernels(folder), time.perf_counter()
    kinds = itertools.product(structures, DTYPES, FEATURES, COMPONENTS, DISTANCES, ROWS)
    cases = [Case(*kind) for kind in kinds]
    with warnings.catch_warnings(), _unannounced(), _shared_at_once():
        warnings.simplefilter("ignore")  # two iterations do not converge
        for case in cases if quiet else _shown(cases):
            _fit(case)
        _draw()
    if not quiet:
        compiled = _count_kernels(folder) - before
        print(f"{compiled} kernels compiled and {before} found, in {time.perf_counter() - started:.0f} s, in {folder}")


@contextlib.contextmanager
def _unannounced() -> Iterator[None]:
    """Whoever asked for compiling need not be told of it."""
    logger = logging.getLogger("fastgmm")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


@contextlib.contextmanager
def _shared_at_once() -> Iterator[None]:
    """Passes are shared, and what shares them is compiled, however few rows there are."""
    before = array.WORTH_A_WORKER, _jit.WORTH_A_DRIVER
    array.WORTH_A_WORKER, _jit.WORTH_A_DRIVER = 1, 0
    try:
        yield
    finally:
        array.WORTH_A_WORKER, _jit.WORTH_A_DRIVER = before


def _require_folder() -> Path:
    if not COMPILED:
        raise NothingToWarm("NUMBA_DISABLE_JIT is set, so nothing is compiled.")
    if CACHE_FOLDER is None:
        raise NothingToWarm(
            "no folder for compiled kernels can be written, so every process compiles anew; set NUMBA_CACHE_DIR to "
            "one that can."
        )
    return CACHE_FOLDER


def _count_kernels(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*.nbc"))


def _shown(cases: list[Case]) -> Iterator[Case]:
    """The cases, behind a bar where tqdm is installed, else with a line whenever structure or type change."""
    try:
        from tqdm import tqdm
    except ImportError:
        for kind, group in itertools.groupby(cases, key=_describe):
            print(f"compiling for {kind}", flush=True)
            yield from group
        return
    with tqdm(cases, unit="fit") as bar:
        for case in bar:
            bar.set_description(_describe(case))
            yield case


def _describe(case: Case) -> str:
    return f"{case.structure}, {case.dtype}"


def _fit(case: Case) -> None:
    X = _make_rows(case)
    model = GaussianMixture(
        case.components, covariance_type=case.structure, max_iter=2, random_state=0, n_jobs=case.threads
    ).fit(X)
    model.predict(X), model.predict_proba(X), model.score_samples(X)
    model.mixture_.logpdf(X)
    X[::2, 0] = np.nan
    model.set_params(missing="em").fit(X).predict(X)


def _make_rows(case: Case) -> np.ndarray:
    n = ROWS[case.threads]
    rows = np.random.default_rng(0).normal(size=(n, case.features))
    rows += case.distance * (np.arange(n) % case.components)[:, None]
    return rows.astype(case.dtype)


@numba.njit  # type: ignore[untyped-decorator]  # as a user writes one: compiled in every process
def _log_density(x: np.ndarray) -> float:
    return -0.5 * x[0] ** 2


def _draw() -> None:
    """Short chains: of a function, and of a mixture by every kernel."""
    sample(_log_density, start=np.zeros(1), draws=2, chains=2, warmup=2, seed=0)
    mixture = Mixture([0.5, 0.5], [[0.0], [1.0]], [[[1.0]], [[2.0]]])
    mixture.impute([[np.nan]])
    kernels = (RandomWalk(), RandomWalk(adapt="am"), Independence(mixture), MixtureLocal(mixture), ModeJump(mixture))
    sample(mixture, draws=2, chains=2, warmup=2, seed=0, kernel=Mixed([(kernel, 1.0) for kernel in kernels]))
