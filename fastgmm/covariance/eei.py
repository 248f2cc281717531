"""EEI: all components share a variance per feature. Covariances and factors have shape (k, d), their rows equal.

What is not here is as `diag` has it. Model [λB] of Celeux and Govaert (1995), "Gaussian parsimonious clustering
models", Pattern Recognition 28, 781-793.
"""

from typing import Any

import numpy as np

from fastgmm.covariance import diag
from fastgmm.covariance.prior import Hyperparameters
from fastgmm.covariance.update import Update, shares_of_rows, variance_floors
from fastgmm.statistics import Statistics

# Whether all components share one covariance although it is held for each.
REPEATED = True
# What all components have in common, in words.
COMMON = "variances"


def maximise(statistics: Statistics, prior: Hyperparameters) -> Update:
    """Parameters that maximise the expected log-likelihood and log-prior, the ridge added to the variances."""
    found = diag.maximise(statistics, prior)
    _, means, variances, _ = found.parameters
    # σ²_j = Σ_c N_c σ²_cj / N
    covariances = np.broadcast_to(shares_of_rows(statistics, prior) @ variances, variances.shape).copy()
    factors, failed = diag.factorise(covariances, variance_floors(means).min(axis=0))
    return Update(found.parameters._replace(covariances=covariances, factors=factors), failed, found.jumped)


def prior_rows(degrees_of_freedom: float, shrunk: bool, k: int, d: int) -> float:
    """Rows that an inverse gamma prior joins to each of k, and a prior on its mean (`shrunk`)."""
    return (degrees_of_freedom + 2) / k + shrunk


def common(covariances: np.ndarray) -> np.ndarray:
    """What all components have in common, (k, m): rows that are equal. Of precisions as of covariances."""
    return covariances


def n_covariance_parameters(k: int, d: int) -> int:
    """Free parameters of the covariances."""
    return d


def least_rows(d: int) -> int:
    """Rows that a component needs for variances above zero: others' serve as well."""
    return 0


def __getattr__(name: str) -> Any:
    return getattr(diag, name)
