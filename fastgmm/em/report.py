"""What became of a fit: how each start ended, and what is to be said of each component of the best."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import mul
from types import ModuleType
from typing import Any

import numpy as np

from fastgmm.covariance import STRUCTURES, Hyperparameters, Parameters
from fastgmm.em.engine import Run
from fastgmm.em.initialise import describe_rows
from fastgmm.sources import Rows
from fastgmm.table import format_table

_EPS = float(np.finfo(np.float64).eps)
_ON_FLOOR = 1e-6  # of the ridge, above it
_LARGEST_REGULARISATION = 0.1  # of a feature's variance, before we warn
# Components whose densities differ by less on average, in nats and summed over both, are one: so do two of the same
# shape whose means are 3 % of a standard deviation apart.
_DUPLICATE_DIVERGENCE = 1e-3
_MARGIN = 1.0 + 1e-3  # of what is plainly larger, whatever the order of sums
_FEW_NUMBERS = 64

_ENDINGS = {
    "converged": "converged",
    "max_iter": "reached max_iter",
    "stopped": "stopped by the callback",
    "interrupted": "interrupted",
    "stepped": "took a step of partial_fit",
}


@dataclass(frozen=True)
class StartReport:
    """How one start ended.

    Attributes
    ----------
    log_likelihood : float
        Mean log-likelihood per row, in nats, of the parameters it ended with, as `score` has it; -inf if it failed.
    log_likelihoods : tuple of float
        The same before each iteration, with a prior that of the posterior, as `lower_bounds_`.
    iterations : int
        EM iterations taken, as `n_iter_`.
    passes : int
        Passes over the rows that these took; with acceleration, those that led nowhere included.
    passes_saved : float
        About how many more plain EM would have taken to the same log-likelihood, from the lengths of the leaps: mostly
        within a fifth on slow problems. By `tol` it may have ended before, and lower: slow steps look like the end.
    seconds : float
        Time it took, with the search for its parameters.
    outcome : {"converged", "max_iter", "stopped", "interrupted", "stepped", "failed"}
        Why it ended: by `tol`, by `max_iter`, by the callback, from the keyboard, as a step of `partial_fit`, or
        because it could not go on.
    failure : str
        Where and why it failed; else empty.
    """

    log_likelihood: float
    log_likelihoods: tuple[float, ...] = field(repr=False)
    iterations: int
    passes: int
    passes_saved: float
    seconds: float
    outcome: str
    failure: str

    @classmethod
    def of(cls, run: Run, seconds: float) -> "StartReport":
        """Report of a run that took `seconds`."""
        return cls(
            run.log_likelihood,
            tuple(run.log_likelihoods),
            run.n_iter,
            run.passes,
            run.saved,
            seconds,
            run.outcome,
            run.failure,
        )


@dataclass(frozen=True)
class ComponentReport:
    """What is to be said of one component.

    Attributes
    ----------
    weight : float
        Its share of the rows.
    rows : float
        Effective number of rows: the sum of its responsibilities, times the rows' weights.
    condition : float
        Condition number of its covariance, the largest variance along any axis over the least.
    on_floor : bool
        Whether its least variance is what `reg_covar` adds, and nothing else.
    empty : bool
        Whether its share is less than half a row's.
    duplicate_of : int or None
        The first component with the same mean and covariance, but for what no data could tell.
    """

    weight: float
    rows: float
    condition: float
    on_floor: bool
    empty: bool
    duplicate_of: int | None


@dataclass(frozen=True, eq=False, repr=False)
class FitReport:
    """How a fit's starts ended and what its components are like; printed as a table.

    Attributes
    ----------
    starts : tuple of StartReport
        In the order they were followed.
    best : int
        Which of them was kept.
    components : tuple of ComponentReport
        Of the best start.
    """

    starts: tuple[StartReport, ...]
    best: int
    _parameters: Parameters
    _covariance_type: str
    _n_rows: float
    _total_weight: float
    _ridge: np.ndarray

    @property
    def interrupted(self) -> int | None:
        """The first start that was interrupted from the keyboard, if any was."""
        return next((index for index, start in enumerate(self.starts) if start.outcome == "interrupted"), None)

    @functools.cached_property
    def components(self) -> tuple[ComponentReport, ...]:
        """What is to be said of each component of the best start."""
        weights, means, covariances, factors = self._parameters
        structure = STRUCTURES[self._covariance_type]
        least, largest = (np.broadcast_to(values, len(weights)) for values in structure.extremes(covariances))
        condition = largest / least
        on_floor = structure.ridge_share(factors, self._ridge) >= 1.0 - np.maximum(_ON_FLOOR, 8 * _EPS * condition)
        empty = is_empty(weights, self._n_rows)
        firsts = dict(find_duplicates(self._parameters, structure, ~empty))
        return tuple(
            ComponentReport(
                float(weights[c]),
                float(weights[c] * self._total_weight),
                float(condition[c]),
                bool(on_floor[c]),
                bool(empty[c]),
                firsts.get(c),
            )
            for c in range(len(means))
        )

    def __repr__(self) -> str:
        ended = [start for start in self.starts if not start.failure]
        accelerated = any(start.passes > start.iterations or start.passes_saved for start in ended)
        heads = ["passes", "about saved"] if accelerated else []
        starts = [
            [
                f"{'*' if index == self.best else ''}{index}",
                f"{start.log_likelihood:.6g}",
                str(start.iterations),
                *([str(start.passes), f"{start.passes_saved:.0f}"] if accelerated else ()),
                f"{start.seconds:.3g}",
                f"failed at {start.failure}" if start.failure else _ENDINGS[start.outcome],
            ]
            for index, start in enumerate(self.starts)
        ]
        components = [
            [str(c), f"{it.weight:.3g}", f"{it.rows:.6g}", f"{it.condition:.3g}", ", ".join(_remarks(it))]
            for c, it in enumerate(self.components)
        ]
        return "\n".join(
            (
                format_table(["start", "log-likelihood", "iterations", *heads, "seconds", "end"], starts, words=True),
                format_table(["component", "weight", "rows", "condition", "remarks"], components, words=True),
            )
        )


def _remarks(component: ComponentReport) -> Iterator[str]:
    if component.empty:
        yield "empty"
    if component.on_floor:
        yield "on the floor of reg_covar"
    if component.duplicate_of is not None:
        yield f"duplicate of {component.duplicate_of}"


def is_unremarkable(
    parameters: Parameters, structure: ModuleType, n_rows: float, prior: Hyperparameters, reg_covar: float
) -> bool:
    """Whether it takes no closer look to say that components and `reg_covar` are as they should be, as mostly.

    True only where `describe_degenerate` and `describe_regularisation` find nothing, and only of small mixtures: of few
    rows a description takes longer than EM, of many numbers this would take longer than a description.
    """
    if parameters.means.size > _FEW_NUMBERS:
        return False
    weights, means = parameters.weights.tolist(), parameters.means.tolist()
    variances, ridge = feature_variances(parameters, structure).tolist(), prior.ridge.tolist()
    least, floor = max(0.5, structure.least_rows(len(ridge)) - 0.5), _MARGIN * sum(ridge)
    for c, (weight, mean, variance) in enumerate(zip(weights, means, variances, strict=True)):
        if not (weight * n_rows >= least and sum(variance) > floor):
            return False
        for b in range(c):
            if not _are_apart(means[b], variances[b], mean, variance):
                return False
    for own, variance in zip(zip(*means, strict=True), zip(*variances, strict=True), strict=True):
        within, largest = sum(map(mul, weights, variance)), 16 * _EPS * max(map(abs, own))
        rounding = 16 * _EPS * within + largest * largest
        if not within - reg_covar > _MARGIN * max(rounding, reg_covar / _LARGEST_REGULARISATION):
            return False
    return True


def _are_apart(mean: list[float], variance: list[float], other: list[float], other_variance: list[float]) -> bool:
    """Whether components with these means and variances (d,) plainly differ in one of the features."""
    for a, v, b, w in zip(mean, variance, other, other_variance, strict=True):
        shift, ratio = a - b, v / w
        # Twice J of the feature alone, no more than that of all; see `find_duplicates`.
        if ratio + 1.0 / ratio - 2.0 + shift * shift * (1.0 + 1.0 / ratio) / w > _MARGIN * 2.0 * _DUPLICATE_DIVERGENCE:
            return True
    return False


def describe_degenerate(run: Run, covariance_type: str, n_rows: float, prior: Hyperparameters) -> str:
    """Name the components that are not what was asked for, and what may help; empty if there are none.

    Only of a fit that converged are duplicates a fault: before, components may still part.
    """
    parameters, structure = run.parameters, STRUCTURES[covariance_type]
    rows, d = parameters.weights * n_rows, parameters.means.shape[1]
    empty = is_empty(parameters.weights, n_rows)
    collapsed = (feature_variances(parameters, structure).mean(axis=1) <= (1 + _ON_FLOOR) * prior.ridge.mean()) & ~empty
    # Of fewer rows, a covariance is singular but for the ridge, or a prior.
    short = (rows < structure.least_rows(d) - 0.5) & ~(empty | collapsed) & (prior.scale is None)
    duplicates: dict[int, list[int]] = {}
    for c, first in find_duplicates(parameters, structure, ~(empty | collapsed) & (run.outcome == "converged")):
        duplicates.setdefault(first, []).append(c)
    fewer = "use fewer components"
    problems: list[tuple[Any, str, str]] = [
        (np.flatnonzero(empty), "empty", f"{fewer} or more starts"),
        (
            np.flatnonzero(collapsed),
            "collapsed onto one point, where only reg_covar gives them a width",
            f"{fewer}, or check for outliers and duplicated rows",
        ),
        (np.flatnonzero(short), "on fewer rows than their covariance needs", f"{fewer} or a simpler covariance_type"),
        *((which, f"the same as {first}", f"{fewer} or more starts") for first, which in duplicates.items()),
    ]
    problems = [problem for problem in problems if len(problem[0])]
    if not problems:
        return ""
    found = "; ".join(f"{name_first(which)} ({reason})" for which, reason, _ in problems)
    cures = "; ".join(dict.fromkeys(cure for *_, cure in problems))
    return f"Degenerate components: {found}. What may help: {cures}."


def describe_regularisation(
    source: Rows, parameters: Parameters, structure: ModuleType, reg_covar: float, names: np.ndarray | None
) -> str:
    """Name the features, of these names, whose variance `reg_covar` rivals; empty if there are none."""
    variances = _data_variances(parameters, structure, reg_covar)
    if not variances.all():  # constant, or lost in the rounding of reg_covar
        mean, variances = describe_rows(source, STRUCTURES["diag"])
        variances = np.where(variances > (16 * _EPS * mean) ** 2, variances, 0.0)
    rivalled = np.flatnonzero((variances > 0) & (reg_covar > _LARGEST_REGULARISATION * variances))
    if len(rivalled) == 0:
        return ""
    return (
        f"reg_covar={reg_covar:g} is more than a tenth of the variance of feature"
        f"{'s' if len(rivalled) > 1 else ''} {name_first(rivalled if names is None else names[rivalled])} (the least "
        f"is {variances[rivalled].min():.3g}) and so shapes the fit. Scale the data, for instance with "
        "sklearn.preprocessing.StandardScaler, or lower reg_covar, or let it be relative: reg_covar='auto'."
    )


def _data_variances(parameters: Parameters, structure: ModuleType, reg_covar: float) -> np.ndarray:
    """Variance of each feature under the mixture but for `reg_covar`; 0 where that is rounding alone."""
    weights, means = parameters.weights, parameters.means
    deviations = means - weights @ means
    within = weights @ feature_variances(parameters, structure)
    variances = within - reg_covar + weights @ deviations**2
    rounding = 16 * _EPS * within + (16 * _EPS * np.abs(means).max(axis=0)) ** 2
    return np.where(variances > rounding, variances, 0.0)


def name_first(names: Sequence[Any] | np.ndarray) -> str:
    """List ten names at most, and how many more there are."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(str, names[:10])) + more


