"""Full: every component has a covariance matrix of its own. Covariances and factors have shape (k, d, d)."""

from typing import Any

import numpy as np

from fastgmm.covariance.update import Parameters, Update, has_jumped, move, variance_floors
from fastgmm.kernels import centred, expanded
from fastgmm.kernels._jit import kernel
from fastgmm.kernels.linalg import cholesky, invert_lower
from fastgmm.statistics import Statistics

# Whether a covariance is a matrix, which must be symmetric.
MATRICES = True
# Whether all components share one.
SHARED = False


@kernel
def _maximise(second, counts, shifts, floors, reg_covar, covariances, factors):
    # Σ_c = Σ_i r_ic (x_i - μ_c)(x_i - μ_c)ᵀ / N_c = second_c / N_c - δ_c δ_cᵀ
    k, d = shifts.shape
    for c in range(k):
        for j in range(d):
            for m in range(j + 1):
                value = second[c, j, m] / counts[c] - shifts[c, j] * shifts[c, m]
                covariances[c, j, m] = value
                covariances[c, m, j] = value
            covariances[c, j, j] += reg_covar
    return factorise_all(covariances, floors, factors)


@kernel
def factorise_all(covariances, floors, factors):
    """Set `factors` from covariances (k, d, d); return the first component that is not positive-definite, or -1."""
    lower = np.empty(covariances.shape[1:])
    for c in range(covariances.shape[0]):
        if not cholesky(covariances[c], floors[c], lower):
            return c
        invert_lower(lower, factors[c])
    return -1


def maximise(statistics: Statistics, reg_covar: float) -> Update:
    """Parameters that maximise the expected log-likelihood, `reg_covar` added to the diagonals."""
    moved = move(statistics)
    second = np.ascontiguousarray(statistics.second)  # one type for the kernel, padded or not
    covariances = np.empty_like(second)
    factors = np.empty_like(covariances)
    floors = variance_floors(moved.means)
    failed = _maximise(second, moved.counts, moved.shifts, floors, reg_covar, covariances, factors)
    variances = np.einsum("cjj->cj", covariances) - reg_covar
    jumped = has_jumped(moved.shifts, variances, moved.means)
    return Update(Parameters(moved.weights, moved.means, covariances, factors), failed, jumped)


def form(parameters: Parameters, single: bool = False) -> Any:
    """The kernels' parameters for these: expanded where that is safe, in float32 if the rows are and it suffices."""
    return expanded.full(*parameters, single) or centred_form(parameters)


def centred_form(parameters: Parameters) -> Any:
    """The kernels' parameters that are good for any data and take moments about any centres."""
    return centred.triangular(parameters.weights, parameters.means, parameters.factors)


def second_moments(deviations: np.ndarray, responsibilities: np.ndarray) -> np.ndarray:
    """One component's Σ_i r_i (x_i - centre)(x_i - centre)ᵀ."""
    return (deviations.T * responsibilities) @ deviations


def stack(second: list[np.ndarray]) -> np.ndarray:
    """The components' second moments as one array."""
    return np.stack(second)


def covariances_shape(k: int, d: int) -> tuple[int, ...]:
    """Shape of covariances, precisions and factors."""
    return (k, d, d)


def describe(component: int) -> str:
    """How messages call a component's covariance."""
    return f"the covariance of component {component}"


def n_covariance_parameters(k: int, d: int) -> int:
    """Free parameters of the covariances."""
    return k * d * (d + 1) // 2


def factorise(covariances: np.ndarray) -> tuple[np.ndarray, int]:
    """Factors, and the first component that is not positive-definite or -1."""
    factors = np.empty_like(covariances)
    return factors, factorise_all(covariances, np.zeros(covariances.shape[:2]), factors)


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


def dense(values: np.ndarray, k: int, d: int) -> np.ndarray:
    """Covariances or factors as matrices, (k, d, d)."""
    return values
