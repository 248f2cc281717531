"""What every structure's `maximise` shares: new weights and means, and when moments must be taken again."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import float64

from fastgmm.covariance.prior import Hyperparameters
from fastgmm.kernels._jit import FLOAT64, FLOATS_1D, FLOATS_2D, DeclaredKernel, declared_kernel, kernel
from fastgmm.statistics import Statistics

# A mean that moved by δ costs the digits of δ² / variance when the moments are shifted; beyond this they are retaken.
_LARGEST_MOVE = 1e4
# No coordinate goes farther than this, in logarithms: exponentials stay finite.
_FARTHEST = 100.0
_EPS = float(np.finfo(np.float64).eps)
_TINY = float(np.finfo(np.float64).tiny)
# Rows that every component has at least, so that counts can divide; of weights that sum to less, a share.
_SMALLEST_COUNT = 10 * _EPS


class Parameters(NamedTuple):
    """Parameters of a mixture; covariances and factors in the structure's shape.

    A factor F is the inverse of the covariance's lower Cholesky factor, so that |F (x - μ)|² is the squared
    Mahalanobis distance; for diag and spherical it is the reciprocal standard deviation.
    """

    weights: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    covariances: np.ndarray
    factors: np.ndarray


class Update(NamedTuple):
    """What `maximise` found."""

    parameters: Parameters
    failed: int  # the first component whose covariance is not positive-definite, or -1
    jumped: bool  # a mean moved so far that the moments should be taken again about the new means


def count_rows(statistics: Statistics) -> np.ndarray:
    """Rows N_c of each component, never 0, (k,)."""
    return statistics.weight + _SMALLEST_COUNT * min(1.0, np.add.reduce(statistics.weight))


def shares_of_rows(statistics: Statistics, prior: Hyperparameters) -> np.ndarray:
    """N_c / N with the rows that the prior joins to covariances, (k,): a component's say in what all have in common."""
    counts = count_rows(statistics) + prior.rows
    return counts / counts.sum()


@kernel(inline=True)
def least_and_total(weight, concentration):
    """Rows that every component has at least, and those of all with what joins their weights.

    Without a prior an empty component keeps its mean.
    """
    total = 0.0
    for c in range(weight.size):
        total += weight[c]
    least, total = _SMALLEST_COUNT * (total if total < 1.0 else 1.0), 0.0
    for c in range(weight.size):
        total += weight[c] + least + concentration
    return least, total


def maximise_by(body: DeclaredKernel, statistics: Statistics, prior: Hyperparameters) -> Update:
    """What a structure's kernel finds from statistics that the prior has joined; covariances have their moments' shape.

    The kernel does everything between two passes in one call: of few rows, calls would take longer than the passes. It
    is called as body(centres, weight, first, second, ridge, concentration, shrinkage, rows, weights, means,
    covariances, factors), sets the last four, and returns the component that failed or -1, and whether a mean jumped.
    """
    shape, of_covariances = statistics.centres.shape, statistics.second.shape
    arrays = np.empty(shape[0]), np.empty(shape), np.empty(of_covariances), np.empty(of_covariances)
    parameters = Parameters(*arrays)
    failed, jumped = body.call(*_arguments(statistics, prior, parameters))
    return Update(parameters, failed, jumped)


def prepare_maximise(
    body: DeclaredKernel, statistics: Statistics, prior: Hyperparameters, out: Parameters
) -> Callable[[], tuple[int, bool]]:
    """A call of a structure's kernel that sets `out` by what is then in the arrays of statistics, which are float64."""
    return body.prepare(*_arguments(statistics, prior, out))


def _arguments(statistics: Statistics, prior: Hyperparameters, out: Parameters) -> tuple[Any, ...]:
    centres, weight, first, second, _, _ = statistics
    ridge, concentration, shrinkage, _, rows, _ = prior
    moments = (np.asarray(part, FLOAT64) for part in (centres, weight, first, second))
    return (*moments, ridge, concentration, shrinkage, rows, *out)


