"""Rows become feature-major tiles; a tile of log-densities becomes responsibilities.

A tile is TILE_ROWS rows stored feature by feature in one flat buffer, TILE_STRIDE apart, so every inner loop runs over
rows and fills the SIMD lanes. Flat buffers and a constant width keep LLVM's overlap checks few; without them it does
not vectorise. Tiles are float64 or float32; sums over a tile leave it as float64.
"""

import numpy as np

from fastgmm.kernels._jit import SUMS, TILE_ROWS, TILE_STRIDE, by_precision, kernel
from fastgmm.kernels.math import exp, exp_single, log

# Logarithms a tile takes: of the products of so many rows' totals each. A total is between 1 and k, so the product of 8
# stays finite in float32 for any number of components below 65,000.
_LOGARITHMS = TILE_ROWS // 8

# n rows, d features, k components, b = TILE_ROWS rows in a tile

_exp = by_precision(exp, exp_single)


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


@kernel(inline=True)
def _exponentiate_one(densities, largest, total):
    for i in range(TILE_ROWS):
        e = _exp(densities[i] - largest[i])
        densities[i] = e
        total[i] += e


@kernel(inline=True)
def _exponentiate_two(densities, largest, total):
    # Two at a time share the loads of the polynomial's coefficients, of which there are more than registers.
    for i in range(TILE_ROWS):
        d = _exp(densities[i] - largest[i])
        e = _exp(densities[TILE_STRIDE + i] - largest[i])
        densities[i] = d
        densities[TILE_STRIDE + i] = e
        total[i] += d + e


@kernel(inline=True)
def _exponentiate_pair(densities, largest, total):
    # Of two components the larger has exp(0) = 1, which need not be computed.
    one = densities.dtype.type(1.0)
    for i in range(TILE_ROWS):
        a = densities[i]
        b = densities[TILE_STRIDE + i]
        first = a >= b  # the choices below let no NaN go unseen, as max and min would
        top = a if first else b
        e = _exp((b if first else a) - top)
        densities[i] = one if first else e
        densities[TILE_STRIDE + i] = e if first else one
        largest[i] = top
        total[i] = one + e


@kernel
def exponentiate(densities, k, largest, total):
    """Turn log-densities into exp(log-density - the row's largest), in place; set `largest` and their `total`."""
    if k == 2:
        _exponentiate_pair(densities, largest, total)
        return
    for i in range(TILE_ROWS):
        largest[i] = densities[i]
        total[i] = 0.0
    for c in range(1, k):
        offset = c * TILE_STRIDE
        for i in range(TILE_ROWS):
            largest[i] = max(largest[i], densities[offset + i])
    for c in range(0, k - 1, 2):
        _exponentiate_two(densities[c * TILE_STRIDE :], largest, total)
    if k % 2:
        _exponentiate_one(densities[(k - 1) * TILE_STRIDE :], largest, total)


@kernel
def log_sum(largest, total, out):
    """out = log Σ_c w_c N(x | μ_c, Σ_c), from what `exponentiate` left."""
    for i in range(TILE_ROWS):
        out[i] = largest[i] + log(np.float64(total[i]))


@kernel(flags=SUMS)
def _sum_to(values, count):
    total = np.float64(0.0)  # NumPy would go on in the type of a float32 tile
    for i in range(count):
        total += values[i]
    return total


@kernel(flags=SUMS)
def _weighted_sum(largest, total, weights):
    result = np.float64(0.0)
    for i in range(TILE_ROWS):
        result += weights[i] * (largest[i] + log(np.float64(total[i])))
    return result


@kernel(inline=True)
def _log_product(total, count, products):
    """Σ_i log total_i of the first `count` rows, by one logarithm for several of them."""
    one = total.dtype.type(1.0)
    for i in range(TILE_ROWS):
        products[i] = total[i] if i < count else one
    size = TILE_ROWS
    while size > _LOGARITHMS:
        size //= 2
        for i in range(size):
            products[i] *= products[size + i]
    result = np.float64(0.0)
    for i in range(_LOGARITHMS):
        result += log(np.float64(products[i]))
    return result


@kernel(inline=True)
def sum_log_likelihoods(largest, total, weights, weighted, count, work):
    """Σ_i weight_i log p(x_i) of a tile from what `exponentiate` left; without weights, of its first `count` rows."""
    if weighted:
        return _weighted_sum(largest, total, weights)
    return _sum_to(largest, count) + _log_product(total, count, work)


@kernel
def count_lost(largest, total, count):
    """Count the rows whose log-likelihood is not finite: too far from every component for float64."""
    lost = 0
    for i in range(count):
        if not (np.isfinite(largest[i]) and np.isfinite(total[i])):
            lost += 1
    return lost


@kernel
def divide(numerators, total, out):
    """out = numerators / total, row by row."""
    for i in range(TILE_ROWS):
        out[i] = numerators[i] / total[i]


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
