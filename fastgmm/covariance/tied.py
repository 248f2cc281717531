"""Tied: all components share one covariance matrix. Covariances and factors have shape (d, d)."""

from typing import Any

import numpy as np

from fastgmm.covariance import full
from fastgmm.covariance.prior import Hyperparameters, join
from fastgmm.covariance.update import (
    Parameters,
    Update,
    declare_maximise,
    is_jump,
    least_and_total,
    maximise_by,
    share_coordinates,
    shares_from,
    variance_floor,
)
from fastgmm.kernels import centred, expanded, masked
from fastgmm.kernels._jit import FLOATS_2D
from fastgmm.kernels.linalg import cholesky, invert_lower, subtract_multiple
from fastgmm.kernels.vectors import rest
from fastgmm.statistics import Statistics

# Whether a covariance is a matrix, which must be symmetric.
MATRICES = True
# Whether all components share one.
SHARED = True
# Whether they do although it is held for each.
REPEATED = False
# What all components have in common, in words.
COMMON = ""
# scikit-learn's name for covariances of this shape.
SHAPE = "tied"


@declare_maximise(FLOATS_2D)
def maximise_kernel(
    centres, weight, first, second, ridge, concentration, shrinkage, rows, weights, means, covariance, factor
):
    k, d = centres.shape
    least, total = least_and_total(weight, concentration)
    # Σ = Σ_c Σ_i r_ic (x_i - μ_c)(x_i - μ_c)ᵀ / N = (second - Σ_c N_c δ_c δ_cᵀ) / N, and the prior's rows
    for j in range(d):
        factor[j, j] = np.inf
        for m in range(j + 1):
            covariance[j, m] = second[j, m]
    counts = 0.0
    for c in range(k):
        count = weight[c] + least
        counts += count
        weights[c] = (count + concentration) / total
        held = count + shrinkage
        shift = rest(means, c * d)  # until all of them have been used
        for j in range(d):
            shift[j] = first[c, j] / held
            subtract_multiple(held * shift[j], shift, rest(covariance, j * d), j + 1)
    for j in range(d):
        for m in range(j + 1):
            covariance[j, m] /= counts + rows
            covariance[m, j] = covariance[j, m]
    jumped = False
    for c in range(k):
        for j in range(d):
            shift_j = means[c, j]
            means[c, j] = mean = centres[c, j] + shift_j
            jumped |= is_jump(shift_j, covariance[j, j], mean)
            floor = variance_floor(mean)
            factor[j, j] = floor if floor < factor[j, j] else factor[j, j]
    for j in range(d):
        covariance[j, j] += ridge[j]
    if not cholesky(covariance, factor):
        return 0, jumped
    invert_lower(factor)
    return -1, jumped


def maximise(statistics: Statistics, prior: Hyperparameters) -> Update:
    """Parameters that maximise the expected log-likelihood and log-prior, the ridge added to the diagonal."""
    return maximise_by(maximise_kernel, join(statistics, prior, scatter), prior)


def form(parameters: Parameters, single: bool = False) -> Any:
    """The kernels' parameters for these: expanded where that is safe, in float32 if the rows are and it suffices."""
    return expanded.tied(*parameters, single) or centred_form(parameters)


def centred_form(parameters: Parameters) -> Any:
    """The kernels' parameters that are good for any data and take moments about any centres."""
    return centred.shared_triangular(parameters.weights, parameters.means, parameters.factors)


def masked_form(parameters: Parameters) -> Any:
    """The kernels' parameters for rows with missing entries, which are NaN."""
    factors = dense(parameters.factors, *parameters.means.shape)
    return masked.triangular(parameters.weights, parameters.means, factors, shared=True)


def second_moments(deviations: np.ndarray, responsibilities: np.ndarray) -> np.ndarray:
    """One component's Σ_i r_i (x_i - centre)(x_i - centre)ᵀ."""
    return full.second_moments(deviations, responsibilities)


