"""EVI: a variance per feature, whose product is the same for all components. Shapes are (k, d).

What is not here is as `diag` has it. Model [λB_k] of Celeux and Govaert (1995), "Gaussian parsimonious clustering
models", Pattern Recognition 28, 781-793.
"""

from typing import Any

import numpy as np

from fastgmm.covariance import diag
from fastgmm.covariance.prior import Hyperparameters
from fastgmm.covariance.update import Update, share_volume, shares_of_rows
from fastgmm.statistics import Statistics

# What all components have in common, in words.
COMMON = "product of variances"


def maximise(statistics: Statistics, prior: Hyperparameters) -> Update:
    """Parameters that maximise the expected log-likelihood and log-prior, the ridge added before volumes are shared."""
    found = diag.maximise(statistics, prior)
    if found.failed >= 0:
        return found
    return share_volume(found, shares_of_rows(statistics, prior), -2.0 * np.log(found.parameters.factors).mean(axis=1))


def common(covariances: np.ndarray) -> np.ndarray:
    """What all components have in common, (k, m): rows that are equal. Of precisions as of covariances."""
    return np.exp(np.log(covariances).mean(axis=1, keepdims=True))


def n_covariance_parameters(k: int, d: int) -> int:
    """Free parameters of the covariances: one volume and k shapes."""
    return 1 + k * (d - 1)


def __getattr__(name: str) -> Any:
    return getattr(diag, name)
