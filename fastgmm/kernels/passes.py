"""One read of all rows: statistics for EM, or log-likelihoods, responsibilities and labels.

Each pass is a serial body over a span of row ranges, which small data, forked children and other threads call
directly, and a driver that holds a `prange` over workers. No pass knows a form: it is given one that is packed.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange
from numba.extending import intrinsic

from fastgmm.kernels._jit import (
    COMPILED,
    FLOATS_2D,
    RANGE_ROWS,
    TILE_ROWS,
    TILE_STRIDE,
    declared_kernel,
    kernel,
    parallel_kernel,
)
from fastgmm.kernels.calls import call_accumulate, call_log_densities, call_share
from fastgmm.kernels.fetching import place_of
from fastgmm.kernels.softmax import (
    count_lost,
    exponentiate,
    find_largest,
    log_sum,
    sum_exponentials,
    sum_log_likelihoods,
    write_responsibilities,
)
from fastgmm.kernels.tiles import load_tile, load_weights
from fastgmm.kernels.vectors import INDEX, Emitter, integer_intrinsic, rest

# n rows, d features (padded), k components, b = TILE_ROWS rows in a tile


@kernel(inline=True)
def _cut(scratch, k):
    """Cut scratch into four vectors, log-densities (k * b), and a tile with the form's working memory."""
    return (
        rest(scratch, 0),
        rest(scratch, TILE_STRIDE),
        rest(scratch, 2 * TILE_STRIDE),
        rest(scratch, 3 * TILE_STRIDE),
        rest(scratch, 4 * TILE_STRIDE),
        rest(scratch, (4 + k) * TILE_STRIDE),
    )


@kernel(inline=True)
def _clear(values, size):
    for j in range(size):
        values[j] = 0.0


@kernel(inline=True)
def _copy(values, size, out):
    for j in range(size):
        out[j] = values[j]


@kernel
def _add(values, size, out):
    for j in range(size):
        out[j] += values[j]


@declared_kernel(FLOATS_2D)
def add_in_pairs(sums):
    """Add vectors (m, size) in a binary tree over their index, into the first of them; the others are used up."""
    m, size = sums.shape
    distance = 1
    while distance < m:
        for s in range(0, m - distance, 2 * distance):
            _add(rest(sums, (s + distance) * size), size, rest(sums, s * size))
        distance *= 2


@kernel
def _range_sums(rows, row_weights, form, centres, start, stop, scratch, size, sums):
    """Set the `size` entries of `sums` to the statistics of rows[start:stop]."""
    k, d = form.means.shape
    weights, largest, total, inverse, densities, tile = _cut(scratch, k)
    padding = rows.shape[1] * TILE_STRIDE
    _clear(rest(tile, padding), d * TILE_STRIDE - padding)
    _clear(sums, size)
    for first in range(start, stop, TILE_ROWS):
        count = min(TILE_ROWS, stop - first)
        load_tile(rows, first, count, form.reference, tile)
        if row_weights.size or count < TILE_ROWS or first == start:  # else they are the last tile's: ones
            load_weights(row_weights, first, count, weights)
        ahead = place_of(rows, first + count)
        call_log_densities(form, tile, densities, (ahead[0], 0))
        exponentiate(densities, k, largest, total, inverse, ahead)
        log_likelihood = sum_log_likelihoods(largest, total, inverse, weights, row_weights.size > 0, count)
        sums[0] += log_likelihood
        if not np.isfinite(log_likelihood):
            sums[1] += count_lost(largest, total, count)
        call_accumulate(form, tile, densities, inverse, weights, centres, sums)


@kernel(inline=True)
def statistics_span(rows, row_weights, form, centres, first, last, scratch, levels, size, sums):
    """Set the `size` entries of `sums` to the statistics of the ranges first..last, added in a binary tree.

    The l-th `size` entries of `levels` hold the sums of 2**l ranges that wait for their neighbours, as a binary counter
    does; `first` is a multiple of the power of two above last - first, so the tree is the same however ranges are cut
    into spans.
    """
    n = rows.shape[0]
    for index in range(last - first):
        start = (first + index) * RANGE_ROWS
        into = sums if index & 1 else levels
        _range_sums(rows, row_weights, form, centres, start, min(n, start + RANGE_ROWS), scratch, size, into)
        level = 0
        while (index >> level) & 1:
            _add(rest(levels, level * size), size, sums)
            level += 1
        if level:
            _copy(sums, size, rest(levels, level * size))
    waiting = last - first
    level = 0
    while not (waiting >> level) & 1:
        level += 1
    _copy(rest(levels, level * size), size, sums)
    while (waiting >> (level + 1)) > 0:
        level += 1
        if (waiting >> level) & 1:
            _add(rest(levels, level * size), size, sums)


def _take(taken):
    """Raise taken[0] by one, which no two workers do at once, and return what it was."""
    number = taken[0]
    taken[0] += 1
    return number


