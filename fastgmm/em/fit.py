"""One fit: from rows, wherever they lie, to the best of its starts and what there is to say of it."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from fastgmm.covariance import STRUCTURES, Hyperparameters, Parameters, Prior, Update, count_parameters
from fastgmm.data import lend_random
from fastgmm.em import engine
from fastgmm.em.errors import DegenerateComponentWarning, RegularisationWarning, all_failed
from fastgmm.em.given import Inits, override, start_from_given
from fastgmm.em.initialise import STARTS, Start, regularise, sample_rows
from fastgmm.em.report import (
    FitReport,
    StartReport,
    describe_degenerate,
    describe_regularisation,
    is_unremarkable,
    name_first,
)
from fastgmm.em.starts import follow_starts
from fastgmm.em.watch import Watch
from fastgmm.mixture import Mixture
from fastgmm.sources import ArrayRows, Rows

_NOT_CONVERGED = (
    "Best performing initialization did not converge. Try different init parameters, or increase max_iter, tol, or "
    "check for degenerate data."
)
_INTERRUPTED = (
    "Interrupted in initialization {}: the best parameters so far are kept. They may be far from an optimum; "
    "warm_start=True lets a further fit go on from them."
)


class Settings(Protocol):
    """What a fit is asked for, in the words of `GaussianMixture`, which says what they mean."""

    n_components: int
    covariance_type: str
    tol: float
    reg_covar: float | str
    max_iter: int
    n_init: int
    init_params: Any
    weights_init: Any
    means_init: Any
    precisions_init: Any
    random_state: Any
    verbose: int
    verbose_interval: int
    progress: bool
    callback: Callable[[int, Mixture, float], Any] | None
    prior: Prior | str | None
    missing: str
    acceleration: str | None


class Last(NamedTuple):
    """Where an earlier fit stopped, to go on from."""

    parameters: Parameters
    lower_bound: float


class Fit(NamedTuple):
    """What became of a fit."""

    best: engine.Run
    report: FitReport
    prior: Prior | None  # with what came from the data filled in
    joined: Hyperparameters  # what joined the statistics


def fit(settings: Settings, source: Rows, search: Start, last: Last | None) -> Fit:
    """Follow every start, sought by `search` among the source's sample, or go on from the `last` fit.

    Raises
    ------
    DegenerateFitError
        If none reached its end.
    """
    if type(settings.random_state) is int and isinstance(settings.init_params, str):  # a function may keep what it gets
        with lend_random(settings.random_state) as random:
            return _fit(settings, source, search, last, random)
    return _fit(settings, source, search, last, check_random_state(settings.random_state))


def _fit(settings: Settings, source: Rows, search: Start, last: Last | None, random: np.random.RandomState) -> Fit:
    prior, joined = regularise_as(settings, source)
    named = isinstance(settings.init_params, str)

    def find() -> Update:
        if last is not None:
            return Update(last.parameters, -1, False)
        return find_start(settings, source, joined, search, random)

    def follow(rows: Rows, start: Update, on_step: engine.OnStep | None) -> engine.Run:
        return _follow(settings, rows, joined, start, -math.inf if last is None else last.lower_bound, on_step)

    count = settings.n_init if (named or callable(settings.init_params)) and last is None else 1
    size = count_parameters(settings.covariance_type, settings.n_components, source.n_features)
    with Watch(
        settings.verbose,
        settings.verbose_interval,
        settings.progress,
        settings.callback,
        settings.covariance_type,
        settings.max_iter,
    ) as watch:
        followed = follow_starts(find, follow, source, count, watch, n_parameters=size, in_turn=not named)
    runs = [run for run, _ in followed]
    sound = [index for index, run in enumerate(runs) if run.outcome != "failed"]
    if not sound:
        raise all_failed(runs, settings.covariance_type)
    # As scikit-learn chooses; of starts that took no step, the likelier.
    best = max(sound, key=lambda index: (runs[index].lower_bound, runs[index].log_likelihood))
    reports = tuple(StartReport.of(run, seconds) for run, seconds in followed)
    rows = source.effective_rows, source.total_weight
    report = FitReport(reports, best, runs[best].parameters, settings.covariance_type, *rows, joined.ridge)
    return Fit(runs[best], report, prior, joined)


def _follow(
    settings: Settings,
    source: Rows,
    prior: Hyperparameters,
    start: Update,
    before: float,
    on_step: engine.OnStep | None,
) -> engine.Run:
    """Follow EM from a start, `before` which the log-likelihood was that."""
    structure = STRUCTURES[settings.covariance_type]
    if start.failed >= 0:
        return failed_start(start, structure)
    try:
        return engine.run(
            source,
            start.parameters,
            structure,
            tol=settings.tol,
            prior=prior,
            max_iter=settings.max_iter,
            before=before,
            acceleration=settings.acceleration,
            on_step=on_step,
        )
    except Exception as error:
        if (reached := getattr(error, "reached", None)) is not None:
            mixture = Mixture.from_parameters(reached.parameters, settings.covariance_type)
            error.mixture = mixture  # type: ignore[attr-defined]
            error.add_note(f"The fit failed after {reached.n_iter} iterations; this error's `mixture` is the last one.")
        raise


def failed_start(start: Update, structure: ModuleType) -> engine.Run:
    """The run of a start that is none."""
    failure = f"initialisation: {structure.describe(start.failed)} is not positive-definite"
    return engine.Run(start.parameters, outcome="failed", failure=failure)


def find_start(
    settings: Settings, source: Rows, prior: Hyperparameters, search: Start, random: np.random.RandomState
) -> Update:
    """Initial parameters: what the user gave, and the rest from `search`."""
    structure, given = STRUCTURES[settings.covariance_type], Inits.of(settings)
    if any(part is None for part in given):
        return override(search(source.sample, settings.n_components, structure, prior, random), given, structure)
    placeholder = np.empty(0)
    nothing = Update(Parameters(placeholder, placeholder, placeholder, placeholder), -1, False)
    return override(nothing, given, structure)


def search_rows(settings: Settings, rows: np.ndarray, sample_weight: Any) -> Start:
    """What finds a start among checked rows in memory; called as those of STARTS are."""
    init = settings.init_params
    if isinstance(init, str):
        return STARTS[init]
    kept = np.ones(len(rows), bool) if sample_weight is None else np.broadcast_to(sample_weight, len(rows)) > 0

    def find(
        source: ArrayRows, k: int, structure: ModuleType, prior: Hyperparameters, random: np.random.RandomState
    ) -> Update:
        values = init(rows, k, random) if callable(init) else init
        return start_from_given(values, kept, source, k, structure, prior, returned=callable(init))

    return find


def search_sample(settings: Settings, source: Rows) -> Start:
    """What finds a start among the sample of rows that lie elsewhere."""
    init = settings.init_params
    if isinstance(init, str):
        return STARTS[init]
    if not callable(init):
        raise ValueError(
            "init_params as an array belongs to rows in memory; give means_init, the name of a start, or a "
            "function, which is called with a sample of the rows."
        )
    sample = source.sample
    return search_rows(settings, sample.take(np.arange(sample.n_rows)), None)


def open_partitions(settings: Settings, rows: Any, parts: Any) -> Rows:
    """The source of checked rows in Dask's partitions."""
    from fastgmm.sources.dask import DaskRows

    d = rows.shape[1]
    return DaskRows(
        parts,
        rows.dtype,
        d,
        sample_rows(d, settings.n_components, STRUCTURES[settings.covariance_type]),
        seed_of_sample(settings.random_state),
        allow_missing=settings.missing == "em",
    )


