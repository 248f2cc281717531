"""The decision on candidates: what it writes, beside the formula, for any number of lanes."""

import math

import numpy as np
import pytest

from fastgmm.kernels._jit import TILE_STRIDE, kernel
from fastgmm.kernels.steps import settle


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
