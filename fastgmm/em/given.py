"""Starts that are given: labels, responsibilities or means."""

from types import ModuleType
from typing import Any

import numpy as np

from fastgmm.covariance import Hyperparameters, Update
from fastgmm.em.initialise import start_at_means, start_from_labels, start_from_responsibilities
from fastgmm.sources import ArrayRows

_SUM_TOLERANCE = 1e-6


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