def seed_of_sample(random_state: Any) -> list[int]:
    """Where the sample of rows that lie elsewhere has its randomness from: a RandomState stays as it is."""
    _, words, position, *_ = check_random_state(random_state).get_state(legacy=True)
    return [*words.tolist(), position]


def regularise_as(settings: Settings, source: Rows) -> tuple[Prior | None, Hyperparameters]:
    """The prior with what the data say of it, and what joins the statistics of these rows."""
    prior = Prior() if isinstance(settings.prior, str) else settings.prior
    structure = STRUCTURES[settings.covariance_type]
    return regularise(source, settings.n_components, structure, prior, settings.reg_covar)


def check_enough(settings: Settings, source: Rows, last: Last | None) -> None:
    """Refuse rows too few for the components, and a `last` fit of another shape."""
    n, d, k = source.n_rows, source.n_features, settings.n_components
    if n < k:
        raise ValueError(
            f"Expected n_samples >= n_components but got n_components = {k}, n_samples = {n}"
            f"{' of weight above 0' * source.weighted}"
        )
    if last is not None and last.parameters.means.shape != (k, d):
        before, features = last.parameters.means.shape
        raise ValueError(
            f"With warm_start=True the fit goes on from {before} components in {features} features, but now there are "
            f"{k} components and X has {d} features; keep both, or set warm_start=False."
        )


def check_observed(source: Rows, names: np.ndarray | None) -> None:
    """Refuse features, of these names, of which nothing is observed."""
    if source.column_means is None:
        return
    empty = np.flatnonzero(np.isnan(source.column_means))
    if empty.size:
        listed = name_first(empty if names is None else names[empty])
        raise ValueError(
            f"X has no observed value of feature{'s' if len(empty) > 1 else ''} {listed}; leave "
            f"{'them' if len(empty) > 1 else 'it'} out."
        )


def find_cautions(
    settings: Settings, source: Rows, fitted: Fit, names: np.ndarray | None
) -> list[tuple[str, type[Warning]]]:
    """What there is to warn of after a fit to features of these names."""
    best, report, _, joined = fitted
    if report.interrupted is not None:
        return [(_INTERRUPTED.format(report.interrupted), ConvergenceWarning)]
    if settings.max_iter == 0:
        return []
    cautions: list[tuple[str, type[Warning]]] = []
    if best.outcome == "max_iter":
        cautions.append((_NOT_CONVERGED, ConvergenceWarning))
    structure, rows = STRUCTURES[settings.covariance_type], source.effective_rows
    reg_covar = float(settings.reg_covar) if settings.prior is None and settings.reg_covar != "auto" else 0.0
    if is_unremarkable(best.parameters, structure, rows, joined, reg_covar):
        return cautions
    degenerate = describe_degenerate(best, settings.covariance_type, rows, joined)
    cautions.append((degenerate, DegenerateComponentWarning))
    if reg_covar:
        rivalled = describe_regularisation(source, best.parameters, structure, reg_covar, names)
        cautions.append((rivalled, RegularisationWarning))
    return [caution for caution in cautions if caution[0]]
