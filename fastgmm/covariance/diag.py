"""Diag: every component has a variance per feature. Covariances and factors have shape (k, d)."""

import math
from typing import Any

import numpy as np

from fastgmm.covariance.prior import Hyperparameters, join
from fastgmm.covariance.update import (
    Parameters,
    Update,
    declare_maximise,
    exp_near,
    is_jump,
    least_and_total,
    maximise_by,
    reciprocal_root,
    share_coordinates,
    shares_from,
    variance_floor,
)
from fastgmm.kernels import centred, expanded, masked
from fastgmm.kernels._jit import FLOATS_2D
from fastgmm.statistics import Statistics

_ROOT_2 = math.sqrt(2.0)
# Whether a covariance is a matrix, which must be symmetric.
MATRICES = False
# Whether all components share one.
SHARED = False
# Whether they do although it is held for each.
REPEATED = False
# What all components have in common, in words.
COMMON = ""
# scikit-learn's name for covariances of this shape.
SHAPE = "diag"


@declare_maximise(FLOATS_2D)
def maximise_kernel(
    centres, weight, first, second, ridge, concentration, shrinkage, rows, weights, means, covariances, factors
):
    k, d = centres.shape
    least, total = least_and_total(weight, concentration)
    failed, jumped = -1, False
    for c in range(k):
        count = weight[c] + least
        weights[c] = (count + concentration) / total
        held = count + shrinkage
        for j in range(d):
            shift = first[c, j] / held
            mean = centres[c, j] + shift
            # σ²_cj = Σ_i r_ic (x_ij - μ_cj)² / N_c = (second_cj - N_c δ_cj²) / N_c, and the prior's rows
            variance = (second[c, j] - held * shift * shift) / (count + rows)
            jumped |= is_jump(shift, variance, mean)
            variance += ridge[j]
            if failed < 0 and not variance_floor(mean) < variance < np.inf:
                failed = c
            means[c, j], covariances[c, j] = mean, variance
            factors[c, j] = reciprocal_root(variance)
    return failed, jumped


def maximise(statistics: Statistics, prior: Hyperparameters) -> Update:
    """Parameters that maximise the expected log-likelihood and log-prior, the ridge added to the variances."""
    return maximise_by(maximise_kernel, join(statistics, prior, scatter), prior)


def form(parameters: Parameters, single: bool = False) -> Any:
    """The kernels' parameters for these: expanded where that is safe, in float32 if the rows are and it suffices."""
    return expanded.diagonal(*parameters, single) or centred_form(parameters)


def centred_form(parameters: Parameters) -> Any:
    """The kernels' parameters that are good for any data and take moments about any centres."""
    return centred.diagonal(parameters.weights, parameters.means, parameters.factors)


def masked_form(parameters: Parameters) -> Any:
    """The kernels' parameters for rows with missing entries, which are NaN."""
    return masked.diagonal(parameters.weights, parameters.means, parameters.factors)


def second_moments(deviations: np.ndarray, responsibilities: np.ndarray) -> np.ndarray:
    """One component's Σ_i r_i (x_i - centre)², feature by feature."""
    return responsibilities @ deviations**2


def scatter(shifts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Second moments of components with one row each, at these shifts (k, d) from the centres and of these weights."""
    return weights[:, None] * shifts**2


def stack(second: list[np.ndarray]) -> np.ndarray:
    """The components' second moments as one array."""
    return np.stack(second)


def prior_rows(degrees_of_freedom: float, shrunk: bool, k: int, d: int) -> float:
    """Rows that an inverse gamma prior joins to each variance, and a prior on its mean (`shrunk`)."""
    return degrees_of_freedom + 2 + shrunk


def log_determinant(factors: np.ndarray, d: int) -> float:
    """Sum of log |F| over the covariances."""
    return float(np.log(factors).sum())


def covariances_shape(k: int, d: int) -> tuple[int, ...]:
    """Shape of covariances, precisions and factors."""
    return (k, d)


def describe(component: int) -> str:
    """How messages call a component's covariance."""
    return f"the covariance of component {component}"


def common(covariances: np.ndarray) -> np.ndarray:
    """What all components have in common, (k, m): nothing that their shape does not say."""
    return np.empty((len(covariances), 0))


def n_covariance_parameters(k: int, d: int) -> int:
    """Free parameters of the covariances."""
    return k * d


def least_rows(d: int) -> int:
    """Rows that a component needs for variances above zero."""
    return 2


def factorise(covariances: np.ndarray, floors: np.ndarray | float = 0.0) -> tuple[np.ndarray, int]:
    """Factors, and the first component with a variance that is not above its floor or -1."""
    bad = ~((covariances > floors) & (covariances < np.inf)).all(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1.0 / np.sqrt(covariances), int(bad.argmax()) if bad.any() else -1


def factors_from_precisions(precisions: np.ndarray) -> np.ndarray:
    """Reciprocal standard deviations."""
    return np.sqrt(precisions)


def precisions(factors: np.ndarray) -> np.ndarray:
    """Inverse variances."""
    return factors**2


def covariances_from_factors(factors: np.ndarray) -> np.ndarray:
    """Variances whose factors these are."""
    return 1.0 / factors**2


def transpose_factors(factors: np.ndarray) -> np.ndarray:
    """Between factors and scikit-learn's `precisions_cholesky_`; here they are the same."""
    return factors.copy()


def ridge_share(factors: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """Share of `ridge` (d,) in each component's variance, along the axis where it is largest, (k,): 1 on the floor."""
    return (factors**2 * ridge).max(axis=1)


def extremes(covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest variance of each component along any axis, (k,) each."""
    return covariances.min(axis=1), covariances.max(axis=1)


def dense(values: np.ndarray, k: int, d: int) -> np.ndarray:
    """Covariances or factors as matrices, (k, d, d)."""
    return values[:, :, None] * np.eye(d)


def from_dense(matrices: np.ndarray) -> np.ndarray:
    """The inverse of `dense`."""
    return np.einsum("cjj->cj", matrices).copy()


def to_vector(parameters: Parameters, origin: Parameters) -> np.ndarray:
    """Coordinates about `origin`, where they are zero; see `share_coordinates`."""
    weights, scale = share_coordinates(parameters.weights, origin.weights)
    shifts = origin.factors * (parameters.means - origin.means)
    widths = _ROOT_2 * np.log(parameters.factors / origin.factors)
    return np.concatenate([weights, (scale[:, None] * np.hstack([shifts, widths])).ravel()])


def from_vector(vector: np.ndarray, origin: Parameters) -> Parameters:
    """Parameters that have these coordinates about `origin`."""
    k = len(origin.weights)
    weights, scale = shares_from(vector[:k], origin.weights)
    shifts, widths = np.hsplit(vector[k:].reshape(k, -1) / scale[:, None], 2)
    factors = origin.factors * exp_near(widths / _ROOT_2)
    return Parameters(weights, origin.means + shifts / origin.factors, covariances_from_factors(factors), factors)
