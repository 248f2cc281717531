"""Rows of Parquet files and of Arrow's tables: the only room that knows pyarrow, and only when it is asked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastgmm.sources.array import block_rows


def import_pyarrow() -> Any:
    """The library.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError("Parquet needs pyarrow: `pip install 'fastgmm[parquet]'`.") from None
    return pyarrow


def is_arrow(values: Any) -> bool:
    """Whether these are a table or a batch of Arrow's."""
    return type(values).__module__.partition(".")[0] == "pyarrow" and hasattr(values, "schema")


def read(path: Path, only: str | None = None, without: str | None = None) -> Iterator[Any]:
    """Batches of a file: of one column, or of all but one.

    Raises
    ------
    ValueError
        If the column is not there.
    """
    with import_pyarrow().parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        for column in (only, without):
            if column is not None and column not in names:
                raise ValueError(f"there is no column {column!r}, only {', '.join(names)}.")
        wanted = [name for name in names if name != without] if only is None else [only]
        yield from file.iter_batches(batch_size=block_rows(len(wanted)) // 8, columns=wanted, use_threads=False)


def to_rows(table: Any, block: Any) -> np.ndarray:
    """Rows (m, d) of a table or batch: float32 if all columns are, else float64. Nulls are NaN."""
    types = import_pyarrow().types
    for field in table.schema:
        if not (types.is_floating(field.type) or types.is_integer(field.type) or types.is_boolean(field.type)):
            raise block.error(
                f"has a column {field.name!r} of type {field.type}; all should be numbers. To choose columns, pass a "
                "function that yields batches of those."
            )
    single = all(types.is_float32(field.type) for field in table.schema)
    rows = np.empty((table.num_rows, table.num_columns), np.float32 if single else np.float64)
    for j, column in enumerate(table.columns):
        # Null booleans come as objects.
        rows[:, j] = column.to_numpy(zero_copy_only=False) if hasattr(column, "buffers") else column.to_numpy()
    return rows
