"""Squared distances, Lloyd passes, seeding and moments by label against their twins."""

import numpy as np
import pytest
import reference
from reference import EPS

from fastgmm.kernels import distances as kernels
from fastgmm.kernels._jit import COMPILED, TILE_ROWS

DIMENSIONS = range(1, 41) if COMPILED else (1, 4, 6)
ROWS = (1, 255, 256, 257, 600) if COMPILED else (1, 257)


def nearest(rows, centres):
    """Labels and squared distances of the nearest centres."""
    _, found, labels = assigned(rows, centres)
    return labels[: len(rows)], found[: len(rows)]


def assigned(rows, centres):
    """Tiles of rows, and for each of their rows the squared distance to the nearest centre and its label."""
    tiles = kernels.pack(rows)
    found, labels = np.full((2, len(tiles) * TILE_ROWS), np.nan)
    kernels.nearest_centres(tiles, kernels.pad_centres(centres), np.empty(2 * TILE_ROWS), found, labels)
    return tiles, found, labels


def lloyd(rows, centres, weights):
    """Counts, moved centres and inertia."""
    tiles, found, labels = assigned(rows, centres)
    weights = np.append(weights, np.zeros(len(labels) - len(rows)))
    padded, counts, sums = kernels.pad_centres(centres), np.full(len(centres), np.nan), np.full(centres.shape, np.nan)
    inertia = kernels.move_centres(tiles, rows, weights, found, labels, padded, counts, sums)
    return counts, padded[: len(centres), : rows.shape[1]], inertia


def moments(rows, weights, labels, centres, second):
    weight, first = np.zeros(len(centres)), np.zeros(centres.shape)
    kernels.add_moments.call(rows, weights, labels, centres, np.empty(rows.shape[1]), weight, first, second)
    return weight, first