def scatter(shifts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Second moments of components with one row each, at these shifts (k, d) from the centres and of these weights."""
    return second_moments(shifts, weights)


def stack(second: list[np.ndarray]) -> np.ndarray:
    """The components' second moments as one array."""
    return np.sum(second, axis=0)


def prior_rows(degrees_of_freedom: float, shrunk: bool, k: int, d: int) -> float:
    """Rows that an inverse Wishart prior joins to the covariance, and priors on k means (`shrunk`)."""
    return degrees_of_freedom + d + 1 + k * shrunk


def log_determinant(factors: np.ndarray, d: int) -> float:
    """Log |F|."""
    return float(np.log(np.diag(factors)).sum())


def covariances_shape(k: int, d: int) -> tuple[int, ...]:
    """Shape of covariances, precisions and factors."""
    return (d, d)


def describe(component: int) -> str:
    """How messages call a component's covariance."""
    return "the tied covariance"


def common(covariances: np.ndarray) -> np.ndarray:
    """What all components have in common, (k, m): nothing that their shape does not say."""
    return np.empty((len(covariances), 0))


def n_covariance_parameters(k: int, d: int) -> int:
    """Free parameters of the covariances."""
    return d * (d + 1) // 2


def least_rows(d: int) -> int:
    """Rows that a component needs for a covariance of full rank: others' serve as well."""
    return 0


def factorise(covariances: np.ndarray, floors: np.ndarray | float = 0.0) -> tuple[np.ndarray, int]:
    """Factors, and 0 if the covariance is not positive-definite by more than its floors or else -1."""
    factors, failed = full.factorise(covariances[None], floors)
    return factors[0], failed


def factors_from_precisions(precisions: np.ndarray) -> np.ndarray:
    """Factors F with Fᵀ F = precision, lower triangular."""
    return full.factors_from_precisions(precisions[None])[0]


def precisions(factors: np.ndarray) -> np.ndarray:
    """Inverse covariance."""
    return factors.T @ factors


def covariances_from_factors(factors: np.ndarray) -> np.ndarray:
    """The covariance whose factor this is."""
    return full.covariances_from_factors(factors[None])[0]


def transpose_factors(factors: np.ndarray) -> np.ndarray:
    """Between factors and scikit-learn's `precisions_cholesky_`, which is upper triangular."""
    return factors.T.copy()


def ridge_share(factors: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """Share of `ridge` (d,) in the variance, along the axis where it is largest, (1,): 1 on the floor."""
    return full.ridge_share(factors[None], ridge)


def extremes(covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest variance of all components along any axis, (1,) each."""
    return full.extremes(covariances[None])


def dense(values: np.ndarray, k: int, d: int) -> np.ndarray:
    """Covariances or factors as matrices, (k, d, d)."""
    return np.broadcast_to(values, (k, d, d))


def from_dense(matrices: np.ndarray) -> np.ndarray:
    """The inverse of `dense`."""
    return matrices[0]


def to_vector(parameters: Parameters, origin: Parameters) -> np.ndarray:
    """Coordinates about `origin`, where they are zero; see `share_coordinates`."""
    weights, scale = share_coordinates(parameters.weights, origin.weights)
    shifts = scale[:, None] * ((parameters.means - origin.means) @ origin.factors.T)
    shape = full.factor_coordinates(parameters.factors, origin.factors)
    return np.concatenate([weights, shifts.ravel(), shape.ravel()])


def from_vector(vector: np.ndarray, origin: Parameters) -> Parameters:
    """Parameters that have these coordinates about `origin`."""
    k, d = origin.means.shape
    weights, scale = shares_from(vector[:k], origin.weights)
    shifts = vector[k : k + k * d].reshape(k, d) / scale[:, None]
    means = origin.means + np.linalg.solve(origin.factors, shifts.T).T
    factors = full.factors_at(vector[k + k * d :].reshape(d, d), origin.factors)
    return Parameters(weights, means, covariances_from_factors(factors), factors)
