"""What a fitted mixture says of rows: a block of them at a time, here or where Dask has them."""

import math
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastgmm.data import check_finite, check_out, check_rows, check_weights, is_dask
from fastgmm.exchange import fitted_parameters
from fastgmm.kernels._threads import count_threads
from fastgmm.mixture.evaluation import Evaluator, keep_largest
from fastgmm.sources.array import Wanted

_ROWS = 1 << 18  # of a block where only a summary or a cast of each is kept
_MOST_NUMBERS = 1 << 12  # in an estimator's arrays together, for which a predictor is kept
_MOST_KEPT = 32  # predictors


class Predictor(Evaluator):
    """What answers for a fitted estimator: it reads rows under the fitted arrays.

    What is asked for is "log_likelihoods", "responsibilities" or "labels".
    """

    @staticmethod
    def of(estimator: Any) -> "Predictor":
        """What answers for an estimator's fitted arrays."""
        if not hasattr(estimator, "weights_"):  # asked for more than that, scikit-learn takes as long as for some rows
            check_is_fitted(estimator)
        for kept in _kept:
            if kept.is_of(estimator):
                return kept.predictor
        return _make_predictor(estimator)

    def write(self, rows: np.ndarray, missing: bool, what: Wanted, out: np.ndarray) -> np.ndarray:
        """What is found of each row, into `out`, which is checked."""
        wide = what == "responsibilities"
        shape = (self.n_components,) if wide else ()
        check_out(out, (len(rows), *shape), rows, largest=self.n_components - 1 if what == "labels" else None)
        size = max(1, _ROWS // math.prod(shape))
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            out[block] = getattr(self.evaluate(rows[block], what, missing=missing), what)
        return out

    def keep_largest(self, rows: np.ndarray, missing: bool, top: int) -> Any:
        """The `top` largest responsibilities of each row, sparse."""
        k = self.n_components
        return keep_largest(
            lambda block: self.evaluate(rows[block], "responsibilities", missing=missing).responsibilities,
            len(rows),
            k,
            min(top, k),
        )

    def sums(self, rows: np.ndarray, weights: np.ndarray | None, missing: bool, *what: Wanted) -> list[float]:
        """Sums over rows, a block at a time: log-likelihoods; the logarithms of each row's largest responsibility."""
        size = max(1, _ROWS // (self.n_components if "responsibilities" in what else 1))
        parts = []
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            found = self.evaluate(rows[block], *what, missing=missing)
            arrays = [getattr(found, each) for each in what]
            values = [each if each.ndim == 1 else np.log(each.max(axis=1)) for each in arrays]
            parts.append([
                len(each) * float(each.mean()) if weights is None else float(weights[block] @ each) for each in values
            ])  # fmt: skip
        return [math.fsum(each) for each in zip(*parts, strict=True)]

    def sums_of_partitions(self, parts: Any, allow_missing: bool, *what: Wanted) -> tuple[list[float], float]:
        """The same of rows in Dask's partitions, each summed where it is, and the sum of the weights."""
        from fastgmm.sources.dask import total

        there = self._on_one_thread()
        d = self.parameters.means.shape[1]
        return total(
            parts, lambda rows, weights: there.sums(rows, weights, allow_missing, *what), d, allow_missing=allow_missing
        )

    def map_lazily(self, rows: Any, allow_missing: bool, what: Wanted) -> Any:
        """What is found of each row of a Dask array, as another."""
        from fastgmm.sources.dask import map_rows

        there = self._on_one_thread()
        floats = np.float32 if self.single and rows.dtype == np.float32 else np.float64
        return map_rows(
            rows,
            lambda block: getattr(there.evaluate(block, what, missing=allow_missing), what),
            width=self.n_components if what == "responsibilities" else None,
            dtype=np.int64 if what == "labels" else floats,
            allow_missing=allow_missing,
        )

    def _on_one_thread(self) -> "Predictor":
        """The same for a worker, one of several."""
        return Predictor(self.parameters, self.covariance_type, self.single, n_jobs=1)


class _Kept:
    """A predictor, and what of an estimator it was made of.

    An estimator has that while its attributes are the same objects and the numbers in its arrays are the same: one that
    is edited counts. To look at both takes less than half of what finding the numbers among others' would.
    """

    def __init__(self, estimator: Any, predictor: Predictor) -> None:
        self.predictor = predictor
        self._n_jobs, self._covariance_type = estimator.n_jobs, estimator.covariance_type
        self._weights, self._means = estimator.weights_, estimator.means_
        self._covariances, self._factors = estimator.covariances_, estimator.precisions_cholesky_
        self._numbers = self._read()

    def is_of(self, estimator: Any) -> bool:
        """Whether the predictor answers for an estimator."""
        return (
            estimator.means_ is self._means
            and estimator.weights_ is self._weights
            and estimator.covariances_ is self._covariances
            and estimator.precisions_cholesky_ is self._factors
            and estimator.n_jobs is self._n_jobs
            and estimator.covariance_type is self._covariance_type
            and self._read() == self._numbers
        )

    def _read(self) -> tuple[bytes, ...]:
        return self._weights.tobytes(), self._means.tobytes(), self._covariances.tobytes(), self._factors.tobytes()


# Those made last, the first the newest. They are never changed, only replaced: several threads may look for theirs.
_kept: tuple[_Kept, ...] = ()


def _make_predictor(estimator: Any) -> Predictor:
    """The predictor of an estimator's arrays, kept for further predictions unless they are large."""
    global _kept
    n_jobs, covariance_type = estimator.n_jobs, estimator.covariance_type
    arrays = estimator.weights_, estimator.means_, estimator.covariances_, estimator.precisions_cholesky_
    weights, means, covariances, factors = map(np.asarray, arrays)
    parameters = fitted_parameters(weights, means, covariances, factors, covariance_type)
    count_threads(n_jobs)  # of few rows nobody would see that it is no number of threads
    predictor = Predictor(parameters, covariance_type, means.dtype == np.float32, n_jobs)
    if all(isinstance(array, np.ndarray) for array in arrays) and sum(array.size for array in arrays) <= _MOST_NUMBERS:
        _kept = (_Kept(estimator, predictor), *_kept[: _MOST_KEPT - 1])
    return predictor


def predict_rows(estimator: Any, X: Any, what: Wanted, out: np.ndarray | None) -> Any:
    """What a fitted estimator finds of each row of X, into `out` if it is given; of Dask's rows, lazily."""
    predictor = Predictor.of(estimator)
    if not is_dask(X):
        # Rows are read once: those that are not finite show in the answer, but into `out` nothing is half-written.
        rows, missing = check_rows(estimator, X, fitting=False, unread=out is None)
        if out is not None:
            return predictor.write(rows, missing, what, out)
        check = None if estimator.missing == "em" else lambda: check_finite(estimator, rows)
        return getattr(predictor.evaluate(rows, what, missing=missing, check=check), what)
    if out is not None:
        raise ValueError("out is for rows in memory; of what is predicted for Dask's, dask.array.store fills it.")
    from fastgmm.sources.dask import open_collection

    return predictor.map_lazily(open_collection(estimator, X)[0], estimator.missing == "em", what)


def total(estimator: Any, X: Any, sample_weight: Any, *what: Wanted) -> tuple[list[float], float]:
    """Sums of what a fitted estimator finds over all rows of X, and the sum of the weights."""
    predictor = Predictor.of(estimator)
    if is_dask(X):
        from fastgmm.sources.dask import open_collection

        parts = open_collection(estimator, X, sample_weight)[1]
        return predictor.sums_of_partitions(parts, estimator.missing == "em", *what)
    rows, missing = check_rows(estimator, X, fitting=False)
    rows, weights = check_weights(sample_weight, rows)
    return predictor.sums(rows, weights, missing, *what), float(len(rows) if weights is None else weights.sum())
