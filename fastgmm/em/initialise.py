"""Where EM starts: k-means, k-means++, random responsibilities, rows of the data, or what is given."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import NamedTuple

import numpy as np

from fastgmm.covariance import Hyperparameters, Parameters, Prior, Update, flat
from fastgmm.covariance.prior import relative_ridge
from fastgmm.covariance.update import count_rows
from fastgmm.em.kmeans import Clustering, Sample, choose_seeds, kmeans, places
from fastgmm.em.step import maximise
from fastgmm.kernels import distances
from fastgmm.kernels._jit import TILE_ROWS
from fastgmm.sources import ArrayRows, Rows
from fastgmm.statistics import Statistics, add

# k-means is found on a sample of so many rows, or so many a component; EM moves the centres more than further rows
# would. What that saves pays for several seedings, the best of which beats one on all rows, and so saves EM iterations.
KMEANS_ROWS = 8192
_ROWS_PER_COMPONENT = 128
_SAMPLE_BYTES = 16 * 2**20  # but no more than this
# With fewer of its rows in the sample, a component's variances or its covariance matrix come from all rows.
_ROWS_FOR_VARIANCES = 32
_ROWS_PER_FEATURE = 32
_EPS = float(np.finfo(np.float64).eps)
_TINY = float(np.finfo(np.float64).tiny)
_COLLINEAR = 1e-12  # variance along an axis of features of unit variance that is none
_MOST_CHOSEN = 1 << 20  # rows among which some are chosen directly: that takes as many numbers
_REDRAWS = 64  # of rows that equal others; they may all
# Sets of random responsibilities: of one row, however heavy, and of all together where there are not more rows.
_MOST_SETS = 1000
_MOST_SETS_IN_ALL = 10_000_000
_CHUNK_BYTES = 4 * 2**20  # of rows worked on in NumPy, which for a moment takes several times as much

Start = Callable[[ArrayRows, int, ModuleType, Hyperparameters, np.random.RandomState], Update]
# Rows, some at a time, their weights, and the labels of the clusters they are in.
Clusters = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]

TOO_LARGE = (
    "Squared distances between the rows of X overflow float64. Scale the data, for instance with "
    "sklearn.preprocessing.StandardScaler."
)


def regularise(
    source: Rows, k: int, structure: ModuleType, prior: Prior | None, reg_covar: float | str
) -> tuple[Prior | None, Hyperparameters]:
    """The prior with nothing left open, and what joins the statistics: the prior, or without one `reg_covar`."""
    d = source.n_features
    if prior is None and reg_covar != "auto":
        return None, flat(float(reg_covar), d)
    if prior is None or not prior.complete:
        mean, covariance = describe_rows(source, structure)
        variances = np.diag(covariance) if structure.MATRICES else np.broadcast_to(covariance, d)
        if not np.isfinite(variances).all():
            raise ValueError(TOO_LARGE)
        if prior is None:
            return None, flat(relative_ridge(variances, mean), d)
        prior = prior.completed(mean, covariance, relative_ridge(variances, mean, source.total_weight), k)
    return prior, prior.hyperparameters(structure, k, d)


def describe_rows(source: Rows, structure: ModuleType) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and covariance of all rows, as the structure has it for one component."""

    def alike(start: int, stop: int) -> np.ndarray:
        return np.ones((stop - start, 1))

    none = flat(0.0, source.n_features)
    one = start_from_responsibilities(source.sample, alike, 1, structure, none).parameters
    if source.sample is not source and source.column_means is None:
        # One component has all rows, whatever its covariance: a pass under any takes their moments about its mean. Of
        # rows with missing entries it would take what is expected of those, so the sample has to do.
        ball = np.eye(source.n_features) * max(np.max(one.covariances), _TINY)
        covariances = structure.from_dense(ball[None])
        near = Parameters(one.weights, one.means, covariances, structure.factorise(covariances)[0])
        statistics = source.reduce(source.centred_form(structure, near))
        one = maximise(source, statistics, near, structure, none).parameters
    return one.means[0], one.covariances if structure.SHARED else one.covariances[0]


def start_from_kmeans(
    source: ArrayRows,
    k: int,
    structure: ModuleType,
    prior: Hyperparameters,
    random: np.random.RandomState,
    whitened: bool = False,
) -> Update:
    """Each row wholly in the component of its nearest k-means centre, by Euclid or, `whitened`, by Mahalanobis."""
    sample, frame, found = _find_clusters(source, k, random, whitened)
    if not math.isfinite(found.inertia):
        raise ValueError(TOO_LARGE)
    needed = _rows_needed(source.n_features, structure) * sample.weights[0]
    if len(sample.rows) == source.n_rows or found.counts.min() >= needed:
        clusters = partial(_cut, sample, found.labels)
    else:
        clusters = partial(_assign, source, found.centres, frame)
    centres = found.centres if frame is None else frame.leave(found.centres)
    return start_from_clusters(clusters, centres, structure, prior)


