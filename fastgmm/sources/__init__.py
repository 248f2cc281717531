"""Where rows come from. A fit asks what `Rows` says; sources in memory also offer `map` (a pass -> rows out)."""

from fastgmm.sources.array import ArrayRows
from fastgmm.sources.missing import IncompleteRows, open_rows
from fastgmm.sources.rows import Rows, SourceError

__all__ = ["ArrayRows", "IncompleteRows", "Rows", "SourceError", "open_rows"]
