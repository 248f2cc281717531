"""The door: what users pass in becomes checked arrays, without copying what need not be copied."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from sklearn import get_config
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, assert_all_finite, check_array, validate_data

_FLOATS = frozenset({np.dtype(np.float64), np.dtype(np.float32)})
_Method = TypeVar("_Method", bound=Callable[..., Any])
HEAVY = "Sample weights are too large: their sum overflows. Divide them by their mean."


def validated(method: _Method) -> _Method:
    """Have an estimator's parameters checked before a method, unless scikit-learn is configured not to."""

    @functools.wraps(method)
    def run(estimator: Any, *args: Any, **kwargs: Any) -> Any:
        if not get_config()["skip_parameter_validation"]:
            estimator._validate_params()
        return method(estimator, *args, **kwargs)

    return run  # type: ignore[return-value]


def is_dask(X: Any) -> bool:
    """Whether X is a collection of Dask's; nothing is imported to find out."""
    if type(X) is np.ndarray:
        return False
    return any(base.__module__.partition(".")[0] == "dask" for base in type(X).__mro__)


def check_features(estimator: Any, like: Any, *, fitting: bool) -> None:
    """Take the number and the names of features from what has them and may have no rows, or hold them to `fit`'s.

    Raises
    ------
    ValueError
        If they are others than in `fit`.
    """
    validate_data(estimator, like, reset=fitting, skip_check_array=True)


def check_rows(
    estimator: Any, X: Any, *, fitting: bool, least: int | None = None, unread: bool = False
) -> tuple[np.ndarray, bool]:
    """Rows of an array or frame as an ndarray (n, d) of its own type and strides, real, and whether an entry is NaN.

    Where none may be, the entries can be left `unread`: a pass over the rows will lose those that are not finite, and
    `check_finite` then says what is wrong with them.

    Raises
    ------
    ValueError
        If X is not two-dimensional, has infinities, complex values, NaN that the estimator's `missing` does not allow,
        too few rows, or another number of features than in `fit`.
    """
    allow_missing = estimator.missing == "em"
    least = (2 if fitting else 1) if least is None else least
    if _is_plain(X, least) and _take_plain_features(estimator, X.shape[1], fitting=fitting):
        rows = X
    else:
        # "numeric" leaves integers and float32 as they are: kernels cast while they read.
        options = {"dtype": "numeric", "ensure_min_samples": least, "ensure_all_finite": False}
        rows = np.asarray(validate_data(estimator, X, reset=fitting, **options))
    if not (allow_missing or unread):
        check_finite(estimator, rows)
    return rows, allow_missing and _has_missing(rows)


def _is_plain(X: Any, least: int) -> bool:
    """Whether scikit-learn would return X as it is, which takes it as long as a few steps of EM on few rows."""
    return type(X) is np.ndarray and X.ndim == 2 and X.dtype in _FLOATS and len(X) >= least and X.shape[1] > 0


def _take_plain_features(estimator: Any, number: int, *, fitting: bool) -> bool:
    """Take the number of features without names, or say whether it is that of a fit without them."""
    known = vars(estimator)
    if fitting:
        estimator.n_features_in_ = number
        known.pop("feature_names_in_", None)
        return True
    return known.get("n_features_in_") == number and "feature_names_in_" not in known


def check_finite(estimator: Any, rows: np.ndarray) -> None:
    """Refuse rows with entries that are NaN or infinite, as scikit-learn does.

    Raises
    ------
    ValueError
        If there are any.
    """
    if find_nonfinite(rows) is None:
        return
    try:
        assert_all_finite(rows, estimator_name=type(estimator).__name__, input_name="X")
    except ValueError as error:
        if "contains NaN" in str(error):  # the message itself is scikit-learn's
            error.add_note('With missing="em" such entries are integrated out.')
        raise


def _has_missing(rows: np.ndarray) -> bool:
    """Whether an entry is NaN; an infinite one is an error."""
    if rows.dtype.kind != "f":
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(rows.sum()):
            return False
    assert_all_finite(rows, allow_nan=True, input_name="X")
    return bool(np.isnan(rows).any())