def start_from_clusters(
    clusters: Callable[[], Clusters], centres: np.ndarray, structure: ModuleType, prior: Hyperparameters
) -> Update:
    """Each row wholly in the component it is labelled with; `centres` (k, d) lie amid the rows."""
    update: Update = structure.maximise(_cluster_moments(clusters, centres, structure), prior)
    if update.jumped:
        centres = update.parameters.means
        update = structure.maximise(_cluster_moments(clusters, centres, structure), prior)
    if not np.isfinite(update.parameters.covariances).all():
        raise ValueError(TOO_LARGE)
    return update


def _find_clusters(
    source: ArrayRows, k: int, random: np.random.RandomState, whitened: bool
) -> tuple[Sample, "_Frame | None", Clustering]:
    """What k-means finds; of a source with a memory once for all fits that come to it with the same random state."""
    if source.memory is None:
        return _look_for_clusters(source, k, random, whitened)
    _, words, position, *_ = random.get_state(legacy=True)
    key = k, whitened, position, np.asarray(words).tobytes()
    if key not in source.memory:
        source.memory[key] = _look_for_clusters(source, k, random, whitened), random.get_state()
    found, after = source.memory[key]
    random.set_state(after)
    return found  # type: ignore[no-any-return]


def _look_for_clusters(
    source: ArrayRows, k: int, random: np.random.RandomState, whitened: bool
) -> tuple[Sample, "_Frame | None", Clustering]:
    sample = _some_rows(source, k, random)
    frame = _whiten(sample) if whitened else None
    within = sample if frame is None else Sample(frame.enter(sample.rows), sample.weights)
    return sample, frame, kmeans(within, k, random)


def start_from_seeds(
    source: ArrayRows, k: int, structure: ModuleType, prior: Hyperparameters, random: np.random.RandomState
) -> Update:
    """Means on rows picked by k-means++; covariances of the prior alone, or of `reg_covar`, as scikit-learn's."""
    sample = _some_rows(source, k, random)
    return start_at_rows(sample.rows[choose_seeds(sample, k, 1, random)[0]], structure, prior)


def start_from_random_rows(
    source: ArrayRows, k: int, structure: ModuleType, prior: Hyperparameters, random: np.random.RandomState
) -> Update:
    """Means on different rows picked at random; covariances as above."""
    if source.n_rows > _MOST_CHOSEN:
        some = _some_rows(source, k, random).rows
        means = some[random.choice(len(some), size=k, replace=False)]
    else:
        share = source.weigh(0, source.n_rows) / source.total_weight if source.weighted else None
        means = source.take(random.choice(source.n_rows, size=k, replace=False, p=share))
    for _ in range(_REDRAWS):
        repeated = np.setdiff1d(np.arange(k), np.unique(means, axis=0, return_index=True)[1])
        if len(repeated) == 0:
            break
        means[repeated] = source.take(source.draw(random.uniform(size=len(repeated))))
    return start_at_rows(means, structure, prior)


def start_from_labels(
    source: ArrayRows, labels: np.ndarray, k: int, structure: ModuleType, prior: Hyperparameters
) -> Update:
    """Each row wholly in the component that its label (n,) says; every component has one."""

    def clusters() -> Clusters:
        for start, rows in _chunks(source, source.n_features):
            stop = start + len(rows)
            weights = np.ascontiguousarray(source.weigh(start, stop))
            yield np.array(rows, order="C"), weights, labels[start:stop].astype(np.float64)

    firsts = source.take(np.unique(labels, return_index=True)[1])
    return start_from_clusters(clusters, firsts, structure, prior)


def start_at_means(source: ArrayRows, means: np.ndarray, structure: ModuleType, prior: Hyperparameters) -> Update:
    """These means (k, d), with the weights and covariances of the rows nearest to each."""
    update = start_from_clusters(partial(_assign, source, means, None), means, structure, prior)
    return update._replace(parameters=update.parameters._replace(means=means))


def start_at_rows(means: np.ndarray, structure: ModuleType, prior: Hyperparameters) -> Update:
    """One row in each component."""
    none, ones = np.zeros_like(means), np.ones(len(means))
    update: Update = structure.maximise(Statistics(means, ones, none, structure.scatter(none, ones), 0.0, 0), prior)
    return update


