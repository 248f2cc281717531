"""Starts: k-means, its seeds, random responsibilities and rows of the data."""

import warnings

import numpy as np
import pytest
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from fastgmm.covariance import STRUCTURES
from fastgmm.em import initialise
from fastgmm.sources import ArrayRows

every_structure = pytest.mark.parametrize("covariance_type", STRUCTURES)
every_start = pytest.mark.parametrize("init_params", initialise.STARTS)

X, LABELS = make_blobs(200, n_features=2, centers=[[0, 0], [9, 1], [0, 12]], random_state=3)


def start(init_params, rows=X, k=3, covariance_type="full", reg_covar=1e-6, seed=0):
    structure = STRUCTURES[covariance_type]
    random = np.random.RandomState(seed)
    return initialise.STARTS[init_params](ArrayRows(rows), k, structure, reg_covar, random)


def inertia_of(rows, centres):
    return ((rows[:, None] - centres) ** 2).sum(axis=2).min(axis=1).sum()


def kmeans(rows, k, seed):
    """Our centres and inertia."""
    random = np.random.RandomState(seed)
    return initialise._lloyd(rows, initialise._seed(rows, k, random)[1])


def covariance_of(rows, covariance_type, reg_covar=1e-6):
    covariance = np.cov(rows.T, bias=True) + reg_covar * np.eye(rows.shape[1])
    return {"full": covariance, "diag": np.diag(covariance), "spherical": np.trace(covariance) / len(covariance)}[
        covariance_type
    ]


@every_start
@every_structure
def test_the_same_seed_gives_the_same_start(init_params, covariance_type):
    one, two, other = (start(init_params, covariance_type=covariance_type, seed=seed) for seed in (4, 4, 5))
    for mine, again in zip(one.parameters, two.parameters, strict=True):
        np.testing.assert_array_equal(mine, again)
    assert not np.array_equal(one.parameters.means, other.parameters.means)
    assert one.failed == -1


@pytest.mark.parametrize("init_params", ["k-means++", "random_from_data"])
@every_structure
def test_starts_on_rows(init_params, covariance_type):
    """Means are different rows, weights equal, covariances `reg_covar` alone."""
    found = start(init_params, covariance_type=covariance_type, reg_covar=1e-3).parameters
    rows = {tuple(row) for row in X}
    assert all(tuple(mean) in rows for mean in found.means) and len({tuple(mean) for mean in found.means}) == 3
    np.testing.assert_allclose(found.weights, 1 / 3)
    np.testing.assert_allclose(STRUCTURES[covariance_type].dense(found.covariances, 3, 2), [1e-3 * np.eye(2)] * 3)


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_kmeans_start_has_the_moments_of_each_cluster(covariance_type, offset):
    found = start("kmeans", X + offset, covariance_type=covariance_type).parameters
    order = np.argsort(found.means @ [1.0, 0.1])  # 0, then the second, then the first
    for c, label in zip(order, (0, 2, 1), strict=True):
        rows = X[label == LABELS]
        assert found.weights[c] == pytest.approx(len(rows) / 200)
        np.testing.assert_allclose(found.means[c] - offset, rows.mean(axis=0), atol=1e-9)
        expected = covariance_of(rows, covariance_type)
        np.testing.assert_allclose(found.covariances[c], expected, rtol=1e-9, atol=1e-9)


def test_kmeans_start_of_tied_has_the_pooled_covariance():
    found = start("kmeans", covariance_type="tied").parameters
    expected = sum(covariance_of(X[label == LABELS], "full") * (label == LABELS).mean() for label in range(3))
    np.testing.assert_allclose(found.covariances, expected, rtol=1e-9)


@every_structure
def test_kmeans_start_on_duplicated_points_is_sharp(covariance_type):
    """Where every row lies on its centre there is no inertia to take the width from."""
    rows = np.repeat([[0.0, 0.0], [1.0, 1.0]], [10, 30], axis=0)
    found = start("kmeans", rows, k=2, covariance_type=covariance_type)
    means, weights = found.parameters.means, found.parameters.weights
    order = weights.argsort()
    np.testing.assert_allclose(weights[order], [0.25, 0.75], rtol=1e-12)
    np.testing.assert_allclose(means[order], [[0, 0], [1, 1]], atol=1e-12)
    dense = STRUCTURES[covariance_type].dense(found.parameters.covariances, 2, 2)
    np.testing.assert_allclose(dense, [1e-6 * np.eye(2)] * 2, rtol=1e-9, atol=1e-18)
    assert start("kmeans", rows, k=2, covariance_type=covariance_type, reg_covar=0.0).failed >= 0


