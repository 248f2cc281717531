"""What pictures are given, checked."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgmm.data import check_points
from fastgmm.mixture import Mixture
from fastgmm.mixture.conditional import check_dims


def check_mixture(mixture: Any) -> None:
    """Refuse what is no Mixture.

    Raises
    ------
    TypeError
        If it is none; of an estimator the message names its mixture.
    """
    if not isinstance(mixture, Mixture):
        hint = "; pass its mixture_, or Mixture.from_estimator of it" if hasattr(mixture, "means_") else ""
        raise TypeError(f"What is drawn is a Mixture, but got a {type(mixture).__name__}{hint}.")


def check_plane(dims: Any, n_features: int) -> np.ndarray:
    """Indices of two features.

    Raises
    ------
    ValueError
        If `dims` does not name two that are there.
    """
    found = check_dims(dims, n_features)
    if len(found) != 2:
        raise ValueError(f"dims must name two features, but got {dims!r}.")
    return found


def check_rows(X: Any, n_features: int) -> np.ndarray:
    """Rows (n, d), NaN where entries are missing.

    Raises
    ------
    ValueError
        If X is no array of that shape, or has values that are infinite or complex.
    """
    rows, leading = check_points(X, n_features, allow_missing=True)
    if len(leading) != 1:
        raise ValueError(f"X must have shape (n, {n_features}), but got {np.shape(X)}.")
    return rows


def check_labels(labels: Any, n: int, k: int) -> np.ndarray:
    """Components of n rows.

    Raises
    ------
    ValueError
        If they are not whole numbers (n,) from 0 to k - 1.
    """
    found = np.asarray(labels)
    if found.shape != (n,) or found.dtype.kind not in "iu":
        raise ValueError(f"labels must be whole numbers of shape ({n},), one for each row of X, but got {labels!r}.")
    outside = found[(found < 0) | (found >= k)]
    if outside.size:
        raise ValueError(f"labels must be from 0 to {k - 1}, the mixture's components, but one is {outside[0]}.")
    return found


def name_features(names: Sequence[str] | None, X: Any, n_features: int) -> list[str]:
    """Names of all features: those given, a frame's own, or their numbers.

    Raises
    ------
    ValueError
        If there are too many or too few.
    """
    if names is None:
        names = getattr(X, "columns", None)
    if names is None:
        return [f"feature {j}" for j in range(n_features)]
    if len(names) != n_features:
        raise ValueError(f"names must name all {n_features} features, but there are {len(names)}.")
    return [str(name) for name in names]
