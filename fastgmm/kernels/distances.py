"""Squared distances of rows to centres: k-means++ seeding and Lloyd's iterations."""

import numpy as np

from fastgmm.kernels._jit import TILE_ROWS, TILE_STRIDE, kernel
from fastgmm.kernels.tiles import load_tile, squared_distances

# n rows, d features (padded to a multiple of 4), k centres, b = TILE_ROWS rows in a tile


@kernel
def distances_to(rows, centres, tile, buffer, out):
    """out[c, i] = |x_i - centre_c|²; `rows` as `tiles.load_tile` takes them, centres (k, d) padded with zeros."""
    n = rows.shape[0]
    k, d = centres.shape
    origin = np.zeros(d)
    tile[:] = 0.0
    for start in range(0, n, TILE_ROWS):
        count = min(TILE_ROWS, n - start)
        load_tile(rows, start, count, origin, tile)
        for c in range(k):
            squared_distances(tile, centres[c], d, buffer)
            for i in range(count):
                out[c, start + i] = buffer[i]


@kernel
def _keep_nearer(distance, c, nearest, labels):
    for i in range(TILE_ROWS):
        nearer = distance[i] < nearest[i]
        labels[i] = c if nearer else labels[i]
        nearest[i] = distance[i] if nearer else nearest[i]


@kernel
def lloyd_pass(rows, centres, tile, buffer, counts, first, distances):
    """Assign every row to its nearest centre.

    Sets counts (k,), the assigned rows' sums of differences from their centre, first (k, d), and every row's squared
    distance, distances (n,).
    """
    n = rows.shape[0]
    k, d = centres.shape
    labels = np.zeros(TILE_ROWS)
    nearest = np.empty(TILE_ROWS)
    origin = np.zeros(d)
    tile[:] = 0.0
    counts[:] = 0.0
    first[:] = 0.0
    for start in range(0, n, TILE_ROWS):
        count = min(TILE_ROWS, n - start)
        load_tile(rows, start, count, origin, tile)
        nearest[:] = np.inf
        labels[:] = 0.0
        for c in range(k):
            squared_distances(tile, centres[c], d, buffer)
            _keep_nearer(buffer, float(c), nearest, labels)
        for i in range(count):
            c = int(labels[i])
            counts[c] += 1.0
            distances[start + i] = nearest[i]
            for j in range(d):
                first[c, j] += tile[j * TILE_STRIDE + i] - centres[c, j]
