"""What joins the statistics when they are maximised: a conjugate prior, or what is added to variances.

Fraley and Raftery (2007), "Bayesian regularization for normal mixture estimation and model-based clustering", Journal
of Classification 24, 155-181. A conjugate prior acts as rows that were not seen: κ of them at a mean m for each
component, and more whose second moments about it are Λ.
"""

from typing import NamedTuple

import numpy as np


class Hyperparameters(NamedTuple):
    """A prior and a regularisation in numbers, for one structure; see `flat` for having no prior."""

    ridge: np.ndarray  # (d,): added to the variances
    concentration: float  # α - 1, rows that join every component's weight
    shrinkage: float  # κ, rows that join every component's mean
    mean: np.ndarray  # (d,): m, where those lie
    rows: float  # ν and what the structure adds: rows that divide every covariance beside its own
    scale: np.ndarray  # Λ in the structure's shape for one component: their second moments


def flat(reg_covar: float, features: int) -> Hyperparameters:
    """No prior, and `reg_covar` added to all variances."""
    return Hyperparameters(np.full(features, float(reg_covar)), 0.0, 0.0, np.empty(0), 0.0, np.empty(0))
