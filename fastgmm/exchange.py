"""Between our parameters and scikit-learn's fitted attributes, and from our estimator to scikit-learn's."""

import contextlib
import copy
from typing import Any

import numpy as np
from sklearn.utils._param_validation import InvalidParameterError, validate_parameter_constraints

from fastgmm.covariance import STRUCTURES, Parameters
from fastgmm.covariance.update import suits_single
from fastgmm.em.report import feature_variances

# What scikit-learn's fitted estimator has.
_FITTED = (
    *("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"),
    *("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "n_features_in_", "feature_names_in_"),
)


def fitted_arrays(parameters: Parameters, covariance_type: str, dtype: Any) -> dict[str, np.ndarray]:
    """The arrays that scikit-learn's fitted estimator has, float32 only where that has the range and the digits."""
    structure = STRUCTURES[covariance_type]
    weights, means, covariances, factors = (np.asarray(part) for part in parameters)
    precisions = structure.precisions(factors)
    if dtype == np.float32:
        inverses = feature_variances(parameters._replace(covariances=precisions), structure)
        if not suits_single(means, feature_variances(parameters, structure), inverses):
            dtype = np.float64
    arrays = {
        "weights_": weights,
        "means_": means,
        "covariances_": covariances,
        "precisions_cholesky_": structure.transpose_factors(factors),
        "precisions_": precisions,
    }
    return {name: values.astype(dtype) for name, values in arrays.items()}


def fitted_parameters(
    weights: np.ndarray,
    means: np.ndarray,
    covariances: np.ndarray,
    precisions_cholesky: np.ndarray,
    covariance_type: str,
) -> Parameters:
    """The engine's parameters from such arrays."""
    factors = STRUCTURES[covariance_type].transpose_factors(np.asarray(precisions_cholesky))
    return Parameters(
        *(np.ascontiguousarray(part, dtype=np.float64) for part in (weights, means, covariances, factors))
    )


def to_sklearn(fitted: Any) -> Any:
    """scikit-learn's estimator with copies of what a fitted one of ours has that it has too."""
    from sklearn.mixture import GaussianMixture

    theirs = GaussianMixture()
    ours = fitted.get_params(deep=False) | {"covariance_type": STRUCTURES[fitted.covariance_type].SHAPE}
    for name in theirs.get_params(deep=False):
        with contextlib.suppress(InvalidParameterError):
            validate_parameter_constraints(theirs._parameter_constraints, {name: ours[name]}, "GaussianMixture")
            setattr(theirs, name, ours[name])
    for name in _FITTED:
        if hasattr(fitted, name):
            setattr(theirs, name, copy.copy(getattr(fitted, name)))
    return theirs
