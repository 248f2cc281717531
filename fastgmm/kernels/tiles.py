"""Rows become feature-major tiles; a tile of log-densities becomes responsibilities.

A tile is TILE_ROWS rows stored feature by feature in one flat buffer, so every inner loop runs over rows and fills
the SIMD lanes. Flat buffers and a constant width keep LLVM's overlap checks few; without them it does not vectorise.
"""

import numpy as np

from fastgmm.kernels._jit import SUMS, TILE_ROWS, kernel
from fastgmm.kernels.math import exp, log

# n rows, d features, k components, b = TILE_ROWS rows in a tile


@kernel
def load_tile(rows, start, count, tile):
    """Copy rows[start : start + count] into tile[: d * b], repeating the last row to fill it.

    `rows` has shape (n, d, 1 or more) and any strides or float type; only its [:, :, 0] is read.
    """
    for j in range(rows.shape[1]):
        offset = j * TILE_ROWS
        for i in range(count):
            tile[offset + i] = rows[start + i, j, 0]
        for i in range(count, TILE_ROWS):
            tile[offset + i] = rows[start + count - 1, j, 0]


@kernel
def load_weights(row_weights, start, count, weights):
    """Set the tile's weights: those of the rows, or 1 where there are none; 0 for the rows that only fill it."""
    for i in range(count):
        weights[i] = row_weights[start + i] if row_weights.size else 1.0
    for i in range(count, TILE_ROWS):
        weights[i] = 0.0


@kernel
def exponentiate(densities, k, largest, total):
    """Turn log-densities into exp(log-density - the row's largest), in place; set `largest` and their `total`."""
    for i in range(TILE_ROWS):
        largest[i] = densities[i]
        total[i] = 0.0
    for c in range(1, k):
        offset = c * TILE_ROWS
        for i in range(TILE_ROWS):
            largest[i] = max(largest[i], densities[offset + i])
    for c in range(k):
        offset = c * TILE_ROWS
        for i in range(TILE_ROWS):
            e = exp(densities[offset + i] - largest[i])
            densities[offset + i] = e
            total[i] += e


@kernel
def log_sum(largest, total, out):
    """out = log Σ_c w_c N(x | μ_c, Σ_c), from what `exponentiate` left."""
    for i in range(TILE_ROWS):
        out[i] = largest[i] + log(total[i])


@kernel
def count_lost(log_likelihoods, count):
    """Count the rows whose log-likelihood is not finite: too far from every component for float64."""
    lost = 0
    for i in range(count):
        if not np.isfinite(log_likelihoods[i]):
            lost += 1
    return lost


@kernel
def divide(numerators, total, scale):
    """scale = numerators / total, row by row."""
    for i in range(TILE_ROWS):
        scale[i] = numerators[i] / total[i]


@kernel(flags=SUMS)
def scale_and_sum(values, scale):
    """Multiply one component's `values` by `scale` in place and return their sum."""
    total = 0.0
    for i in range(TILE_ROWS):
        v = values[i] * scale[i]
        values[i] = v
        total += v
    return total


@kernel
def scale_components(densities, k, scale, weight):
    """r_c *= scale for every component, in place; weight[c] += Σ_i r_c."""
    for c in range(k):
        weight[c] += scale_and_sum(densities[c * TILE_ROWS :], scale)


@kernel
def subtract_centre(tile, centre, features, out):
    """out = tile - centre, feature by feature."""
    for j in range(features):
        offset = j * TILE_ROWS
        m = centre[j]
        for i in range(TILE_ROWS):
            out[offset + i] = tile[offset + i] - m
