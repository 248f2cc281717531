"""Where rows come from. Every source offers `reduce` (a pass -> statistics), `map` (a pass -> rows out) and `take`."""

from fastgmm.sources.array import ArrayRows

__all__ = ["ArrayRows"]
