"""Steps over few rows, written into the same arrays again and again, are those of the general step to the bit."""

import numpy as np
import pytest
import reference

from fastgmm.covariance import STRUCTURES, Parameters, Prior, flat
from fastgmm.em import engine
from fastgmm.em.step import _WORTH_PREPARING, StepsOfFew, step, steps
from fastgmm.sources import ArrayRows

FULL = STRUCTURES["full"]
FLAT = flat(0.0, 2)


def problem(d, k=3, n=700, seed=0):
    random = np.random.default_rng(seed)
    truth = reference.random_parameters("full", k, d, random)
    rows = reference.random_rows(truth, "full", n, random)
    return rows, reference.random_parameters("full", k, d, random)._replace(means=rows[:k].copy())


def copied(parameters):
    return Parameters(*(part.copy() for part in parameters))


def assert_same(ours, theirs):
    for part, left, right in zip(Parameters._fields, ours, theirs, strict=True):
        np.testing.assert_array_equal(left, right, err_msg=part)


def prepared(source, start, prior):
    """Steps past those that are general."""
    found = steps(source, FULL, prior, kept=False)
    for _ in range(_WORTH_PREPARING):
        assert found(start)[::2] == step(source, start, FULL, prior)[::2]
    return found


def are_few(found):
    return isinstance(found, StepsOfFew) and found._left == 0


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("d", "k"), [(1, 5), (2, 1), (3, 3), (4, 2)])
def test_they_have_the_bits_of_the_general_step(d, k, weighted):
    rows, start = problem(d, k)
    source = ArrayRows(rows, np.random.default_rng(1).uniform(size=len(rows)) if weighted else None)
    quick, point, before = prepared(source, start, flat(1e-3, d)), start, copied(start)
    for _ in range(5):
        expected = step(source, point, FULL, flat(1e-3, d))
        here = copied(point)
        log_likelihood, update, fault = quick(point)
        assert (log_likelihood, fault) == (expected[0], "")
        assert_same(update.parameters, expected[1].parameters)
        assert update[1:] == expected[1][1:] == (-1, False)
        assert_same(point, here)  # the last point stays
        point = update.parameters
    assert_same(start, before)


def test_they_lead_on_from_anywhere():
    rows, start = problem(2)
    source, prior = ArrayRows(rows), FLAT
    quick = prepared(source, start, prior)
    for means in (start.means, start.means[::-1], start.means + 0.1):
        point = start._replace(means=means)
        for _ in range(2):
            expected = step(source, point, FULL, prior)
            found = quick(point)
            assert found[0] == expected[0]
            assert_same(found[1].parameters, expected[1].parameters)
            source.reduce(FULL.form(start))  # another pass in between
            point = found[1].parameters


def faulty(kind):
    """Rows and a start whose step is not a pass and a maximisation alone, or fails."""
    rows, start = problem(2, 1 if kind == "jump" else 3)
    if kind == "jump":
        return rows + 1e6, start
    if kind == "lost":
        rows[3] = 1e300
        return rows, start
    if kind == "collinear":
        return rows[:, :1] * [1.0, 2.0], start
    return np.concatenate([rows[:3], np.tile(rows[3], (200, 1))]), start._replace(means=rows[3] + 1e-3 * rows[:3])


@pytest.mark.parametrize("kind", ["jump", "lost", "collinear", "equal"])
def test_what_needs_more_than_a_pass_is_a_general_step(kind):
    rows, start = faulty(kind)
    source, prior = ArrayRows(rows), FLAT
    quick, point = prepared(source, start, prior), start
    faults = []
    for _ in range(6):
        expected = step(source, point, FULL, prior)
        found = quick(point)
        assert found[::2] == expected[::2]
        faults.append(found[2])
        if faults[-1]:
            break
        assert_same(found[1].parameters, expected[1].parameters)
        point = found[1].parameters
    assert any(faults) == (kind != "jump")


def test_runs_do_not_share_what_they_found():
    rows, start = problem(2)
    source = ArrayRows(rows)
    follow = {"tol": 0.0, "prior": flat(1e-6, 2), "max_iter": 2 * _WORTH_PREPARING}
    first = engine.run(source, start, FULL, **follow)
    kept = copied(first.parameters)
    told = engine.run(source, start, FULL, on_step=lambda *_: False, **follow)
    engine.run(source, start._replace(means=start.means[::-1]), FULL, **follow)
    assert_same(first.parameters, kept)
    assert_same(told.parameters, kept)
    assert told.log_likelihoods == first.log_likelihoods


def test_who_is_told_of_steps_may_keep_them():
    rows, start = problem(2)
    seen = []
    engine.run(
        ArrayRows(rows),
        start,
        FULL,
        tol=0.0,
        prior=flat(1e-6, 2),
        max_iter=2 * _WORTH_PREPARING,
        on_step=lambda _, parameters, *__: seen.append((parameters, copied(parameters))) and False,
    )
    assert len(seen) == 2 * _WORTH_PREPARING
    for parameters, then in seen:
        assert_same(parameters, then)


def test_they_are_for_few_rows_under_full_covariances_of_few_features_alone():
    rows, start = problem(2)
    wide, wide_start = problem(5)
    joined = Prior(mean=np.zeros(2), degrees_of_freedom=4.0, scale=1.0).hyperparameters(FULL, 3, 2)
    assert are_few(prepared(ArrayRows(rows), start, FLAT))
    assert not are_few(prepared(ArrayRows(rows), start, joined))
    assert not are_few(prepared(ArrayRows(rows.astype(np.float16)), start, FLAT))
    assert not are_few(prepared(ArrayRows(np.tile(rows, (300, 1))), start, FLAT))
    assert not are_few(prepared(ArrayRows(wide), wide_start, flat(0.0, 5)))
    for structure in ("tied", "diag", "spherical", "EEV"):
        assert not isinstance(steps(ArrayRows(rows), STRUCTURES[structure], FLAT, kept=False), StepsOfFew)
    assert not isinstance(steps(ArrayRows(rows), FULL, FLAT, kept=True), StepsOfFew)
