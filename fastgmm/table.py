"""Tables in plain text."""

import math
from collections.abc import Sequence

# Longer tables show as many rows of their beginning and end.
_MOST_ROWS = 60
_SHOWN_ROWS = 20
_MOST_DECIMALS = 12


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """Align columns to the right, the last to the left if it holds `words`, leaving out the middle of a long table."""
    shown = [list(header), *rows]
    if len(rows) > _MOST_ROWS:
        gap = ["..."] + [""] * (len(header) - 1)
        shown = [list(header), *rows[:_SHOWN_ROWS], gap, *rows[-_SHOWN_ROWS:]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    if words:
        widths[-1] = 0
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in shown)
    return "\n".join(line.rstrip() if words else line for line in lines)


def format_beside(value: float, scale: float) -> str:
    """Write a value with as many decimals as three digits of the scale have."""
    if not (math.isfinite(value) and math.isfinite(scale)) or scale == 0.0:
        return f"{value:.4g}"
    decimals = 2 - math.floor(math.log10(scale))
    if decimals < -3 or decimals > _MOST_DECIMALS:
        return f"{value:.4g}"
    return f"{value:.{max(decimals, 0)}f}"
