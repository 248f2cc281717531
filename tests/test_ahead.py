"""One chain that looks ahead is the chain that does not, whatever its density does at places it does not come to."""

import math
import warnings

import numba
import numpy as np
import pytest
from numba import types
from reference_chain import metropolis, noise_of_chain

from fastgmm import math as vectors
from fastgmm.kernels._jit import COMPILED, address_of
from fastgmm.kernels.calls import DENSITY, try_density
from fastgmm.kernels.chain import NEVER_AGAIN
from fastgmm.kernels.lanes import LANES
from fastgmm.kernels.steps import FORESEEN
from fastgmm.kernels.vectors import rest
from fastgmm.mcmc import Independence, Mixed, RandomWalk, ahead, run, sample
from fastgmm.mcmc.ahead import Foresight
from fastgmm.mcmc.targets import make_target
from fastgmm.mixture import Mixture

pytestmark = pytest.mark.skipif(LANES <= 2, reason="vectors of two hold one step")
compiled_only = pytest.mark.skipif(not COMPILED, reason="about compilation, which is off")

STEPS = 1_000 if COMPILED else 100


@numba.njit(error_model="numpy")
def smooth(x, centre, scale):
    """What LLVM puts into vectors, where the number of coordinates is known."""
    total = 0.0
    for i in range(len(x)):
        total += ((x[i] - centre) / scale) ** 2
    return vectors.log(vectors.exp(-0.5 * total) + 0.1 * vectors.exp(-0.05 * total))


@numba.njit
def branching(x, centre, scale):
    """What it does not, with the C library's functions."""
    if x[0] < centre - 2.0 * scale:
        return -math.inf
    total = 0.0
    for i in range(len(x)):
        total += abs(x[i]) if x[i] > 0.5 else math.atan(x[i]) ** 2
    return -total - math.log1p(total)


@numba.njit(error_model="numpy")
def smooth_of_many(X, out, centre, scale):
    for w in range(X.shape[1]):
        total = 0.0
        for i in range(X.shape[0]):
            total += ((X[i, w] - centre) / scale) ** 2
        out[w] = vectors.log(vectors.exp(-0.5 * total) + 0.1 * vectors.exp(-0.05 * total))


DENSITIES = {"smooth": smooth, "branching": branching, "batch": smooth_of_many}


@pytest.fixture
def looks_ahead(monkeypatch):
    """Have single chains look ahead in every block, or in none."""

    def decide(yes):
        monkeypatch.setattr(Foresight, "choose", lambda self: yes)
        monkeypatch.setattr(Foresight, "learn", lambda self, steps, seconds: None)

    return decide