def test_seeds_are_different_rows():
    for seed in range(20):
        indices, seeds = initialise._seed(X, 10, np.random.RandomState(seed))
        assert len(set(indices)) == 10
        np.testing.assert_array_equal(seeds, X[indices])


def test_seeds_are_spread_as_scikit_learns():
    """Mean inertia of the seeds over many runs; picking at random is several times worse."""
    runs = 40
    ours = [inertia_of(X, initialise._seed(X, 5, np.random.RandomState(seed))[1]) for seed in range(runs)]
    theirs = [inertia_of(X, kmeans_plusplus(X, 5, random_state=seed)[0]) for seed in range(runs)]
    random = [inertia_of(X, X[np.random.RandomState(seed).choice(len(X), 5)]) for seed in range(runs)]
    error = np.hypot(np.std(ours), np.std(theirs)) / np.sqrt(runs)
    assert abs(np.mean(ours) - np.mean(theirs)) < 4 * error
    assert np.mean(ours) < 0.5 * np.mean(random)


def test_the_first_seed_is_uniform():
    first = [initialise._seed(X, 1, np.random.RandomState(seed))[0][0] for seed in range(400)]
    assert len(set(first)) > 150 and 0.4 < np.mean(first) / len(X) < 0.6


def test_seeds_of_fewer_distinct_rows():
    rows = np.repeat([[0.0, 1.0], [5.0, 5.0]], 4, axis=0)
    _, seeds = initialise._seed(rows, 6, np.random.RandomState(0))
    assert {tuple(seed) for seed in seeds} == {(0.0, 1.0), (5.0, 5.0)}


def test_lloyd_agrees_with_scikit_learn_from_the_same_centres():
    rows = np.random.default_rng(0).normal(size=(150, 2))
    centres = rows[:4]
    found, inertia = initialise._lloyd(rows, centres)
    expected = KMeans(4, init=centres, n_init=1, tol=1e-4).fit(rows)
    assert inertia == pytest.approx(expected.inertia_, rel=0.01)
    np.testing.assert_allclose(found, expected.cluster_centers_, atol=0.1)


def test_lloyd_is_as_good_as_scikit_learns_over_seeds():
    rows = make_blobs(200, n_features=2, centers=6, cluster_std=1.5, random_state=0)[0]
    ours = [kmeans(rows, 6, seed)[1] for seed in range(15)]
    theirs = [KMeans(6, n_init=1, random_state=seed).fit(rows).inertia_ for seed in range(15)]
    assert np.mean(ours) < 1.05 * np.mean(theirs)
    assert min(ours) == pytest.approx(min(theirs), rel=0.01)


def test_lloyds_inertia_is_that_of_its_centres():
    """Up to its last shift, which is below the tolerance."""
    centres, inertia = kmeans(X, 3, 0)
    assert inertia == pytest.approx(inertia_of(X, centres), rel=1e-3)
    assert centres.shape == (3, 2)


def test_an_empty_cluster_moves_to_the_farthest_row():
    rows = np.concatenate([X, [[500.0, 500.0]]])
    far_away = np.array([[0.0, 0.0], [9.0, 1.0], [0.0, 12.0], [-1e4, -1e4]])
    centres, inertia = initialise._lloyd(rows, far_away)
    assert inertia < inertia_of(rows, far_away) / 100
    assert (np.abs(centres - 500.0).max(axis=1) < 1e-9).any()