def is_empty(weights: np.ndarray, n_rows: float) -> np.ndarray:
    """Which components' share is less than half a row's, (k,)."""
    return weights * n_rows < 0.5


def find_duplicates(parameters: Parameters, structure: ModuleType, among: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (component, the first it duplicates) of those `among` (k,), in order.

    Their divergence is Jeffreys', J = E_a log(p_a / p_b) + E_b log(p_b / p_a).
    """
    variances = feature_variances(parameters, structure)
    candidates = np.flatnonzero(among)
    for position, c in enumerate(candidates[1:], 1):
        earlier = candidates[:position]
        # J of any feature alone is no more than that of all.
        shifts = (parameters.means[earlier] - parameters.means[c]) ** 2
        ratios = variances[earlier] / variances[c]
        spread = ratios + 1.0 / ratios - 2.0
        bound = (spread + shifts * (1.0 / variances[earlier] + 1.0 / variances[c])).max(axis=1) / 2.0
        for b in earlier[bound < _DUPLICATE_DIVERGENCE]:
            if _divergence(parameters, structure, int(b), int(c)) < _DUPLICATE_DIVERGENCE:
                yield int(c), int(b)
                break


def _divergence(parameters: Parameters, structure: ModuleType, a: int, b: int) -> float:
    """J = (tr(Σ_a⁻¹ Σ_b + Σ_b⁻¹ Σ_a) - 2 d + δᵀ (Σ_a⁻¹ + Σ_b⁻¹) δ) / 2 (Jeffreys 1946)."""
    means = parameters.means[[a, b]]
    d = means.shape[1]
    pick = (lambda values: values) if structure.SHARED else (lambda values: values[[a, b]])
    covariances, factors = (
        structure.dense(pick(values), 2, d) for values in (parameters.covariances, parameters.factors)
    )
    precisions = factors.swapaxes(1, 2) @ factors
    shift = means[0] - means[1]
    traces = (precisions * covariances[::-1]).sum()
    return float(traces - 2 * d + shift @ precisions.sum(axis=0) @ shift) / 2.0


def feature_variances(parameters: Parameters, structure: ModuleType) -> np.ndarray:
    """Variance of each feature within each component, shape (k, d)."""
    k, d = parameters.means.shape
    covariances = parameters.covariances
    diagonals = covariances.diagonal(axis1=-2, axis2=-1) if structure.MATRICES else covariances.reshape(k, -1)
    return diagonals if diagonals.shape == (k, d) else np.broadcast_to(diagonals, (k, d))
