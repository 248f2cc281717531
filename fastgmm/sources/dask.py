"""Rows of a Dask array or frame, wherever its partitions lie: what is known of them travels, they do not.

A pass is one task per partition, the serial body that a thread has in memory. Parameters go out, statistics come home,
added by further tasks in the order of the partitions, so that the bits do not depend on who finishes when. Which
scheduler runs the tasks is Dask's to say, and nothing is persisted here: what the user has not persisted is computed
anew in each pass.
"""

import math
from collections.abc import Callable, Iterable
from functools import cached_property, partial, reduce
from itertools import count
from types import ModuleType
from typing import Any, NamedTuple
from uuid import uuid4

import dask
import dask.array as da
import numpy as np
from dask.base import get_scheduler
from dask.delayed import Delayed, delayed
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import DataNode, Task, TaskRef

from fastgmm.covariance import Parameters
from fastgmm.data import HEAVY, check_features, find_nonfinite, keep_counted
from fastgmm.kernels._threads import threads
from fastgmm.sources.array import ArrayRows
from fastgmm.sources.missing import Forms, means_of, open_rows, sum_observed
from fastgmm.statistics import Statistics, add

_ARITY = 16  # statistics that one task adds


class Partition(NamedTuple):
    """Some rows and their weights, which a worker has or will compute."""

    rows: Delayed
    weights: Delayed | None


class _Survey(NamedTuple):
    """What the client is told of a partition."""

    fault: str  # what is wrong with it; empty if nothing is
    length: int = 0  # its rows
    n_rows: int = 0  # of weight above zero
    total: float = 0.0  # of the weights
    squares: float = 0.0  # of the weights over the largest
    largest: float = 0.0
    incomplete: bool = False
    observed: np.ndarray | None = None  # what `sum_observed` says, where entries may be missing


def open_collection(
    estimator: Any, X: Any, sample_weight: Any = None, *, fitting: bool = False
) -> tuple[Any, list[Partition]]:
    """A Dask array or frame as an array (n, d) of whole rows, and its blocks with their weights, in order.

    Raises
    ------
    ValueError
        If X is something else, its blocks do not hold whole rows of real numbers in NumPy arrays, the length of an
        array's is unknown, or it has another number of features, or other names of them, than in `fit`; or if weights
        are not from Dask, or are cut otherwise than the rows.
    """
    rows = _as_array(X)
    check_features(estimator, X._meta if _is_frame(X) else np.empty((0, rows.shape[1])), fitting=fitting)
    blocks, weights = rows.to_delayed().ravel(), _check_weights(sample_weight, rows)
    return rows, list(map(Partition, blocks, [None] * len(blocks) if weights is None else weights.to_delayed().ravel()))


def _as_array(X: Any) -> da.Array:
    if _is_frame(X):
        return _frame_as_array(X)
    if not isinstance(X, da.Array):
        raise ValueError(f"X should be a Dask array or DataFrame, but is a {type(X).__module__}.{type(X).__name__}.")
    if X.ndim != 2:
        raise ValueError(f"X should have two dimensions, rows and features, but has shape {X.shape}.")
    if len(X.chunks[1]) > 1:
        raise ValueError(
            f"The columns of X are in {len(X.chunks[1])} chunks; each needs whole rows: X.rechunk({{1: -1}})."
        )
    if math.isnan(X.shape[0]):
        raise ValueError("The chunks of X have unknown sizes; call X.compute_chunk_sizes() first.")
    if X.dtype.kind not in "biuf":
        raise ValueError(f"X should hold real numbers, but its dtype is {X.dtype}.")
    if not isinstance(X._meta, np.ndarray):
        kind = f"{type(X._meta).__module__}.{type(X._meta).__name__}"
        raise ValueError(f"The chunks of X should be NumPy arrays, but are {kind}; convert them by X.map_blocks.")
    return X


def _is_frame(X: Any) -> bool:
    return hasattr(type(X), "columns") and X.ndim == 2


def _frame_as_array(X: Any) -> da.Array:
    wrong = [f"{name!r} ({dtype})" for name, dtype in X.dtypes.items() if getattr(dtype, "kind", "O") not in "biuf"]
    if wrong:
        raise ValueError(
            f"X should hold real numbers, but not so column{'s' * (len(wrong) > 1)} {', '.join(wrong[:10])}; drop or "
            "encode what is none."
        )
    if not all(isinstance(dtype, np.dtype) for dtype in X.dtypes):
        X = X.astype("float64")  # whose missing entries are NaN, not pandas.NA
    return X.to_dask_array()


