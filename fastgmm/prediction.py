"""What a fitted mixture says of rows: a block of them at a time, here or where Dask has them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastgmm.covariance import STRUCTURES, Parameters
from fastgmm.data import check_finite, check_out, check_rows, check_weights, is_dask
from fastgmm.kernels._threads import threads
from fastgmm.mixture.evaluation import evaluate, keep_largest

_ROWS = 1 << 18  # of a block where only a summary or a cast of each is kept


@dataclass(frozen=True)
class Predictor:
    """A fitted mixture and how to ask it; it travels to workers.

    What is asked for is "log_likelihoods", "responsibilities" or "labels".

    Attributes
    ----------
    parameters, covariance_type
        The mixture's.
    single : bool
        Whether float32 rows have float32 answers.
    n_jobs : int or None
        As `GaussianMixture` has it.
    """

    parameters: Parameters
    covariance_type: str
    single: bool
    n_jobs: int | None

    @classmethod
    def of(cls, estimator: Any) -> "Predictor":
        """What answers for an estimator's fitted arrays."""
        if not hasattr(estimator, "weights_"):  # asked for more than that, scikit-learn takes as long as for some rows
            check_is_fitted(estimator)
        return cls(
            estimator._parameters(), estimator.covariance_type, estimator.means_.dtype == np.float32, estimator.n_jobs
        )

    @property
    def n_components(self) -> int:
        """Number of components, k."""
        return len(self.parameters.weights)

    def evaluate(
        self, rows: np.ndarray, missing: bool, *what: str, check: Callable[[], None] | None = None
    ) -> list[np.ndarray]:
        """One pass over checked rows, of which entries may be `missing`, that writes each of what is asked for.

        With a `check` they are not known to be finite, see `evaluation.evaluate`.
        """
        ask = partial(evaluate, self.parameters, STRUCTURES[self.covariance_type])
        single = self.single and "labels" not in what and rows.dtype == np.float32
        wanted: dict[str, Any] = {**dict.fromkeys(what, True), "missing": missing, "check": check}
        with threads(self.n_jobs):
            if not single:
                out = ask(rows, **wanted)
                return [getattr(out, each) for each in what]
            blocks = (rows[i : i + _ROWS] for i in range(0, max(1, len(rows)), _ROWS))
            outs = (ask(block, **wanted, single=True) for block in blocks)
            parts = [[getattr(out, each).astype(np.float32) for each in what] for out in outs]
            return [np.concatenate(each) for each in zip(*parts, strict=True)]

    def write(self, rows: np.ndarray, missing: bool, what: str, out: np.ndarray) -> np.ndarray:
        """What is found of each row, into `out`, which is checked."""
        wide = what == "responsibilities"
        shape = (self.n_components,) if wide else ()
        check_out(out, (len(rows), *shape), rows, largest=self.n_components - 1 if what == "labels" else None)
        size = max(1, _ROWS // math.prod(shape))
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            out[block] = self.evaluate(rows[block], missing, what)[0]
        return out

    def keep_largest(self, rows: np.ndarray, missing: bool, top: int) -> Any:
        """The `top` largest responsibilities of each row, sparse."""
        k = self.n_components
        return keep_largest(
            lambda block: self.evaluate(rows[block], missing, "responsibilities")[0], len(rows), k, min(top, k)
        )

    def sums(self, rows: np.ndarray, weights: np.ndarray | None, missing: bool, *what: str) -> list[float]:
        """Sums over rows, a block at a time: log-likelihoods; the logarithms of each row's largest responsibility."""
        size = max(1, _ROWS // (self.n_components if "responsibilities" in what else 1))
        parts = []
        for start in range(0, len(rows), size):
            block = slice(start, start + size)
            found = self.evaluate(rows[block], missing, *what)
            values = [each if each.ndim == 1 else np.log(each.max(axis=1)) for each in found]
            parts.append([
                len(each) * float(each.mean()) if weights is None else float(weights[block] @ each) for each in values
            ])  # fmt: skip
        return [math.fsum(each) for each in zip(*parts, strict=True)]

    def sums_of_partitions(self, parts: Any, allow_missing: bool, *what: str) -> tuple[list[float], float]:
        """The same of rows in Dask's partitions, each summed where it is, and the sum of the weights."""
        from fastgmm.sources.dask import total

        there = self._on_one_thread()
        d = self.parameters.means.shape[1]
        return total(
            parts, lambda rows, weights: there.sums(rows, weights, allow_missing, *what), d, allow_missing=allow_missing
        )

    def map_lazily(self, rows: Any, allow_missing: bool, what: str) -> Any:
        """What is found of each row of a Dask array, as another."""
        from fastgmm.sources.dask import map_rows

        there = self._on_one_thread()
        floats = np.float32 if self.single and rows.dtype == np.float32 else np.float64
        return map_rows(
            rows,
            lambda block: there.evaluate(block, allow_missing, what)[0],
            width=self.n_components if what == "responsibilities" else None,
            dtype=np.int64 if what == "labels" else floats,
            allow_missing=allow_missing,
        )

    def _on_one_thread(self) -> "Predictor":
        """The same for a worker, one of several."""
        return replace(self, n_jobs=1)


def predict_rows(estimator: Any, X: Any, what: str, out: np.ndarray | None) -> Any:
    """What a fitted estimator finds of each row of X, into `out` if it is given; of Dask's rows, lazily."""
    predictor = Predictor.of(estimator)
    if not is_dask(X):
        # Rows are read once: those that are not finite show in the answer, but into `out` nothing is half-written.
        rows, missing = check_rows(estimator, X, fitting=False, unread=out is None)
        if out is not None:
            return predictor.write(rows, missing, what, out)
        return predictor.evaluate(rows, missing, what, check=partial(check_finite, estimator, rows))[0]
    if out is not None:
        raise ValueError("out is for rows in memory; of what is predicted for Dask's, dask.array.store fills it.")
    from fastgmm.sources.dask import open_collection

    return predictor.map_lazily(open_collection(estimator, X)[0], estimator.missing == "em", what)


def total(estimator: Any, X: Any, sample_weight: Any, *what: str) -> tuple[list[float], float]:
    """Sums of what a fitted estimator finds over all rows of X, and the sum of the weights."""
    predictor = Predictor.of(estimator)
    if is_dask(X):
        from fastgmm.sources.dask import open_collection

        parts = open_collection(estimator, X, sample_weight)[1]
        return predictor.sums_of_partitions(parts, estimator.missing == "em", *what)
    rows, missing = check_rows(estimator, X, fitting=False)
    rows, weights = check_weights(sample_weight, rows)
    return predictor.sums(rows, weights, missing, *what), float(len(rows) if weights is None else weights.sum())
