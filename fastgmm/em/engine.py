"""The one EM loop, for every source of rows and every structure (Dempster, Laird and Rubin 1977)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from fastgmm.covariance import Hyperparameters, Parameters, Update
from fastgmm.em.convergence import has_converged
from fastgmm.sources import ArrayRows
from fastgmm.statistics import Statistics


@dataclass(frozen=True)
class Run:
    """One start followed to its end."""

    parameters: Parameters  # the last ones that were sound
    log_likelihoods: list[float] = field(default_factory=list)  # per row, before each step
    converged: bool = False
    failure: str = ""  # why it stopped, if it could not go on

    @property
    def n_iter(self) -> int:
        """Number of EM steps taken."""
        return len(self.log_likelihoods)

    @property
    def log_likelihood(self) -> float:
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
    report: Callable[[int, float], None] | None = None,
) -> Run:
    """Follow EM from `start` until the log-likelihood per row changes by less than `tol`.

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
    report : callable, optional
        Called as report(iteration, change) after every step.
    """
    parameters = start
    log_likelihoods: list[float] = []
    for iteration in range(1, max_iter + 1):
        statistics = source.reduce(structure.form(parameters, source.single))
        if statistics.lost:
            statistics = source.reduce(structure.centred_form(parameters))
        if statistics.lost:
            return Run(parameters, log_likelihoods, failure=_describe_lost(iteration, statistics.lost))
        log_likelihoods.append(statistics.log_likelihood / source.total_weight)
        update = maximise(source, statistics, parameters, structure, prior)
        if update.failed >= 0:
            return Run(parameters, log_likelihoods, failure=_describe_failed(iteration, update.failed, structure))
        parameters = update.parameters
        converged = has_converged(log_likelihoods, before, tol)
        if report is not None:
            previous = log_likelihoods[-2] if iteration > 1 else before
            report(iteration, log_likelihoods[-1] - previous)
        if converged:
            return Run(parameters, log_likelihoods, converged=True)
    return Run(parameters, log_likelihoods)


def maximise(
    source: ArrayRows, statistics: Statistics, parameters: Parameters, structure: ModuleType, prior: Hyperparameters
) -> Update:
    """Maximise, with the moments taken again about the new means if they lost digits where they were taken."""
    update: Update = structure.maximise(statistics, prior)
    if update.jumped or update.failed >= 0:
        means = update.parameters.means
        centres = means if np.isfinite(means).all() else parameters.means
        again = source.reduce(structure.centred_form(parameters), centres=centres)
        update = structure.maximise(again, prior)
    return update


def _describe_lost(iteration: int, lost: int) -> str:
    return f"iteration {iteration}: squared distances of {lost} rows to every component overflow"


def _describe_failed(iteration: int, component: int, structure: ModuleType) -> str:
    return f"iteration {iteration}: {structure.describe(component)} is not positive-definite"
