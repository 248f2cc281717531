"""Passes over checked rows that write what is asked for, also where float64 ends."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from fastgmm.covariance import STRUCTURES, Parameters
from fastgmm.kernels._threads import threads
from fastgmm.sources import open_rows
from fastgmm.sources.array import FewWriter, RowsOut, Wanted

_SINGLE = np.dtype(np.float32)
_CAST_ROWS = 1 << 18  # rows whose answers are cast to float32 together
_SHARES = 1 << 22  # responsibilities found at a time where a few of each row's are kept


class Evaluator:
    """Parameters under which rows are read, pass after pass; what passes need of them is made once.

    Pickled, for workers, it leaves behind what it has made.

    Parameters
    ----------
    parameters : Parameters
        Of the mixture.
    covariance_type : str
        A key of `covariance.STRUCTURES`.
    single : bool, default=False
        Whether float32 rows are answered in float32, and read in it where that suffices; not if labels are wanted.
    n_jobs : int or None, default=None
        How many threads share a pass at most, as `GaussianMixture` has it.
    """

    def __init__(
        self, parameters: Parameters, covariance_type: str, single: bool = False, n_jobs: int | None = None
    ) -> None:
        # Numba takes arrays that cannot be written for another type, and would compile the pass for them as well.
        self.parameters = Parameters(*[part if part.flags.writeable else part.copy() for part in parameters])
        self.covariance_type, self.structure = covariance_type, STRUCTURES[covariance_type]
        self.single, self.n_jobs = single, n_jobs
        self._forms: dict[bool, Any] = {}  # in float32 or not
        self._few_writers: dict[Any, FewWriter] = {}  # by the type of the rows, and whether in float32

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.parameters, self.covariance_type, self.single, self.n_jobs)

    @property
    def n_components(self) -> int:
        """Number of components, k."""
        return len(self.parameters.weights)

    def evaluate(
        self, rows: np.ndarray, *wanted: Wanted, missing: bool = False, check: Callable[[], None] | None = None
    ) -> RowsOut:
        """One pass over checked rows (n, d) that writes what is `wanted`.

        If entries may be `missing`, those that are NaN are integrated out. Rows of which nobody has seen that they are
        finite come with a `check` that raises if they are not: it is called where a row is lost, as such a row always
        is.
        """
        single = self.single and rows.dtype == _SINGLE and "labels" not in wanted
        if single and len(rows) > _CAST_ROWS:
            blocks = (rows[i : i + _CAST_ROWS] for i in range(0, len(rows), _CAST_ROWS))
            parts = [self.evaluate(block, *wanted, missing=missing, check=check) for block in blocks]
            *arrays, lost = zip(*parts, strict=True)
            log_likelihoods, responsibilities, labels = map(np.concatenate, arrays)
            return RowsOut(log_likelihoods, responsibilities, labels, sum(lost))
        if not missing and (writer := self._few_writer(rows.dtype, single)).takes(rows):
            out = writer.write(rows, wanted)  # done before it is known how many threads there may be
        elif len(rows):
            source = open_rows(rows, missing=missing)
            # Of rows that lack entries it is large beside the rows, if they are few.
            form = source.form(self.structure, self.parameters, single) if missing else self._form(single)
            with threads(self.n_jobs):
                out = source.map(form, *wanted)
        else:
            out = RowsOut(np.empty(0), np.empty((0, self.n_components)), np.empty(0, np.int64), 0)
        if out.lost:
            if check is not None:
                check()
            with threads(self.n_jobs):
                out = self._evaluate_far(rows, wanted, missing)
        return out.narrowed() if single else out

    def _few_writer(self, dtype: np.dtype, single: bool) -> FewWriter:
        """What answers for few rows of that type."""
        kind = dtype, single
        writer = self._few_writers.get(kind)
        if writer is None:
            writer = self._few_writers[kind] = FewWriter(self._form(single))
        return writer

    def _form(self, single: bool) -> Any:
        """The fastest form for rows that lack nothing."""
        if single not in self._forms:
            self._forms[single] = self.structure.form(self.parameters, single)
        return self._forms[single]

    def _evaluate_far(self, rows: np.ndarray, wanted: tuple[Wanted, ...], missing: bool) -> RowsOut:
        """The same by the form that is good for any data, and of rows that even that loses, which are too far."""
        source = open_rows(rows, missing=missing)
        centred = source.centred_form(self.structure, self.parameters)
        out = source.map(centred, *wanted)
        if out.lost:
            lost = np.flatnonzero(~np.isfinite(source.map(centred, "log_likelihoods").log_likelihoods))
            nearest = _nearest(self.parameters, self.structure, np.asarray(rows[lost], dtype=np.float64))
            _repair(out, lost, nearest)
        return out


def _repair(out: RowsOut, lost: np.ndarray, nearest: np.ndarray) -> None:
    """Give the rows at `lost`, whose squared distances overflow, -inf and wholly to the nearest component."""
    if out.log_likelihoods.size:
        out.log_likelihoods[lost] = -np.inf
    if out.responsibilities.size:
        out.responsibilities[lost] = np.arange(out.responsibilities.shape[1]) == nearest[:, None]
    if out.labels.size:
        out.labels[lost] = nearest


def _nearest(parameters: Parameters, structure: ModuleType, rows: np.ndarray) -> np.ndarray:
    """Component at the least Mahalanobis distance, computed in units of each row's own size."""
    weights, means, _, factors = parameters
    missing = np.isnan(rows)
    unit = np.maximum(np.nanmax(np.abs(rows), axis=1, keepdims=True), 1.0)
    scaled_factors = structure.dense(factors, *means.shape) / np.abs(factors).max()
    distances = np.full((len(rows), len(means)), np.inf)
    for c in np.flatnonzero(weights):
        scaled = np.where(missing, 0.0, rows / unit - means[c] / unit) @ scaled_factors[c].T
        for i in np.flatnonzero(missing.any(axis=1)):
            basis = np.linalg.qr(scaled_factors[c][:, missing[i]])[0]
            scaled[i] -= basis @ (basis.T @ scaled[i])
        with np.errstate(over="ignore"):
            distances[:, c] = (scaled**2).sum(1)
    return distances.argmin(1)


def keep_largest(responsibilities: Callable[[slice], np.ndarray], n: int, k: int, top: int) -> csr_array:
    """The `top` largest of each row's k responsibilities, of n rows; they are asked for a block of rows at a time."""
    indices = np.empty((n, top), np.int32)
    blocks, size = [], max(1, _SHARES // k)
    for start in range(0, n, size):
        block = responsibilities(slice(start, start + size))
        largest = np.sort(np.argpartition(block, k - top, axis=1)[:, k - top :], axis=1)
        indices[start : start + size] = largest
        blocks.append(np.take_along_axis(block, largest, axis=1))
    return csr_array((np.concatenate(blocks).ravel(), indices.ravel(), np.arange(0, n * top + 1, top)), shape=(n, k))