def start_from_random_responsibilities(
    source: ArrayRows, k: int, structure: ModuleType, prior: Hyperparameters, random: np.random.RandomState
) -> Update:
    """Responsibilities drawn uniformly and normalised, row by row.

    A row of weight w has the mean of as many sets as it is rows, one for each unit of w and one that counts as the
    fraction that remains: from whole weights the start is that of repeated rows, set by set. Beyond _MOST_SETS the sets
    are no more and each counts for more, which bounds the time and leaves heavy rows a difference between components.
    """
    state = random.get_state()
    most = max(1, min(_MOST_SETS, _MOST_SETS_IN_ALL // source.n_rows))

    def draw(start: int, stop: int) -> np.ndarray:
        if start == 0:
            random.set_state(state)
        if not source.weighted:
            return _draw_sets(stop - start, k, random)
        weights = source.weigh(start, stop)
        size = max(1, int(_CHUNK_BYTES / (8 * k * min(most, math.ceil(weights.max())))))
        pieces = (weights[first : first + size] for first in range(0, len(weights), size))
        return np.concatenate([_draw_by_weight(piece, k, most, random) for piece in pieces])

    return start_from_responsibilities(source, draw, k, structure, prior)


def _draw_sets(count: int, k: int, random: np.random.RandomState) -> np.ndarray:
    """Sets of k random shares that sum to 1, (count, k)."""
    sets = random.uniform(size=(count, k))
    sets /= sets.sum(axis=1, keepdims=True)
    return sets


def _draw_by_weight(weights: np.ndarray, k: int, most: int, random: np.random.RandomState) -> np.ndarray:
    """The mean, for each row of a weight (n,), of ⌈w⌉ random sets, but `most`; the last counts as what is left of w."""
    counts = np.minimum(np.ceil(weights), most)
    each = np.where(weights <= most, np.minimum(weights, 1.0), weights / most)
    lasts = weights - (counts - 1.0) * each
    numbers = counts.astype(np.int64)
    ends = numbers.cumsum()
    shares = np.repeat(each / weights, numbers)
    shares[ends - 1] = lasts / weights
    return np.add.reduceat(shares[:, None] * _draw_sets(int(ends[-1]), k, random), ends - numbers)


def start_from_responsibilities(
    source: ArrayRows,
    responsibilities: Callable[[int, int], np.ndarray],
    k: int,
    structure: ModuleType,
    prior: Hyperparameters,
) -> Update:
    """Maximise from given responsibilities; `responsibilities(start, stop)` has shape (stop - start, k).

    It is called for all rows in order, twice: for the means, then for the moments about them.
    """
    origin = np.repeat(source.take(np.arange(1)), k, axis=0)
    found = _moments(source, responsibilities, origin, structure)
    means = origin + found.first / count_rows(found)[:, None]
    update: Update = structure.maximise(_moments(source, responsibilities, means, structure), prior)
    return update


def _moments(
    source: ArrayRows,
    responsibilities: Callable[[int, int], np.ndarray],
    centres: np.ndarray,
    structure: ModuleType,
) -> Statistics:
    total: Statistics | None = None
    for start, rows in _chunks(source, max(centres.shape)):
        stop = start + len(rows)
        shares = responsibilities(start, stop) * source.weigh(start, stop)[:, None]
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


def _chunks(source: ArrayRows, width: int) -> Iterator[tuple[int, np.ndarray]]:
    """All rows as (start, float64 rows) so few at a time that arrays of them `width` wide are small."""
    for first, _, block in source.blocks():
        for start, rows in _pieces(block, width):
            yield first + start, rows


def _pieces(rows: np.ndarray, width: int) -> Iterator[tuple[int, np.ndarray]]:
    size = max(TILE_ROWS, _CHUNK_BYTES // (8 * width))
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]


def _cut(sample: Sample, labels: np.ndarray) -> Clusters:
    """Rows of the sample, some at a time, their weights and labels."""
    for start, piece in _pieces(sample.rows, sample.rows.shape[1]):
        stop = start + len(piece)
        yield piece, sample.weights[start:stop], labels[start:stop]


def _assign(source: ArrayRows, centres: np.ndarray, frame: "_Frame | None") -> Clusters:
    """All rows, some at a time, their weights and the labels of their nearest centres, which are in the frame."""
    padded = distances.pad_centres(centres)
    for start, piece in _chunks(source, source.n_features):
        rows = np.array(piece, order="C")  # aligned as well, as the kernels are declared
        sample = Sample(rows if frame is None else frame.enter(rows), source.weigh(start, start + len(rows)))
        sample.assign(padded)
        yield rows, sample.weights, sample.labels[: len(rows)]


def _rows_needed(features: int, structure: ModuleType) -> int:
    """Rows of a cluster that give its moments well enough; with fewer, EM needs more iterations."""
    own_matrix = structure.MATRICES and not structure.SHARED
    return _ROWS_PER_FEATURE * features if own_matrix else _ROWS_FOR_VARIANCES


def _cluster_moments(clusters: Callable[[], Clusters], centres: np.ndarray, structure: ModuleType) -> Statistics:
    """Moments about `centres` of the rows with each label."""
    k, d = centres.shape
    centres = np.ascontiguousarray(centres)
    weight, first, deviation = np.zeros(k), np.zeros((k, d)), np.empty(d)
    second = np.zeros((1 if structure.SHARED else k, d if structure.MATRICES else 1, d))
    for rows, weights, labels in clusters():
        distances.add_moments.call(rows, weights, labels, centres, deviation, weight, first, second)
    if not structure.MATRICES:
        # One row whose squares are a cluster's sums of squares stands for all of its rows.
        second = structure.scatter(np.sqrt(second[:, 0]), np.ones(k))
    return Statistics(centres, weight, first, second[0] if structure.SHARED else second, 0.0, 0)


def _some_rows(source: ArrayRows, k: int, random: np.random.RandomState) -> Sample:
    """All rows, or as many as k-means is worth, drawn by weight, in descending order."""
    most = _kmeans_rows(source.n_features, k)
    if source.n_rows <= most:
        blocks = [rows for *_, rows in source.blocks()]
        rows = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        weights = source.weigh(0, source.n_rows)
    else:
        rows = source.take(source.draw(places(most, random)))
        weights = np.full(most, source.total_weight / most)
    order = _order_of(rows)
    return Sample(rows.take(order, axis=0), weights.take(order) if source.weighted else weights)


def _kmeans_rows(features: int, k: int) -> int:
    """How many rows k-means is worth."""
    return min(max(KMEANS_ROWS, _ROWS_PER_COMPONENT * k), max(_SAMPLE_BYTES // (8 * features), 2 * k))


def sample_rows(features: int, k: int, structure: ModuleType) -> int:
    """How many rows a sample should have that starts are sought in: for k-means, and for moments of its clusters."""
    for_moments = min(2 * k * _rows_needed(features, structure), 2 * _SAMPLE_BYTES // (8 * features))
    return max(_kmeans_rows(features, k), for_moments)


def _order_of(rows: np.ndarray) -> np.ndarray:
    """Descending order: a start then depends neither on how rows lie nor on how often each does, nor on their units."""
    firsts = rows[:, 0]
    order = firsts.argsort()[::-1]
    descending = firsts.take(order)
    ties = (descending[1:] == descending[:-1]).nonzero()[0]
    alike = len(ties) == 0 or np.array_equal(rows[order[ties]], rows[order[ties + 1]])
    return order if alike else np.lexsort(rows.T[::-1])[::-1]


class _Frame(NamedTuple):
    """Coordinates in which rows have unit covariance, but for directions in which they have no width."""

    mean: np.ndarray  # (d,)
    scale: np.ndarray  # (d,): deviations from the mean that are not too large or small to be squared
    whiten: np.ndarray  # (d, d): symmetric, so that axes keep their names
    colour: np.ndarray  # (d, d): undoes it

    def enter(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, d) in the frame's coordinates."""
        return ((rows - self.mean) / self.scale) @ self.whiten

    def leave(self, points: np.ndarray) -> np.ndarray:
        """Points (n, d) of the frame as rows."""
        return (points @ self.colour) * self.scale + self.mean


def _whiten(sample: Sample) -> _Frame:
    """The frame of a sample, from its correlations; constant and collinear features leave directions out."""
    shares = sample.weights / sample.weights.sum()
    mean = shares @ sample.rows
    deviations = sample.rows - mean
    largest = np.abs(deviations).max(axis=0)
    constant = largest <= 16 * _EPS * np.abs(mean)
    deviations /= np.where(constant, np.inf, largest)
    widths = np.sqrt(shares @ deviations**2)
    widths[constant] = 1.0
    deviations /= widths
    variances, axes = np.linalg.eigh((deviations.T * shares) @ deviations)
    deviates = np.sqrt(np.where(variances > _COLLINEAR, variances, 0.0))
    inverses = np.divide(1.0, deviates, out=np.zeros_like(deviates), where=deviates > 0.0)
    scale = np.where(constant, 1.0, largest * widths)
    return _Frame(mean, scale, (axes * inverses) @ axes.T, (axes * deviates) @ axes.T)


STARTS: dict[str, Start] = {
    "kmeans": start_from_kmeans,
    "kmeans-whitened": partial(start_from_kmeans, whitened=True),
    "k-means++": start_from_seeds,
    "random": start_from_random_responsibilities,
    "random_from_data": start_from_random_rows,
}
