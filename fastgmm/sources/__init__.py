"""Where rows come from. Every source offers `reduce` (a pass -> statistics), `map` (a pass -> rows out) and `take`."""

from fastgmm.sources.array import ArrayRows
from fastgmm.sources.missing import IncompleteRows, open_rows

__all__ = ["ArrayRows", "IncompleteRows", "open_rows"]
