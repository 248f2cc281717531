"""Spherical: every component has one variance. Covariances and factors have shape (k,)."""

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
from fastgmm.kernels._jit import FLOATS_1D
from fastgmm.statistics import Statistics

# Whether a covariance is a matrix, which must be symmetric.
MATRICES = False
# Whether all components share one.
SHARED = False
# Whether they do although it is held for each.
REPEATED = False
# What all components have in common, in words.
COMMON = ""
# scikit-learn's name for covariances of this shape.
SHAPE = "spherical"


@declare_maximise(FLOATS_1D)
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
        squares = floors = 0.0
        for j in range(d):
            shift = first[c, j] / held
            means[c, j] = centres[c, j] + shift
            squares += shift * shift
            floors += variance_floor(means[c, j])
        # σ²_c = Σ_i r_ic |x_i - μ_c|² / (d N_c) = (second_c - N_c |δ_c|²) / (d N_c), and the prior's rows
        variance = (second[c] - held * squares) / (d * (count + rows))
        for j in range(d):
            jumped |= is_jump(first[c, j] / held, variance, means[c, j])
        covariances[c] = variance + ridge[0]  # of all features alike
        if failed < 0 and not floors / d < covariances[c] < np.inf:
            failed = c
        factors[c] = reciprocal_root(covariances[c])
    return failed, jumped


def maximise(statistics: Statistics, prior: Hyperparameters) -> Update:
    """Parameters that maximise the expected log-likelihood and log-prior, the ridge added to the variances."""
    return maximise_by(maximise_kernel, join(statistics, prior, scatter), prior)


def form(parameters: Parameters, single: bool = False) -> Any:
    """The kernels' parameters for these: expanded where that is safe, in float32 if the rows are and it suffices."""
    return expanded.isotropic(*parameters, single) or centred_form(parameters)


def centred_form(parameters: Parameters) -> Any:
    """The kernels' parameters that are good for any data and take moments about any centres."""
    return centred.isotropic(parameters.weights, parameters.means, parameters.factors)


def masked_form(parameters: Parameters) -> Any:
    """The kernels' parameters for rows with missing entries, which are NaN."""
    scales = np.repeat(parameters.factors[:, None], parameters.means.shape[1], axis=1)
    return masked.diagonal(parameters.weights, parameters.means, scales, summed=True)


def second_moments(deviations: np.ndarray, responsibilities: np.ndarray) -> np.ndarray:
    """One component's Σ_i r_i |x_i - centre|²."""
    return responsibilities @ (deviations**2).sum(1)


def scatter(shifts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Second moments of components with one row each, at these shifts (k, d) from the centres and of these weights."""
    return weights * (shifts**2).sum(axis=1)


def stack(second: list[np.ndarray]) -> np.ndarray:
    """The components' second moments as one array."""
    return np.stack(second)


def prior_rows(degrees_of_freedom: float, shrunk: bool, k: int, d: int) -> float:
    """Rows of d features that an inverse gamma prior joins to each variance, and a prior on its mean (`shrunk`)."""
    return (degrees_of_freedom + 2) / d + shrunk


def log_determinant(factors: np.ndarray, d: int) -> float:
    """Sum of log |F| over the covariances."""
    return float(d * np.log(factors).sum())


def covariances_shape(k: int, d: int) -> tuple[int, ...]:
    """Shape of covariances, precisions and factors."""
    return (k,)


def describe(component: int) -> str:
    """How messages call a component's covariance."""
    return f"the covariance of component {component}"


def common(covariances: np.ndarray) -> np.ndarray:
    """What all components have in common, (k, m): nothing that their shape does not say."""
    return np.empty((len(covariances), 0))


def n_covariance_parameters(k: int, d: int) -> int:
    """Free parameters of the covariances."""
    return k


def least_rows(d: int) -> int:
    """Rows that a component needs for a variance above zero."""
    return 2


def factorise(covariances: np.ndarray, floors: np.ndarray | float = 0.0) -> tuple[np.ndarray, int]:
    """Factors, and the first component whose variance is not above its floor or -1."""
    bad = ~((covariances > floors) & (covariances < np.inf))
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
    return factors**2 * ridge.mean()


def extremes(covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest variance of each component along any axis, (k,) each."""
    return covariances, covariances


def dense(values: np.ndarray, k: int, d: int) -> np.ndarray:
    """Covariances or factors as matrices, (k, d, d)."""
    return values[:, None, None] * np.eye(d)


def from_dense(matrices: np.ndarray) -> np.ndarray:
    """The inverse of `dense`."""
    return matrices[:, 0, 0].copy()


def to_vector(parameters: Parameters, origin: Parameters) -> np.ndarray:
    """Coordinates about `origin`, where they are zero; see `share_coordinates`."""
    weights, scale = share_coordinates(parameters.weights, origin.weights)
    shifts = origin.factors[:, None] * (parameters.means - origin.means)
    widths = math.sqrt(2 * shifts.shape[1]) * np.log(parameters.factors / origin.factors)
    return np.concatenate([weights, (scale[:, None] * shifts).ravel(), scale * widths])


def from_vector(vector: np.ndarray, origin: Parameters) -> Parameters:
    """Parameters that have these coordinates about `origin`."""
    k, d = origin.means.shape
    weights, scale = shares_from(vector[:k], origin.weights)
    shifts = vector[k:-k].reshape(k, d) / scale[:, None]
    factors = origin.factors * exp_near(vector[-k:] / scale / math.sqrt(2 * d))
    means = origin.means + shifts / origin.factors[:, None]
    return Parameters(weights, means, covariances_from_factors(factors), factors)
