"""What every structure's `maximise` shares: new weights and means, and when moments must be taken again."""

from typing import NamedTuple

import numpy as np

from fastgmm.statistics import Statistics

# A mean that moved by δ costs the digits of δ² / variance when the moments are shifted; beyond this they are retaken.
_LARGEST_MOVE = 1e4
_EPS = float(np.finfo(np.float64).eps)


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
    """Weights and means that maximise the expected log-likelihood."""

    counts: np.ndarray  # (k,): rows per component, never 0
    weights: np.ndarray  # (k,)
    means: np.ndarray  # (k, d)
    shifts: np.ndarray  # (k, d): means - centres


def move(statistics: Statistics) -> Moved:
    """New weights and means. An empty component keeps its mean."""
    counts = statistics.weight + 10 * _EPS
    shifts = statistics.first / counts[:, None]
    return Moved(counts, counts / counts.sum(), statistics.centres + shifts, shifts)


def variance_floors(means: np.ndarray) -> np.ndarray:
    """The variance that rounding alone gives a feature at the mean's distance from zero; anything below is zero."""
    return (_EPS * means) ** 2


def has_jumped(shifts: np.ndarray, variances: np.ndarray, means: np.ndarray) -> bool:
    """Whether any mean moved by so many of its new standard deviations that digits were lost."""
    noise = (8 * _EPS * means) ** 2
    return bool((shifts**2 > _LARGEST_MOVE * np.maximum(variances, 0.0) + noise).any())
