"""Full: every component has a covariance matrix of its own. Covariances and factors have shape (k, d, d)."""

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
    share_coordinates,
    shares_from,
    variance_floor,
)
from fastgmm.kernels import masked, triangular
from fastgmm.kernels._jit import FLOATS_3D, kernel
from fastgmm.kernels.linalg import cholesky, invert_lower
from fastgmm.kernels.vectors import rest
from fastgmm.statistics import Statistics

_ROOT_2 = math.sqrt(2.0)
# Whether a covariance is a matrix, which must be symmetric.
MATRICES = True
# Whether all components share one.
SHARED = False
# Whether they do although it is held for each.
REPEATED = False
# What all components have in common, in words.
COMMON = ""
# scikit-learn's name for covariances of this shape.
SHAPE = "full"


@kernel(inline=True)
def factorise_all(covariances, factors):
    """Set `factors` from covariances (k, d, d); return the first component that is not positive-definite, or -1.

    On their diagonals `factors` have the floors of the variances.
    """
    for c in range(covariances.shape[0]):
        factor = factors[c]
        if not cholesky(covariances[c], factor):
            return c
        invert_lower(factor)
    return -1


@declare_maximise(FLOATS_3D)
def maximise_kernel(
    centres, weight, first, second, ridge, concentration, shrinkage, rows, weights, means, covariances, factors
):
    k, d = centres.shape
    least, total = least_and_total(weight, concentration)
    jumped = False
    for c in range(k):
        count = weight[c] + least
        weights[c] = (count + concentration) / total
        held = count + shrinkage
        shift = rest(means, c * d)  # until all of them have been used
        for j in range(d):
            shift[j] = first[c, j] / held
            # Σ_c = Σ_i r_ic (x_i - μ_c)(x_i - μ_c)ᵀ / N_c = (second_c - N_c δ_c δ_cᵀ) / N_c, and the prior's rows
            for m in range(j + 1):
                value = (second[c, j, m] - held * shift[j] * shift[m]) / (count + rows)
                covariances[c, j, m] = value
                covariances[c, m, j] = value
        for j in range(d):
            mean = centres[c, j] + shift[j]
            jumped |= is_jump(shift[j], covariances[c, j, j], mean)
            covariances[c, j, j] += ridge[j]
            factors[c, j, j] = variance_floor(mean)
            means[c, j] = mean
    return factorise_all(covariances, factors), jumped


def maximise(statistics: Statistics, prior: Hyperparameters) -> Update:
    """Parameters that maximise the expected log-likelihood and log-prior, the ridge added to the diagonals."""
    return maximise_by(maximise_kernel, join(statistics, prior, scatter), prior)


def form(parameters: Parameters, single: bool = False) -> Any:
    """The kernels' parameters for these: expanded where that is safe, in float32 if the rows are and it suffices."""
    return triangular.triangular(*parameters, single)


def centred_form(parameters: Parameters) -> Any:
    """The kernels' parameters that are good for any data and take moments about any centres."""
    return triangular.centred_triangular(parameters.weights, parameters.means, parameters.factors)


def masked_form(parameters: Parameters) -> Any:
    """The kernels' parameters for rows with missing entries, which are NaN."""
    return masked.triangular(parameters.weights, parameters.means, parameters.factors)


def second_moments(deviations: np.ndarray, responsibilities: np.ndarray) -> np.ndarray:
    """One component's Σ_i r_i (x_i - centre)(x_i - centre)ᵀ."""
    return (deviations.T * responsibilities) @ deviations


