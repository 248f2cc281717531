"""What a user says a mixture's parameters are, checked."""

import math
from typing import Any

import numpy as np

from fastgmm.covariance import STRUCTURES, Parameters

_WEIGHT_TOLERANCE = 1e-8


def check_parameters(weights: Any, means: Any, covariances: Any, covariance_type: str) -> Parameters:
    """Parameters as float64, with their factors.

    Raises
    ------
    ValueError
        If shapes disagree, weights are negative or do not sum to 1, or a covariance is not symmetric
        positive-definite; the message names the component.
    """
    if covariance_type not in STRUCTURES:
        raise ValueError(f"covariance_type must be one of {', '.join(STRUCTURES)}, but got {covariance_type!r}.")
    weights = _check_weights(real_array(weights, "weights"))
    means = _check_means(real_array(means, "means"), weights.shape[0])
    covariances = real_array(covariances, "covariances")
    _check_covariances(covariances, covariance_type, *means.shape)
    factors, failed = STRUCTURES[covariance_type].factorise(covariances)
    if failed >= 0:
        raise ValueError(
            f"Not positive-definite is {STRUCTURES[covariance_type].describe(failed)}: "
            f"{_why_not_positive(covariances, covariance_type, failed)}."
        )
    return Parameters(weights, means, covariances, factors)


def real_array(values: Any, name: str) -> np.ndarray:
    """An array of finite float64, or an error that says where it is not."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of real numbers: {error}") from None
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, but {name}[{', '.join(map(str, where))}] is {array[where]}.")
    return array


def _check_weights(weights: np.ndarray) -> np.ndarray:
    if weights.ndim != 1 or weights.size == 0:
        raise ValueError(f"weights must have shape (k,) with k at least 1, but got {weights.shape}.")
    if (weights < 0).any():
        c = int(weights.argmin())
        raise ValueError(f"weights must not be negative, but component {c} has weight {weights[c]:g}.")
    total = math.fsum(weights)
    if abs(total - 1.0) > _WEIGHT_TOLERANCE:
        raise ValueError(f"weights must sum to 1, but sum to {total:.10g}; divide them by their sum.")
    return weights


def _check_means(means: np.ndarray, k: int) -> np.ndarray:
    if means.ndim != 2 or means.shape[0] != k or means.shape[1] == 0:
        raise ValueError(f"means must have shape (k, d) with k = {k} as in weights, but got {means.shape}.")
    return means


def _check_covariances(covariances: np.ndarray, covariance_type: str, k: int, d: int) -> None:
    expected = STRUCTURES[covariance_type].covariances_shape(k, d)
    if covariances.shape != expected:
        raise ValueError(
            f"{covariance_type} covariances of {k} components in {d} features have shape {expected}, "
            f"but got {covariances.shape}."
        )
    if STRUCTURES[covariance_type].MATRICES:
        _check_symmetric(covariances, covariance_type)


def _check_symmetric(covariances: np.ndarray, covariance_type: str) -> None:
    matrices = covariances if covariances.ndim == 3 else covariances[None]
    for c, matrix in enumerate(matrices):
        largest = np.abs(matrix).max()
        if (np.abs(matrix - matrix.T) > 1e-8 * largest).any():
            i, j = (int(a) for a in np.unravel_index(np.abs(matrix - matrix.T).argmax(), matrix.shape))
            raise ValueError(
                f"Not symmetric is {STRUCTURES[covariance_type].describe(c)}: "
                f"[{i}, {j}] is {matrix[i, j]:g} and [{j}, {i}] is {matrix[j, i]:g}."
            )


def _why_not_positive(covariances: np.ndarray, covariance_type: str, component: int) -> str:
    if STRUCTURES[covariance_type].MATRICES:
        matrix = covariances.reshape(-1, *covariances.shape[-2:])[component]
        return f"its smallest eigenvalue is {np.linalg.eigvalsh(matrix)[0]:.3g}"
    return f"its smallest variance is {np.min(covariances[component]):.3g}"
