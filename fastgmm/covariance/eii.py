"""EII: all components share one variance. Covariances and factors have shape (k,), their entries equal.

What is not here is as `spherical` has it. Model [λI] of Celeux and Govaert (1995), "Gaussian parsimonious clustering
models", Pattern Recognition 28, 781-793.
"""

from typing import Any

import numpy as np

from fastgmm.covariance import spherical
from fastgmm.covariance.prior import Hyperparameters
from fastgmm.covariance.update import Update, shares_of_rows, variance_floors
from fastgmm.statistics import Statistics

# Whether all components share one covariance although it is held for each.
REPEATED = True
# What all components have in common, in words.
COMMON = "variance"


def maximise(statistics: Statistics, prior: Hyperparameters) -> Update:
    """Parameters that maximise the expected log-likelihood and log-prior, the ridge added to the variance."""
    found = spherical.maximise(statistics, prior)
    _, means, variances, _ = found.parameters
    # σ² = Σ_c N_c σ²_c / N
    covariances = np.full_like(variances, shares_of_rows(statistics, prior) @ variances)
    factors, failed = spherical.factorise(covariances, variance_floors(means).min())
    return Update(found.parameters._replace(covariances=covariances, factors=factors), failed, found.jumped)


def prior_rows(degrees_of_freedom: float, shrunk: bool, k: int, d: int) -> float:
    """Rows of d features that an inverse gamma prior joins to each of k, and a prior on its mean (`shrunk`)."""
    return (degrees_of_freedom + 2) / (d * k) + shrunk


def common(covariances: np.ndarray) -> np.ndarray:
    """What all components have in common, (k, m): rows that are equal. Of precisions as of covariances."""
    return covariances[:, None]


def n_covariance_parameters(k: int, d: int) -> int:
    """Free parameters of the covariances."""
    return 1


def least_rows(d: int) -> int:
    """Rows that a component needs for a variance above zero: others' serve as well."""
    return 0


def __getattr__(name: str) -> Any:
    return getattr(spherical, name)
