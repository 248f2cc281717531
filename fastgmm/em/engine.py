"""The one EM loop, for every source of rows and every structure (Dempster, Laird and Rubin 1977)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from fastgmm.covariance import Hyperparameters, Parameters, Update
from fastgmm.covariance.prior import log_density
from fastgmm.sources import ArrayRows
from fastgmm.statistics import Statistics

# Told after every step of (iteration, parameters before the step, their log-likelihood per row, its change); True to
# stop there.
OnStep = Callable[[int, Parameters, float, float], bool]


@dataclass(frozen=True)
class Run:
    """One start followed to its end."""

    parameters: Parameters  # the last ones that were sound
    log_likelihoods: list[float] = field(default_factory=list)  # per row, before each step, the prior's included
    outcome: str = "max_iter"  # or "converged", "stopped", "interrupted", "failed"
    failure: str = ""  # where and why, of one that failed
    log_likelihood: float = -math.inf  # per row, of `parameters`

    @property
    def n_iter(self) -> int:
        """Number of EM steps taken."""
        return len(self.log_likelihoods)

    @property
    def lower_bound(self) -> float:
        """Log-likelihood per row before the last step, as scikit-learn's `lower_bound_`; -inf before the first."""
        return self.log_likelihoods[-1] if self.log_likelihoods else -math.inf


def run(
    source: ArrayRows,
    start: Parameters,
    structure: ModuleType,
    *,
    tol: float,
    prior: Hyperparameters,
    max_iter: int,
    before: float = -math.inf,
    on_step: OnStep | None = None,
) -> Run:
    """Follow EM from `start` until the log-likelihood per row changes by less than `tol`.

    An interrupt from the keyboard ends it with the parameters of the last step.

    Parameters
    ----------
    source : ArrayRows
        The rows.
    start : Parameters
        Where to begin.
    structure : module
        A value of `covariance.STRUCTURES`.
    tol, max_iter
        As `GaussianMixture` has them.
    prior : Hyperparameters
        What joins the statistics when they are maximised.
    before : float
        Log-likelihood per row before the first step, when an earlier run is continued.
    on_step : callable, optional
        Called as on_step(iteration, parameters, log_likelihood, change) after every step; if True, it is the last.
    """
    parameters, previous = start, before
    log_likelihoods: list[float] = []
    outcome = "max_iter"
    try:
        for iteration in range(1, max_iter + 1):
            statistics = expect(source, parameters, structure)
            if statistics.lost:
                return _failed(parameters, log_likelihoods, _describe_lost(iteration, statistics.lost))
            update = maximise(source, statistics, parameters, structure, prior)
            if update.failed >= 0:
                return _failed(parameters, log_likelihoods, _describe_failed(iteration, update.failed, structure))
            log_posterior = statistics.log_likelihood + log_density(prior, parameters, structure)
            log_likelihood = log_posterior / source.total_weight
            log_likelihoods.append(log_likelihood)
            change, previous = log_likelihood - previous, log_likelihood
            stepped_from, parameters = parameters, update.parameters
            stop = on_step is not None and on_step(iteration, stepped_from, log_likelihood, change)
            if abs(change) < tol:
                outcome = "converged"
                break
            if stop:
                outcome = "stopped"
                break
    except KeyboardInterrupt:
        outcome = "interrupted"
    last = expect(source, parameters, structure)
    final = -math.inf if last.lost else last.log_likelihood / source.total_weight
    return Run(parameters, log_likelihoods, outcome, log_likelihood=final)


def expect(source: ArrayRows, parameters: Parameters, structure: ModuleType) -> Statistics:
    """Read all rows once, by the form that is good for any data if another loses some."""
    statistics = source.reduce(source.form(structure, parameters))
    if statistics.lost:
        statistics = source.reduce(source.centred_form(structure, parameters))
    return statistics


def maximise(
    source: ArrayRows, statistics: Statistics, parameters: Parameters, structure: ModuleType, prior: Hyperparameters
) -> Update:
    """Maximise, with the moments taken again about the new means if they lost digits where they were taken."""
    update: Update = structure.maximise(statistics, prior)
    if update.jumped or update.failed >= 0:
        means = update.parameters.means
        centres = means if np.isfinite(means).all() else parameters.means
        again = source.reduce(source.centred_form(structure, parameters), centres=centres)
        update = structure.maximise(again, prior)
    return update


def _failed(parameters: Parameters, log_likelihoods: list[float], failure: str) -> Run:
    return Run(parameters, log_likelihoods, "failed", failure)


def _describe_lost(iteration: int, lost: int) -> str:
    return f"iteration {iteration}: squared distances of {lost} rows to every component overflow"


def _describe_failed(iteration: int, component: int, structure: ModuleType) -> str:
    return f"iteration {iteration}: {structure.describe(component)} is not positive-definite"
