"""What every structure's `maximise` shares: new weights and means, and when moments must be taken again."""

from typing import NamedTuple

import numpy as np

from fastgmm.covariance.prior import Hyperparameters
from fastgmm.kernels._jit import kernel
from fastgmm.statistics import Statistics

# A mean that moved by δ costs the digits of δ² / variance when the moments are shifted; beyond this they are retaken.
_LARGEST_MOVE = 1e4
# No coordinate goes farther than this, in logarithms: exponentials stay finite.
_FARTHEST = 100.0
_EPS = float(np.finfo(np.float64).eps)
_TINY = float(np.finfo(np.float64).tiny)
# Rows that every component has at least, so that counts can divide; of weights that sum to less, a share.
SMALLEST_COUNT = 10 * _EPS


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


class Moved(NamedTuple):
    """Weights and means that maximise the expected log-likelihood and log-prior."""

    counts: np.ndarray  # (k,): rows N_c of a component, never 0
    held: np.ndarray  # (k,): N_c + κ, rows that its mean rests on
    weights: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    shifts: np.ndarray  # (k, d): means - centres


def count_rows(statistics: Statistics) -> np.ndarray:
    """Rows N_c of each component, never 0, (k,)."""
    return statistics.weight + SMALLEST_COUNT * min(1.0, np.add.reduce(statistics.weight))


def shares_of_rows(statistics: Statistics, prior: Hyperparameters) -> np.ndarray:
    """N_c / N with the rows that the prior joins to covariances, (k,): a component's say in what all have in common."""
    counts = count_rows(statistics) + prior.rows
    return counts / counts.sum()


def move(statistics: Statistics, prior: Hyperparameters) -> Moved:
    """New weights and means; the prior has joined the statistics. Without one an empty component keeps its mean."""
    counts = count_rows(statistics)
    shares = counts + prior.concentration
    held = counts + prior.shrinkage
    shifts = statistics.first / held[:, None]
    return Moved(counts, held, shares / shares.sum(), statistics.centres + shifts, shifts)


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


def has_jumped(shifts: np.ndarray, variances: np.ndarray, means: np.ndarray) -> bool:
    """Whether `is_jump` holds for any of them."""
    noise = (8 * _EPS * means) ** 2
    return bool((shifts**2 > _LARGEST_MOVE * np.maximum(variances, 0.0) + noise).any())


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