def _check_weights(sample_weight: Any, rows: da.Array) -> da.Array | None:
    """Weights (n,) as an array in the chunks of the rows; where lengths are unknown, in as many."""
    if sample_weight is None:
        return None
    weights = sample_weight.to_dask_array() if hasattr(sample_weight, "to_dask_array") else sample_weight
    if not isinstance(weights, da.Array):
        raise ValueError(
            "With X from Dask, sample_weight should be a Dask array in its row chunks: "
            "dask.array.from_array(sample_weight, chunks=X.chunks[:1])."
        )
    if weights.ndim != 1 or weights.dtype.kind not in "biuf":
        raise ValueError(f"sample_weight should be real numbers (n,), but has shape {weights.shape}, {weights.dtype}.")
    ours, theirs = weights.chunks[0], rows.chunks[0]
    unknown = any(map(math.isnan, (*ours, *theirs)))
    if len(ours) != len(theirs) or (ours != theirs and not unknown):
        raise ValueError(
            f"sample_weight has chunks {_first(ours)} where the rows of X have {_first(theirs)}; call "
            "sample_weight.rechunk(X.chunks[:1])."
        )
    return weights


def _first(chunks: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, chunks[:5]))}{', ...' * (len(chunks) > 5)})"


def split(parts: list[Partition], share: float, seed: int) -> tuple[list[Partition], list[Partition]]:
    """All but a share of each partition's rows, drawn at random, and that share."""
    halves: tuple[list[Partition], list[Partition]] = [], []
    for index, (rows, weights) in enumerate(parts):
        for held, half in enumerate(halves):
            some = delayed(partial(_some, share=share, seed=(seed, index), held=bool(held)), pure=False)
            half.append(Partition(some(rows), None if weights is None else some(weights)))
    return halves


def _some(values: np.ndarray, share: float, seed: tuple[int, int], held: bool) -> np.ndarray:
    """The entries that are held out, or the others; the same of a partition's rows as of its weights."""
    which = np.zeros(len(values), dtype=bool)
    which[np.random.default_rng(seed).permutation(len(values))[: round(share * len(values))]] = True
    return values[which == held]