def same(one, other, chain=0):
    for name in ("draws", "log_density", "acceptance_rate", "rejected_nan", "rejected_overflow"):
        np.testing.assert_array_equal(getattr(one, name)[0], getattr(other, name)[chain])
    assert one.state.steps == other.state.steps and one.state.proposed == other.state.proposed


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("d", [1, 2, pytest.param(10, marks=pytest.mark.compiled)])
@pytest.mark.parametrize("thin", [1, 2, 7])
def test_a_chain_is_the_same_that_looks_ahead_that_does_not_and_in_company(looks_ahead, name, d, thin):
    def drawn(chains, adapt="ram", draws=STEPS):
        return sample(
            DENSITIES[name],
            np.full(d, 0.5),
            draws // thin,
            args=(0.25, 1.5),
            chains=chains,
            warmup=20,
            thin=thin,
            seed=3,
            kernel=RandomWalk(np.eye(d) / d, adapt),
            vectorized=name == "batch",
            n_jobs=1,
        )

    for adapt in ("ram", None):
        company = drawn(5, adapt)
        for yes in (True, False):
            looks_ahead(yes)
            alone = drawn(1, adapt)
            same(alone, company)
            part = drawn(1, adapt, draws=STEPS // 3)
            same(part.resume(STEPS // thin - part.draws.shape[1]), company)
        assert 0.0 < alone.acceptance_rate[0, 0] < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("first_block, seconds", [(1, 0.0), (2, 1e-6), (7, 1e-5), (10**6, 1.0)])
def test_blocks_may_be_cut_anywhere(monkeypatch, looks_ahead, first_block, seconds):
    expected = sample(smooth, [0.0, 0.0], STEPS, args=(0.0, 1.0), chains=2, seed=1)
    monkeypatch.setattr(run, "_FIRST_BLOCK", first_block)
    monkeypatch.setattr(run, "_BLOCK_SECONDS", seconds)
    looks_ahead(True)
    same(sample(smooth, [0.0, 0.0], STEPS, args=(0.0, 1.0), chains=1, seed=1), expected)


@pytest.mark.compiled
def test_two_chains_on_two_threads_look_ahead_each(looks_ahead):
    looks_ahead(True)
    both = sample(smooth, [0.0], STEPS, args=(0.0, 1.0), chains=2, seed=1, n_jobs=2)
    looks_ahead(False)
    for c in range(2):
        same(sample(smooth, [0.0], STEPS, args=(0.0, 1.0), chains=2, seed=1, n_jobs=1), both, 0)
        np.testing.assert_array_equal(
            both.draws[c], sample(smooth, [0.0], STEPS, args=(0.0, 1.0), chains=4, seed=1).draws[c]
        )


@pytest.mark.slow
def test_what_the_clock_finds_changes_no_bit(monkeypatch):
    """Whatever it says in turn."""
    expected = sample(smooth, [0.0, 0.0], STEPS, args=(0.0, 1.0), chains=2, seed=1)
    chosen, choose = [], Foresight.choose
    monkeypatch.setattr(Foresight, "choose", lambda self: chosen.append(choose(self)) or chosen[-1])
    for seconds in (0.0, 1e-5, 1.0):
        monkeypatch.setattr(run, "_TRIAL_SECONDS", seconds)
        monkeypatch.setattr(run, "_FIRST_BLOCK", 7)
        monkeypatch.setattr(run, "_BLOCK_SECONDS", 1e-5)
        monkeypatch.setattr(ahead, "_BLOCKS_BETWEEN", 2)
        same(sample(smooth, [0.0, 0.0], STEPS, args=(0.0, 1.0), chains=1, seed=1), expected)
    assert set(chosen) == {True, False}


OUTCOMES = [0, 1, 2]  # NaN, +inf, raises


@numba.njit
def troubled(x, limit, outcome, seen):
    """A normal density that beyond a limit is none, and counts how often it was asked there."""
    if x[0] > limit:
        seen[0] += 1
        if outcome == 0:
            return math.nan
        if outcome == 1:
            return math.inf
        raise ValueError("no density here")
    return -0.5 * x[0] ** 2


@numba.njit
def troubled_of_many(X, out, limit, outcome, seen):
    for w in range(X.shape[1]):
        out[w] = -0.5 * X[0, w] ** 2
        if X[0, w] > limit:
            seen[0] += 1
            out[w] = math.nan if outcome == 0 else math.inf
            if outcome == 2:
                raise ValueError("no density here")


def candidates_of(seed, steps):
    """Where chain 0 of a normal density asks for it, step by step."""
    found = []

    def watched(x):
        found.append(x[0])
        return -0.5 * x[0] ** 2

    metropolis(watched, np.zeros(1), noise_of_chain(seed, 0, steps, 1), np.eye(1))
    return np.array(found[1:])


def walk_into_trouble(limit, outcome, count, vectorized):
    """The chain whose candidates `candidates_of(0, 300)` tells, on a density that is in trouble beyond a limit."""
    options = {"proposal_cov": [[1.0]], "nan": "raise", "vectorized": vectorized}
    density = troubled_of_many if vectorized else troubled
    return sample(density, [0.0], 300, args=(limit, outcome, count), chains=1, warmup=0, seed=0, **options)


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("vectorized", [False, True])
def test_trouble_where_no_candidate_is_is_no_trouble(looks_ahead, outcome, vectorized):
    limit = candidates_of(0, 300).max()
    seen, kept = {}, {}
    for yes in (True, False):
        looks_ahead(yes)
        count = np.zeros(1, dtype=np.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kept[yes] = walk_into_trouble(limit, outcome, count, vectorized)
        seen[yes] = count[0]
    same(kept[True], kept[False])
    assert seen[False] == 0
    if COMPILED or not vectorized:
        assert seen[True] == 1 if outcome == 2 else seen[True] > 1


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("vectorized", [False, True])
def test_trouble_at_a_candidate_is_told_as_by_a_chain_that_does_not_look_ahead(looks_ahead, outcome, vectorized):
    candidates = candidates_of(0, 300)
    limit = np.sort(candidates)[-2]
    said = {}
    for yes in (True, False):
        looks_ahead(yes)
        with pytest.raises(ValueError) as caught:
            walk_into_trouble(limit, outcome, np.zeros(1, dtype=np.int64), vectorized)
        said[yes] = str(caught.value), getattr(caught.value, "__notes__", [])
    assert said[True] == said[False]
    assert f"at step {np.argmax(candidates) + 1} " in "".join([said[True][0], *said[True][1]])


@pytest.mark.parametrize("vectorized", [False, True])
def test_nan_is_counted_where_candidates_are(looks_ahead, vectorized):
    found, density = {}, troubled_of_many if vectorized else troubled
    for yes in (True, False):
        looks_ahead(yes)
        with pytest.warns(RuntimeWarning, match="was NaN at") as caught:
            chains = sample(
                density,
                [0.0],
                STEPS,
                args=(1.0, 0, np.zeros(1, dtype=np.int64)),
                chains=1,
                seed=0,
                vectorized=vectorized,
            )
        found[yes] = chains, str(caught[0].message)
    same(found[True][0], found[False][0])
    assert found[True][1] == found[False][1] and found[True][0].rejected_nan[0] > STEPS / 20


def test_candidates_that_overflow_are_counted_as_they_come(looks_ahead):
    far = RandomWalk(np.eye(2), None).prepare(2)[0]._replace(factor=1.5e308 * np.eye(2))

    class Far:
        def prepare(self, dimensions):
            return (far,)

    @numba.njit
    def flat(x):
        return 0.0

    looks_ahead(True)
    one, two = (sample(flat, np.eye(2)[:n], 200, chains=n, warmup=0, seed=0, kernel=Far()) for n in (1, 2))
    assert 10 < one.rejected_overflow[0] < 190
    same(one, two)


def test_after_an_exception_a_chain_looks_ahead_no_more(looks_ahead):
    looks_ahead(True)
    target = make_target(troubled, (1e300, 2, np.zeros(1, dtype=np.int64)))
    moves = RandomWalk(np.eye(1), None).prepare(1)
    sequence = np.random.SeedSequence(0)
    state = run.new_state(sequence, moves, np.zeros((1, 1)), np.zeros(1), run.chain_generators(sequence, 1))
    with run.Run(target, moves, state, 1, True) as running:
        running._plan.foresees[0] = NEVER_AGAIN
        running.keep_into(-1)
        for _ in running.take(50, 1, False, np.empty((1, 0, 1)), np.empty((1, 0))):
            assert running._plan.foresees[0] == NEVER_AGAIN


@compiled_only
def test_an_exception_from_object_mode_is_dropped_but_an_interrupt_is_not():
    errors = [KeyboardInterrupt, ValueError, ValueError]

    def fail():
        raise errors.pop()

    def density(x, lanes, out, packed):
        with numba.objmode():
            fail()

    def attempt(address, x, lanes, out, packed):
        return try_density(address, rest(x, 0), lanes, rest(out, 0), rest(packed, 0))

    raising = numba.njit(DENSITY)(density)
    tried = numba.njit(types.int64(types.int64, *DENSITY.args))(attempt)
    arguments = address_of(raising, DENSITY), np.zeros(1), 1, np.zeros(1), np.zeros(4, dtype=np.int64)
    assert tried(*arguments) == 1 and tried(*arguments) == 1
    with pytest.raises(KeyboardInterrupt):
        tried(*arguments)
    assert not errors


@pytest.mark.compiled
def test_where_it_is_not_tried(monkeypatch):
    """Several chains in a group, several moves, arithmetic that depends on how many lanes there are."""
    decided = []
    monkeypatch.setattr(run, "Foresight", lambda foresees, seconds: decided.append(foresees) or Foresight(False, 1.0))

    def tried(density, chains=1, **options):
        sample(density, [0.0, 0.0], 10, args=(), chains=chains, seed=0, n_jobs=1, **options)
        return decided.pop()

    @numba.njit
    def normal(x):
        return -0.5 * (x[0] ** 2 + x[1] ** 2)

    @numba.njit(error_model="numpy")
    def normals(X, out):
        for w in range(X.shape[1]):
            out[w] = -0.5 * (X[0, w] ** 2 + X[1, w] ** 2)

    @numba.njit(fastmath=True)
    def loose(X, out):
        for w in range(X.shape[1]):
            out[w] = -0.5 * (X[0, w] ** 2 + X[1, w] ** 2)

    @numba.njit
    def of_matrices(X, out):
        out[:] = -0.5 * np.sum(X * np.dot(np.eye(2), X), axis=0)

    mixture = Mixture([1.0], np.zeros((1, 2)), [np.eye(2)])
    assert tried(normal) is None and tried(normal, 2) is False
    assert tried(mixture) is True and tried(mixture, 2) is False
    assert tried(normal, kernel=Independence(mixture)) is False
    assert tried(normal, kernel=Mixed([(RandomWalk(), 0.5), (Independence(mixture), 0.5)])) is False
    if COMPILED:
        assert tried(normals, vectorized=True) is None
        assert tried(loose, vectorized=True) is False
    assert tried(of_matrices, vectorized=True) is False


def hear(foresight, steps, single, looking_ahead):
    """Tell of a block at so many seconds a step."""
    chose = foresight.choose()
    return chose, foresight.learn(steps, steps * (looking_ahead if chose else single))


@pytest.mark.parametrize("single, looking_ahead", [(9e-8, 5e-8), (5e-8, 9e-8), (1e-4, 5e-5), (1e-4, 3e-4)])
def test_the_faster_way_is_chosen(single, looking_ahead):
    foresight, waits, ways = Foresight(None, 1e-4), 1e-4, []
    steps = 2_000
    while waits is not None:
        way, waits = hear(foresight, steps, single, looking_ahead)
        ways.append(way)
        steps = 0 if waits is None else int(waits / (looking_ahead if way else single))
        assert (waits is None or steps >= FORESEEN) and len(ways) <= 6
    assert ways == [False, True] * (len(ways) // 2)
    assert foresight.choose() == (looking_ahead < single)


def test_one_slow_block_decides_nothing():
    foresight = Foresight(None, 1e-4)
    for looking_ahead in (5e-6, 5e-8, 5e-8):
        assert hear(foresight, 2_000, 9e-8, None)[0] is False
        assert hear(foresight, 2_000, None, looking_ahead)[0] is True
    assert foresight.choose()


def test_blocks_too_short_to_be_measured_are_none():
    foresight = Foresight(None, 1e-4)
    for _ in range(10):
        assert hear(foresight, 16, 1e-7, 1e-7) == (False, pytest.approx(1e-4))


def test_very_slow_densities_are_not_tried_and_slow_ones_once():
    foresight = Foresight(None, 1e-4)
    assert hear(foresight, 1, 0.1, 0.1) == (False, None) and not foresight.choose()
    foresight = Foresight(None, 1e-4)
    _, seconds = hear(foresight, 16, 2e-3, 5e-3)
    assert FORESEEN <= seconds / 2e-3 < FORESEEN + 1
    assert hear(foresight, FORESEEN, 2e-3, 5e-3) == (True, None)
    assert not foresight.choose()


def test_now_and_then_it_is_tried_again(monkeypatch):
    monkeypatch.setattr(ahead, "_BLOCKS_BETWEEN", 5)
    foresight = Foresight(None, 1e-4)
    for _ in range(6):
        hear(foresight, 2_000, 9e-8, 5e-8)
    assert foresight.choose()
    for _ in range(5):
        assert foresight.choose()
        waits = foresight.learn(10**5, 0.03)
    assert waits is not None and not foresight.choose()
    known = Foresight(True, 1e-4)
    assert all(known.choose() and known.learn(10, 1.0) is None for _ in range(20))
