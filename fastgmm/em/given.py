"""Starts that are given: labels, responsibilities or means; or some of the parameters themselves."""

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_array

from fastgmm.covariance import STRUCTURES, Hyperparameters, Parameters, Update
from fastgmm.em.initialise import start_at_means, start_from_labels, start_from_responsibilities
from fastgmm.sources import ArrayRows

_SUM_TOLERANCE = 1e-6
_COMMON_TOLERANCE = 1e-5  # relative, of what a start's components have in common


class Inits(NamedTuple):
    """Parameters to start with, each None where it is to be found; `precisions` in the shape of the covariances."""

    weights: Any
    means: Any
    precisions: Any

    @classmethod
    def of(cls, settings: Any) -> "Inits":
        """Those of an estimator."""
        return cls(settings.weights_init, settings.means_init, settings.precisions_init)


def check_inits(given: Inits, covariance_type: str, k: int, d: int) -> None:
    """Refuse what cannot be parameters of k components in d features; in scikit-learn's words, where it has them.

    Raises
    ------
    ValueError
        If a shape disagrees, weights are not in [0, 1] or do not sum to 1, or precisions are not symmetric
        positive-definite or differ in what the structure makes all components share.
    """
    if given.weights is not None:
        _check_weights(given.weights, k)
    if given.means is not None:
        _check_init(given.means, (k, d), "means")
    if given.precisions is not None:
        structure, name = STRUCTURES[covariance_type], f"{covariance_type} precision"
        precisions = _check_init(given.precisions, structure.covariances_shape(k, d), name)
        _check_precisions(precisions, name, matrices=structure.MATRICES)
        _check_common(precisions, name, structure)


def override(found: Update, given: Inits, structure: ModuleType) -> Update:
    """Replace what was found by what is given, and was checked."""
    weights, means, covariances, factors = found.parameters
    failed = found.failed
    if given.weights is not None:
        weights = np.array(given.weights, dtype=np.float64)
    if given.means is not None:
        means = np.array(given.means, dtype=np.float64)
    if given.precisions is not None:
        factors = structure.factors_from_precisions(np.asarray(given.precisions, dtype=np.float64))
        covariances = structure.covariances_from_factors(factors)
        failed = -1
    return Update(Parameters(weights, means, covariances, factors), failed, False)


def start_from_given(
    values: Any,
    kept: np.ndarray,
    source: ArrayRows,
    k: int,
    structure: ModuleType,
    prior: Hyperparameters,
    *,
    returned: bool,
) -> Update:
    """Start from labels (n,), responsibilities (n, k) or, of what a function `returned`, means (k, d).

    Parameters
    ----------
    values : array-like
        An array that could be responsibilities or means is responsibilities.
    kept : ndarray of bool, shape (n,)
        Which rows count: those of the source.

    Raises
    ------
    ValueError
        If `values` has another shape or type, is not finite, names components that are not there, has responsibilities
        that are negative or do not sum to 1, or leaves a component without a row.
    """
    name = "what init_params returned" if returned else "init_params"
    array, n, d = np.asarray(values), len(kept), source.n_features
    if array.shape not in ((n,), (n, k), (k, d) if returned else (n,)):
        shapes = f"labels of shape ({n},) or responsibilities of shape ({n}, {k})"
        more = f", or means of shape ({k}, {d})" if returned else "; starting means go into means_init"
        raise ValueError(f"{_capital(name)} should be {shapes}{more}, but has shape {array.shape}.")
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise ValueError(f"{_capital(name)} should be finite numbers, but holds {array.dtype} values that are not.")
    array = array.astype(np.float64)
    if array.shape == (n,):
        return start_from_labels(source, _check_labels(array, kept, k, name), k, structure, prior)
    if array.shape == (n, k):
        shares = _check_responsibilities(array, kept, name)
        return start_from_responsibilities(source, lambda start, stop: shares[start:stop], k, structure, prior)
    return start_at_means(source, array, structure, prior)


def _check_labels(labels: np.ndarray, kept: np.ndarray, k: int, name: str) -> np.ndarray:
    wrong = np.flatnonzero((labels < 0) | (labels >= k) | (labels % 1 != 0))
    if wrong.size:
        raise ValueError(
            f"Labels in {name} should be whole numbers from 0 to {k - 1}, but row {wrong[0]} has {labels[wrong[0]]:g}."
        )
    labels = labels.astype(np.int64)[kept]
    _check_used(np.bincount(labels, minlength=k), name)
    return labels


def _check_responsibilities(shares: np.ndarray, kept: np.ndarray, name: str) -> np.ndarray:
    sums = shares.sum(axis=1)
    wrong = np.flatnonzero((shares < 0).any(axis=1) | (np.abs(sums - 1.0) > _SUM_TOLERANCE))
    if wrong.size:
        row = wrong[0]
        raise ValueError(
            f"Responsibilities in {name} should not be negative and sum to 1 in each row, but row {row} has "
            f"{np.array2string(shares[row], threshold=6)}, which sums to {sums[row]:g}."
        )
    shares = shares[kept]
    _check_used(shares.sum(axis=0), name)
    return shares


def _check_used(totals: np.ndarray, name: str) -> None:
    unused = np.flatnonzero(totals == 0)
    if unused.size:
        raise ValueError(
            f"{_capital(name)} leaves component {unused[0]} without a row that counts, from which it would never "
            "recover."
        )


def _capital(text: str) -> str:
    """Begin a sentence with this; names of parameters stay as they are."""
    return text[0].upper() + text[1:] if " " in text else text


def _check_init(values: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = check_array(
        values, dtype=[np.float64, np.float32], ensure_2d=False, allow_nd=True, input_name=name, ensure_min_samples=0
    )
    if array.shape != shape:
        raise ValueError(f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}")
    return np.asarray(array)


def _check_weights(values: Any, k: int) -> np.ndarray:
    weights = _check_init(values, (k,), "weights")
    if (weights < 0.0).any() or (weights > 1.0).any():
        # The two labels are the other way round in scikit-learn's message, and its tests pin it so.
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{weights.min():.5f}, min value {weights.max():.5f}"
        )
    tolerance = 1e-6 if weights.dtype == np.float32 else 1e-8
    if abs(1.0 - float(weights.sum())) > tolerance:
        raise ValueError(f"The parameter 'weights' should be normalized, but got sum(weights) = {weights.sum():.5f}")
    return weights


def _check_precisions(precisions: np.ndarray, name: str, *, matrices: bool) -> None:
    if not matrices:
        if (precisions <= 0.0).any():
            raise ValueError(f"'{name}' should be positive")
        return
    for matrix in precisions.reshape(-1, *precisions.shape[-2:]):
        if not (np.allclose(matrix, matrix.T) and (np.linalg.eigvalsh(matrix) > 0.0).all()):
            raise ValueError(f"'{name}' should be symmetric, positive-definite")


def _check_common(precisions: np.ndarray, name: str, structure: ModuleType) -> None:
    common = structure.common(precisions)
    apart = (np.abs(common - common[:1]) > _COMMON_TOLERANCE * common[:1]).any(axis=1)
    if apart.any():
        raise ValueError(
            f"'{name}' should have the same {structure.COMMON} in all components, but component {apart.argmax()} "
            "differs from component 0"
        )
