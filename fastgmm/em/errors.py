"""Errors and warnings of fits, and how an error leaves an estimator."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgmm.em.engine import Run
from fastgmm.mixture import Mixture

_ILL_DEFINED = (
    "Fitting the mixture model failed because some components have ill-defined empirical covariance (for instance "
    "caused by singleton or collapsed samples). Try to decrease the number of components, increase reg_covar, or "
    "scale the input data."
)
_LISTED = 5  # starts whose failures are told


class DegenerateFitError(ValueError):
    """No start of a fit reached its end.

    Attributes
    ----------
    mixture : Mixture or None
        The last sound mixture of the start that came furthest.
    """

    def __init__(self, message: str, mixture: Mixture | None = None) -> None:
        super().__init__(message)
        self.mixture = mixture


class DegenerateComponentWarning(UserWarning):
    """A fitted component rests on too few rows, or on `reg_covar` alone."""


class RegularisationWarning(UserWarning):
    """`reg_covar` rivals the variance of the data, so that it shapes the fit."""


def all_failed(runs: Sequence[Run], covariance_type: str) -> DegenerateFitError:
    """The error that says where each start failed."""
    furthest = max(runs, key=lambda run: run.n_iter)
    reasons = "; ".join(f"start {index} at {run.failure}" for index, run in enumerate(runs[:_LISTED]))
    more = f"; and {len(runs) - _LISTED} more" if len(runs) > _LISTED else ""
    sound = all(np.isfinite(part).all() for part in furthest.parameters)
    mixture = Mixture.from_parameters(furthest.parameters, covariance_type) if sound else None
    return DegenerateFitError(f"{_ILL_DEFINED} What failed: {reasons}{more}.", mixture)


def step_failed(fault: str, before: Mixture) -> DegenerateFitError:
    """The error of a step that cannot be taken from the mixture `before` it."""
    return DegenerateFitError(f"{_ILL_DEFINED} What failed: {fault}.", before)


class unchanged_on_error:
    """Leaves the estimator as it was if the block raises."""

    def __init__(self, estimator: Any) -> None:
        self._estimator, self._before = estimator, estimator.__dict__.copy()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._estimator.__dict__ = self._before
