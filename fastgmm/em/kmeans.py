"""k-means on a sample of the rows: seeds, Lloyd's iterations, and exchanges of centres where there are many."""

import math
from typing import NamedTuple

import numpy as np
from scipy.spatial import KDTree

from fastgmm.kernels import distances
from fastgmm.kernels._jit import TILE_ROWS
from fastgmm.sources import ArrayRows

# The best of several seedings finds all clusters where they are few; but no more seedings than clusters, as of one or
# two there is little to choose. Of many clusters every seeding misses some: one will do, and exchanges find the rest.
_SEEDINGS = 8
_MANY = 64
_SEEDING_ROWS = 2048
_SEEDING_ROWS_PER_CLUSTER = 32
_EXCHANGED = 4  # a fourth of the centres at first
# Lloyd's iterations end when the inertia falls by no more than this share of itself: enough to tell seedings apart,
# and enough for EM.
_COARSE, _FINE = 3e-2, 1e-3
_LLOYD_ITERATIONS = 300
_AT_ONCE = 1 << 28  # rows times centres times features, some 50 ms, between looks for an interrupt from the keyboard
_TINY = float(np.finfo(np.float64).tiny)


class Sample:
    """Rows (n, d) and weights (n,), the rows in tiles, and working memory: labels and squared distances of theirs."""

    def __init__(self, rows: np.ndarray, weights: np.ndarray) -> None:
        self.rows, self.weights = np.ascontiguousarray(rows), np.ascontiguousarray(weights)
        self.tiles = distances.pack(rows)
        self.tile_weights = np.zeros(len(self.tiles) * TILE_ROWS)
        self.tile_weights[: len(rows)] = weights
        self.nearest, self.labels = np.empty((2, len(self.tiles) * TILE_ROWS))
        self.work = np.empty(2 * TILE_ROWS)

    def assign(self, centres: np.ndarray) -> None:
        """Set every row's label and distance to those of its nearest centre, of `centres` padded."""
        distances.nearest_centres(self.tiles, centres, self.work, self.nearest, self.labels)


class Clustering(NamedTuple):
    """What k-means found: centres, the weight of the rows of each, every row's label, the sum of squared distances."""

    centres: np.ndarray  # (k, d)
    counts: np.ndarray  # (k,)
    labels: np.ndarray  # (n,)
    inertia: float


def kmeans(sample: Sample, k: int, random: np.random.RandomState) -> Clustering:
    """Lloyd's iterations from the best of several seedings on some of the rows, or from one with exchanges."""
    few = _fewer(sample, k, random)
    seedings = min(_SEEDINGS, k) if k < _MANY else 1
    runs = (_lloyd(few, few.rows[seeds], _COARSE) for seeds in choose_seeds(few, k, seedings, random))
    best = min(runs, key=lambda run: run.inertia)
    if k >= _MANY and math.isfinite(best.inertia):
        best = _exchange(few, best, random)
    # Sorted, so that components keep their numbers from seed to seed where the clusters are the same.
    return _lloyd(sample, best.centres[np.lexsort(best.centres.T[::-1])], _FINE)