def _emit_take(e: Emitter, taken: Any) -> ir.Value:
    return e.builder.atomic_rmw("add", taken, INDEX(1), "monotonic")


if COMPILED:

    @intrinsic
    def _take(typing_context, taken):
        return integer_intrinsic(_emit_take, taken)


@kernel(inline=True)
def _next_span(before, taken, workers):
    """The span that follows `before` in one worker's share: of several, the next that none has taken.

    Shares laid down beforehand would be as long as the slowest processor takes, and others may be at work on one.
    """
    return before + 1 if workers == 1 else _take(taken)


@kernel
def statistics_share(worker, rows, row_weights, form, centres, ranges, span, scratch, levels, sums, taken):
    """One worker's share of a pass: spans of `span` ranges, each into its row of `sums`.

    `taken` (1,), 0 at first, counts the spans that the scratch.shape[0] workers have begun.
    """
    spans, size = sums.shape
    own, waiting = rest(scratch, worker * scratch.shape[1]), rest(levels, worker * levels.shape[1] * size)
    s = np.int64(-1)
    while True:
        s = _next_span(s, taken, scratch.shape[0])
        if s >= spans:
            break
        first = s * span
        last = min(ranges, first + span)
        statistics_span(rows, row_weights, form, centres, first, last, own, waiting, size, rest(sums, s * size))


@parallel_kernel
def statistics_parallel(share, rows, row_weights, form, centres, ranges, span, scratch, levels, sums, taken):
    """`statistics_share` for all workers at once."""
    for worker in prange(scratch.shape[0]):
        own = np.int64(worker), rows, row_weights, form, centres, ranges, span, scratch, levels, sums, taken
        call_share(share, own)


@kernel(inline=True)
def rows_span(rows, form, first, last, scratch, log_likelihoods, responsibilities, labels):
    """Write what is asked of the ranges first..last, outputs of length 0 are not wanted; return how many rows are lost.

    A row too far from every component for float64 gets a log-likelihood of -inf or NaN and NaN responsibilities,
    which the caller repairs.
    """
    k, d = form.means.shape
    _, largest, total, inverse, densities, tile = _cut(scratch, k)
    last_sums, last_labels = np.empty(TILE_ROWS), np.empty(TILE_ROWS, np.int64)  # of a tile that is not full
    padding = rows.shape[1] * TILE_STRIDE
    _clear(rest(tile, padding), d * TILE_STRIDE - padding)
    exponentials = log_likelihoods.size > 0 or responsibilities.size > 0  # the better time to fetch what comes next
    lost = 0
    for start in range(first * RANGE_ROWS, min(rows.shape[0], last * RANGE_ROWS), TILE_ROWS):
        count = min(TILE_ROWS, rows.shape[0] - start)
        load_tile(rows, start, count, form.reference, tile)
        ahead = place_of(rows, start + count)
        call_log_densities(form, tile, densities, (ahead[0], 0 if exponentials else ahead[1]))
        full = count == TILE_ROWS
        if labels.size:
            find_largest(densities, k, largest, rest(labels, start) if full else rest(last_labels, 0))
            if not full:
                _copy(rest(last_labels, 0), count, rest(labels, start))
        if not exponentials:
            lost += count_lost(largest, largest, count)
            continue
        if responsibilities.size:
            exponentiate(densities, k, largest, total, inverse, ahead)
        else:
            sum_exponentials(densities, k, largest, total, inverse, ahead)
        lost += count_lost(largest, total, count)
        if log_likelihoods.size:
            log_sum(largest, total, inverse, rest(log_likelihoods, start) if full else rest(last_sums, 0))
            if not full:
                _copy(rest(last_sums, 0), count, rest(log_likelihoods, start))
        if responsibilities.size:
            write_responsibilities(densities, k, inverse, count, rest(responsibilities, start * k))
    return lost


@kernel
def rows_share(worker, rows, form, ranges, span, scratch, log_likelihoods, responsibilities, labels, lost, taken):
    """One worker's share of a pass: spans of `span` ranges, `taken` as for `statistics_share`."""
    own = rest(scratch, worker * scratch.shape[1])
    s = np.int64(-1)
    while True:
        s = _next_span(s, taken, scratch.shape[0])
        if s >= lost.size:
            break
        first = s * span
        last = min(ranges, first + span)
        lost[s] = rows_span(rows, form, first, last, own, log_likelihoods, responsibilities, labels)


@parallel_kernel
def rows_parallel(share, rows, form, ranges, span, scratch, log_likelihoods, responsibilities, labels, lost, taken):
    """`rows_share` for all workers at once."""
    for worker in prange(scratch.shape[0]):
        out = log_likelihoods, responsibilities, labels, lost
        call_share(share, (np.int64(worker), rows, form, ranges, span, scratch, *out, taken))
