"""The decision on candidates, beside the formula, for any number of lanes; and what one chain foresees of steps."""

import math

import numpy as np
import pytest

from fastgmm.kernels._jit import TILE_STRIDE, kernel
from fastgmm.kernels.lanes import LANES
from fastgmm.kernels.steps import FORESEEN, foresee, settle, triangle_stride, walk, walk_branches


@kernel
def settled(exponentials, candidate, proposal, log_ratio, position, log_density, taken, accepted, d, lanes, counted):
    return settle(
        exponentials, candidate, proposal, log_ratio, position, log_density, taken, accepted, d, lanes, counted
    )


def accepts(exponential, log_ratio):
    """What is decided of one chain."""
    one = [np.array([x] + [0.0] * (TILE_STRIDE - 1)) for x in (exponential, 1.0, 0.0, log_ratio, 0.0, 0.0)]
    taken, counts = np.zeros((2, TILE_STRIDE), dtype=np.int64)
    settled(*one, taken, counts, 1, 1, 1)
    assert taken[0] == counts[0] == one[4][0]  # it is counted, and the chain went there
    return bool(taken[0])


@pytest.mark.parametrize("log_ratio", [-3.0, -1e-9, 0.0, 2.0, -40.0])
def test_a_candidate_is_accepted_below_its_ratio_and_not_above(log_ratio):
    """u < exp(log_ratio), with u = exp(-e)."""
    e = -log_ratio
    assert accepts(np.nextafter(e, np.inf), log_ratio)
    assert not accepts(e, log_ratio) and not accepts(np.nextafter(e, -np.inf), log_ratio)
    assert not accepts(1e300, math.nan) and not accepts(700.0, -math.inf)


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("lanes", [1, 7, 8, 9, 40, 256])
def test_chains_go_where_they_are_accepted(lanes, counted):
    random, d = np.random.default_rng(lanes), 3
    e, log_density, log_q_ratio = random.exponential(size=TILE_STRIDE), *random.standard_normal((2, TILE_STRIDE))
    proposal = log_density + random.standard_normal(TILE_STRIDE)
    candidate, position = random.standard_normal((2, d, TILE_STRIDE))
    counts, ratio, taken = random.integers(5, size=TILE_STRIDE), log_q_ratio.copy(), np.full(TILE_STRIDE, 7)
    found = candidate.copy(), proposal.copy(), ratio, position.copy(), log_density.copy(), taken, counts.copy()
    candidates, _, _, places, densities, _, counts_after = found
    odd = settled(e, candidates.ravel(), *found[1:3], places.ravel(), *found[4:], d, lanes, counted)
    n = slice(lanes)
    wanted = e[n] > -((proposal - log_density)[n] + log_q_ratio[n])
    assert not odd and 0 < wanted.sum() < max(lanes, 2)
    assert (taken[n] == wanted).all()
    assert (ratio[n] == (proposal - log_density)[n] + log_q_ratio[n]).all()
    assert (places[:, n] == np.where(wanted, candidate[:, n], position[:, n])).all()
    assert (densities[n] == np.where(wanted, proposal[n], log_density[n])).all()
    assert (counts_after[n] == counts[n] + counted * wanted).all()
    assert (candidates == candidate).all()
    written = (places[0], position[0]), (densities, log_density), (counts_after, counts), (ratio, log_q_ratio)
    for after, before in (*written, (taken, np.full(TILE_STRIDE, 7))):
        assert (after[lanes + 8 :] == before[lanes + 8 :]).all()


@pytest.mark.parametrize("value, odd", [(np.inf, True), (np.nan, True), (-np.inf, False), (1e308, False)])
def test_what_is_no_log_density_is_told_of(value, odd):
    for lane, lanes in ((0, 1), (8, 9), (9, 9), (20, 40)):
        features = np.zeros((6, TILE_STRIDE))
        features[2, lane] = value
        taken, counts = np.zeros((2, TILE_STRIDE), dtype=np.int64)
        assert bool(settled(*features, taken, counts, 1, lanes, 1)) == (odd and lane < lanes)


@kernel
def foreseen(exponentials, log_density, log_densities):
    return foresee(exponentials, log_density, log_densities)


