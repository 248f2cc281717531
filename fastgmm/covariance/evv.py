"""EVV: a covariance matrix per component, all of one determinant. Covariances and factors have shape (k, d, d).

What is not here is as `full` has it. Model [λC_k] of Celeux and Govaert (1995), "Gaussian parsimonious clustering
models", Pattern Recognition 28, 781-793.
"""

from typing import Any

import numpy as np

from fastgmm.covariance import full
from fastgmm.covariance.prior import Hyperparameters
from fastgmm.covariance.update import Update, share_volume, shares_of_rows
from fastgmm.statistics import Statistics

# What all components have in common, in words.
COMMON = "determinant"


def maximise(statistics: Statistics, prior: Hyperparameters) -> Update:
    """Parameters that maximise the expected log-likelihood and log-prior, the ridge added before volumes are shared."""
    found = full.maximise(statistics, prior)
    if found.failed >= 0:
        return found
    log_volumes = -2.0 * np.log(np.einsum("cjj->cj", found.parameters.factors)).mean(axis=1)
    return share_volume(found, shares_of_rows(statistics, prior), log_volumes)


def common(covariances: np.ndarray) -> np.ndarray:
    """What all components have in common, (k, m): rows that are equal. Of precisions as of covariances."""
    return np.exp(np.linalg.slogdet(covariances)[1] / covariances.shape[1])[:, None]


def n_covariance_parameters(k: int, d: int) -> int:
    """Free parameters of the covariances: one volume, k shapes and orientations."""
    return k * d * (d + 1) // 2 - (k - 1)


def __getattr__(name: str) -> Any:
    return getattr(full, name)
