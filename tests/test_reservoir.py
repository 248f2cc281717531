"""Samples of rows that come by once: fair, whole while there is room, and the same however rows come in blocks."""

import itertools

import numpy as np
import pytest

from fastgmm.sources.reservoir import Reservoir


def fill(rows, weights=None, capacity=50, seed=0, cuts=()):
    reservoir = Reservoir(capacity, seed)
    edges = [0, *cuts, len(rows)]
    for start, stop in itertools.pairwise(edges):
        reservoir.add(rows[start:stop], None if weights is None else weights[start:stop], start)
    return reservoir


def content(source):
    return source.take(np.arange(source.n_rows)), source.weigh(0, source.n_rows)


@pytest.mark.parametrize("weighted", [False, True])
def test_all_rows_stay_while_there_is_room(weighted):
    rows = np.random.default_rng(0).normal(size=(50, 2))
    weights = np.random.default_rng(1).exponential(size=50) if weighted else None
    source = fill(rows, weights, cuts=(1, 8, 40)).sample()
    assert source.weighted == weighted
    found, weight = content(source)
    assert np.array_equal(found, rows)
    assert np.array_equal(weight, np.ones(50) if weights is None else weights)


@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_do_not_matter(weighted):
    rows = np.random.default_rng(0).normal(size=(1000, 2))
    weights = np.random.default_rng(1).exponential(size=1000) if weighted else None
    whole = content(fill(rows, weights).sample())
    for cuts in [(1, 8, 9, 700), range(1, 1000), (999,)]:
        found, weight = content(fill(rows, weights, cuts=cuts).sample())
        assert np.array_equal(found, whole[0])
        np.testing.assert_allclose(weight, whole[1], rtol=1e-12)
    assert not np.array_equal(content(fill(rows, weights, seed=1).sample())[0], whole[0])


def test_rows_of_equal_weight_are_drawn_alike_and_once():
    rows, counts, trials = np.arange(200.0)[:, None], np.zeros(200), 1000
    for seed in range(trials):
        found, weights = content(fill(rows, seed=seed).sample())
        assert len(np.unique(found)) == len(found) == 50
        assert np.allclose(weights, 4.0)
        counts[found[:, 0].astype(int)] += 1
    # Binomial, of mean 250 and deviation 13.7: of 200, the farthest is within some 4.5 deviations.
    assert np.abs(counts - trials / 4).max() < 4.5 * np.sqrt(trials * 0.25 * 0.75)


def test_weights_are_those_of_the_rows_on_average_and_a_heavy_row_stays():
    random = np.random.default_rng(0)
    rows, weights = np.arange(200.0)[:, None], random.exponential(size=200)
    weights[17] = 1000.0
    shares, trials = np.zeros(200), 2000
    for seed in range(trials):
        found, weight = content(fill(rows, weights, seed=seed).sample())
        assert np.isclose(weight.sum(), weights.sum())
        assert 17 in found
        shares[found[:, 0].astype(int)] += weight / trials
    assert shares[17] == pytest.approx(1000.0, rel=0.01)
    light = np.delete(np.arange(200), 17)
    halves = light[weights[light] < np.median(weights)], light[weights[light] >= np.median(weights)]
    for half in halves:
        assert shares[half].sum() == pytest.approx(weights[half].sum(), rel=0.03)


def test_reservoirs_of_parts_are_merged_to_one_of_all():
    rows, counts = np.arange(200.0)[:, None], np.zeros(200)
    for seed in range(500):
        parts = [Reservoir(50, [seed, index]) for index in range(4)]
        for index, (start, stop) in enumerate([(0, 10), (10, 150), (150, 150), (150, 200)]):
            if stop > start:
                parts[index].add(rows[start:stop], None, start)
        for part in parts[1:]:
            parts[0].merge(part)
        found, weights = content(parts[0].sample())
        assert len(found) == 50 and weights.sum() == pytest.approx(200.0)
        assert (np.diff(found[:, 0]) > 0).all()
        counts[found[:, 0].astype(int)] += 1
    assert np.abs(counts - 125).max() < 4.5 * np.sqrt(500 * 0.25 * 0.75)
