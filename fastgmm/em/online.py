"""Stepwise online EM: a mixture that follows rows which come by once (Cappé and Moulines 2009)."""

from types import ModuleType
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from fastgmm.covariance import STRUCTURES, Hyperparameters, Parameters, Prior, Update, flat
from fastgmm.em.errors import all_failed
from fastgmm.em.fit import Settings, failed_start, find_start, regularise_as
from fastgmm.em.initialise import Start, regularise
from fastgmm.sources import Rows
from fastgmm.statistics import Statistics


class Stream(NamedTuple):
    """What has been learned from rows that are gone."""

    statistics: Statistics  # per unit of weight, each component's moments about its own mean
    seen: float  # the weight of all rows
    parameters: Parameters
    prior: Hyperparameters


class Step(NamedTuple):
    """One step, and what there is to say of it."""

    stream: Stream
    log_likelihood: float  # of the rows, per unit of weight, before the step
    fault: str  # why it could not be taken; then `stream` is as it was


def begin_first(settings: Settings, source: Rows, search: Start) -> tuple[Stream, Prior | None]:
    """A stream that has seen no rows, from a start found among those of the source, and the prior filled in.

    Raises
    ------
    ValueError
        If there are fewer rows than components, or (DegenerateFitError) the start's covariances are not
        positive-definite.
    """
    if source.n_rows < settings.n_components:
        raise ValueError(
            f"The first call of partial_fit needs at least {settings.n_components} rows"
            f"{' of weight above 0' * source.weighted}, one for each component, but got {source.n_rows}; later "
            "calls may bring fewer."
        )
    structure = STRUCTURES[settings.covariance_type]
    prior, joined = regularise_as(settings, source)
    found = find_start(settings, source, joined, search, check_random_state(settings.random_state))
    if found.failed >= 0:
        raise all_failed([failed_start(found, structure)], settings.covariance_type)
    return begin(found.parameters, joined, structure, 0.0), prior


def begin_again(settings: Settings, source: Rows, fitted: Parameters, prior: Prior | None, seen: float) -> Stream:
    """A stream of which rows of the weight `seen` had exactly the `fitted` parameters."""
    structure = STRUCTURES[settings.covariance_type]
    given = Prior() if isinstance(settings.prior, str) else settings.prior
    completed = None if given is None else prior or given
    joined = regularise(source, settings.n_components, structure, completed, settings.reg_covar)[1]
    return begin(fitted, joined, structure, seen)


def check_shapes(settings: Settings, fitted: Parameters) -> None:
    """Refuse to go on from parameters of another number of components or another structure."""
    k, d = fitted.means.shape
    shape = fitted.covariances.shape
    if k != settings.n_components or shape != STRUCTURES[settings.covariance_type].covariances_shape(k, d):
        raise ValueError(
            f"partial_fit goes on from {k} components with covariances of shape {shape}, which "
            f"n_components={settings.n_components} and covariance_type={settings.covariance_type!r} are not; keep "
            "both, or begin anew with fit or a clone."
        )


def begin(parameters: Parameters, prior: Hyperparameters, structure: ModuleType, seen: float) -> Stream:
    """A stream of which rows of the weight `seen` had exactly these parameters, but for what is added to variances."""
    weights, means, covariances, _ = parameters
    widths, axes = np.linalg.eigh(structure.dense(covariances, *means.shape) - np.diag(prior.ridge))
    # The columns of V √λ are rows whose second moments are V λ Vᵀ.
    spread = axes * np.sqrt(np.maximum(widths, 0.0))[:, None, :]
    second = [
        structure.second_moments(rows.T, np.full(len(rows), weight))
        for rows, weight in zip(spread, weights, strict=True)
    ]
    statistics = Statistics(means, weights, np.zeros_like(means), structure.stack(second), 0.0, 0)
    return Stream(statistics, seen, parameters, prior)


def is_at(stream: Stream, parameters: Parameters, dtype: np.dtype) -> bool:
    """Whether these are the stream's parameters, but for having been rounded to the type."""
    both = zip(parameters, stream.parameters, strict=True)
    return all(np.array_equal(mine, theirs.astype(dtype)) for mine, theirs in both)


def step_size(seen: float, new: float, decay: float, offset: float) -> float:
    """(t + offset)^-decay at the t-th batch, counted in batches of this size: `seen` is the weight with the `new`."""
    return float((seen / new + offset) ** -decay)


def step(stream: Stream, source: Rows, structure: ModuleType, decay: float, offset: float) -> Step:
    """Mix the rows' statistics under the current parameters with the stream's, and maximise.

    s ← (1 - γ) s + γ ŝ(rows; θ), θ ← argmax of what s rows expect (Cappé and Moulines 2009, equations 11 and 12). The
    first rows' statistics are taken as they are. A prior joins as many rows as have been seen.
    """
    found = _expect(source, stream.parameters, structure)
    if found.lost:
        fault = f"squared distances of {found.lost} rows to every component overflow"
        return Step(stream, -np.inf, fault)
    log_likelihood = found.log_likelihood / source.total_weight
    seen = stream.seen + source.total_weight
    share = step_size(seen, source.total_weight, decay, offset) if stream.seen else 1.0
    statistics = _mix(stream.statistics, _scale(found, 1.0 / source.total_weight), share, structure)
    update: Update = structure.maximise(_scale(statistics, seen), stream.prior)
    if update.failed >= 0:
        return Step(stream, log_likelihood, f"{structure.describe(update.failed)} is not positive-definite")
    return Step(Stream(statistics, seen, update.parameters, stream.prior), log_likelihood, "")


def _expect(source: Rows, parameters: Parameters, structure: ModuleType) -> Statistics:
    """Statistics of all rows, each component's moments about its own mean."""
    form = source.centred_form(structure, parameters)
    found = source.reduce(form, parameters.means)
    if not found.lost:
        update: Update = structure.maximise(found, flat(0.0, source.n_features))
        if update.jumped:  # so far that digits of the moments about the old means are lost
            found = source.reduce(form, update.parameters.means)
    return _about_means(found, structure)


def _about_means(statistics: Statistics, structure: ModuleType) -> Statistics:
    """The same rows' statistics, each component's moments about its own mean: second - N δ δᵀ with δ = first / N."""
    weight = statistics.weight
    shifts = statistics.first / np.where(weight > 0, weight, 1.0)[:, None]
    second = statistics.second - structure.scatter(shifts, weight)
    return statistics._replace(centres=statistics.centres + shifts, first=np.zeros_like(shifts), second=second)


def _scale(statistics: Statistics, factor: float) -> Statistics:
    return statistics._replace(
        weight=factor * statistics.weight, first=factor * statistics.first, second=factor * statistics.second
    )


def _mix(old: Statistics, new: Statistics, share: float, structure: ModuleType) -> Statistics:
    """(1 - share) old + share new, all moments about means: nothing large is subtracted, however far means lie apart.

    With a = (1 - share) N_old and b = share N_new, second = a S_old + b S_new + a b / (a + b) δ δᵀ.
    """
    a, b = (1.0 - share) * old.weight, share * new.weight
    total = a + b
    fraction = b / np.where(total > 0, total, 1.0)
    apart = new.centres - old.centres
    second = (1.0 - share) * old.second + share * new.second + structure.scatter(apart, a * fraction)
    centres = old.centres + fraction[:, None] * apart
    return Statistics(centres, total, np.zeros_like(apart), second, 0.0, 0)