def scatter(shifts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Second moments of components with one row each, at these shifts (k, d) from the centres and of these weights."""
    return (weights[:, None] * shifts)[:, :, None] * shifts[:, None, :]


def stack(second: list[np.ndarray]) -> np.ndarray:
    """The components' second moments as one array."""
    return np.stack(second)


def prior_rows(degrees_of_freedom: float, shrunk: bool, k: int, d: int) -> float:
    """Rows that an inverse Wishart prior joins to each covariance, and a prior on its mean (`shrunk`)."""
    return degrees_of_freedom + d + 1 + shrunk


def log_determinant(factors: np.ndarray, d: int) -> float:
    """Sum of log |F| over the covariances."""
    return float(np.log(np.einsum("cjj->cj", factors)).sum())


def covariances_shape(k: int, d: int) -> tuple[int, ...]:
    """Shape of covariances, precisions and factors."""
    return (k, d, d)


def describe(component: int) -> str:
    """How messages call a component's covariance."""
    return f"the covariance of component {component}"


def common(covariances: np.ndarray) -> np.ndarray:
    """What all components have in common, (k, m): nothing that their shape does not say."""
    return np.empty((len(covariances), 0))


def n_covariance_parameters(k: int, d: int) -> int:
    """Free parameters of the covariances."""
    return k * d * (d + 1) // 2


def least_rows(d: int) -> int:
    """Rows that a component needs for a covariance of full rank."""
    return d + 1


def factorise(covariances: np.ndarray, floors: np.ndarray | float = 0.0) -> tuple[np.ndarray, int]:
    """Factors, and the first component that is not positive-definite by more than its floors or -1."""
    factors = np.empty(covariances.shape)
    np.einsum("cjj->cj", factors)[:] = floors
    return factors, factorise_all(covariances, factors)


def factors_from_precisions(precisions: np.ndarray) -> np.ndarray:
    """Factors F with Fᵀ F = precision, lower triangular."""
    # The Cholesky factor of the matrix turned end for end is upper triangular when turned back.
    return np.linalg.cholesky(precisions[:, ::-1, ::-1])[:, ::-1, ::-1].swapaxes(1, 2).copy()


def precisions(factors: np.ndarray) -> np.ndarray:
    """Inverse covariances."""
    return factors.swapaxes(1, 2) @ factors


def covariances_from_factors(factors: np.ndarray) -> np.ndarray:
    """Covariances whose factors these are."""
    lower = np.linalg.inv(factors)
    return lower @ lower.swapaxes(1, 2)


def transpose_factors(factors: np.ndarray) -> np.ndarray:
    """Between factors and scikit-learn's `precisions_cholesky_`, which is upper triangular."""
    return factors.swapaxes(1, 2).copy()


def ridge_share(factors: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    """Share of `ridge` (d,) in each component's variance, along the axis where it is largest, (k,): 1 on the floor."""
    # |F diag(√ridge)|² in the spectral norm; Frobenius' is cheap, no less, and mostly says enough.
    scaled = factors * np.sqrt(ridge)
    bounds = (scaled**2).sum(axis=(1, 2))
    return bounds if bounds.max() < 0.5 else np.linalg.norm(scaled, 2, axis=(1, 2)) ** 2


def extremes(covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest variance of each component along any axis, (k,) each."""
    variances = np.linalg.eigvalsh(covariances)
    return variances[:, 0], variances[:, -1]


def dense(values: np.ndarray, k: int, d: int) -> np.ndarray:
    """Covariances or factors as matrices, (k, d, d)."""
    return values


def from_dense(matrices: np.ndarray) -> np.ndarray:
    """The inverse of `dense`."""
    return matrices


def to_vector(parameters: Parameters, origin: Parameters) -> np.ndarray:
    """Coordinates about `origin`, where they are zero; see `share_coordinates`."""
    weights, scale = share_coordinates(parameters.weights, origin.weights)
    shifts = origin.factors @ (parameters.means - origin.means)[:, :, None]
    shapes = factor_coordinates(parameters.factors, origin.factors)
    return np.concatenate([weights, (scale[:, None, None] * np.concatenate([shifts, shapes], axis=2)).ravel()])


def from_vector(vector: np.ndarray, origin: Parameters) -> Parameters:
    """Parameters that have these coordinates about `origin`."""
    k, d = origin.means.shape
    weights, scale = shares_from(vector[:k], origin.weights)
    shifts, shapes = np.split(vector[k:].reshape(k, d, d + 1) / scale[:, None, None], [1], axis=2)
    means = origin.means + np.linalg.solve(origin.factors, shifts)[:, :, 0]
    factors = factors_at(shapes, origin.factors)
    return Parameters(weights, means, covariances_from_factors(factors), factors)


def factor_coordinates(factors: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Coordinates of factors F = E F₀ about F₀: E_ij below the diagonal and √2 log E_jj on it; all (..., d, d)."""
    shapes = np.tril(factors @ np.linalg.inv(origin))
    diagonals = np.einsum("...jj->...j", shapes)
    diagonals[:] = _ROOT_2 * np.log(diagonals)
    return shapes


def factors_at(coordinates: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Factors that have these coordinates about F₀."""
    shapes = np.tril(coordinates)
    diagonals = np.einsum("...jj->...j", shapes)
    diagonals[:] = exp_near(diagonals / _ROOT_2)
    return shapes @ origin
