"""Rows that come in blocks, pass after pass, from disk or wherever they are made."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fastgmm.covariance import Parameters
from fastgmm.data import HEAVY, keep_counted
from fastgmm.kernels._jit import RANGE_ROWS
from fastgmm.sources.array import ArrayRows, RangedRows, Readable, block_rows, is_tame
from fastgmm.sources.blocks import Block, Blocks, as_rows, as_weights, check_finite, names_of
from fastgmm.sources.missing import Forms, IncompleteRows, means_of, sum_observed
from fastgmm.sources.reservoir import Reservoir
from fastgmm.sources.rows import SourceError
from fastgmm.statistics import Statistics, TreeSum, add

_GATHERED = 32 * RANGE_ROWS  # most rows of small blocks that are put together
Item = TypeVar("Item")


class _Weighed(NamedTuple):
    """Rows of a block that have a weight above zero, and the weights, or none where all count alike."""

    block: Block
    rows: np.ndarray
    weights: np.ndarray | None


class ChunkRows(RangedRows):
    """Rows that are read block by block in every pass, the next block while kernels work on one.

    Blocks may be of any length, and another in every pass: they are cut anew into the ranges that rows in memory have,
    so the sums have the same bits. A first pass counts and checks the rows, and draws a sample of them.

    Parameters
    ----------
    rows, weights : callable
        Begin to read blocks of rows, and of weights; None where all rows count alike. Those of weights may be others.
    capacity : callable
        capacity(d) is how many rows the sample may have.
    seed : int or sequence of int
        Of the sample.
    bars : class, optional
        tqdm's, for a bar over the rows of each pass.
    allow_missing : bool, default=False
        Whether entries may be missing, NaN.

    Attributes
    ----------
    n_rows, n_features, total_weight, weighted, effective_rows, column_means, sample
        As `Rows` has them.
    dtype : type
        float32 if all rows are, else float64.
    names : list of str or None
        Names of the features, where the first block has them.

    Raises
    ------
    SourceError
        If there are no rows, or a block or a weight is not what it should be; from `reduce` also if there are other
        rows than in the first pass.
    """

    def __init__(
        self,
        rows: Blocks,
        weights: Blocks | None,
        *,
        capacity: Callable[[int], int],
        seed: int | Sequence[int],
        bars: Any = None,
        allow_missing: bool = False,
    ) -> None:
        super().__init__()
        self._allow_missing = allow_missing
        self._rows, self._weights, self._bars = rows, weights, bars
        self.weighted = weights is not None
        self._passes = 0
        self._copied = False  # whether blocks may be overwritten by the next
        self._survey(capacity, seed)

    def _survey(self, capacity: Callable[[int], int], seed: int | Sequence[int]) -> None:
        """The first pass: everything that the others rely on."""
        self.n_rows, self.total_weight, self._seen = 0, 0.0, -1
        self.names: list[str] | None = None
        reservoir: Reservoir | None = None
        single, before = True, np.empty(0)
        least, largest, squares = np.inf, 0.0, 0.0  # of weights, the squares in units of the largest
        incomplete, observed = False, np.zeros((2, 1))
        with self._bar() as advance:
            for block, rows, weights in self._weighed(look=True):
                if reservoir is None:
                    self.n_features, self.names = rows.shape[1], names_of(block)
                    reservoir = Reservoir(capacity(self.n_features), seed)
                single &= rows.dtype == np.float32
                self._copied |= np.may_share_memory(rows, before)
                before = rows
                if self._allow_missing:
                    incomplete |= bool(np.isnan(rows).any())
                    observed = observed + sum_observed(ArrayRows(rows, weights))
                if len(rows):
                    reservoir.add(rows, weights, self.n_rows)
                    self.n_rows += len(rows)
                    self.total_weight += len(rows) if weights is None else float(weights.sum())
                if len(rows) and weights is not None:
                    least, most = min(least, weights.min()), max(largest, weights.max())
                    shares = weights / most
                    squares = squares * (largest / most) ** 2 + float(shares @ shares)
                    largest = most
                advance(len(rows))
        if reservoir is None:
            raise SourceError("The source has no blocks.")
        self._check_totals()
        self.effective_rows = (self.total_weight / largest) ** 2 / squares if self.weighted else float(self.n_rows)
        self.single = bool(single and (not self.weighted or is_tame(least, largest)))
        self.dtype = np.float32 if single else np.float64
        self.sample: ArrayRows = reservoir.sample()
        if incomplete:
            self.column_means = self.sample.column_means = means_of(observed)

    def _check_totals(self) -> None:
        if self.n_rows == 0:
            raise SourceError("Sample weights must contain at least one non-zero number.")
        if not np.isfinite(self.total_weight):
            raise SourceError(HEAVY)

    def _bar(self) -> Any:
        """A bar over the rows of a pass, as a context of a function that moves it on."""
        self._passes += 1
        return _Bar(self._bars, self._passes, self.n_rows or None)

    def form(self, structure: ModuleType, parameters: Parameters, single: bool = True) -> Any:
        """What a pass needs of the parameters: the fastest form, in float32 if `single` and the rows are."""
        return self._extended(super().form(structure, parameters, single), structure, parameters)

    def centred_form(self, structure: ModuleType, parameters: Parameters) -> Any:
        """The same, good for any data and for moments about any centres."""
        return self._extended(super().centred_form(structure, parameters), structure, parameters)

    def _extended(self, form: Any, structure: ModuleType, parameters: Parameters) -> Any:
        return form if self.column_means is None else Forms(form, structure.masked_form(parameters))

    def reduce(self, form: Any, centres: np.ndarray | None = None) -> Statistics:
        """Statistics of all rows under `form`, with moments about `centres` (k, d), by default the form's own."""
        if self.column_means is None:
            return super().reduce(form, centres)
        total: Statistics | None = None
        with self._bar() as advance:
            for block in self._readable():
                part = IncompleteRows(block.rows, block.weights if self.weighted else None).reduce(form, centres)
                total = part if total is None else add(total, part)
                advance(len(block.rows))
        assert total is not None
        self._look_again(total.lost)
        return total

    def _sums(self, form: Any, about: np.ndarray) -> np.ndarray:
        """The vector of sums over all rows."""
        tree = TreeSum()
        with self._bar() as advance:
            for block in self._readable():
                self._add_sums(block, form, about, tree)
                advance(len(block.rows))
        sums = tree.total()
        self._look_again(int(sums[1]))
        return sums

    def _look_again(self, lost: int) -> None:
        """See whether rows are lost as they are too far from all components, or because they are not finite by now."""
        if lost:
            for _ in self._weighed(look=True):
                pass

    def _readable(self) -> Iterator[Readable]:
        """All rows in order, in whole ranges but for the last."""
        start = 0
        for rows, weights in _read_ahead(self._ranges()):
            stop = start + len(rows)
            yield Readable(start, rows, weights, stop == self.n_rows)
            start = stop
        if start != self.n_rows:
            raise SourceError(f"{start} rows have a weight above zero, but had {self.n_rows} before; {_EVERY_PASS}")

    def _ranges(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows and weights: of long blocks where they lie, of short ones and at the ends of long ones put together."""
        room = min(_GATHERED, block_rows(self.n_features))
        gathered = _Gathered(self, room), _Gathered(self, room)  # one is read while the other is filled
        for _, rows, weights in self._weighed():
            weights = np.empty(0) if weights is None else weights
            in_place = rows.dtype == self.dtype and rows.flags.aligned
            long = max(RANGE_ROWS, room // 4) if in_place else np.inf  # so many are worth it
            while len(rows):
                held = gathered[0].held
                if held == 0 and len(rows) >= long:
                    count = len(rows) - len(rows) % RANGE_ROWS
                    yield rows[:count], weights[:count]
                else:
                    border = -held % RANGE_ROWS
                    count = min(len(rows), border if len(rows) >= border + long else room - held)
                    gathered[0].add(rows[:count], weights[:count])
                    if gathered[0].held == room or (len(rows) >= count + long and gathered[0].held % RANGE_ROWS == 0):
                        yield gathered[0].take()
                        gathered = gathered[::-1]
                rows, weights = rows[count:], weights[count:]
        if gathered[0].held:
            yield gathered[0].take()

    def _weighed(self, look: bool = False) -> Iterator[_Weighed]:
        """Blocks with their weights, checked but for what is in them, at which only `look` has a look."""
        tape = None if self._weights is None else _Tape(self._weights())
        width, seen, first_names = None, 0, None
        block = None
        for block in self._rows():
            rows = as_rows(block)
            names = names_of(block)
            if width is None:
                width, first_names = rows.shape[1], names
                if self._seen >= 0 and width != self.n_features:
                    raise block.error(f"has {width} features, but it had {self.n_features} in the first pass.")
            if rows.shape[1] != width:
                raise block.error(f"has {rows.shape[1]} features, but the first block has {width}.")
            if names is not None and names != first_names:
                raise block.error(f"has features {', '.join(names)}, but the first block has others or no names.")
            if look:
                check_finite(rows, block, allow_nan=self._allow_missing)
            seen += len(rows)
            if 0 <= self._seen < seen:
                raise block.error(f"brings more rows than the {self._seen} of the first pass; {_EVERY_PASS}")
            rows = rows.copy() if self._copied else rows
            if tape is None:
                yield _Weighed(block, rows, None)
                continue
            yield _Weighed(block, *keep_counted(rows, tape.take(len(rows), block)))
        if tape is not None:
            tape.finish(seen)
        if self._seen >= 0 and seen < self._seen:
            where = f"after {block}" if block is not None else "before the first block"
            raise SourceError(
                f"The source ends {where}, at row {seen}, but had {self._seen} rows in the first pass; {_EVERY_PASS}"
            )
        self._seen = seen if block is not None else -1


_EVERY_PASS = "every pass must yield the same rows."


class _Gathered:
    """Room for rows of short blocks, and for their weights."""

    def __init__(self, source: ChunkRows, rows: int) -> None:
        self._rows = np.empty((rows, source.n_features), source.dtype)
        self._weights = np.empty(rows if source.weighted else 0)
        self.held = 0

    def add(self, rows: np.ndarray, weights: np.ndarray) -> None:
        """Copy rows, of whatever type, behind those that are held."""
        place = slice(self.held, self.held + len(rows))
        self._rows[place] = rows
        if self._weights.size:
            self._weights[place] = weights
        self.held = place.stop

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """All that is held, to be read before more is added."""
        held, self.held = self.held, 0
        return self._rows[:held], self._weights[:held]


class _Tape:
    """Weights from blocks that need not be those of the rows."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self._blocks = blocks
        self._weights = np.empty(0)

    def take(self, count: int, rows: Block) -> np.ndarray:
        """The next weights (count,), for a block of rows."""
        parts, wanted = [], count
        while len(self._weights) < wanted:
            parts.append(self._weights)
            wanted -= len(self._weights)
            block = next(self._blocks, None)
            if block is None:
                raise rows.error(f"has no weights from row {rows.first + count - wanted} on: sample_weight has ended.")
            self._weights = as_weights(block)
        parts.append(self._weights[:wanted])
        self._weights = self._weights[wanted:]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def finish(self, rows: int) -> None:
        """Refuse weights of rows that are not there."""
        if len(self._weights) or any(len(as_weights(block)) for block in self._blocks):
            raise SourceError(f"sample_weight goes on after the {rows} rows of the source.")


class _Bar:
    """A bar, or nothing in its place."""

    def __init__(self, bars: Any, number: int, total: int | None) -> None:
        self._bar = bars and bars(total=total, unit="row", unit_scale=True, desc=f"pass {number}", leave=False)

    def __enter__(self) -> Callable[[int], Any]:
        return self._bar.update if self._bar is not None else lambda count: None

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _read_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items; while one is used a thread gets the next, and none beyond."""
    with ThreadPoolExecutor(1, "fastgmm-reader") as reader:
        coming = reader.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = reader.submit(next, items, None)
            yield item
