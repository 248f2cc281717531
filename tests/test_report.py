"""What a fit tells: its report, its bar, the callback that may end it, and what an interrupt leaves."""

import dataclasses
import itertools
import pickle
import sys
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from reference import FAMILIAR
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning

from fastgmm import DegenerateComponentWarning, GaussianMixture
from fastgmm.covariance import STRUCTURES, Parameters, flat
from fastgmm.em import engine, report
from fastgmm.em.initialise import STARTS
from fastgmm.em.watch import Watch
from fastgmm.sources import ArrayRows

every_structure = pytest.mark.parametrize("covariance_type", FAMILIAR)

X = make_blobs(150, n_features=2, centers=[[0, 0], [6, 1], [0, 7]], random_state=3)[0]


def fit(k=3, rows=X, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GaussianMixture(k, **{"random_state": 0, **options}).fit(rows)


def parameters_of(structure, means, variances):
    """Equally weighted components with these variances in every direction."""
    k, d = np.shape(means)
    covariances = {
        "full": [v * np.eye(d) for v in variances],
        "tied": variances[0] * np.eye(d),
        "diag": [np.full(d, v) for v in variances],
        "spherical": variances,
    }[structure]
    covariances = np.array(covariances, dtype=float)
    factors, _ = STRUCTURES[structure].factorise(covariances)
    return Parameters(np.full(k, 1 / k), np.array(means, dtype=float), covariances, factors)


@every_structure
@pytest.mark.parametrize("max_iter", [0, 2, 100])
def test_the_reports_log_likelihood_is_the_score(covariance_type, max_iter):
    gm = fit(covariance_type=covariance_type, max_iter=max_iter, n_init=3, init_params="random")
    starts = gm.fit_report_.starts
    kept = starts[gm.fit_report_.best]
    assert kept.log_likelihood == pytest.approx(gm.score(X), rel=1e-13)
    if max_iter == 0:
        assert kept.log_likelihood == max(start.log_likelihood for start in starts)
    assert kept.iterations == gm.n_iter_ and (kept.outcome == "converged") == gm.converged_


def test_the_report_counts_weights():
    weights = np.random.default_rng(0).uniform(0, 4, size=150)
    gm = GaussianMixture(3, random_state=0).fit(X, sample_weight=weights)
    assert gm.fit_report_.starts[0].log_likelihood == pytest.approx(gm.score(X, sample_weight=weights), rel=1e-13)
    rows = [component.rows for component in gm.fit_report_.components]
    np.testing.assert_allclose(rows, weights @ gm.predict_proba(X), rtol=1e-3)


def test_starts_are_reported_in_order():
    report_ = fit(n_init=4, init_params="random", tol=1e-6, max_iter=30).fit_report_
    assert len(report_.starts) == 4
    assert {start.outcome for start in report_.starts} <= {"converged", "max_iter"}
    alone = np.random.RandomState(0)
    for start in report_.starts:
        single = fit(init_params="random", tol=1e-6, max_iter=30, random_state=alone).fit_report_.starts[0]
        assert (single.log_likelihood, single.iterations) == (start.log_likelihood, start.iterations)


def test_a_failed_start_is_reported_beside_the_others(monkeypatch):
    calls = itertools.count()

    def start(*given):
        return STARTS["random"](*given)._replace(failed=1 if next(calls) == 1 else -1)

    monkeypatch.setitem(STARTS, "kmeans", start)
    report_ = fit(n_init=3).fit_report_
    assert [start.outcome == "failed" for start in report_.starts] == [False, True, False]
    failed = report_.starts[1]
    assert failed.failure == "initialisation: the covariance of component 1 is not positive-definite"
    assert failed.log_likelihood == -np.inf and failed.iterations == 0
    assert f"1            -inf           0 {failed.seconds:.3g}".split() == repr(report_).splitlines()[2].split()[:4]
    assert repr(report_).splitlines()[2].endswith(f"failed at {failed.failure}")
    assert [len(start.log_likelihoods) for start in report_.starts] == [start.iterations for start in report_.starts]


def test_the_pass_that_failed_is_not_acceleration():
    report_ = fit(n_init=2).fit_report_
    end = {"passes": 9, "iterations": 8, "outcome": "failed", "failure": "iteration 9: ..."}
    failed = dataclasses.replace(report_.starts[0], **end)
    assert "passes" not in repr(dataclasses.replace(report_, starts=(failed, report_.starts[1]), best=1))


@every_structure
def test_components_have_their_rows_and_condition(covariance_type):
    gm = fit(covariance_type=covariance_type)
    components = gm.fit_report_.components
    np.testing.assert_allclose([c.rows for c in components], gm.predict_proba(X).sum(axis=0), rtol=1e-3)
    np.testing.assert_allclose([c.weight for c in components], gm.weights_)
    conditions = np.linalg.cond(gm.mixture_.covariances_dense)
    np.testing.assert_allclose([c.condition for c in components], conditions, rtol=1e-9)
    assert not any(c.empty or c.on_floor or c.duplicate_of is not None for c in components)


def test_a_constant_column_is_on_the_floor_and_an_empty_component_empty():
    rows = np.column_stack([X, np.full(150, 7.0)])
    means = [[0.0, 0.0, 7.0], [6.0, 1.0, 7.0], [1e4, 1e4, 7.0]]
    options = {"weights_init": np.full(3, 1 / 3), "means_init": means, "precisions_init": np.ones((3, 3))}
    components = fit(rows=rows, covariance_type="diag", **options).fit_report_.components
    assert [c.empty for c in components] == [False, False, True]
    assert [c.on_floor for c in components[:2]] == [True, True]
    assert not any(c.on_floor for c in fit(rows=X).fit_report_.components)


@every_structure
@pytest.mark.parametrize("shift, same", [(0.02, True), (0.1, False)])
def test_duplicates_are_those_no_data_could_tell_apart(covariance_type, shift, same):
    widths = [4.0, 4.01 if same else 4.5, 4.0, 4.0]
    parameters = parameters_of(covariance_type, [[0, 0], [9, 0], [0, 2 * shift], [9, 0]], widths)
    found = list(report.find_duplicates(parameters, STRUCTURES[covariance_type], np.ones(4, bool)))
    equal = same or covariance_type == "tied"
    assert found == ([(2, 0)] if same else []) + ([(3, 1)] if equal else [])
    assert list(report.find_duplicates(parameters, STRUCTURES[covariance_type], np.array([1, 1, 0, 0], bool))) == []


def test_divergence_is_jeffreys():
    """The sum of both Kullback-Leibler divergences, from the formula for Gaussian densities."""
    random = np.random.default_rng(0)
    roots = random.normal(size=(2, 3, 3))
    covariances = roots @ roots.swapaxes(1, 2)
    means = random.normal(size=(2, 3))
    factors, _ = STRUCTURES["full"].factorise(covariances)

    def divergence(a, b):
        inverse, shift = np.linalg.inv(covariances[b]), means[b] - means[a]
        ratio = np.linalg.det(covariances[b]) / np.linalg.det(covariances[a])
        return (np.trace(inverse @ covariances[a]) - 3 + shift @ inverse @ shift + np.log(ratio)) / 2

    found = report._divergence(Parameters(np.full(2, 0.5), means, covariances, factors), STRUCTURES["full"], 0, 1)
    assert found == pytest.approx(divergence(0, 1) + divergence(1, 0), rel=1e-10)


def test_correlations_tell_components_apart():
    """Equal means and variances feature by feature are not enough."""
    parameters = parameters_of("full", [[0, 0], [0, 0]], [1.0, 1.0])
    parameters.covariances[1, 0, 1] = parameters.covariances[1, 1, 0] = 0.5
    factors, _ = STRUCTURES["full"].factorise(parameters.covariances)
    parameters = parameters._replace(factors=factors)
    assert list(report.find_duplicates(parameters, STRUCTURES["full"], np.ones(2, bool))) == []


def test_duplicates_are_warned_of_by_name():
    options = {"weights_init": [0.3, 0.3, 0.4], "means_init": [[0, 0], [0, 0], [0, 7]]}
    with pytest.warns(DegenerateComponentWarning, match=r"1 \(the same as 0\).*use fewer components or more starts"):
        gm = GaussianMixture(3, precisions_init=np.ones(3), covariance_type="spherical", **options).fit(X)
    assert [c.duplicate_of for c in gm.fit_report_.components] == [None, 0, None]


@pytest.mark.parametrize("outcome", ["converged", "max_iter"])
def test_duplicates_are_a_fault_once_a_fit_has_converged(outcome):
    run = engine.Run(parameters_of("diag", np.zeros((2, 2)), np.ones(2)), outcome=outcome)
    assert bool(report.describe_degenerate(run, "diag", 100, flat(1e-6, 2))) == (outcome == "converged")


FAULTS = {
    "none": {},
    "empty": {"weights": [1.0, 1e-4]},
    "few rows": {"weights": [0.99, 0.01]},
    "nearly few rows": {"weights": [0.97, 0.03]},
    "collapsed": {"variances": [1.0, 1e-6]},
    "nearly collapsed": {"variances": [1.0, 1.1e-6]},
    "the same": {"means": [[0.0, 0.0], [0.0, 0.01]]},
    "nearly the same": {"means": [[0.0, 0.0], [0.0, 0.05]]},
    "wider": {"means": [[0.0, 0.0], [0.0, 0.0]], "variances": [1.0, 1.1]},
    "constant": {"means": [[0.0, 5.0], [1.0, 5.0]], "variances": [1e-6, 1e-6]},
    "narrow": {"reg_covar": 0.2, "variances": [1.0, 1.0], "means": [[0.0, 0.0], [9.0, 0.0]]},
    "nearly narrow": {"reg_covar": 0.05, "variances": [1.0, 1.0], "means": [[0.0, 0.0], [9.0, 0.0]]},
    "far": {"means": [[1e9, 0.0], [1e9 + 9.0, 0.0]], "variances": [1e-3, 1e-3]},
    "no ridge": {"reg_covar": 0.0},
}


@every_structure
@pytest.mark.parametrize("fault", FAULTS)
def test_where_nothing_is_remarkable_nothing_is_described(fault, covariance_type):
    """And the usual is not remarkable: a description would take longer than EM does on few rows."""
    case = {"weights": [0.5, 0.5], "means": [[0.0, 0.0], [3.0, 1.0]], "variances": [1.0, 2.0], "reg_covar": 1e-6}
    case |= FAULTS[fault]
    structure, prior = STRUCTURES[covariance_type], flat(case["reg_covar"], 2)
    parameters = parameters_of(covariance_type, case["means"], case["variances"])
    parameters = parameters._replace(weights=np.array(case["weights"]))
    run, source = engine.Run(parameters, outcome="converged"), ArrayRows(np.random.default_rng(0).normal(size=(99, 2)))
    described = report.describe_degenerate(run, covariance_type, 99, prior)
    described += report.describe_regularisation(source, parameters, structure, case["reg_covar"], None)
    plain = report.is_unremarkable(parameters, structure, 99, prior, case["reg_covar"])
    assert plain == (not described)


def test_many_degenerate_components_are_not_all_listed():
    run = engine.Run(parameters_of("diag", np.arange(40.0)[:, None] * [1, 1], np.ones(40)))
    message = report.describe_degenerate(run, "diag", 10, flat(1e-6, 2))
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 30 more (empty)" in message and message.count("fewer") == 1


def test_the_report_prints_as_a_table():
    means = [[0.0, 0.0], [0.0, 0.0], [1e4, 1e4]]
    options = {"weights_init": np.full(3, 1 / 3), "means_init": means, "precisions_init": np.ones((3, 2))}
    gm = fit(covariance_type="diag", **options)
    heads = [["start", "log-likelihood", "iterations", "seconds", "end"]]
    heads += [["component", "weight", "rows", "condition", "remarks"]]
    lines = [line.split() for line in repr(gm.fit_report_).splitlines()]
    assert [lines[0], lines[2]] == heads
    assert lines[1][:3] == ["*0", f"{gm.score(X):.6g}", str(gm.n_iter_)] and lines[1][-1] == "converged"
    assert lines[4][-3:] == ["duplicate", "of", "0"] and " ".join(lines[5][4:]) == "empty, on the floor of reg_covar"
    assert lines[3][2] == "75" and len(lines) == 6


def test_the_report_pickles_and_goes_with_the_fit():
    gm = fit()
    assert repr(pickle.loads(pickle.dumps(gm)).fit_report_) == repr(gm.fit_report_)
    before = gm.fit_report_
    with pytest.raises(ValueError):
        gm.fit(np.full((9, 2), np.nan))
    assert gm.fit_report_ is before


def test_callback_gets_each_iterations_mixture_and_its_score():
    seen = []
    gm = fit(callback=lambda *given: seen.append(given))
    assert [iteration for iteration, *_ in seen] == list(range(1, gm.n_iter_ + 1))
    assert [log_likelihood for *_, log_likelihood in seen] == gm.lower_bounds_
    for _, mixture, log_likelihood in seen:
        assert mixture.logpdf(X).mean() == pytest.approx(log_likelihood, rel=1e-13)
    np.testing.assert_array_equal(gm.means_, fit().means_)


@pytest.mark.parametrize("ends", [lambda: True, lambda: np.True_, lambda: next(iter(()))])
def test_callback_ends_the_fit_with_the_best_so_far(ends):
    def callback(iteration, mixture, log_likelihood):
        return ends() if iteration == 3 else None

    options = {"init_params": "random", "tol": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gm = GaussianMixture(3, random_state=0, n_init=4, callback=callback, **options).fit(X)
    assert gm.n_iter_ == 3 and not gm.converged_
    assert [start.outcome for start in gm.fit_report_.starts] == ["stopped"]
    np.testing.assert_array_equal(gm.means_, fit(max_iter=3, **options).means_)


def test_what_else_a_callback_returns_ends_nothing():
    assert fit(callback=lambda *given: given[0]).n_iter_ == fit(callback=lambda *given: X).n_iter_ == fit().n_iter_


def test_a_callbacks_error_is_the_callers_leaves_the_estimator_and_carries_the_last_mixture():
    gm = fit()
    gm.set_params(callback=lambda iteration, *rest: 1 / (2 - iteration))
    before = gm.means_
    with pytest.raises(ZeroDivisionError) as caught:
        gm.fit(X)
    assert gm.means_ is before
    np.testing.assert_array_equal(caught.value.mixture.means, fit(max_iter=2).means_)
    assert "after 2 iterations" in caught.value.__notes__[0]


def test_an_error_that_can_carry_nothing_comes_as_it_is():
    class Frozen(Exception):
        def __setattr__(self, name, value):
            if not name.startswith("__"):  # Python's own are set by contexts
                raise AttributeError(name)
            super().__setattr__(name, value)

    def callback(*given):
        raise Frozen

    with pytest.raises(Frozen):
        fit(callback=callback)


def test_a_time_budget_is_one_line():
    deadline = time.monotonic() + 0.05
    gm = fit(k=10, tol=0.0, max_iter=10**6, callback=lambda *_: time.monotonic() > deadline)
    assert 1 <= gm.n_iter_ < 10**6 and gm.fit_report_.starts[0].outcome == "stopped"


def interrupt_after(monkeypatch, passes):
    """A source that is interrupted in a later pass than these, once."""
    count = itertools.count(1)
    reduce = ArrayRows.reduce

    def interrupted(self, *given, **options):
        if next(count) == passes + 1:
            raise KeyboardInterrupt
        return reduce(self, *given, **options)

    monkeypatch.setattr(ArrayRows, "reduce", interrupted)
    monkeypatch.setattr(ArrayRows, "prepare", lambda self, form: None)  # so that all passes come through there


def test_an_interrupt_leaves_the_last_parameters_with_a_warning(monkeypatch):
    expected = fit(max_iter=4, init_params="random", tol=0.0)
    interrupt_after(monkeypatch, 4)
    gm = GaussianMixture(3, random_state=0, n_init=3, init_params="random", tol=0.0)
    with pytest.warns(ConvergenceWarning, match="Interrupted in initialization 0: the best") as caught:
        gm.fit(X)
    assert len(caught) == 1 and caught[0].filename == __file__
    np.testing.assert_array_equal(gm.means_, expected.means_)
    assert gm.n_iter_ == 4 and not gm.converged_ and gm.lower_bounds_ == expected.lower_bounds_
    assert [start.outcome for start in gm.fit_report_.starts] == ["interrupted"]
    assert gm.fit_report_.starts[0].log_likelihood == pytest.approx(gm.score(X), rel=1e-13)


def test_an_interrupt_keeps_a_better_start_that_was_finished(monkeypatch):
    expected = fit(init_params="random", tol=1e-6, max_iter=500)
    interrupt_after(monkeypatch, expected.n_iter_ + 2)
    gm = fit(init_params="random", tol=1e-6, max_iter=500, n_init=9)
    np.testing.assert_array_equal(gm.means_, expected.means_)
    assert [start.outcome for start in gm.fit_report_.starts] == ["converged", "interrupted"]
    assert gm.converged_ and gm.fit_report_.best == 0


@pytest.mark.parametrize("finished", [0, 2])
def test_an_interrupt_while_a_start_is_sought(monkeypatch, finished):
    """With nothing to keep it is the caller's, and the estimator is as it was."""
    calls = itertools.count()

    def start(*given):
        if next(calls) == finished:
            raise KeyboardInterrupt
        return STARTS["random"](*given)

    monkeypatch.setitem(STARTS, "kmeans", start)
    gm = GaussianMixture(3, random_state=0, n_init=5)
    if finished:
        with pytest.warns(ConvergenceWarning, match=f"Interrupted in initialization {finished}"):
            gm.fit(X)
        assert [start.outcome == "interrupted" for start in gm.fit_report_.starts] == [False] * finished + [True]
        assert np.isfinite(gm.score(X))
    else:
        with pytest.raises(KeyboardInterrupt):
            gm.fit(X)
        assert not hasattr(gm, "means_")


def test_a_bar_changes_nothing_and_ends_where_the_fit_does(capsys):
    pytest.importorskip("tqdm")
    gm = fit(progress=True, n_init=2)
    np.testing.assert_array_equal(gm.means_, fit(n_init=2).means_)
    bars = capsys.readouterr().err
    assert "start 0: 100%" in bars and "start 1: 100%" in bars and "log-likelihood -3." in bars


def test_lines_are_printed_above_the_bar(monkeypatch, capsys):
    written = []

    class Bar:
        n = total = 0

        def __init__(self, **options):
            pass

        def write(self, line):
            written.append(line)

        set_postfix_str = update = close = lambda self, *given, **options: None

    monkeypatch.setitem(sys.modules, "tqdm.auto", SimpleNamespace(tqdm=Bar))
    gm = fit(progress=True, verbose=2, verbose_interval=1)
    assert [line.split()[:2] for line in written] == [["Iteration", f"{i + 1}"] for i in range(gm.n_iter_)]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["Initialization"] * 2


def test_a_bar_needs_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"pip install 'fastgmm\[progress\]'"):
        fit(progress=True)


def test_nobody_is_told_of_steps_unless_asked(monkeypatch):
    def step(*given):
        raise AssertionError

    monkeypatch.setattr(Watch, "step", step)
    assert fit().n_iter_ > 0
    with pytest.raises(AssertionError):
        fit(verbose=1)
