"""Rows of an array in memory or mapped into it: any strides, any real type."""

import copy
import functools
import math
from collections import deque
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from fastgmm.covariance import Parameters
from fastgmm.kernels import passes
from fastgmm.kernels._jit import RANGE_ROWS, overload_for
from fastgmm.kernels._threads import parallel_region, run_shares
from fastgmm.kernels.forms import Moments, pack, packer_for, scratch_size, sums_size
from fastgmm.kernels.vectors import aligned_zeros
from fastgmm.statistics import Statistics, TreeSum

_BUDGET = 16 * 2**20  # bytes a pass may take for each of: partial sums, rows being cast
_ALONE = 16  # float64s in two lines, which processors fetch as a pair: in none of them do two workers write
_KEPT = 1 << 18  # bytes of memory that may wait for the next few rows
WORTH_A_WORKER = 1 << 19  # rows times terms of their sums: some 100 µs, as much as sharing a pass costs
_SPANS_PER_WORKER = 32  # enough that the last ones do not leave a worker idle
_FLOAT32, _INT64 = np.dtype(np.float32), np.dtype(np.int64)
_FLOATS = frozenset({np.dtype(np.float64), _FLOAT32})
_NO_WEIGHTS = np.empty(0)

# What a pass can write of every row.
Wanted = Literal["log_likelihoods", "responsibilities", "labels"]


class RowsOut(NamedTuple):
    """What a pass wrote: arrays not asked for have length 0; `lost` rows have no finite log-likelihood."""

    log_likelihoods: np.ndarray  # (n,)
    responsibilities: np.ndarray  # (n, k)
    labels: np.ndarray  # (n,)
    lost: int

    def narrowed(self) -> "RowsOut":
        """The same with real numbers in float32."""
        log_likelihoods, responsibilities, labels, lost = self
        return RowsOut(log_likelihoods.astype(_FLOAT32), responsibilities.astype(_FLOAT32), labels, lost)


# What stands for answers that were not asked for.
_NO_NUMBERS, _NO_SHARES, _NO_LABELS = np.empty(0), np.empty((0, 0)), np.empty(0, np.int64)


def _as_kernel_rows(rows: np.ndarray) -> np.ndarray:
    """A view (n, d, 2) that has one type for Numba whatever the strides and flags: strided and read-only.

    The repeated last axis keeps NumPy from ever calling it contiguous, so that C, Fortran, sliced and read-only
    arrays share one compiled kernel.
    """
    shape = (*rows.shape, 2)
    if rows.flags.c_contiguous:  # in a quarter of the time
        view: np.ndarray = np.ndarray(shape, rows.dtype, rows, 0, (*rows.strides, 0))
        view.setflags(write=False)
        return view
    return np.broadcast_to(rows[:, :, None], shape)


