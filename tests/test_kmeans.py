"""k-means on a sample: its seeds, Lloyd's iterations and exchanges of centres."""

import warnings

import numpy as np
import pytest
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import adjusted_rand_score

from fastgmm.em import kmeans as module
from fastgmm.em.kmeans import Sample, choose_seeds, kmeans

X, LABELS = make_blobs(200, n_features=2, centers=[[0, 0], [9, 1], [0, 12]], random_state=3)


def inertia_of(rows, centres):
    return ((rows[:, None] - centres) ** 2).sum(axis=2).min(axis=1).sum()


def sample_of(rows):
    return Sample(rows, np.ones(len(rows)))


def found_in(rows, k, seed=0):
    """Our centres and inertia."""
    found = kmeans(sample_of(rows), k, np.random.RandomState(seed))
    return found.centres, found.inertia


def seeds_of(rows, k, seed):
    """Indices of the seeds."""
    return choose_seeds(sample_of(rows), k, 1, np.random.RandomState(seed))[0]


def lloyd(rows, centres, tolerance=1e-4):
    found = module._lloyd(sample_of(rows), centres, tolerance)
    return found.centres, found.inertia


def test_seeds_are_different_rows():
    for seed in range(20):
        assert len(set(seeds_of(X, 10, seed))) == 10


@pytest.mark.parametrize("k", [1, 2, 8])
def test_several_seedings_are_those_one_after_another(k):
    sample, one_by_one = sample_of(X), np.random.RandomState(0)
    together = choose_seeds(sample, k, 3, np.random.RandomState(0))
    assert together.tolist() == [choose_seeds(sample, k, 1, one_by_one)[0].tolist() for _ in range(3)]


def test_seeds_are_spread_as_well_as_scikit_learns():
    """Mean inertia of the seeds over many runs; picking at random is several times worse."""
    runs = 40
    ours = [inertia_of(X, X[seeds_of(X, 5, seed)]) for seed in range(runs)]
    theirs = [inertia_of(X, kmeans_plusplus(X, 5, random_state=seed)[0]) for seed in range(runs)]
    random = [inertia_of(X, X[np.random.RandomState(seed).choice(len(X), 5)]) for seed in range(runs)]
    error = np.hypot(np.std(ours), np.std(theirs)) / np.sqrt(runs)
    assert np.mean(ours) < np.mean(theirs) + 3 * error
    assert np.mean(ours) < 0.5 * np.mean(random)


def test_the_first_seed_is_uniform():
    first = [seeds_of(X, 1, seed)[0] for seed in range(400)]
    assert len(set(first)) > 150 and 0.4 < np.mean(first) / len(X) < 0.6


def test_lloyd_agrees_with_scikit_learn_from_the_same_centres():
    rows = np.random.default_rng(0).normal(size=(150, 2))
    centres = rows[:4]
    found, inertia = lloyd(rows, centres)
    expected = KMeans(4, init=centres, n_init=1, tol=1e-4).fit(rows)
    assert inertia == pytest.approx(expected.inertia_, rel=0.01)
    np.testing.assert_allclose(found, expected.cluster_centers_, atol=0.1)


@pytest.mark.compiled
def test_lloyd_is_as_good_as_scikit_learns_over_seeds():
    rows = make_blobs(200, n_features=2, centers=6, cluster_std=1.5, random_state=0)[0]
    ours = [found_in(rows, 6, seed)[1] for seed in range(15)]
    theirs = [KMeans(6, n_init=1, random_state=seed).fit(rows).inertia_ for seed in range(15)]
    assert np.mean(ours) < 1.05 * np.mean(theirs)
    assert min(ours) == pytest.approx(min(theirs), rel=0.01)


def test_lloyds_inertia_is_that_of_its_centres():
    """Up to its last shift, which is below the tolerance."""
    centres, inertia = found_in(X, 3, 0)
    assert inertia == pytest.approx(inertia_of(X, centres), rel=1e-3)
    assert centres.shape == (3, 2)


