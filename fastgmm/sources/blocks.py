"""Blocks of rows that can be read again and again: what a function yields, files, or anything to iterate over."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _get_feature_names

from fastgmm.data import find_nonfinite, is_dask
from fastgmm.sources import parquet
from fastgmm.sources.array import block_rows
from fastgmm.sources.rows import SourceError

_PARQUET = (".parquet", ".pq")
_PAGE = 4096  # bytes


class Block(NamedTuple):
    """A block, or a part of one that is a file."""

    number: int  # from 0 on
    path: str  # of a file, or empty
    first: int  # where in the block the values begin
    values: Any  # rows (m, d) or weights (m,), as the source has them

    def __str__(self) -> str:
        return f"block {self.number}{f' ({self.path})' * bool(self.path)}"

    def error(self, problem: str) -> SourceError:
        """What is wrong with this block."""
        text = str(self)
        return SourceError(f"{text[0].upper()}{text[1:]} {problem}")


# Begins to read from the first block on.
Blocks = Callable[[], Iterator[Block]]


def open_blocks(source: Any, weight: Any = None) -> tuple[Blocks, Blocks | None]:
    """Blocks of rows, and of the weights if there are any; see `GaussianMixture.fit_chunks` for what they may be.

    Raises
    ------
    TypeError
        If a source cannot be read more than once.
    ValueError
        If it is an array, a file of another kind, or a folder without any; or if weights are the column of no Parquet.
    ImportError
        If it is Parquet and pyarrow is not installed.
    """
    paths = _paths(source)
    column = weight if isinstance(weight, str) and Path(weight).suffix != ".npy" else None
    if column is None:
        rows = _open(source, paths, "source", {})
        weights = None if weight is None else _open(weight, _paths(weight), "sample_weight", {})
        return rows, weights
    if not paths or not all(path.suffix in _PARQUET for path in paths):
        raise ValueError(f"sample_weight={column!r} names a column, but the source is not Parquet.")
    return (
        _open(source, paths, "source", {"without": column}),
        _open(source, paths, "sample_weight", {"only": column}),
    )


def _paths(source: Any) -> list[Path]:
    """The files that a source names; none if it is of another kind."""
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    if not isinstance(source, (list, tuple)) or not all(isinstance(each, (str, os.PathLike)) for each in source):
        return []
    files: list[Path] = []
    for path in map(Path, source):
        if path.is_dir():
            found = sorted(each for each in path.rglob("*") if each.suffix in (*_PARQUET, ".npy"))
            if not found:
                raise ValueError(f"The folder {str(path)!r} has no .parquet, .pq or .npy files.")
            files += found
        else:
            files.append(path)
    return files


def _open(source: Any, paths: list[Path], name: str, columns: dict[str, str]) -> Blocks:
    if paths:
        for path in paths:
            if path.suffix not in (*_PARQUET, ".npy"):
                raise ValueError(f"{str(path)!r} is none of .npy, .parquet and .pq; a function may read other files.")
        if any(path.suffix in _PARQUET for path in paths):
            parquet.import_pyarrow()
        return partial(_read_files, paths, columns)
    if name == "sample_weight" and isinstance(source, np.ndarray):
        source = [source]
    if isinstance(source, np.ndarray) or hasattr(source, "iloc") or is_dask(source):
        raise ValueError(f"The {name} is one array; fit takes it as it is, or [X] makes it a source of one block.")
    if callable(source):
        return partial(_iterate, source, name)
    if not isinstance(source, Iterable):
        raise TypeError(
            f"The {name} should be a function that returns an iterator of blocks, paths of .npy or Parquet files, or "
            f"something to iterate over, but it is of type {type(source).__name__}."
        )
    if iter(source) is source:
        raise TypeError(
            f"The {name} can be read only once, and EM reads it once per iteration: of a generator pass the function, "
            "so that fit_chunks(read) calls read() for every pass."
        )
    return partial(_iterate, partial(iter, source), name)


def _iterate(begin: Callable[[], Iterable[Any]], name: str) -> Iterator[Block]:
    """What the user's code yields; what it raises becomes the cause of an error that says where."""
    number = 0
    try:
        for number, values in enumerate(begin()):
            yield Block(number, "", 0, values)
            number += 1
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(f"The {name} raised {type(error).__name__} at block {number}: {error}") from error


def _read_files(paths: Sequence[Path], columns: dict[str, str]) -> Iterator[Block]:
    for number, path in enumerate(paths):
        block, empty = Block(number, str(path), 0, None), True
        try:
            for values in parquet.read(path, **columns) if path.suffix in _PARQUET else _read_npy(path):
                block, empty = block._replace(values=values), False
                yield block
                block = block._replace(first=block.first + len(values))
        except SourceError:
            raise
        except Exception as error:
            raise block.error(f"could not be read from row {block.first} on: {error}") from error
        if empty:
            raise block.error("is empty.")


def _read_npy(path: Path) -> Iterator[np.ndarray]:
    """Parts of a mapped file, which take no memory of ours; what is on disk is fetched here, ahead of the kernels."""
    values = np.load(path, mmap_mode="r")
    size = block_rows(values.shape[1] if values.ndim > 1 else 1)
    for start in range(0, len(values), size):
        part = values[start : start + size]
        if part.flags.c_contiguous:
            part.reshape(-1).view(np.uint8)[::_PAGE].max()
        yield part


def as_rows(block: Block) -> np.ndarray:
    """The rows of a block (m, d) as an array of a real type.

    Raises
    ------
    SourceError
        If they are none, or there are none.
    """
    values = block.values
    if isinstance(values, tuple):
        raise block.error("is a tuple, not rows; weights come from a source of their own, sample_weight.")
    rows = parquet.to_rows(values, block) if parquet.is_arrow(values) else _as_numbers(values, block)
    if rows.ndim != 2:
        raise block.error(f"should have rows and features, (m, d), but has shape {rows.shape}.")
    if rows.shape[0] == 0:
        raise block.error("is empty.")
    return rows


def as_weights(block: Block) -> np.ndarray:
    """Weights of a block (m,), float64, finite and not negative."""
    values = block.values
    weights = parquet.to_rows(values, block)[:, 0] if parquet.is_arrow(values) else _as_numbers(values, block)
    if weights.ndim != 1:
        raise block.error(f"of sample_weight should have one weight for each row, (m,), but has shape {weights.shape}.")
    weights = weights.astype(np.float64)
    wrong = np.flatnonzero(~((weights >= 0) & (weights < np.inf)))
    if wrong.size:
        row = block.first + wrong[0]
        raise block.error(f"of sample_weight has {weights[wrong[0]]} in row {row}; weights are finite, 0 or more.")
    return weights


def _as_numbers(values: Any, block: Block) -> np.ndarray:
    try:
        array = np.asarray(values)
        array = array.astype(np.float64) if array.dtype.kind == "O" else array
    except (TypeError, ValueError) as error:
        raise block.error(f"is no array of numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise block.error(f"has values of type {array.dtype}; they should be real numbers.")
    return array


def names_of(block: Block) -> list[str] | None:
    """Names of a block's features, where it has them."""
    values = block.values
    if parquet.is_arrow(values):
        return list(values.schema.names)
    names = _get_feature_names(values)
    return None if names is None else list(names)


def check_finite(rows: np.ndarray, block: Block, *, allow_nan: bool) -> None:
    """Refuse infinities and, unless allowed, NaN, with the place of the first."""
    wrong = find_nonfinite(rows, allow_nan=allow_nan)
    if wrong is not None:
        row, feature = wrong
        raise block.error(f"has {rows[row, feature]} in row {block.first + row}, feature {feature}.")
