"""Where EM starts: k-means, k-means++, random responsibilities, or rows of the data."""

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np

from fastgmm.covariance import Parameters, Update
from fastgmm.covariance.update import move
from fastgmm.em.engine import maximise
from fastgmm.kernels._jit import TILE_ROWS, TILE_STRIDE
from fastgmm.kernels.distances import distances_to, lloyd_pass
from fastgmm.kernels.forms import pad
from fastgmm.sources import ArrayRows
from fastgmm.statistics import Statistics, add

# k-means is found on at most so many rows (or 100 a component): more of them move the centres less than EM does.
KMEANS_ROWS = 65_536
_ROWS_PER_COMPONENT = 100
_LLOYD_ITERATIONS = 300
_LLOYD_TOLERANCE = 1e-4  # of the mean variance of the features, as scikit-learn's KMeans

TOO_LARGE = (
    "Squared distances between the rows of X overflow float64. Scale the data, for instance with "
    "sklearn.preprocessing.StandardScaler."
)


def start_from_kmeans(
    source: ArrayRows, k: int, structure: ModuleType, reg_covar: float, random: np.random.RandomState
) -> Update:
    """Each row wholly in the component of its nearest k-means centre."""
    rows = _some_rows(source, k, random)
    centres, inertia = _lloyd(rows, _seed(rows, k, random)[1])
    if not math.isfinite(inertia):
        raise ValueError(TOO_LARGE)
    # k-means is EM with equal, vanishing variances. So narrow that a row's nearest centre takes it whole, a pass
    # with the structure's own kernel takes the moments, with no labels in between.
    spread = math.sqrt(inertia / len(rows)) or float(np.ptp(centres, axis=0).max()) or 1.0
    sharp = _isotropic_parameters(centres, 1e-8 * spread, structure)
    return maximise(source, source.reduce(structure.form(sharp)), sharp, structure, reg_covar)


def _isotropic_parameters(means: np.ndarray, width: float, structure: ModuleType) -> Parameters:
    k, d = means.shape
    shape = structure.covariances_shape(k, d)
    unit = np.broadcast_to(np.eye(d), shape) if structure.MATRICES else np.ones(shape)
    return Parameters(np.full(k, 1.0 / k), means, unit * width**2, unit / width)


def start_from_seeds(
    source: ArrayRows, k: int, structure: ModuleType, reg_covar: float, random: np.random.RandomState
) -> Update:
    """Means on rows picked by k-means++; covariances of `reg_covar` alone, as scikit-learn's."""
    rows = _some_rows(source, k, random)
    return start_at_rows(rows[_seed(rows, k, random)[0]], structure, reg_covar)


def start_from_random_rows(
    source: ArrayRows, k: int, structure: ModuleType, reg_covar: float, random: np.random.RandomState
) -> Update:
    """Means on different rows picked at random; covariances of `reg_covar` alone, as scikit-learn's."""
    return start_at_rows(source.take(random.choice(source.n_rows, size=k, replace=False)), structure, reg_covar)


def start_at_rows(means: np.ndarray, structure: ModuleType, reg_covar: float) -> Update:
    """One row in each component."""
    k = len(means)
    second = structure.stack([structure.second_moments(np.zeros((1, means.shape[1])), np.ones(1))] * k)
    update: Update = structure.maximise(Statistics(means, np.ones(k), np.zeros_like(means), second, 0.0, 0), reg_covar)
    return update


def start_from_random_responsibilities(
    source: ArrayRows, k: int, structure: ModuleType, reg_covar: float, random: np.random.RandomState
) -> Update:
    """Responsibilities drawn uniformly and normalised, row by row."""
    state = random.get_state()

    def draw(start: int, stop: int) -> np.ndarray:
        if start == 0:
            random.set_state(state)
        responsibilities = random.uniform(size=(stop - start, k))
        return responsibilities / responsibilities.sum(axis=1, keepdims=True)

    return start_from_responsibilities(source, draw, k, structure, reg_covar)