class DaskRows:
    """Rows in partitions, with what the protocol `Rows` names; see there.

    Parameters
    ----------
    parts : list of Partition
        The rows.
    dtype : dtype
        Their type.
    n_features : int
        Their number of features.
    n_sampled : int
        How many of them starts are to be sought among, where there are more.
    seed : int or list of int
        Which.
    allow_missing : bool, default=False
        Whether entries may be missing, NaN.

    Raises
    ------
    ValueError
        If a partition is empty, has another number of features, a value that is NaN or infinite, or weights that are
        not one for each row, negative, NaN, all zero or of an infinite sum; it names the partition and the row.
    """

    def __init__(
        self,
        parts: list[Partition],
        dtype: Any,
        n_features: int,
        n_sampled: int,
        seed: Any,
        *,
        allow_missing: bool = False,
    ) -> None:
        self.n_features, self.weighted = n_features, parts[0].weights is not None
        self._n_sampled, self._seed = n_sampled, seed
        look = delayed(_survey_entries if allow_missing else _survey, pure=False)
        surveys = dask.compute(*(look(*part, n_features) for part in parts))
        _raise_first(surveys)
        if not all(survey.length for survey in surveys):
            empty = next(index for index, survey in enumerate(surveys) if not survey.length)
            raise ValueError(f"X has no rows in partition {empty}; rechunk an array, repartition a frame.")
        self._parts = [part for part, survey in zip(parts, surveys, strict=True) if survey.n_rows]
        self._surveys = [survey for survey in surveys if survey.n_rows]
        self.n_rows = sum(survey.n_rows for survey in self._surveys)
        self.total_weight = math.fsum(survey.total for survey in self._surveys)
        if not math.isfinite(self.total_weight):
            raise ValueError(HEAVY)
        self._single = np.dtype(dtype) == np.float32
        self.column_means: np.ndarray | None = None
        if any(survey.incomplete for survey in self._surveys):
            self.column_means = means_of(np.sum([survey.observed for survey in self._surveys], axis=0))

    @property
    def effective_rows(self) -> float:
        """Rows of equal weight that would tell as much, (Σ w)² / Σ w² (Kish 1965)."""
        largest = max(survey.largest for survey in self._surveys)
        squares = math.fsum(survey.squares * (survey.largest / largest) ** 2 for survey in self._surveys)
        return (self.total_weight / largest) ** 2 / squares

    @cached_property
    def sample(self) -> ArrayRows:
        """All rows, or some drawn by weight, at random and spread over the partitions."""
        if self.n_rows <= self._n_sampled:
            found = dask.compute(*(delayed(_take_all, pure=False)(*part) for part in self._parts))
            weights = np.concatenate([part for _, part in found]) if self.weighted else None
            return self._open_sample(np.concatenate([rows for rows, _ in found]), weights)
        random = np.random.default_rng(self._seed)
        places = (np.arange(self._n_sampled) + random.uniform(size=self._n_sampled)) / self._n_sampled
        ends = np.cumsum([survey.total for survey in self._surveys])
        which = np.minimum(np.searchsorted(ends, places * ends[-1], side="right"), len(ends) - 1)
        tasks = []
        for index in np.unique(which):
            within = (places[which == index] * ends[-1] - ends[index]) / self._surveys[index].total + 1.0
            tasks.append(delayed(_take, pure=False)(*self._parts[index], np.clip(within, 0.0, 1.0)))
        rows = np.concatenate(dask.compute(*tasks))
        return self._open_sample(rows, np.full(len(rows), self.total_weight / len(rows)))

    def _open_sample(self, rows: np.ndarray, weights: np.ndarray | None) -> ArrayRows:
        sample = open_rows(rows, weights, missing=self.column_means is not None)
        sample.column_means = self.column_means
        return sample

    def form(self, structure: ModuleType, parameters: Parameters) -> Any:
        """What a pass needs of the parameters: the fastest form, in float32 if the rows are."""
        return self._extended(structure.form(parameters, self._single), structure, parameters)

    def centred_form(self, structure: ModuleType, parameters: Parameters) -> Any:
        """The same, good for any data and for moments about any centres."""
        return self._extended(structure.centred_form(parameters), structure, parameters)

    def _extended(self, form: Any, structure: ModuleType, parameters: Parameters) -> Any:
        return form if self.column_means is None else Forms(form, structure.masked_form(parameters))

    @cached_property
    def _graph(self) -> HighLevelGraph:
        """What the partitions come from, put together once."""
        return HighLevelGraph.merge(*(each.dask for part in self._parts for each in part if each is not None))

    def reduce(self, form: Any, centres: np.ndarray | None = None) -> Statistics:
        """Statistics of all rows under `form`, with moments about `centres` (k, d), by default the form's own."""
        # Tasks made by `delayed` take an iteration on two workers 52 ms beside its passes, not 42 (bench/cluster.py).
        name, graph = f"fastgmm-statistics-{uuid4().hex}", self._graph
        about = name, "about"
        tasks: dict[Any, Any] = {about: DataNode(about, (form, centres))}
        keys: list[Any] = []
        for index, part in enumerate(self._parts):
            keys.append((name, 0, index))
            refs = (None if each is None else TaskRef(each.key) for each in part)
            tasks[keys[-1]] = Task(keys[-1], _reduce, TaskRef(about), *refs)
        for level in count(1):
            if len(keys) <= _ARITY:
                break
            groups = [keys[first : first + _ARITY] for first in range(0, len(keys), _ARITY)]
            keys = [(name, level, index) for index in range(len(groups))]
            tasks.update((key, Task(key, _add, *map(TaskRef, group))) for key, group in zip(keys, groups, strict=True))
        whole = HighLevelGraph({**graph.layers, name: tasks}, {**graph.dependencies, name: set(graph.layers)})
        found = get_scheduler(collections=[self._parts[0].rows])(whole, keys)
        return _add(*found)


def _raise_first(surveys: Iterable[_Survey]) -> None:
    """Raise what is wrong with the first partition of which something is."""
    counted = 0
    for index, survey in enumerate(surveys):
        if survey.fault:
            raise ValueError(survey.fault.format(f"partition {index}"))
        counted += survey.n_rows
    if not counted:
        raise ValueError("X has no rows, or none of a weight above zero.")


def _survey(rows: np.ndarray, weights: np.ndarray | None, n_features: int, allow_missing: bool = False) -> _Survey:
    """Look at a partition once, before passes that do not."""
    if rows.ndim != 2 or rows.shape[1] != n_features:
        return _Survey(f"X should have {n_features} columns throughout, but {{}} has shape {rows.shape}.")
    fault = find_fault(rows, "X", allow_missing)
    if fault or weights is None:
        return _Survey(fault, len(rows), len(rows), float(len(rows)), float(len(rows)), 1.0)
    if weights.shape != rows.shape[:1]:
        return _Survey(f"sample_weight has shape {weights.shape} where X has {len(rows)} rows, in {{}}.")
    fault = find_fault(weights, "sample_weight")
    negative = np.flatnonzero(weights < 0)
    if negative.size and not fault:
        fault = f"Input sample_weight contains negative values, in row {negative[0]} of {{}}."
    with np.errstate(all="ignore"):
        largest = float(weights.max(initial=0.0))
        shares = weights / (largest or 1.0)
        n_rows, total, squares = int((weights > 0).sum()), float(weights.sum()), float(shares @ shares)
        return _Survey(fault, len(rows), n_rows, total, squares, largest)