def check_weights(sample_weight: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows that have a weight above zero, and their weights (n,) as float64; None where all rows count alike.

    Raises
    ------
    ValueError
        If the weights are not one for each row, or negative, NaN, all zero or of an infinite sum.
    """
    if sample_weight is None:
        return rows, None
    weights = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
    weights = np.require(weights, requirements=["A", "W"])  # the one type that kernels are compiled for
    if not (weights > 0).any():  # early releases of scikit-learn let it pass
        raise ValueError("Sample weights must contain at least one non-zero number.")
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not np.isfinite(total):
        raise ValueError(HEAVY)
    return keep_counted(rows, weights)


def keep_counted(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that have a weight above zero, and their weights; nothing is copied if all have."""
    kept = weights > 0
    return (rows, weights) if kept.all() else (rows[kept], weights[kept])


def find_nonfinite(values: np.ndarray, *, allow_nan: bool = False) -> np.ndarray | None:
    """The place of the first value that is infinite or, unless allowed, NaN; None if none is."""
    if values.dtype.kind != "f":
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()):
            return None
    wrong = np.argwhere(np.isinf(values) if allow_nan else ~np.isfinite(values))
    return wrong[0] if len(wrong) else None


def check_out(out: Any, shape: tuple[int, ...], rows: np.ndarray, *, largest: int | None = None) -> None:
    """Refuse what cannot take an answer of this shape about `rows`: whole numbers up to `largest`, or real ones.

    Raises
    ------
    TypeError
        If `out` is no array.
    ValueError
        If it has another shape or type, cannot be written, or shares memory with the rows.
    """
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, but is of type {type(out).__name__}.")
    if out.shape != shape:
        raise ValueError(f"out should have shape {shape}, but has {out.shape}.")
    fits = out.dtype in (np.float64, np.float32) if largest is None else out.dtype.kind in "iu"
    if not fits or (largest is not None and largest > np.iinfo(out.dtype).max):
        wanted = "float64 or float32" if largest is None else f"integers that hold {largest}"
        raise ValueError(f"out should be of {wanted}, but is of {out.dtype}.")
    if not out.flags.writeable:
        raise ValueError("out cannot be written: it is read-only.")
    if np.may_share_memory(out, rows):
        raise ValueError("out shares memory with X, which would be overwritten before it is read.")


def check_points(
    X: Any, n_features: int, *, allow_missing: bool = False, name: str = "X"
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Points (..., d) as rows (n, d), and the leading shape of the answer; with one feature, (n,) is n points.

    Raises
    ------
    ValueError
        If the last axis is not `n_features` long, or a value is infinite, complex, or NaN that is not allowed.
    """
    points = np.asarray(X)
    if n_features == 1 and points.ndim <= 1:
        points = points[..., None]
    if points.ndim == 0 or points.shape[-1] != n_features:
        raise ValueError(f"{name} must have shape (..., {n_features}), features last, but got {points.shape}.")
    leading = points.shape[:-1]
    rows = points.reshape(-1, n_features)
    if rows.shape[0] == 0:
        return rows.astype(np.float64), leading
    finite = "allow-nan" if allow_missing else True
    return check_array(rows, dtype="numeric", input_name=name, ensure_all_finite=finite), leading


def check_random(random_state: Any) -> Any:
    """A RandomState, or the Generator that was given: both have the methods that draws need."""
    return random_state if isinstance(random_state, np.random.Generator) else check_random_state(random_state)


_idle: list[np.random.RandomState] = []


class lend_random:
    """`RandomState(seed)` for a block that keeps no hold of it.

    One that an earlier block has done with is seeded anew: a new one would gather randomness for 70 µs, in vain.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> np.random.RandomState:
        try:
            self._random = _idle.pop()
        except IndexError:
            self._random = np.random.RandomState(0)
        self._random.seed(self._seed)
        return self._random

    def __exit__(self, *_: object) -> None:
        _idle.append(self._random)


def computes_in_float64(rows: np.ndarray) -> bool:
    """Whether scikit-learn would work on these rows in float64: everything but float32."""
    return bool(rows.dtype != np.float32)
