"""EEV: a covariance matrix per component, all of the same eigenvalues. Covariances and factors have shape (k, d, d).

What is not here is as `full` has it. Model [λD_kAD_kᵀ] of Celeux and Govaert (1995), "Gaussian parsimonious clustering
models", Pattern Recognition 28, 781-793.
"""

from typing import Any

import numpy as np

from fastgmm.covariance import full
from fastgmm.covariance.prior import Hyperparameters
from fastgmm.covariance.update import Parameters, Update, shares_of_rows, variance_floors
from fastgmm.statistics import Statistics

# What all components have in common, in words.
COMMON = "eigenvalues"


def maximise(statistics: Statistics, prior: Hyperparameters) -> Update:
    """Parameters that maximise the expected log-likelihood and log-prior, the ridge added to the diagonals."""
    found = full.maximise(statistics, prior)
    _, means, own, _ = found.parameters
    if not np.isfinite(own).all():
        return found
    covariances = _share_variances(own, shares_of_rows(statistics, prior))
    factors, failed = full.factorise(covariances, variance_floors(means).min(axis=0))
    return Update(found.parameters._replace(covariances=covariances, factors=factors), failed, found.jumped)


def _share_variances(own: np.ndarray, shares: np.ndarray) -> np.ndarray:
    # S_c = D_c A_c D_cᵀ, Σ_c = D_c (Σ_b N_b A_b / N) D_cᵀ
    variances, axes = np.linalg.eigh(own)
    return (axes * (shares @ variances)) @ axes.swapaxes(1, 2)


def from_vector(vector: np.ndarray, origin: Parameters) -> Parameters:
    """Parameters that have these coordinates about `origin`, but for eigenvalues, which are made the same."""
    point: Parameters = full.from_vector(vector, origin)
    covariances = _share_variances(point.covariances, point.weights)
    return point._replace(covariances=covariances, factors=full.factorise(covariances)[0])


def common(covariances: np.ndarray) -> np.ndarray:
    """What all components have in common, (k, m): rows that are equal. Of precisions as of covariances."""
    return np.linalg.eigvalsh(covariances)


def n_covariance_parameters(k: int, d: int) -> int:
    """Free parameters of the covariances: one volume and shape, k orientations."""
    return d + k * d * (d - 1) // 2


def least_rows(d: int) -> int:
    """Rows that a component needs for a covariance of full rank: others' serve as well."""
    return 0


def __getattr__(name: str) -> Any:
    return getattr(full, name)
