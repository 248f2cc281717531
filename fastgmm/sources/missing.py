"""Rows of an array of which some entries are missing, NaN."""

import copy
from collections.abc import Iterator
from functools import cached_property
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastgmm.covariance import Parameters
from fastgmm.sources.array import ArrayRows, RowsOut, Wanted
from fastgmm.statistics import Statistics, add


class Forms(NamedTuple):
    """What complete rows are read under, and incomplete ones."""

    complete: Any
    incomplete: Any


class IncompleteRows(ArrayRows):
    """Rows of a two-dimensional array that may lack entries, which are NaN.

    Complete rows are copied and read as if there were no others; incomplete ones are copied as float64, in the order of
    what they lack. A tile of those costs a decomposition for every component and set of missing features in it, which
    is little beside its rows unless nearly every row has a set of its own. To starts, a missing entry is its column's
    mean.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        Any real type.
    weights : ndarray of shape (n,), optional
        Weights of the rows, float64.

    Attributes
    ----------
    n_rows, n_features : int
        The shape of the rows.
    """

    def __init__(self, rows: np.ndarray, weights: np.ndarray | None = None) -> None:
        super().__init__(rows, weights)
        missing = np.isnan(rows)
        incomplete = missing.any(axis=1)
        kinds = Forms(
            (np.flatnonzero(~incomplete), np.dtype(np.float32 if rows.dtype == np.float32 else np.float64)),
            (np.flatnonzero(incomplete)[order_of_patterns(missing[incomplete])], np.dtype(np.float64)),
        )
        # A kind of row, where they are, and the source of them: first complete ones, about whose centres moments are
        # taken, also where there are none, so that statistics of other rows under the same forms add.
        self._parts = []
        for kind, (places, dtype) in kinds._asdict().items():
            some = rows[places].astype(dtype, copy=False)
            self._parts.append((kind, places, ArrayRows(some, None if weights is None else weights[places])))

    @cached_property
    def column_means(self) -> np.ndarray:  # type: ignore[override]
        """Means of the observed entries (d,); NaN for a column that has none of positive weight."""
        return means_of(sum_observed(self))

    def beside(self) -> "IncompleteRows":
        """The same rows with working memory of their own, for another thread to read meanwhile."""
        twin = copy.copy(self)
        twin._parts = [(kind, places, source.beside()) for kind, places, source in self._parts]
        return twin

    def form(self, structure: ModuleType, parameters: Parameters, single: bool = True) -> Forms:
        """What a pass needs of the parameters, for either kind of row."""
        return Forms(super().form(structure, parameters, single), structure.masked_form(parameters))

    def centred_form(self, structure: ModuleType, parameters: Parameters) -> Forms:
        """The same, good for any data and for moments about any centres."""
        return Forms(super().centred_form(structure, parameters), structure.masked_form(parameters))

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Copy some rows as float64, shape (len(indices), d), with column means for what is missing."""
        return self._filled(super().take(indices))

    def blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield (start, stop, rows as float64) a block at a time, with column means for what is missing."""
        for start, stop, rows in super().blocks():
            yield start, stop, self._filled(rows)

    def _filled(self, rows: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(rows), self.column_means, rows)

    def reduce(self, form: Forms, centres: np.ndarray | None = None) -> Statistics:
        """Statistics of all rows under `form`, of incomplete ones as expected given what they have."""
        (_, _, complete), (_, places, incomplete) = self._parts
        total = complete.reduce(form.complete, centres)
        return add(total, incomplete.reduce(form.incomplete, total.centres)) if places.size else total

    def map(self, form: Forms, *wanted: Wanted) -> RowsOut:
        """Write what is `wanted` of every row under `form`."""
        parts = [
            (places, source.map(getattr(form, kind), *wanted)) for kind, places, source in self._parts if places.size
        ]

        def whole(name: str) -> np.ndarray:
            some = getattr(parts[0][1], name)
            out = np.empty((self.n_rows if some.size else 0, *some.shape[1:]), some.dtype)
            for places, part in parts if some.size else []:
                out[places] = getattr(part, name)
            return out

        lost = sum(part.lost for _, part in parts)
        return RowsOut(whole("log_likelihoods"), whole("responsibilities"), whole("labels"), lost)


def sum_observed(source: ArrayRows) -> np.ndarray:
    """Weights of the observed entries of each feature, and the weighted sums of them, (2, d)."""
    sums = np.zeros((2, source.n_features))
    for start, stop, rows in ArrayRows.blocks(source):
        weights, observed = source.weigh(start, stop), ~np.isnan(rows)
        sums += weights @ observed, weights @ np.where(observed, rows, 0.0)
    return sums


def means_of(observed: np.ndarray) -> np.ndarray:
    """Means (d,) by what `sum_observed` found."""
    with np.errstate(invalid="ignore"):
        return observed[1] / observed[0]


def order_of_patterns(missing: np.ndarray) -> np.ndarray:
    """Indices of rows (n,) such that those which lack the same entries, of `missing` (n, d), come together."""
    return np.lexsort(np.packbits(missing, axis=1).T)


def open_rows(rows: np.ndarray, weights: np.ndarray | None = None, *, missing: bool) -> ArrayRows:
    """The source of checked rows (n, d), of which entries may be NaN only if `missing`."""
    return IncompleteRows(rows, weights) if missing else ArrayRows(rows, weights)