def choose_seeds(sample: Sample, k: int, times: int, random: np.random.RandomState) -> np.ndarray:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007) so many times: indices of the seeds, (times, k)."""
    n, tiles = len(sample.rows), len(sample.tiles)
    trials = 2 + int(math.log(k))
    trials += trials % 2  # as cheap as one fewer
    seeds = np.empty((times, k), np.int64)
    distances.choose_seeds.call(
        *(sample.tiles, sample.tile_weights, n, random.uniform(size=(times, 1 + (k - 1) * trials))),
        sample.work,
        np.zeros((trials, sample.tiles.shape[1] // TILE_ROWS)),
        np.empty(trials, np.int64),
        np.empty((trials, tiles * TILE_ROWS)),
        np.empty((trials, tiles)),
        np.empty(tiles * TILE_ROWS),
        seeds,
    )
    return seeds


def places(count: int, random: np.random.RandomState) -> np.ndarray:
    """One place at random in each of `count` equal parts of [0, 1): draws that spread, and repeat little."""
    return (np.arange(count) + random.uniform(size=count)) / count


def _fewer(sample: Sample, k: int, random: np.random.RandomState) -> Sample:
    """As many rows of the sample as seedings need to be told apart."""
    n, most = len(sample.rows), max(_SEEDING_ROWS, _SEEDING_ROWS_PER_CLUSTER * k)
    if n <= most:
        return sample
    drawn = ArrayRows(sample.rows, sample.weights).draw(places(most, random))
    return Sample(sample.rows[drawn], np.ones(most))


def _lloyd(sample: Sample, centres: np.ndarray, tolerance: float) -> Clustering:
    """Lloyd's iterations (1982) until the inertia falls by no more than `tolerance` of itself.

    The labels are the sample's own: they hold until it is assigned anew.
    """
    (k, features), n = centres.shape, len(sample.rows)
    padded = distances.pad_centres(centres)
    counts, sums = np.empty(k), np.empty((k, features))
    at_once = max(1, _AT_ONCE // (padded.size * n))
    inertia, left, settled = math.inf, _LLOYD_ITERATIONS, False
    while left and not settled:
        inertia, taken, settled, deserted = distances.lloyd.call(
            *(sample.tiles, sample.rows, sample.tile_weights, padded, min(left, at_once), tolerance, inertia),
            *(sample.work, sample.nearest, sample.labels, counts, sums),
        )
        left -= taken
        if deserted:
            # A centre nobody is nearest to goes to the row farthest from its own.
            empty = np.flatnonzero(counts == 0.0)
            padded[empty, :features] = sample.rows[np.argsort(sample.nearest[:n])[::-1][: len(empty)]]
    return Clustering(padded[:k, :features], counts, sample.labels[:n], inertia)


def _exchange(sample: Sample, best: Clustering, random: np.random.RandomState) -> Clustering:
    """Merge pairs of clusters and halve as many others, and go on while that lowers the inertia; then fewer at once.

    Lloyd's iterations move no centre from where two share a cluster to where one has two. Exchanges do, as in the
    random swap of Fränti (2018), J. Big Data 5:13; here several at once, of those that promise most.
    """
    best, errors = _assigned(sample, best.centres)
    size = len(best.centres) // _EXCHANGED
    while size:
        worst = np.argsort(errors)[::-1][:size]
        found, errors_found = _assigned(sample, _exchanged(sample, best, worst[errors[worst] > 0.0], random))
        if found.inertia < (1.0 - _FINE) * best.inertia:
            best, errors = found, errors_found
        else:
            size //= 2
    return best


def _exchanged(sample: Sample, found: Clustering, halved: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Centres (k, d) of which pairs that cost little have become one, and the others rows of the clusters to halve."""
    centres = found.centres.copy()
    for (kept, freed), cluster in zip(_pairs_to_merge(found, halved), halved, strict=False):
        share = found.counts[freed] / max(found.counts[kept] + found.counts[freed], _TINY)
        centres[kept] += share * (centres[freed] - centres[kept])
        centres[freed] = _pick(sample, found.labels == cluster, random)
    return centres


def _assigned(sample: Sample, centres: np.ndarray) -> tuple[Clustering, np.ndarray]:
    """What Lloyd's iterations find, with labels of its own, and each cluster's part (k,) in the inertia."""
    found = _lloyd(sample, centres, _COARSE)
    labels = found.labels.astype(np.int64)
    errors = np.bincount(labels, sample.nearest[: len(labels)] * sample.weights, len(centres))
    return found._replace(labels=labels), errors


def _pairs_to_merge(clustering: Clustering, spared: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of neighbours, no cluster in two, in the order of what merging them costs (Ward 1963)."""
    others = np.setdiff1d(np.arange(len(clustering.centres)), spared)
    centres, counts = clustering.centres[others], clustering.counts[others]
    steps, found = KDTree(centres).query(centres, 2)
    if not math.isfinite(steps.max()):  # squares overflow between clusters, if not within
        return []
    ones = np.arange(len(others))
    aside = np.where(found[:, 1] == ones, 0, 1)  # itself is the first it finds, unless another is at the same place
    neighbours, steps = found[ones, aside], steps[ones, aside]
    costs = steps**2 * counts * counts[neighbours] / np.maximum(counts + counts[neighbours], _TINY)
    free = np.ones(len(others), bool)
    pairs: list[tuple[int, int]] = []
    for one in np.argsort(costs, kind="stable"):
        other = neighbours[one]
        if free[one] and free[other]:
            free[[one, other]] = False
            pairs.append((others[one], others[other]))
    return pairs


def _pick(sample: Sample, among: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """One of the rows at random, by weight."""
    rows = ArrayRows(sample.rows[among], sample.weights[among])
    return rows.take(rows.draw(random.uniform(size=1)))[0]
