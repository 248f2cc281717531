"""Steps over few rows, written into the same arrays again and again, are those of the general step to the bit."""

import numpy as np
import pytest
import reference

from fastgmm.covariance import STRUCTURES, Parameters, Prior, flat
from fastgmm.em import engine
from fastgmm.em.step import _WORTH_PREPARING, StepsOfFew, step, steps
from fastgmm.kernels._jit import COMPILED
from fastgmm.sources import ArrayRows

FULL = STRUCTURES["full"]
FLAT = flat(0.0, 2)
IN_ONE_CALL = [("full", 1, 5), ("full", 2, 1), ("full", 3, 3), ("full", 4, 2), ("full", 5, 3), ("full", 9, 2)]
IN_ONE_CALL += [
    ("tied", 2, 3),
    ("tied", 5, 2),
    ("diag", 1, 2),
    ("diag", 5, 3),
    ("spherical", 2, 3),
    ("spherical", 6, 2),
]


def problem(structure, d, k=3, n=700 if COMPILED else 300, seed=0):
    random = np.random.default_rng(seed)
    truth = reference.random_parameters(structure, k, d, random)
    rows = reference.random_rows(truth, structure, n, random)
    return rows, reference.random_parameters(structure, k, d, random)._replace(means=rows[:k].copy())


def copied(parameters):
    return Parameters(*(part.copy() for part in parameters))


def assert_same(ours, theirs):
    for part, left, right in zip(Parameters._fields, ours, theirs, strict=True):
        np.testing.assert_array_equal(left, right, err_msg=part)


def prepared(source, start, prior, structure="full"):
    """Steps past those that are general."""
    found = steps(source, STRUCTURES[structure], prior, kept=False)
    for _ in range(_WORTH_PREPARING):
        assert found(start)[::2] == step(source, start, STRUCTURES[structure], prior)[::2]
    return found


def are_few(found):
    return isinstance(found, StepsOfFew) and found._left == 0


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("structure", "d", "k"), IN_ONE_CALL)
def test_they_have_the_bits_of_the_general_step(structure, d, k, weighted):
    rows, start = problem(structure, d, k)
    source, prior = (
        ArrayRows(rows, np.random.default_rng(1).uniform(size=len(rows)) if weighted else None),
        flat(1e-3, d),
    )
    quick, point, before = prepared(source, start, prior, structure), start, copied(start)
    assert are_few(quick)
    for _ in range(5):
        expected = step(source, point, STRUCTURES[structure], prior)
        here = copied(point)
        log_likelihood, update, fault = quick(point)
        assert (log_likelihood, fault) == (expected[0], "")
        assert_same(update.parameters, expected[1].parameters)
        assert update[1:] == expected[1][1:] == (-1, False)
        assert_same(point, here)  # the last point stays
        point = update.parameters
    assert_same(start, before)


@pytest.mark.parametrize(("structure", "d"), [("full", 2), ("full", 5), ("tied", 2), ("diag", 2), ("spherical", 2)])
def test_they_lead_on_from_anywhere(structure, d):
    rows, start = problem(structure, d)
    source, own = ArrayRows(rows), STRUCTURES[structure]
    quick = prepared(source, start, flat(0.0, d), structure)
    for means in (start.means, start.means[::-1], start.means + 0.1):
        point = start._replace(means=means)
        for _ in range(2):
            expected = step(source, point, own, flat(0.0, d))
            found = quick(point)
            assert found[0] == expected[0]
            assert_same(found[1].parameters, expected[1].parameters)
            source.reduce(own.form(start))  # another pass in between
            point = found[1].parameters


@pytest.mark.parametrize(("structure", "d"), [("full", 5), ("tied", 2), ("diag", 2), ("spherical", 2)])
def test_where_another_form_is_needed_they_are_general_until_it_is_not(structure, d):
    """Components far narrower than the spread of their means are read by a form that centres."""
    own, random = STRUCTURES[structure], np.random.default_rng(0)
    centres, width = 4.0 * np.eye(3, d), 1e-7 if structure == "full" else 1e-4
    rows = centres[np.arange(300) % 3] + width * random.normal(size=(300, d))
    source, wide = ArrayRows(rows), reference.random_parameters(structure, 3, d, random)._replace(means=centres.copy())
    quick, kinds = prepared(source, wide, flat(0.0, d), structure), []
    for begin in (wide, wide):
        point = begin
        for _ in range(3):
            form = own.form(point)
            kinds.append((type(form), form.reference.any()))
            expected = step(source, point, own, flat(0.0, d))
            found = quick(point)
            assert found[::2] == expected[::2]
            assert_same(found[1].parameters, expected[1].parameters)
            point = found[1].parameters
    assert kinds[0] != kinds[2] and kinds[:3] == kinds[3:]


@pytest.mark.parametrize(("structure", "d", "k"), IN_ONE_CALL)
def test_each_takes_one_pass(structure, d, k, monkeypatch):
    passes, reduce, prepare = [], ArrayRows.reduce, ArrayRows.prepare

    def counted(*given):
        found = prepare(*given)
        return found._replace(read=lambda: passes.append("prepared") or found.read())

    monkeypatch.setattr(ArrayRows, "reduce", lambda *a, **kw: passes.append("general") or reduce(*a, **kw))
    monkeypatch.setattr(ArrayRows, "prepare", counted)
    rows, start = problem(structure, d, k)
    quick, point = steps(ArrayRows(rows), STRUCTURES[structure], flat(1e-3, d), kept=False), start
    for _ in range(_WORTH_PREPARING + 5):
        point = quick(point)[1].parameters
    assert passes == ["general"] * _WORTH_PREPARING + ["prepared"] * 5


def faulty(kind):
    """Rows and a start whose step is not a pass and a maximisation alone, or fails."""
    rows, start = problem("full", 2, 1 if kind == "jump" else 3)
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
    source = ArrayRows(rows)
    quick, point = prepared(source, start, FLAT), start
    faults = []
    for _ in range(6):
        expected = step(source, point, FULL, FLAT)
        found = quick(point)
        assert found[::2] == expected[::2]
        faults.append(found[2])
        if faults[-1]:
            break
        assert_same(found[1].parameters, expected[1].parameters)
        point = found[1].parameters
    assert any(faults) == (kind != "jump")


def test_runs_do_not_share_what_they_found():
    rows, start = problem("full", 2)
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
    rows, start = problem("full", 2)
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


def test_they_are_for_few_rows_whose_forms_can_be_set_anew(monkeypatch):
    rows, start = problem("full", 2)
    joined = Prior(mean=np.zeros(2), degrees_of_freedom=4.0, scale=1.0).hyperparameters(FULL, 3, 2)
    assert are_few(prepared(ArrayRows(rows), start, FLAT))
    assert not are_few(prepared(ArrayRows(rows), start, joined))
    assert not are_few(prepared(ArrayRows(rows.astype(np.float16)), start, FLAT))
    single, single_start = problem("diag", 2)
    assert not are_few(prepared(ArrayRows(single.astype(np.float32)), single_start, FLAT, "diag"))
    assert not isinstance(steps(ArrayRows(rows), STRUCTURES["EEV"], FLAT, kept=False), StepsOfFew)
    assert not isinstance(steps(ArrayRows(rows), FULL, FLAT, kept=True), StepsOfFew)
    monkeypatch.setattr("fastgmm.sources.array.WORTH_A_WORKER", 1)
    assert not are_few(prepared(ArrayRows(np.tile(rows, (8, 1))), start, FLAT))