def test_fewer_distinct_rows_than_centres_end():
    rows = np.repeat(X[:3], 5, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        centres, inertia = kmeans(rows, 8, 0)
    assert inertia < 1e-20 and np.isfinite(centres).all()
    assert start("kmeans", rows, k=8).failed == -1


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++"])
def test_large_data_are_subsampled(monkeypatch, init_params):
    """Lloyd meets some rows only, different ones; the moments are taken of all."""
    monkeypatch.setattr(initialise, "KMEANS_ROWS", 50)
    monkeypatch.setattr(initialise, "_ROWS_PER_COMPONENT", 10)
    chosen = []
    seed = initialise._seed
    monkeypatch.setattr(initialise, "_seed", lambda rows, *rest: chosen.append(rows) or seed(rows, *rest))
    found = start(init_params).parameters
    (rows,) = chosen
    assert rows.shape == (50, 2) and len({tuple(row) for row in rows} & {tuple(row) for row in X}) == 50
    if init_params == "kmeans":
        assert sorted(np.round(200 * found.weights)) == sorted(np.bincount(LABELS))
    start(init_params, k=8)
    assert len(chosen[1]) == 80
    start(init_params, seed=1)
    assert not np.array_equal(chosen[0], chosen[2])
    start(init_params)
    np.testing.assert_array_equal(chosen[0], chosen[3])


def test_the_subsample_is_uniform(monkeypatch):
    monkeypatch.setattr(initialise, "KMEANS_ROWS", 100)
    monkeypatch.setattr(initialise, "_ROWS_PER_COMPONENT", 1)
    rows = np.arange(1000.0)[:, None]
    means = [initialise._some_rows(ArrayRows(rows), 2, np.random.RandomState(seed)).mean() for seed in range(60)]
    # The mean of 100 of 1000 has a standard error of 27.4; of 60 such means, 3.5.
    assert abs(np.mean(means) - 499.5) < 5 * 3.5


@every_structure
def test_random_responsibilities(covariance_type):
    """One stream of uniforms, drawn twice the same, as scikit-learn draws them."""
    found = start("random", covariance_type=covariance_type, seed=3).parameters
    shares = np.random.RandomState(3).uniform(size=(200, 3))
    shares /= shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.weights, shares.mean(axis=0), rtol=1e-12)
    means = shares.T @ X / shares.sum(axis=0)[:, None]
    np.testing.assert_allclose(found.means, means, rtol=1e-12)
    full = np.stack([np.cov(X.T, aweights=shares[:, c], bias=True) for c in range(3)])
    expected = {
        "full": lambda: full,
        "tied": lambda: np.einsum("c,cij->ij", found.weights, full),
        "diag": lambda: np.einsum("cjj->cj", full),
        "spherical": lambda: np.einsum("cjj->c", full) / 2,
    }[covariance_type]()
    reg = 1e-6 * np.eye(2) if covariance_type in ("full", "tied") else 1e-6
    np.testing.assert_allclose(found.covariances, expected + reg, rtol=1e-11)


def test_random_responsibilities_do_not_depend_on_blocks(monkeypatch):
    whole = start("random").parameters

    def blocks(self):
        for begin in range(0, 200, 64):
            yield begin, min(begin + 64, 200), self._rows[begin : begin + 64]

    monkeypatch.setattr(ArrayRows, "blocks", blocks)
    for mine, again in zip(start("random").parameters, whole, strict=True):
        np.testing.assert_allclose(mine, again, rtol=1e-11)


def test_the_random_state_moves_on():
    random = np.random.RandomState(0)
    source = ArrayRows(X)
    for init_params in initialise.STARTS:
        draw = initialise.STARTS[init_params]
        one, two = (draw(source, 5, STRUCTURES["full"], 1e-6, random).parameters.means for _ in range(2))
        assert not np.array_equal(one, two), init_params


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_given_responsibilities(covariance_type):
    shares = np.eye(3)[LABELS]
    found = initialise.start_from_responsibilities(
        ArrayRows(X), lambda begin, end: shares[begin:end], 3, STRUCTURES[covariance_type], 1e-6
    ).parameters
    for c in range(3):
        np.testing.assert_allclose(found.means[c], X[c == LABELS].mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.covariances[c], covariance_of(X[c == LABELS], covariance_type), rtol=1e-10)


def test_no_rows():
    with pytest.raises(ValueError, match="no rows to start from"):
        initialise._moments(ArrayRows(X[:0]), lambda begin, end: np.ones((0, 3)), X[:3], STRUCTURES["full"])


def test_squares_that_overflow():
    with pytest.raises(ValueError, match="Scale the data"), np.errstate(all="ignore"):
        start("kmeans", 1e160 * X)


def test_kmeans_finds_separate_blobs():
    centres, _ = kmeans(X, 3, 0)
    labels = ((X[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert adjusted_rand_score(LABELS, labels) == 1.0
