"""The one EM loop, for every source of rows and every structure (Dempster, Laird and Rubin 1977)."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from fastgmm.covariance import Hyperparameters, Parameters
from fastgmm.em.accelerate import PACES, Pace
from fastgmm.em.step import expect, steps
from fastgmm.sources import Rows

# Told after every step of (iteration, parameters before the step, their log-likelihood per row, its change); True to
# stop there.
OnStep = Callable[[int, Parameters, float, float], bool]
_ROUNDING = 1e-6  # of a share of 1


@dataclass(frozen=True)
class Run:
    """One start followed to its end."""

    parameters: Parameters  # the last ones that were sound
    log_likelihoods: list[float] = field(default_factory=list)  # per row, before each step, the prior's included
    outcome: str = "max_iter"  # or "converged", "stopped", "interrupted", "failed"
    failure: str = ""  # where and why, of one that failed
    log_likelihood: float = -math.inf  # per row, of `parameters`
    passes: int = 0  # over the rows that steps took, those that led nowhere included
    saved: float = 0.0  # about how many more plain EM would have taken as high

    @property
    def n_iter(self) -> int:
        """Number of EM steps taken."""
        return len(self.log_likelihoods)

    @property
    def lower_bound(self) -> float:
        """Log-likelihood per row before the last step, as scikit-learn's `lower_bound_`; -inf before the first."""
        return self.log_likelihoods[-1] if self.log_likelihoods else -math.inf


def run(
    source: Rows,
    start: Parameters,
    structure: ModuleType,
    *,
    tol: float,
    prior: Hyperparameters,
    max_iter: int,
    before: float = -math.inf,
    acceleration: str | None = None,
    on_step: OnStep | None = None,
) -> Run:
    """Follow EM from `start` until the log-likelihood per row changes by less than `tol`.

    An interrupt from the keyboard ends it with the parameters of the last step.

    Parameters
    ----------
    source : Rows
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
    acceleration : str or None
        A key of `accelerate.PACES`.
    on_step : callable, optional
        Called as on_step(iteration, parameters, log_likelihood, change) after every step; if True, it is the last.

    Notes
    -----
    An exception, from rows that can no longer be read or from `on_step`, carries the run so far as its `reached`.
    """
    reached = point = start
    previous, outcome, passes = before, "max_iter", 0
    log_likelihoods: list[float] = []
    pace = _pace(acceleration, start, structure, prior)
    kept = acceleration is not None or on_step is not None
    step = steps(source, structure, prior, kept=kept)
    try:
        try:
            while passes < max_iter:
                passes += 1
                log_likelihood, update, fault = step(point)
                leapt = pace.leapt
                if leapt and (fault or log_likelihood < previous):
                    point = pace.retreat()
                    continue
                if fault:
                    return Run(reached, log_likelihoods, "failed", f"iteration {passes}: {fault}", passes=passes)
                log_likelihoods.append(log_likelihood)
                change, previous = log_likelihood - previous, log_likelihood
                reached = update.parameters
                stop = on_step is not None and on_step(passes, point, log_likelihood, change)
                if abs(change) < tol and not leapt:
                    outcome = "converged"
                    break
                if stop:
                    outcome = "stopped"
                    break
                point = pace.go_on(reached)
        except KeyboardInterrupt:
            outcome = "interrupted"
        last = expect(source, reached, structure)
    except Exception as error:
        with suppress(AttributeError):  # of one that lets nothing be set
            error.reached = Run(reached, log_likelihoods, "failed", passes=passes)  # type: ignore[attr-defined]
        raise
    final = -math.inf if last.lost else last.log_likelihood / source.total_weight
    return Run(reached, log_likelihoods, outcome, log_likelihood=final, passes=passes, saved=pace.saved)


def _pace(
    acceleration: str | None, start: Parameters, structure: ModuleType, prior: Hyperparameters
) -> Pace[Parameters]:
    def from_vector(vector: np.ndarray, origin: Parameters) -> Parameters | None:
        point: Parameters = structure.from_vector(vector, origin)
        # EM leads nowhere below the ridge, where the likelihood has no bound.
        return point if structure.ridge_share(point.factors, prior.ridge).max() <= 1.0 + _ROUNDING else None

    return PACES[acceleration](start, structure.to_vector, from_vector)