def declare_maximise(covariances: Any) -> Callable[[Callable[..., Any]], DeclaredKernel]:
    """Compile a kernel for `maximise_by`, of a structure whose covariances have this type."""
    moments = (kind.copy(layout="A") for kind in (FLOATS_2D, FLOATS_1D, FLOATS_2D, covariances))
    parameters = FLOATS_1D, FLOATS_2D, covariances, covariances
    return declared_kernel(*moments, FLOATS_1D, *[float64] * 3, *parameters, short=True)


def share_volume(found: Update, shares: np.ndarray, log_volumes: np.ndarray) -> Update:
    """Make the volumes |S_c|^(1/d) of covariances S_c the same, whose logarithms (k,) are given; none may be zero.

    λ = Σ_c N_c |S_c|^(1/d) / N, Σ_c = λ S_c / |S_c|^(1/d), for shares N_c / N (k,).
    """
    _, _, covariances, factors = found.parameters
    widths = (shares @ np.exp(log_volumes[:, None] - log_volumes)).reshape(-1, *[1] * (covariances.ndim - 1))
    scaled = {"covariances": widths * covariances, "factors": factors / np.sqrt(widths)}
    return found._replace(parameters=found.parameters._replace(**scaled))


@kernel(inline=True)
def variance_floor(mean):
    """The variance that rounding alone gives a feature at the mean's distance from zero; anything below is zero."""
    rounding = _EPS * mean
    return rounding * rounding


@kernel(inline=True)
def is_jump(shift, variance, mean):
    """Whether a mean moved by so many of its new standard deviations that digits were lost."""
    rounding = 8 * _EPS * mean
    return shift * shift > _LARGEST_MOVE * (variance if variance > 0.0 else 0.0) + rounding * rounding


@kernel(inline=True)
def reciprocal_root(variance):
    """1 / √variance, and NaN of one that is below zero, of which NumPy would warn."""
    return 1.0 / np.sqrt(variance) if variance > 0.0 else np.inf if variance == 0.0 else np.nan


_SINGLE = np.finfo(np.float32)
_LARGEST_LOSS = 1e-2  # of a variance along any axis


def suits_single(means: np.ndarray, variances: np.ndarray, reciprocals: np.ndarray) -> bool:
    """Whether float32 can hold means (k, d) and covariances with these diagonals of them and their inverses."""
    ends = min(variances.min(), reciprocals.min()), max(variances.max(), reciprocals.max(), np.abs(means).max())
    in_range = ends[0] > _SINGLE.tiny and ends[1] < _SINGLE.max
    # Σ_jj (Σ⁻¹)_jj says how much of feature j the others tell; what they leave must survive the rounding of Σ.
    inflation = (variances * reciprocals).sum(axis=-1).max()
    return bool(in_range and inflation * np.sqrt(means.shape[1]) * _SINGLE.eps < _LARGEST_LOSS)


def variance_floors(means: np.ndarray) -> np.ndarray:
    """`variance_floor` of all means."""
    return (_EPS * means) ** 2


def share_coordinates(weights: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of weights about those of `origin`, and the scale (k,) of all that belongs to each component.

    Every structure's `to_vector` measures from `origin` in its own units: log-ratios of weights, means in widths, and
    logarithms of factors' diagonals, so that any vector is of a mixture. It is scaled by the information of complete
    data: to second order |x|² is twice the Kullback-Leibler divergence of weights and components together. In that
    metric the rate of EM is symmetric, and units of the features do not matter.
    """
    floored = np.maximum(origin, _TINY)
    scale = np.sqrt(floored)
    return scale * np.log(np.maximum(weights, _TINY) / floored), scale


def shares_from(coordinates: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights with these coordinates, but for a common factor, and the scale as before."""
    floored = np.maximum(origin, _TINY)
    scale = np.sqrt(floored)
    shares = floored * exp_near(coordinates / scale)
    return shares / shares.sum(), scale


def exp_near(logarithms: np.ndarray) -> np.ndarray:
    """Exponentials that are neither zero nor infinite."""
    return np.exp(np.clip(logarithms, -_FARTHEST, _FARTHEST))