def seeds(rows, weights, first, draws):
    """Seeds, and the squared distances to the closest; working memory holds nothing but zeros for the padding."""
    tiles = kernels.pack(rows)
    k, trials = len(draws) + 1, draws.shape[1]
    closest, padded = np.full(len(tiles) * TILE_ROWS, np.nan), np.ones(len(tiles) * TILE_ROWS)
    padded[: len(rows)] = weights
    candidates = np.zeros((trials + trials % 2, tiles.shape[1] // TILE_ROWS))
    nearer, totals = np.full((trials, closest.size), np.nan), np.full((trials, len(tiles)), np.nan)
    place = (weights[:first].sum() + 0.5 * weights[first]) / weights.sum()
    # The second seeding is looked at.
    all_draws = np.stack([np.append(1.0, draws[::-1]), np.append(place, draws)])
    chosen = np.empty((2, k), np.int64)
    work = (np.empty(2 * TILE_ROWS), candidates, np.empty(trials, np.int64), nearer, totals)
    kernels.choose_seeds.call(tiles, padded, len(rows), all_draws, *work, closest, chosen)
    assert chosen[0, 0] == len(rows) - 1
    return chosen[1], closest[: len(rows)]


@pytest.mark.parametrize("d", DIMENSIONS)
def test_distances_in_any_dimension(d):
    random = np.random.default_rng(d)
    rows, centres = random.normal(size=(ROWS[-1], d)), random.normal(size=(1, d))
    expected = reference.squared_distances(reference.exact(rows), centres)[:, 0]
    # Every term is positive, so the error is relative: one rounding each for difference, square and partial sums.
    assert (np.abs(nearest(rows, centres)[1] - expected) <= (d / 4 + 4) * EPS * expected).all()


@pytest.mark.parametrize("n", ROWS)
@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("d", [1, 3, 8])
def test_a_lloyd_pass(n, k, d):
    random = np.random.default_rng(n + k)
    rows, centres = random.normal(size=(n, d)), random.normal(size=(k, d))
    weights = random.uniform(0.5, 2.0, size=n)
    counts, moved, inertia = lloyd(rows, centres, weights)
    expected = reference.lloyd_pass(rows, centres, weights)
    labels, found = nearest(rows, centres)
    assert np.array_equal(labels, reference.squared_distances(rows, centres).argmin(axis=1))
    assert np.allclose(found, expected[2], rtol=8 * EPS)
    assert np.allclose(counts, expected[0], rtol=n * EPS)
    means = centres + expected[1] / np.where(expected[0] > 0, expected[0], 1.0)[:, None]
    assert np.allclose(moved, means, rtol=0, atol=4 * EPS * n)
    assert inertia == pytest.approx(weights @ expected[2], rel=n * EPS)


@pytest.mark.parametrize("k", [2, 7])
def test_a_lloyd_pass_over_rows_whose_distance_from_zero_overflows(k):
    rows = 1e160 + 1e150 * np.random.default_rng(k).normal(size=(300, 2))
    counts, moved, inertia = lloyd(rows, rows[:k], np.ones(300))
    assert counts.sum() == 300 and np.isfinite(moved).all()
    assert inertia == pytest.approx(reference.squared_distances(rows, rows[:k]).min(axis=1).sum())


def test_a_row_between_two_centres_belongs_to_the_first():
    labels, found = nearest(np.array([[0.0]]), np.array([[3.0], [1.0], [-1.0], [1.0]]))
    assert (labels.tolist(), found.tolist()) == ([1], [1.0])
    labels, _ = nearest(np.array([[0.0]]), np.array([[-1.0], [1.0]]))
    assert labels.tolist() == [0]


def test_distances_far_from_zero_keep_their_digits():
    # All differences are whole numbers, so every distance is exact.
    random = np.random.default_rng(0)
    rows, centres = random.integers(-9, 9, size=(300, 3)).astype(float), np.array([[1.0, 2.0, 3.0], [-4.0, 0.0, 4.0]])
    far = nearest(rows + 1e15, centres + 1e15)
    assert all(map(np.array_equal, far, nearest(rows, centres)))
    assert np.array_equal(far[1], reference.squared_distances(rows, centres).min(axis=1))


@pytest.mark.parametrize("d", [1, 2, 5, 16])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_moments_by_label(d, offset):
    """Matrices, squares alone, and one matrix for all labels."""
    k, random = 4, np.random.default_rng(d)
    rows, centres = random.normal(size=(300, d)) + offset, random.normal(size=(k, d)) + offset
    labels = random.integers(0, k - 1, size=300).astype(float)  # the last has no row
    matrices, squares, shared = np.zeros((k, d, d)), np.zeros((k, 1, d)), np.zeros((1, d, d))
    deviations = rows - centres[labels.astype(int)]
    weights = random.uniform(0.5, 2.0, size=300)
    members = weights[:, None] * np.eye(k)[labels.astype(int)]
    expected = np.tril(np.einsum("ic,ij,il->cjl", members, deviations, deviations))
    for second in (matrices, squares, shared):
        weight, first = moments(rows, weights, labels, centres, second)
        assert np.allclose(weight, members.sum(axis=0), rtol=1e-13)
        assert np.allclose(first, members.T @ deviations, rtol=0, atol=1e-12)
    assert np.allclose(matrices, expected, rtol=1e-13, atol=1e-12)
    assert np.allclose(squares[:, 0], np.einsum("cjj->cj", expected), rtol=1e-13)
    assert np.allclose(shared[0], expected.sum(axis=0), rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("n", ROWS[1:])
@pytest.mark.parametrize(("d", "k", "trials"), [(2, 4, 2), (5, 6, 3), (1, 3, 4), (3, 1, 2)])
def test_seeds_are_the_twins(n, d, k, trials):
    random = np.random.default_rng(n + d)
    rows, draws = random.normal(size=(n, d)), random.uniform(size=(k - 1, trials))
    weights = random.integers(1, 5, size=n).astype(float)
    chosen, closest = seeds(rows, weights, n // 2, draws)
    expected = reference.choose_seeds(rows, weights, n // 2, draws)
    assert chosen.tolist() == expected
    nearest = reference.squared_distances(rows, rows[expected]).min(axis=1)
    assert np.allclose(closest, weights * nearest, rtol=1e-13)


def test_seeds_where_every_row_is_one():
    rows = np.repeat([[0.0, 1.0], [5.0, 5.0]], 4, axis=0)
    chosen, closest = seeds(rows, np.ones(8), 0, np.random.default_rng(0).uniform(size=(4, 2)))
    assert set(chosen) <= set(range(8)) and {tuple(row) for row in rows[chosen]} == {(0.0, 1.0), (5.0, 5.0)}
    assert not closest.any()