def test_an_empty_cluster_moves_to_the_farthest_row():
    rows = np.concatenate([X, [[500.0, 500.0]]])
    far_away = np.array([[0.0, 0.0], [9.0, 1.0], [0.0, 12.0], [-1e4, -1e4]])
    centres, inertia = lloyd(rows, far_away)
    assert inertia < inertia_of(rows, far_away) / 100
    assert (np.abs(centres - 500.0).max(axis=1) < 1e-9).any()


@pytest.mark.parametrize("k", [2, 9, *(pytest.param(k, marks=pytest.mark.compiled) for k in (40, 70))])
def test_lloyd_may_be_interrupted_without_a_trace(k, monkeypatch):
    """Looks for an interrupt after each iteration change nothing, also where centres are deserted."""
    rows = np.concatenate([X, np.repeat([[500.0, 500.0], [-500.0, 0.0]], 30, axis=0)])
    whole = kmeans(sample_of(rows), k, np.random.RandomState(0))
    monkeypatch.setattr(module, "_AT_ONCE", 0)
    single = kmeans(sample_of(rows), k, np.random.RandomState(0))
    assert all(map(np.array_equal, whole, single))


@pytest.mark.parametrize(("distinct", "k"), [(3, 8), (3, 12), (60, 70)])
def test_fewer_distinct_rows_than_centres_end(distinct, k):
    rows = np.repeat(X[:distinct], 5, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        centres, inertia = found_in(rows, k)
    assert inertia < 1e-20 and np.isfinite(centres).all()


def grid(k, d, rows_of_each=16, seed=0):
    """Round clusters of equal size at k random corners of a wide lattice, in random order."""
    random = np.random.default_rng(seed)
    side = np.arange(np.ceil(k ** (1 / d)))
    corners = 10.0 * random.permutation(np.stack(np.meshgrid(*[side] * d), axis=-1).reshape(-1, d))
    rows = np.repeat(corners[:k], rows_of_each, axis=0)
    return random.permutation(rows + random.normal(size=rows.shape)), corners[:k]


def test_separate_blobs_are_found():
    centres, _ = found_in(X, 3)
    labels = ((X[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert adjusted_rand_score(LABELS, labels) == 1.0


MANY = [(100, 4), (200, 3)]
DATA = {
    "blobs": make_blobs(3000, n_features=2, centers=6, cluster_std=1.5, random_state=0)[0],
    "many features": make_blobs(2500, n_features=20, centers=8, cluster_std=3.0, random_state=1)[0],
    "no clusters": np.random.default_rng(0).normal(size=(3000, 4)),
    "heavy tails": np.random.default_rng(1).standard_t(2.0, size=(3000, 3)),
    "one feature": np.random.default_rng(2).gamma(1.0, size=(3000, 1)),
    "digits": load_digits().data,
}


@pytest.mark.compiled
@pytest.mark.parametrize("name", DATA)
def test_inertia_is_at_least_as_good_as_scikit_learns(name):
    rows, runs, k = DATA[name], 8, 8
    ours = [inertia_of(rows, found_in(rows, k, seed)[0]) for seed in range(runs)]
    theirs = [KMeans(k, n_init=1, random_state=seed).fit(rows).inertia_ for seed in range(runs)]
    assert np.mean(ours) < 1.01 * np.mean(theirs)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "d"), [(64, 2), *(pytest.param(*kd, marks=pytest.mark.compiled) for kd in MANY)])
def test_of_many_clusters_all_are_found(k, d):
    """Lloyd's iterations by themselves leave some in one and halve others."""
    rows, corners = grid(k, d)
    expected = inertia_of(rows, corners)
    assert inertia_of(rows, found_in(rows, k)[0]) < expected
    assert KMeans(k, n_init=1, random_state=0).fit(rows).inertia_ > 1.05 * expected


@pytest.mark.compiled
def test_exchanges_never_raise_the_inertia():
    rows, few = np.random.default_rng(0).standard_t(2.0, size=(700, 3)), 70
    for seed in range(5):
        random = np.random.RandomState(seed)
        sample = sample_of(rows)
        before = module._lloyd(sample, rows[choose_seeds(sample, few, 1, random)[0]], 1e-3)
        after = module._exchange(sample, before, random)
        assert after.inertia <= before.inertia
        assert after.inertia == pytest.approx(inertia_of(rows, after.centres), rel=0.03)
        assert len(after.centres) == few and after.counts.sum() == len(rows)


def test_pairs_to_merge_are_the_cheapest_by_brute_force():
    random = np.random.default_rng(0)
    centres, counts = random.normal(size=(30, 2)), random.integers(1, 50, 30).astype(float)
    spared = np.array([3, 7, 20])
    pairs = module._pairs_to_merge(module.Clustering(centres, counts, np.empty(0), 1.0), spared)
    used = [c for pair in pairs for c in pair]
    assert len(set(used)) == len(used) and not set(used) & set(spared)

    def nearest(c):
        others = [other for other in range(30) if other != c and other not in spared]
        return min(others, key=lambda other: np.linalg.norm(centres[other] - centres[c]))

    def cost(c):
        other = nearest(c)
        both = np.repeat([centres[c], centres[other]], counts[[c, other]].astype(int), axis=0)
        return ((both - both.mean(axis=0)) ** 2).sum()

    first = min((c for c in range(30) if c not in spared), key=cost)
    assert set(pairs[0]) == {first, nearest(first)}
    costs = [min(cost(one) for one in pair if nearest(one) in pair) for pair in pairs]
    assert costs == sorted(costs)


def test_an_exchange_merges_and_halves():
    """Of five clusters with two centres at one place, and one cluster that is two."""
    rows = np.repeat([[0.0], [4.0], [20.0], [50.0], [70.0], [74.0]], [1, 3, 2, 2, 9, 9], axis=0)
    labels = np.repeat([0, 1, 2, 4, 5, 5], [1, 3, 2, 2, 9, 9])
    centres = np.array([[0.0], [4.0], [20.0], [20.0], [50.0], [72.0]])
    found = module.Clustering(centres, np.bincount(labels).astype(float), labels, 72.0)
    random = np.random.RandomState(0)
    moved = module._exchanged(sample_of(rows), found, np.array([5]), random)
    assert moved[:2].ravel().tolist() == [0.0, 4.0] and moved[4:].ravel().tolist() == [50.0, 72.0]
    assert set(moved[2:4].ravel()) in ({20.0, 70.0}, {20.0, 74.0})
    moved = module._exchanged(sample_of(rows), found, np.array([5, 4]), random).ravel()
    assert (3.0 in moved[:2]) and (50.0 in moved[:2]), "0 and 4 become their mean, and one goes to the second"


def test_a_row_is_picked_by_weight():
    sample = Sample(np.arange(4.0)[:, None], np.array([1.0, 5.0, 2.0, 6.0]))
    random = np.random.RandomState(0)
    picked = [module._pick(sample, np.array([True, False, True, True]), random)[0] for _ in range(3000)]
    np.testing.assert_allclose(np.bincount(np.int64(picked)) / 3000, [1 / 9, 0, 2 / 9, 6 / 9], atol=0.03)


def test_no_cluster_is_merged_with_itself():
    centres = np.repeat(np.random.default_rng(0).normal(size=(10, 2)), 3, axis=0)[
        np.random.default_rng(1).permutation(30)
    ]
    pairs = module._pairs_to_merge(module.Clustering(centres, np.ones(30), np.empty(0), 1.0), np.empty(0, int))
    assert len(pairs) >= 10 and all(one != other for one, other in pairs)


def test_clusters_too_far_apart_for_squares_are_left_as_they_are():
    centres = 1e160 * np.arange(70.0)[:, None]
    assert module._pairs_to_merge(module.Clustering(centres, np.ones(70), np.empty(0), 0.0), np.arange(10)) == []