@pytest.mark.parametrize("own", [0, 1])
@pytest.mark.parametrize("d", [1, 2, 4, 7, 12, 21])
def test_candidates_are_the_same_whatever_else_is_in_the_group(d, own):
    random, lanes, length = np.random.default_rng(d), 6 * LANES + 1, d * (d + 1) // 2
    entries = random.normal(size=(length, lanes if own else 1))
    factor = np.zeros((length, triangle_stride(lanes) if own else 1))
    factor[:, : entries.shape[1]] = entries
    noise, start = random.normal(size=(2, d, TILE_STRIDE))
    together = np.zeros((d, TILE_STRIDE))
    walk(factor.ravel(), own, d, lanes, noise.ravel(), start.ravel(), together.ravel())
    for lane in range(lanes):
        lower, alone = np.zeros((d, d)), np.zeros((d, TILE_STRIDE))
        lower[np.tril_indices(d)] = entries[:, lane if own else 0]
        one = np.zeros((length, triangle_stride(1) if own else 1))
        one[:, 0] = entries[:, lane if own else 0]
        own_noise, own_start = (np.roll(values, -lane, axis=1) for values in (noise, start))
        walk(one.ravel(), own, d, 1, own_noise.ravel(), own_start.ravel(), alone.ravel())
        np.testing.assert_array_equal(together[:, lane], alone[:, 0])
        np.testing.assert_allclose(alone[:, 0], start[:, lane] + lower @ noise[:, lane], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("own", [0, 1])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_lanes_are_where_a_walk_leads_that_accepts_the_steps_of_their_bits(d, own):
    random = np.random.default_rng(d)
    stride = triangle_stride(1) if own else 1
    factor, noise = random.normal(size=stride * (d * (d + 1) // 2) + LANES), random.normal(size=(d, TILE_STRIDE))
    start, found = np.zeros((2, d, TILE_STRIDE))
    start[:, 0] = random.normal(size=d)
    assert walk_branches(factor, own, d, noise.ravel(), start.ravel(), found.ravel())
    for lane in range(LANES):
        place = start.copy()
        for s in range(FORESEEN):
            candidate = np.zeros((d, TILE_STRIDE))
            walk(factor, own, d, 1, np.roll(noise, -s, axis=1).ravel(), place.ravel(), candidate.ravel())
            place = candidate if lane >> s & 1 else place
        np.testing.assert_array_equal(found[:, lane], place[:, 0])
    assert LANES < 4 or (len(np.unique(found[0, :LANES])) == LANES and not found[:, LANES:].any())


def test_what_is_foreseen_is_what_is_decided_a_step_at_a_time():
    random, paths = np.random.default_rng(0), set()
    for _ in range(200):
        log_densities, exponentials = random.normal(size=TILE_STRIDE), random.exponential(size=TILE_STRIDE)
        if random.random() < 0.5:
            log_densities[random.integers(1, LANES)] = -math.inf
        here, log_densities[0] = log_densities[:1].copy(), random.choice([1.0, math.nan])
        decisions, lane = foreseen(exponentials, here, log_densities), 0
        assert log_densities[0] == here[0]
        for s in range(FORESEEN):
            candidate = lane | 1 << s
            wanted = exponentials[s] > -(log_densities[candidate] - log_densities[lane])
            assert decisions >> candidate & 1 == wanted
            lane = candidate if wanted else lane
        paths.add(lane)
    assert len(paths) == LANES


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_nothing_is_foreseen_where_a_log_density_is_none(value):
    for lane in range(TILE_STRIDE):
        log_densities = np.zeros(TILE_STRIDE)
        log_densities[lane] = value
        assert (foreseen(np.ones(TILE_STRIDE), np.zeros(1), log_densities) == -1) == (0 < lane < LANES)


@pytest.mark.parametrize("d", [1, 3])
def test_places_beyond_the_numbers_are_told_of(d):
    factor, start, out = np.full(d * (d + 1) // 2, 2.0), *np.zeros((2, d, TILE_STRIDE))
    for r in range(d):
        for s in range(FORESEEN + 1):
            noise = np.zeros((d, TILE_STRIDE))
            noise[r, s] = 1e308
            finite = walk_branches(factor, 0, d, noise.ravel(), start.ravel(), out.ravel())
            assert finite == np.isfinite(out[:, :LANES]).all() == (s == FORESEEN)
