"""Squared distances of rows to centres: k-means++ seeding and Lloyd's passes over a sample of the rows.

A sample is read many times, so it is packed once into tiles, shape (tiles, d * b): feature by feature, zeros beyond
the last row and feature. Centres are taken two at a time, features four at a time, or two where there are no more, and
both are padded to that.
"""

import numpy as np
from numba import float64, int64

from fastgmm.kernels._jit import FLOATS_1D, FLOATS_2D, FLOATS_3D, INDICES, SUMS, TILE_ROWS, declared_kernel, kernel
from fastgmm.kernels.vectors import rest

# n rows, d features (padded to 2 or a multiple of 4), k centres, b = TILE_ROWS rows in a tile


def _padded(features: int) -> int:
    """How many features there are once padded to what the loops take at a time."""
    return 2 if features <= 2 else -(-features // 4) * 4


def pack(rows: np.ndarray) -> np.ndarray:
    """Rows (n, d) as tiles."""
    n, d = rows.shape
    tiles = np.zeros((-(-n // TILE_ROWS), _padded(d), TILE_ROWS))
    whole = n // TILE_ROWS
    tiles[:whole, :d] = rows[: whole * TILE_ROWS].reshape(whole, TILE_ROWS, d).swapaxes(1, 2)
    if whole < len(tiles):
        tiles[whole, :d, : n - whole * TILE_ROWS] = rows[whole * TILE_ROWS :].T
    return tiles.reshape(len(tiles), -1)


def pad_centres(centres: np.ndarray) -> np.ndarray:
    """Centres (k, d) padded; one more to make them even is infinitely far, nearest to no row."""
    k, d = centres.shape
    padded = np.zeros((k + k % 2, _padded(d)))
    padded[:k, :d] = centres
    padded[k:] = np.inf
    return padded


@kernel(inline=True)
def _add_squares(x, one, other, out):
    """Add the part that four features, x, have in the squared distances to two centres."""
    a0, a1, a2, a3 = one[0], one[1], one[2], one[3]
    b0, b1, b2, b3 = other[0], other[1], other[2], other[3]
    for i in range(TILE_ROWS):
        x0 = x[i]
        x1 = x[TILE_ROWS + i]
        x2 = x[2 * TILE_ROWS + i]
        x3 = x[3 * TILE_ROWS + i]
        u0, u1, u2, u3 = x0 - a0, x1 - a1, x2 - a2, x3 - a3
        v0, v1, v2, v3 = x0 - b0, x1 - b1, x2 - b2, x3 - b3
        out[i] += (u0 * u0 + u1 * u1) + (u2 * u2 + u3 * u3)
        out[TILE_ROWS + i] += (v0 * v0 + v1 * v1) + (v2 * v2 + v3 * v3)


@kernel
def _two_distances(tile, centres, features, out):
    """out[q * b + i] = |x_i - centre_q|² for the first two centres."""
    if features == 2:  # Lloyd's iterations take two thirds of the time they do with four
        a0, a1, b0, b1 = centres[0], centres[1], centres[2], centres[3]
        for i in range(TILE_ROWS):
            x0, x1 = tile[i], tile[TILE_ROWS + i]
            u0, u1, v0, v1 = x0 - a0, x1 - a1, x0 - b0, x1 - b1
            out[i] = u0 * u0 + u1 * u1
            out[TILE_ROWS + i] = v0 * v0 + v1 * v1
        return
    for i in range(2 * TILE_ROWS):
        out[i] = 0.0
    for j in range(0, features, 4):
        _add_squares(rest(tile, j * TILE_ROWS), rest(centres, j), rest(centres, features + j), out)


@kernel
def _keep_nearest(distances, first, nearest, labels):
    """Give every row the nearer of two more centres, first and first + 1, if it is nearer than those before."""
    for i in range(TILE_ROWS):
        before, one, two = nearest[i], distances[i], distances[TILE_ROWS + i]
        first_is_nearer = one <= two
        near = one if first_is_nearer else two
        label = first if first_is_nearer else first + 1.0
        labels[i] = label if near < before else labels[i]
        nearest[i] = near if near < before else before


@kernel(inline=True)
def nearest_centres(tiles, centres, distances, nearest, labels):
    """Set every row's nearest centre and the squared distance to it, labels and nearest (tiles * b).

    `distances` is working memory of 2 b. Labels are float64, so that a row's two answers have one width.
    """
    k, features = centres.shape
    for t in range(tiles.shape[0]):
        tile, near, label = rest(tiles, t * tiles.shape[1]), rest(nearest, t * TILE_ROWS), rest(labels, t * TILE_ROWS)
        for i in range(TILE_ROWS):
            near[i] = np.inf
            label[i] = 0.0
        for c in range(0, k, 2):
            _two_distances(tile, rest(centres, c * features), features, rest(distances, 0))
            _keep_nearest(distances, np.float64(c), near, label)


# So few centres look each at all rows, in vectors; of more every row adds to its own. Lloyd's iterations with two
# centres take half the time that way, with four three quarters.
_FEW_CENTRES = 4


@kernel(flags=SUMS)
def _sum_own(labels, weights, x, label, centre):
    """Σ w and Σ w (x - centre) over the rows of a tile that have this label and a weight."""
    count = total = 0.0
    for i in range(TILE_ROWS):
        own = labels[i] == label and weights[i] > 0.0
        count += weights[i] if own else 0.0
        total += weights[i] * (x[i] - centre) if own else 0.0
    return count, total


@kernel
def move_centres(tiles, rows, weights, nearest, labels, centres, counts, sums):
    """Move each centre to the mean of its rows; return the weighted sum of `nearest`, the inertia.

    `weights` (tiles * b) are 0 beyond the last row. Sets also counts (k,), of the rows' weights; sums (k, d unpadded)
    is working memory. A centre of no row stays.
    """
    k, d = sums.shape
    for c in range(k):
        counts[c] = 0.0
        for j in range(d):
            sums[c, j] = 0.0
    inertia = 0.0
    if k <= _FEW_CENTRES:
        for t in range(tiles.shape[0]):
            own, label, near = rest(weights, t * TILE_ROWS), rest(labels, t * TILE_ROWS), rest(nearest, t * TILE_ROWS)
            for c in range(k):
                count, squares = _sum_own(label, own, near, np.float64(c), 0.0)
                counts[c] += count
                inertia += squares
                for j in range(d):
                    feature = rest(tiles, t * tiles.shape[1] + j * TILE_ROWS)
                    sums[c, j] += _sum_own(label, own, feature, np.float64(c), centres[c, j])[1]
    else:
        for i in range(rows.shape[0]):
            centre, w = np.int64(labels[i]), weights[i]
            inertia += w * nearest[i]
            counts[centre] += w
            for j in range(d):
                sums[centre, j] += w * (rows[i, j] - centres[centre, j])
    for c in range(k):
        if counts[c] > 0.0:
            for j in range(d):
                centres[c, j] += sums[c, j] / counts[c]
    return inertia


@declared_kernel(
    *(FLOATS_2D, FLOATS_2D, FLOATS_1D, FLOATS_2D),
    *(int64, float64, float64),
    *(FLOATS_1D, FLOATS_1D, FLOATS_1D, FLOATS_1D, FLOATS_2D),
)
def lloyd(tiles, rows, weights, centres, most, tolerance, before, distances, nearest, labels, counts, sums):
    """Lloyd's iterations, `most` of them, until the inertia falls by no more than `tolerance` of itself.

    Returns the inertia, given that `before` the first, how many iterations were taken, whether they have settled, and
    whether they stopped because a centre has no row where others have some at a distance. Arguments are written in
    place as by `nearest_centres` and `move_centres`.
    """
    for taken in range(1, most + 1):
        nearest_centres(tiles, centres, distances, nearest, labels)
        inertia = move_centres(tiles, rows, weights, nearest, labels, centres, counts, sums)
        deserted = False
        for c in range(counts.size):
            deserted |= counts[c] == 0.0
        if deserted and 0.0 < inertia < np.inf:
            return inertia, taken, False, True
        if not inertia < (1.0 - tolerance) * before:
            return inertia, taken, True, False
        before = inertia
    return before, most, False, False


@declared_kernel(FLOATS_2D, FLOATS_1D, FLOATS_1D, FLOATS_2D, FLOATS_1D, FLOATS_1D, FLOATS_2D, FLOATS_3D)
def add_moments(rows, weights, labels, centres, deviation, weight, first, second):
    """Add to the labels' weight (k,), first (k, d) and second moments about `centres` (k, d).

    `second` has shape (k, d, d), of which the lower triangle is set, or (k, 1, d) for squares alone; with a leading 1
    instead of k all labels share one. `deviation` (d,) is working memory. No BLAS: where another program holds the
    cores its threads cost more than such small products.
    """
    n, d = rows.shape
    shared, squares = second.shape[0] < weight.size, second.shape[1] < d
    for i in range(n):
        c = np.int64(labels[i])
        g = 0 if shared else c
        w = weights[i]
        weight[c] += w
        for j in range(d):
            deviation[j] = rows[i, j] - centres[c, j]
            first[c, j] += w * deviation[j]
        if squares:
            for j in range(d):
                second[g, 0, j] += w * deviation[j] * deviation[j]
        else:
            for j in range(d):
                weighted = w * deviation[j]
                for m in range(j + 1):
                    second[g, j, m] += weighted * deviation[m]


@kernel(flags=SUMS)
def _keep_nearer(distances, weights, closest, nearer):
    """nearer = min(weights * distances, closest); returns its sum."""
    total = 0.0
    for i in range(TILE_ROWS):
        weighted, before = weights[i] * distances[i], closest[i]
        near = weighted if weighted < before else before
        nearer[i] = near
        total += near
    return total


@kernel
def _draw(weights, size, target):
    """The index at which the running sum of weights reaches the target, and what of it was then left."""
    last = 0
    for i in range(size):
        if weights[i] >= target:
            return i, target
        if weights[i] > 0.0:
            last = i
        target -= weights[i]
    return last, target  # rounding kept the sum below the target


@kernel
def _choose(tiles, weights, first, draws, k, distances, candidates, picks, nearer, totals, closest, seeds):
    """Greedy k-means++: set k `seeds` to indices of rows, the first of them given.

    `weights` (tiles * b) are those of the rows; `draws` ((k - 1) * trials,) are uniform on [0, 1); `closest`
    (tiles * b), the weighted squared distance to the closest seed, is infinite for every row, and zero beyond the last.
    Working memory: distances (2 b), candidates (trials made even, d), picks (trials,) integers, nearer
    (trials, tiles * b), totals (trials, tiles); candidates are zeros.
    """
    parts, features = tiles.shape[0], candidates.shape[1]
    best, least = 0, 0.0
    for c in range(k):
        trials = picks.size if c > 0 else 1
        for q in range(trials):
            picks[q] = first
            if c > 0:
                t, left = _draw(rest(totals, best * parts), parts, draws[(c - 1) * trials + q] * least)
                offset = t * TILE_ROWS
                picks[q] = offset + _draw(rest(closest, offset), np.int64(TILE_ROWS), left)[0]
            for j in range(features):
                candidates[q, j] = tiles[picks[q] // TILE_ROWS, j * TILE_ROWS + picks[q] % TILE_ROWS]
        for t in range(parts):
            offset = t * TILE_ROWS
            own, close = rest(weights, offset), rest(closest, offset)
            for q in range(trials):
                if q % 2 == 0:
                    tile, pair = rest(tiles, t * tiles.shape[1]), rest(candidates, q * features)
                    _two_distances(tile, pair, features, rest(distances, 0))
                half = rest(distances, q % 2 * TILE_ROWS)
                totals[q, t] = _keep_nearer(half, own, close, rest(nearer, q * closest.size + offset))
        best, least = 0, np.inf
        for q in range(trials):
            total = 0.0
            for t in range(parts):
                total += totals[q, t]
            if total < least:
                best, least = q, total
        seeds[c] = picks[best]
        for i in range(closest.size):
            closest[i] = nearer[best, i]


@declared_kernel(
    *(FLOATS_2D, FLOATS_1D, int64, FLOATS_2D),
    *(FLOATS_1D, FLOATS_2D, INDICES, FLOATS_2D, FLOATS_2D, FLOATS_1D, int64[:, ::1]),
)
def choose_seeds(tiles, weights, n, draws, distances, candidates, picks, nearer, totals, closest, seeds):
    """Greedy k-means++ several times: set `seeds` (times, k), each with its own draws (1 + (k - 1) * trials,).

    The first of each is drawn by weight. `closest` is working memory too; all else is as for `_choose`.
    """
    total = 0.0
    for i in range(n):
        total += weights[i]
    k = seeds.shape[1]
    for s in range(seeds.shape[0]):
        for i in range(closest.size):
            closest[i] = np.inf if i < n else 0.0
        first = _draw(rest(weights, 0), n, draws[s, 0] * total)[0]
        own, chosen = rest(draws, s * draws.shape[1] + 1), rest(seeds, s * k)
        _choose(tiles, weights, first, own, k, distances, candidates, picks, nearer, totals, closest, chosen)