def start_from_responsibilities(
    source: ArrayRows,
    responsibilities: Callable[[int, int], np.ndarray],
    k: int,
    structure: ModuleType,
    reg_covar: float,
) -> Update:
    """Maximise from given responsibilities; `responsibilities(start, stop)` has shape (stop - start, k).

    It is called for all rows in order, twice: for the means, then for the moments about them.
    """
    origin = np.repeat(source.take(np.arange(1)), k, axis=0)
    means = move(_moments(source, responsibilities, origin, structure)).means
    update: Update = structure.maximise(_moments(source, responsibilities, means, structure), reg_covar)
    return update


def _moments(
    source: ArrayRows,
    responsibilities: Callable[[int, int], np.ndarray],
    centres: np.ndarray,
    structure: ModuleType,
) -> Statistics:
    total: Statistics | None = None
    for start, stop, rows in source.blocks():
        shares = responsibilities(start, stop)
        first, second = [], []
        for c, centre in enumerate(centres):
            deviations = rows - centre
            first.append(shares[:, c] @ deviations)
            second.append(structure.second_moments(deviations, shares[:, c]))
        part = Statistics(centres, shares.sum(axis=0), np.stack(first), structure.stack(second), 0.0, 0)
        total = part if total is None else add(total, part)
    if total is None:
        raise ValueError("There are no rows to start from.")
    return total


def _some_rows(source: ArrayRows, k: int, random: np.random.RandomState) -> np.ndarray:
    """All rows, or as many as k-means is worth, drawn without replacement."""
    most = max(KMEANS_ROWS, _ROWS_PER_COMPONENT * k)
    if source.n_rows <= most:
        return source.take(np.arange(source.n_rows))
    # The Generator draws without a permutation of all n rows.
    generator = np.random.default_rng(random.randint(2**31, size=4))
    return source.take(np.sort(generator.choice(source.n_rows, size=most, replace=False, shuffle=False)))


def _seed(rows: np.ndarray, k: int, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007): indices of the seeds and the seeds, (k,) and (k, d)."""
    n = len(rows)
    trials = 2 + int(math.log(k))
    indices = np.empty(k, np.int64)
    indices[0] = random.randint(n)
    closest = _distances(rows, rows[indices[:1]])[0]
    for c in range(1, k):
        total = np.cumsum(closest)
        picks = np.searchsorted(total, random.uniform(size=trials) * total[-1])
        candidates = np.minimum(picks, n - 1)
        distances = np.minimum(_distances(rows, rows[candidates]), closest)
        best = int(distances.sum(axis=1).argmin())
        indices[c] = candidates[best]
        closest = distances[best]
    return indices, rows[indices]


def _lloyd(rows: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, float]:
    """Lloyd's iterations (1982); returns the centres and the sum of squared distances to the nearest."""
    k, features = centres.shape
    padded = pad(centres, -(-features // 4) * 4)
    tile, buffer = np.empty(padded.shape[1] * TILE_STRIDE), np.empty(TILE_ROWS)
    counts, first, distances = np.empty(k), np.empty_like(padded), np.empty(len(rows))
    deviations = rows - rows[0]
    tolerance = _LLOYD_TOLERANCE * float(deviations.var(axis=0).mean())
    kernel_rows = rows[:, :, None]
    for _ in range(_LLOYD_ITERATIONS):
        lloyd_pass(kernel_rows, padded, tile, buffer, counts, first, distances)
        shifts = first / np.maximum(counts, 1.0)[:, None]
        padded += shifts
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            # A centre nobody is nearest to goes to the row farthest from its own.
            farthest = np.argsort(distances)[::-1][: len(empty)]
            padded[empty, :features] = rows[farthest]
            if distances[farthest[0]] == 0.0:
                break  # fewer distinct rows than centres
        elif (shifts**2).sum() <= tolerance:
            break
    return padded[:, :features].copy(), float(distances.sum())


def _distances(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances, shape (len(centres), len(rows))."""
    padded = pad(centres, -(-centres.shape[1] // 4) * 4)
    out = np.empty((len(centres), len(rows)))
    distances_to(rows[:, :, None], padded, np.empty(padded.shape[1] * TILE_STRIDE), np.empty(TILE_ROWS), out)
    return out


STARTS = {
    "kmeans": start_from_kmeans,
    "k-means++": start_from_seeds,
    "random": start_from_random_responsibilities,
    "random_from_data": start_from_random_rows,
}