def _survey_entries(rows: np.ndarray, weights: np.ndarray | None, n_features: int) -> _Survey:
    """The same of rows that may lack entries, and which they have."""
    survey = _survey(rows, weights, n_features, allow_missing=True)
    if survey.fault:
        return survey
    observed = sum_observed(ArrayRows(*_count(rows, weights)))
    return survey._replace(incomplete=bool(np.isnan(rows).any()), observed=observed)


def find_fault(values: np.ndarray, name: str, allow_missing: bool = False) -> str:
    """Say where the first value is that is NaN or infinite, with room for the partition's name; empty if none is."""
    wrong = find_nonfinite(values, allow_nan=allow_missing)
    if wrong is None:
        return ""
    kind = "NaN" if np.isnan(values[tuple(wrong)]) else "infinity"
    return f"Input {name} contains {kind}, in row {wrong[0]} of {{}}."


def _count(rows: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows of weight above zero."""
    if weights is None:
        return rows, None
    return keep_counted(rows, np.require(weights, np.float64, ["A", "W"]))  # the one type that kernels are compiled for


def _take_all(rows: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    source = ArrayRows(*_count(rows, weights))
    return source.take(np.arange(source.n_rows)), source.weigh(0, source.n_rows)


def _take(rows: np.ndarray, weights: np.ndarray | None, places: np.ndarray) -> np.ndarray:
    source = ArrayRows(*_count(rows, weights))
    return source.take(source.draw(places))


def _reduce(about: tuple[Any, np.ndarray | None], rows: np.ndarray, weights: np.ndarray | None) -> Statistics:
    """One partition's statistics, on the thread that Dask gives the task."""
    with threads(1):
        return open_rows(*_count(rows, weights), missing=isinstance(about[0], Forms)).reduce(*about)


def _add(*statistics: Statistics) -> Statistics:
    return reduce(add, statistics)


def map_rows(
    rows: Any,
    function: Callable[[np.ndarray], np.ndarray],
    *,
    width: int | None,
    dtype: Any,
    allow_missing: bool,
) -> da.Array:
    """What `function` finds of each block, lazily: one value a row, or `width` of them, in the row chunks of `rows`."""
    shape: dict[str, Any] = {"drop_axis": 1} if width is None else {"chunks": (rows.chunks[0], (width,))}
    meta = np.empty((0,) if width is None else (0, 0), dtype)
    return rows.map_blocks(partial(_apply, function, allow_missing), dtype=dtype, meta=meta, **shape)


def _apply(
    function: Callable[[np.ndarray], np.ndarray], allow_missing: bool, rows: np.ndarray, block_id: tuple[int, ...]
) -> np.ndarray:
    fault = find_fault(rows, "X", allow_missing)
    if fault:
        raise ValueError(fault.format(f"partition {block_id[0]}"))
    return function(rows)


def total(
    parts: list[Partition],
    function: Callable[[np.ndarray, np.ndarray | None], list[float]],
    n_features: int,
    *,
    allow_missing: bool,
) -> tuple[list[float], float]:
    """Add what `function` finds of the rows of each partition and their weights, and the weights.

    Raises
    ------
    ValueError
        As of `DaskRows`.
    """
    summarise = delayed(partial(_summarise, function, n_features, allow_missing), pure=False, traverse=False)
    found = dask.compute(*(summarise(*part) for part in parts))
    _raise_first(survey for survey, _ in found)
    sums, surveys = zip(*((sums, survey) for survey, sums in found if survey.n_rows), strict=True)
    return [math.fsum(each) for each in zip(*sums, strict=True)], math.fsum(survey.total for survey in surveys)


def _summarise(
    function: Callable[[np.ndarray, np.ndarray | None], list[float]],
    n_features: int,
    allow_missing: bool,
    rows: np.ndarray,
    weights: np.ndarray | None,
) -> tuple[_Survey, list[float]]:
    survey = _survey(rows, weights, n_features, allow_missing)
    if survey.fault or not survey.n_rows:
        return survey, []
    return survey, function(*_count(rows, weights))