def _power_of_two_at_least(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def is_tame(least: float, largest: float) -> bool:
    """Whether weights between these are also weights in float32."""
    return bool(least > 1e-30 and largest < 1e30)


def block_rows(features: int) -> int:
    """Rows of a block: a power of two of ranges, so that sums over blocks have the bits of one pass."""
    ranges = max(1, _BUDGET // (RANGE_ROWS * max(1, features) * 8))
    return RANGE_ROWS << (ranges.bit_length() - 1)


def _make_room(n: int, form: Any, wanted: tuple[Wanted, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays for what is `wanted` of n rows, in the order of `RowsOut`."""
    return (
        np.empty(n) if "log_likelihoods" in wanted else _NO_NUMBERS,
        np.empty((n, len(form.means))) if "responsibilities" in wanted else _NO_SHARES,
        np.empty(n, _INT64) if "labels" in wanted else _NO_LABELS,
    )


def _are_readable(rows: np.ndarray) -> bool:
    """Whether kernels can read them as they lie."""
    return rows.dtype in _FLOATS and rows.flags.aligned


def count_shares(n_rows: int, terms: int) -> int:
    """How many workers repay sharing a pass over so many rows, of whose sums there are so many `terms`."""
    return min(-(-n_rows // RANGE_ROWS), max(1, n_rows * terms // WORTH_A_WORKER))


def most_alone(terms: int) -> int:
    """The most rows for which `count_shares` says one."""
    return max(RANGE_ROWS, (2 * WORTH_A_WORKER - 1) // terms)


class FewWriter:
    """Passes over so few rows that to share one would not pay; they write what `ArrayRows.map` does, but sooner.

    Several Python threads may use it at once.

    Parameters
    ----------
    form : Form
        What the passes need of the parameters. The rows of all passes have one dtype.
    """

    def __init__(self, form: Any) -> None:
        self._form, self._packed, self._most = form, pack(form, moments=False), most_alone(sums_size(form))
        self._share: Callable[..., Any] | None = None
        self._idle: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=1)  # memory that no thread is using

    def takes(self, rows: np.ndarray) -> bool:
        """Whether rows are so few, and lie so that kernels can read them."""
        return 0 < len(rows) <= self._most and _are_readable(rows)

    def write(self, rows: np.ndarray, wanted: tuple[Wanted, ...]) -> RowsOut:
        """Write what is `wanted` of every row."""
        try:
            memory = self._idle.pop()
        except IndexError:
            form = self._form
            memory = aligned_zeros((1, scratch_size(form)), form.means.dtype), np.zeros(1, _INT64)
        scratch, lost = memory
        out = _make_room(len(rows), self._form, wanted)
        ranges = -(-len(rows) // RANGE_ROWS)
        others = self._packed, ranges, ranges, scratch, *out, lost, lost  # one worker alone counts no spans
        if self._share is None:
            self._share = overload_for(passes.rows_share, 0, _as_kernel_rows(rows), *others)
        # What is compiled looks at strides alone, so that any view of three dimensions will do.
        self._share(0, rows[:, :, None], *others)
        if scratch.nbytes <= _KEPT:
            self._idle.append(memory)
        return RowsOut(*out, lost.item())


class Readable(NamedTuple):
    """Rows that kernels can read: whole ranges, but for the last rows of all."""

    start: int
    rows: np.ndarray  # (m, d)
    weights: np.ndarray  # (m,), or (0,) where all count alike
    last: bool


class Prepared(NamedTuple):
    """A pass under one form that is taken again and again, while the form lives."""

    read: Callable[[], object]  # takes it, with what the form's arrays then say
    sums: np.ndarray  # what it leaves: log-likelihood, lost rows, moments
    statistics: Statistics  # those moments: views of the sums and of the form; its numbers are none


class RangedRows:
    """Rows whose sums are taken range by range, wherever they come from; `_readable` yields them."""

    n_features: int
    single: bool
    column_means: np.ndarray | None = None

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def form(self, structure: ModuleType, parameters: Parameters, single: bool = True) -> Any:
        """What a pass needs of the parameters: the fastest form, in float32 if `single` and the rows are."""
        return structure.form(parameters, single and self.single)

    def centred_form(self, structure: ModuleType, parameters: Parameters) -> Any:
        """The same, good for any data and for moments about any centres."""
        return structure.centred_form(parameters)

    def reduce(self, form: Any, centres: np.ndarray | None = None) -> Statistics:
        """Statistics of all rows under `form`, with moments about `centres` (k, d), by default the form's own.

        Their arrays may lie in memory of the source: they hold until its next pass.
        """
        about = form.means
        if centres is not None:
            about = np.zeros_like(form.means)
            about[:, : self.n_features] = centres - form.reference[: self.n_features]
        sums = self._sums(form, about)[: sums_size(form)]
        moments: Moments = form.cut(sums, about, self.n_features)
        return Statistics(*moments, float(sums[0]), int(sums[1]))

    def _sums(self, form: Any, about: np.ndarray) -> np.ndarray:
        """The vector of sums over all rows, and behind it what pads it."""
        tree = TreeSum()
        for block in self._readable():
            self._add_sums(block, form, about, tree)
        return tree.total()

    def _readable(self) -> Iterator[Readable]:
        """All rows in order."""
        raise NotImplementedError

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: Any = np.float64) -> np.ndarray:
        """Working memory that survives from pass to pass: fresh pages cost more than the sums they hold."""
        size, buffer = math.prod(shape), self._buffers.get(name)
        if buffer is None or buffer.size < size or buffer.dtype != dtype:
            buffer = self._buffers[name] = aligned_zeros((size,), dtype)
        return buffer[:size].reshape(shape)

    def _scratch(self, workers: int, form: Any) -> np.ndarray:
        return self._buffer("scratch", (workers, scratch_size(form)), form.means.dtype)

    def _add_sums(self, block: Readable, form: Any, about: np.ndarray, tree: TreeSum) -> None:
        """Add the sums of a block's ranges to the tree; it may hold those of any number of ranges before them."""
        rows, weights, packed, length = block.rows, block.weights, pack(form, moments=True), sums_size(form)
        size = -(-length // _ALONE) * _ALONE
        while len(rows):
            ranges = -(-len(rows) // RANGE_ROWS)
            with parallel_region(count_shares(len(rows), length)) as workers:
                most = max(workers, min(_SPANS_PER_WORKER * workers, _BUDGET // (8 * size)))
                span = _power_of_two_at_least(-(-ranges // most))
                if into := tree.leaves % span:  # shorter spans lead to where such a one may begin
                    ranges, span = min(ranges, span - into), into & -into
                if not block.last:  # others follow, so that every span must be a whole one
                    span = min(span, 1 << (ranges.bit_length() - 1))
                    ranges -= ranges % span
                ranges = min(ranges, most * span)
                partial = self._buffer("partial", (-(-ranges // span), size))
                levels = self._buffer("levels", (workers, span.bit_length(), size))
                run_shares(
                    passes.statistics_parallel,
                    passes.statistics_share,
                    (
                        _as_kernel_rows(rows), weights, packed, about, ranges, span, self._scratch(workers, form),
                        levels, partial, np.zeros(1, _INT64),
                    ),
                    workers,
                    len(rows) * length,
                )  # fmt: skip
            rows, weights = rows[ranges * RANGE_ROWS :], weights[ranges * RANGE_ROWS :]
            tree.push_all(partial, span, last=block.last and not len(rows))


class ArrayRows(RangedRows):
    """Rows of a two-dimensional array.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        Any real type; float64 and float32 are read in place, others are cast a block at a time.
    weights : ndarray of shape (n,), optional
        Weights of the rows, float64.

    Attributes
    ----------
    n_rows, n_features : int
        The shape of the rows.
    total_weight : float
        Sum of the weights; the number of rows where there are none.
    memory : dict or None
        Where starts keep what further fits to the same rows may use; None, where there will be none.
    """

    memory: dict[Any, Any] | None = None
    _layout: tuple[Any, ...] = ()  # of the form that what follows is for
    _alone = False  # whether to share a pass would not pay
    _arguments: tuple[Any, ...] = ()
    # Those of the sums among them, where moments are the sums as they lie: weight, first and second.
    _moments: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def __init__(self, rows: np.ndarray, weights: np.ndarray | None = None) -> None:
        super().__init__()
        self.n_rows, self.n_features = rows.shape
        self.total_weight = float(self.n_rows if weights is None else weights.sum())
        self._rows = rows
        self._weights = _NO_WEIGHTS if weights is None else weights
        # Whether the rows are float32 and weights would fit, so that a tile of them may be.
        self.single = rows.dtype == _FLOAT32 and (
            weights is None or is_tame(weights.min(initial=1.0), weights.max(initial=1.0))
        )
        self._in_place = _are_readable(rows)

    @property
    def weighted(self) -> bool:
        """Whether the rows have weights."""
        return bool(self._weights.size)

    @property
    def effective_rows(self) -> float:
        """Rows of equal weight that would tell as much, (Σ w)² / Σ w² (Kish 1965)."""
        if not self._weights.size:
            return float(self.n_rows)
        shares = self._weights / self._weights.max()
        return float(shares.sum() ** 2 / (shares @ shares))

    @property
    def sample(self) -> "ArrayRows":
        """All rows: a start is sought among them."""
        return self

    def beside(self) -> "ArrayRows":
        """The same rows with working memory of their own, for another thread to read meanwhile."""
        twin = copy.copy(self)
        twin._buffers, twin._layout = {}, ()
        return twin

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Copy some rows as float64, shape (len(indices), d)."""
        return np.ascontiguousarray(self._rows[indices], dtype=np.float64)

    def weigh(self, start: int, stop: int) -> np.ndarray:
        """Weights of rows[start:stop]: ones where all count alike."""
        return self._weights[start:stop] if self._weights.size else np.ones(stop - start)

    def draw(self, places: np.ndarray) -> np.ndarray:
        """Indices of the rows found at `places` (m,) in [0, 1) where each takes room by its weight."""
        if self._weights.size:
            ends = self._weights.cumsum()
            found = np.searchsorted(ends, places * ends[-1], side="right")
        else:
            found = (places * self.n_rows).astype(np.int64)
        return np.minimum(found, self.n_rows - 1)  # rounded to 1, a place is beyond the last

    def reduce(self, form: Any, centres: np.ndarray | None = None) -> Statistics:
        """As for any rows, but of so few that to share a pass would not pay without what is there for that."""
        if centres is not None:
            return super().reduce(form, centres)
        means = form.means
        if not self._lie_alone(form):
            return super().reduce(form)
        self._share(0, self._kernel_rows, self._weights, self._pack(form), means, *self._arguments)
        sums, parts = self._sums_of_few, self._moments
        if parts is None:
            means, *parts = form.cut(sums, means, self.n_features)
        weight, first, second = parts
        return Statistics(means, weight, first, second, sums.item(0), int(sums.item(1)))

    def prepare(self, form: Any) -> Prepared | None:
        """A pass under a form that is renewed, taken again and again; None where to share it may pay."""
        if not self._lie_alone(form):
            return None
        sums, means = self._sums_of_few, form.means
        moments: Moments = form.cut(sums, means, self.n_features)
        arguments = self._kernel_rows, self._weights, self._pack(form), means, *self._arguments
        return Prepared(functools.partial(self._share, 0, *arguments), sums, Statistics(*moments, 0.0, 0))

    def _lie_alone(self, form: Any) -> bool:
        """Whether to share passes under forms like this one would not pay; then all is prepared for them."""
        layout = type(form), form.means.shape, form.means.dtype
        if self._layout != layout:
            self._lay_out(form, layout)
        return self._alone

    def _lay_out(self, form: Any, layout: tuple[Any, ...]) -> None:
        """Prepare memory and the compiled function for passes under forms like this one."""
        self._layout, terms = layout, sums_size(form)
        self._alone = self._in_place and count_shares(self.n_rows, terms) == 1
        if not self._alone:
            return
        sums, ranges = np.zeros((1, terms)), -(-self.n_rows // RANGE_ROWS)
        span = _power_of_two_at_least(ranges)
        self._kernel_rows, self._sums_of_few = _as_kernel_rows(self._rows), sums[0]
        levels, taken = np.zeros((1, span.bit_length(), terms)), np.zeros(1, _INT64)
        self._arguments = (ranges, span, self._scratch(1, form), levels, sums, taken)
        self._pack = packer_for(form, moments=True)
        arguments = self._kernel_rows, self._weights, self._pack(form), form.means, *self._arguments
        self._share = overload_for(passes.statistics_share, 0, *arguments)
        moments: Moments = form.cut(sums[0], form.means, self.n_features)
        # Where they are the sums as they lie, about the form's means, they are the same arrays after every pass.
        standing = moments[0] is form.means and all(part.base is sums for part in moments[1:])
        self._moments = moments[1:] if standing else None

    def _sums(self, form: Any, about: np.ndarray) -> np.ndarray:
        """The vector of sums over all rows."""
        if self.n_rows == 0:  # an array without rows has another layout, for which kernels would be compiled
            return np.zeros(sums_size(form))
        return super()._sums(form, about)

    def map(self, form: Any, *wanted: Wanted) -> RowsOut:
        """Write what is `wanted` of every row under `form`."""
        out = _make_room(self.n_rows, form, wanted)
        lost = 0
        for start, rows, *_ in self._readable():
            lost += self._write(rows, form, [each[start : start + len(rows)] if each.size else each for each in out])
        return RowsOut(*out, lost)

    def blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield (start, stop, rows as float64) a block at a time, for work that is done in NumPy."""
        size = block_rows(self.n_features)
        for start in range(0, self.n_rows, size):
            stop = min(self.n_rows, start + size)
            yield start, stop, np.asarray(self._rows[start:stop], dtype=np.float64)

    def _readable(self) -> Iterator[Readable]:
        """All rows at once where kernels can read them, otherwise block after block."""
        if self._in_place:
            yield Readable(0, self._rows, self._weights, True)
            return
        for start, stop, rows in self.blocks():
            weights = self._weights[start:stop] if self._weights.size else self._weights
            yield Readable(start, rows, weights, stop == self.n_rows)

    def _write(self, rows: np.ndarray, form: Any, out: list[np.ndarray]) -> int:
        """Write of rows that kernels can read; return how many are lost."""
        ranges, packed = -(-rows.shape[0] // RANGE_ROWS), pack(form, moments=False)
        with parallel_region(count_shares(rows.shape[0], sums_size(form))) as workers:
            span = max(1, ranges // (_SPANS_PER_WORKER * workers))
            lost, taken = np.zeros(-(-ranges // span), _INT64), np.zeros(1, _INT64)
            run_shares(
                passes.rows_parallel,
                passes.rows_share,
                (_as_kernel_rows(rows), packed, ranges, span, self._scratch(workers, form), *out, lost, taken),
                workers,
                rows.shape[0] * sums_size(form),
            )
        return int(lost.sum())
