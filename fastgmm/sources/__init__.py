"""Where rows come from. A fit asks what `Rows` says; sources in memory also offer `map` (a pass -> rows out)."""

from fastgmm.sources.array import ArrayRows, count_shares
from fastgmm.sources.blocks import open_blocks
from fastgmm.sources.chunks import ChunkRows
from fastgmm.sources.missing import IncompleteRows, open_rows
from fastgmm.sources.rows import Rows, SourceError

__all__ = [
    "ArrayRows",
    "ChunkRows",
    "IncompleteRows",
    "Rows",
    "SourceError",
    "count_shares",
    "open_blocks",
    "open_rows",
]
