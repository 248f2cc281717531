"""Rows become feature-major tiles, and what forms do with the rows of a tile one by one.

A tile is TILE_ROWS rows stored feature by feature in one flat buffer, TILE_STRIDE apart, so every inner loop runs over
rows and fills the SIMD lanes. Flat buffers and a constant width keep LLVM's overlap checks few; without them it does
not vectorise. Tiles are float64 or float32; sums over a tile leave it as float64.
"""

import numpy as np

from fastgmm.kernels._jit import SUMS, TILE_ROWS, TILE_STRIDE, kernel

# n rows, d features, k components, b = TILE_ROWS rows in a tile


@kernel
def load_tile(rows, start, count, reference, tile):
    """Set tile[: d * b] to rows[start : start + count] - reference, repeating the last row to fill it.

    `rows` has shape (n, d, 1 or more) and any strides or float type; only its [:, :, 0] is read.
    """
    for j in range(rows.shape[1]):
        offset = j * TILE_STRIDE
        origin = reference[j]
        for i in range(count):
            tile[offset + i] = rows[start + i, j, 0] - origin
        for i in range(count, TILE_ROWS):
            tile[offset + i] = tile[offset + count - 1]


@kernel
def load_weights(row_weights, start, count, weights):
    """Set the tile's weights: those of the rows, or 1 where there are none; 0 for the rows that only fill it."""
    for i in range(count):
        weights[i] = row_weights[start + i] if row_weights.size else 1.0
    for i in range(count, TILE_ROWS):
        weights[i] = 0.0


@kernel
def scale(values, factors, out):
    """out = values * factors, row by row."""
    for i in range(TILE_ROWS):
        out[i] = values[i] * factors[i]


@kernel
def subtract_multiple(values, factor, out):
    """out -= factor * values."""
    for i in range(TILE_ROWS):
        out[i] -= values[i] * factor


@kernel
def scale_and_shift(values, factor, shift):
    """values = factor * values + shift, in place."""
    a, b = values.dtype.type(factor), values.dtype.type(shift)
    for i in range(TILE_ROWS):
        values[i] = a * values[i] + b


@kernel(flags=SUMS)
def scale_and_sum(values, factors):
    """Multiply one component's `values` by `factors` in place and return their sum."""
    total = np.float64(0.0)
    for i in range(TILE_ROWS):
        v = values[i] * factors[i]
        values[i] = v
        total += v
    return total


@kernel
def scale_components(densities, k, factors, weight):
    """r_c *= factors for every component, in place; weight[c] += Σ_i r_c."""
    for c in range(k):
        weight[c] += scale_and_sum(densities[c * TILE_STRIDE :], factors)


@kernel
def clear(values):
    """values = 0."""
    for i in range(TILE_ROWS):
        values[i] = 0.0


@kernel(flags=SUMS)
def centre_and_weigh(x, centre, r, deviation, weighted):
    """deviation = x - centre and weighted = r deviation for one feature; returns the sum of the latter."""
    total = np.float64(0.0)
    for i in range(TILE_ROWS):
        difference = x[i] - centre
        product = r[i] * difference
        deviation[i] = difference
        weighted[i] = product
        total += product
    return total


@kernel(flags=SUMS)
def _four_squares(x, mean, out):
    """out += Σ_j (x_j - mean_j)² over four features."""
    m0, m1, m2, m3 = mean[0], mean[1], mean[2], mean[3]
    for i in range(TILE_ROWS):
        x0 = x[i] - m0
        x1 = x[TILE_STRIDE + i] - m1
        x2 = x[2 * TILE_STRIDE + i] - m2
        x3 = x[3 * TILE_STRIDE + i] - m3
        out[i] += (x0 * x0 + x1 * x1) + (x2 * x2 + x3 * x3)


@kernel
def squared_distances(tile, mean, features, out):
    """out[i] = |x_i - mean|² for a tile whose features are a multiple of four."""
    clear(out)
    for j in range(0, features, 4):
        _four_squares(tile[j * TILE_STRIDE :], mean[j:], out)
