"""The next tile's rows come into the caches while a tile is worked on, as memory has the time then.

A place is where rows lie, (address, bytes): no type of theirs, so that what is compiled for one is for all.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastgmm.kernels._jit import COMPILED, TILE_ROWS, kernel
from fastgmm.kernels.vectors import CACHE_LINE, INDEX


def emit_fetch(b: ir.IRBuilder, address: ir.Value) -> None:
    """Have the line at an address fetched into the second-level cache; any address may be asked for."""
    place = b.inttoptr(address, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [place.type, *[ir.IntType(32)] * 3])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    reading, second_level, data = (ir.IntType(32)(n) for n in (0, 2, 1))
    b.call(function, [place, reading, second_level, data])


class Fetching:
    """Fetches a place, a line with each call; when all are, the last again."""

    def __init__(self, b: ir.IRBuilder, address: ir.Value, size: ir.Value) -> None:
        self._builder = b
        self._next, self._end = cgutils.alloca_once_value(b, address), b.add(address, size)

    def go_on(self) -> None:
        """Fetch a line."""
        b = self._builder
        here = b.load(self._next)
        emit_fetch(b, here)
        there = b.add(here, INDEX(CACHE_LINE))
        b.store(b.select(b.icmp_unsigned("<", there, self._end), there, here), self._next)


def _make_fetch_lines():
    def fetch_lines(address, size):
        """Have all lines of a place fetched, which is nothing to see."""

    def typed(typing_context, address, size):
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            start, count = values
            with cgutils.for_range_slice(builder, INDEX(0), count, INDEX(CACHE_LINE), inc=True) as (i, _):
                emit_fetch(builder, builder.add(start, i))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return intrinsic(typed) if COMPILED else fetch_lines


_fetch_lines = _make_fetch_lines()


@kernel(inline=True)
def place_of(rows, first):
    """Where the rows (n, d, 1) of the tile lie that begins with the row `first`.

    That is no bytes where they do not lie one after the other, or there are none.
    """
    row = rows.strides[0]
    count = min(TILE_ROWS, rows.shape[0] - first) if row == rows.itemsize * rows.shape[1] else 0
    return np.int64(rows.ctypes.data + (first * row if count else 0)), np.int64(count * row)


@kernel(inline=True)
def fetch(place, first, last, parts):
    """Have the parts first..last of a place fetched that is in so many."""
    address, size = place
    start = first * size // parts
    _fetch_lines(address + start, last * size // parts - start)
