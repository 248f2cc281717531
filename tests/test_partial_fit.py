"""partial_fit: the batch fit where the theory says so, near it on a stream, and an estimator that stays what it was."""

import itertools
import pickle

import numpy as np
import pytest
from reference import DISTINCT
from sklearn.base import clone

from fastgmm import DegenerateFitError, GaussianMixture, Mixture, Prior
from fastgmm.covariance import STRUCTURES, flat
from fastgmm.em import online
from fastgmm.kernels._jit import COMPILED
from fastgmm.sources import ArrayRows

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
every_structure = pytest.mark.parametrize("structure", DISTINCT if COMPILED else ["full", "tied", "spherical"])
EXACT = {"learning_decay": 1.0, "learning_offset": 0.0}  # the mean over all rows
TRUTH = Mixture([0.3, 0.7], [[-2.0, 0.0], [2.0, 1.0]], [[[1.0, 0.4], [0.4, 0.7]], [[0.6, -0.2], [-0.2, 1.5]]])
SIZES = (40, 1, 7, 150, 300)


def batches(rows, sizes=SIZES):
    edges = np.cumsum([0, *sizes])
    return [rows[start:stop] for start, stop in itertools.pairwise(edges)]


def learn(model, parts, weights=None):
    for part, weight in zip(parts, weights or [None] * len(parts), strict=True):
        model.partial_fit(part, sample_weight=weight)
    return model


def assert_close(one, other, rtol=1e-10, atol=0.0):
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, atol=atol, err_msg=name)


@every_structure
@pytest.mark.parametrize("shift", [0.0, 1e6])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("prior", [None, Prior(mean=[0, 0], degrees_of_freedom=5.0, scale=1.0)])
def test_of_one_component_the_mean_over_all_rows_is_the_fit(structure, shift, weighted, prior):
    rows = TRUTH.rvs(sum(SIZES), random_state=0) + shift
    weights = np.random.default_rng(0).exponential(size=len(rows)) if weighted else None
    options = {"covariance_type": structure, "prior": prior}
    found = learn(GaussianMixture(**options, **EXACT), batches(rows), None if weights is None else batches(weights))
    whole = GaussianMixture(**options).fit(rows, sample_weight=weights)
    assert_close(found, whole, rtol=1e-10 if shift == 0 else 1e-6, atol=1e-9)
    assert found.n_seen_ == pytest.approx(len(rows) if weights is None else weights.sum())


@every_structure
def test_one_batch_is_one_step_of_em(structure):
    rows = TRUTH.rvs(300, random_state=0)
    options = {"n_components": 2, "covariance_type": structure, "random_state": 0}
    found = GaussianMixture(**options).partial_fit(rows)
    step = GaussianMixture(**options, max_iter=1, tol=0).fit(rows)
    assert_close(found, step, rtol=1e-11)
    assert found.lower_bound_ == pytest.approx(step.lower_bound_, rel=1e-12)
    assert (found.n_iter_, found.converged_, found.n_seen_) == (1, False, 300)
    assert found.fit_report_.starts[0].outcome == "stepped" and "partial_fit" in repr(found.fit_report_)


@every_structure
def test_the_recursion_is_that_of_the_paper(structure):
    """s ← (1 - γ) s + γ ŝ with moments about zero, as the paper has it, in plain NumPy."""
    module, rows = STRUCTURES[structure], TRUTH.rvs(sum(SIZES), random_state=0)
    model = GaussianMixture(2, covariance_type=structure, random_state=0, reg_covar=1e-3)
    state, seen = None, 0
    for part in batches(rows):
        if state is None:
            model.partial_fit(part)
            start = GaussianMixture(2, covariance_type=structure, random_state=0, reg_covar=1e-3, max_iter=0).fit(part)
            mixture = start.mixture_
        else:
            mixture = model.mixture_
            model.partial_fit(part)
        shares = mixture.responsibilities(part) / len(part)
        new = [
            shares.sum(axis=0),
            shares.T @ part,
            module.stack([module.second_moments(part, share) for share in shares.T]),
        ]
        seen += len(part)
        gamma = 1.0 if state is None else (seen / len(part) + 1.0) ** -0.7
        both = zip(new if state is None else state, new, strict=True)
        state = [(1 - gamma) * old + gamma * more for old, more in both]
        zeros = np.zeros_like(state[1])
        statistics = online.Statistics(zeros, *state, 0.0, 0)
        update = module.maximise(online._scale(statistics, seen), flat(1e-3, 2))
        np.testing.assert_allclose(model.means_, update.parameters.means, rtol=1e-9)
        np.testing.assert_allclose(model.covariances_, update.parameters.covariances, rtol=1e-8, atol=1e-10)


def test_step_sizes():
    assert online.step_size(300.0, 100.0, 0.7, 1.0) == pytest.approx(4.0**-0.7)
    assert online.step_size(1000.0, 10.0, 1.0, 0.0) == pytest.approx(0.01)
    assert online.step_size(1000.0, 1000.0, 0.6, 0.0) == 1.0


@pytest.mark.compiled
def test_on_a_stationary_stream_it_nears_the_batch_optimum():
    """How far below the optimum of all rows it settles is what stochastic approximation says.

    Near the optimum the parameters wander with a covariance of γ / (2 n_b) times the inverse information, n_b being
    the rows of a batch, where little information is missing (Cappé and Moulines 2009, section 2.4), so the mean
    log-likelihood is lower by γ p / (4 n_b) with p parameters; with γ = 1 / t, the mean over all rows, by less than
    the p / (2 n) by which the optimum of n rows itself overstates. Means of eight streams are within a factor of 2.5.
    """
    size, calls, p = 250, 160, 11
    excess = {0.7: [], 1.0: []}
    early = []
    for seed in range(8):
        rows = TRUTH.rvs(size * calls, random_state=seed)
        optimum = GaussianMixture(2, tol=1e-9, max_iter=500, random_state=0).fit(rows).score(rows)
        for decay in excess:
            model = GaussianMixture(2, random_state=0, learning_decay=decay)
            for call in range(calls):
                model.partial_fit(rows[call * size : (call + 1) * size])
                if call == 9 and decay == 0.7:
                    early.append(optimum - model.score(rows))
            excess[decay].append(optimum - model.score(rows))
    assert min(map(min, excess.values())) > 0
    expected = (calls + 1) ** -0.7 * p / (4 * size)
    assert expected / 2.5 < np.mean(excess[0.7]) < 2.5 * expected
    assert np.mean(excess[1.0]) < p / (2 * size * calls)
    assert np.mean(excess[0.7]) < np.mean(early) / 3  # γ has fallen by a factor of 6.5


def test_an_old_truth_is_forgotten():
    model, mean = GaussianMixture(), GaussianMixture(**EXACT)
    for seed in range(60):
        rows = TRUTH.rvs(100, random_state=seed) + (0.0 if seed < 20 else 9.0)
        model.partial_fit(rows), mean.partial_fit(rows)
    # Of the first third there is left the product of 1 - (t + 1)^-0.7 over the calls since, 5 %.
    assert np.abs(model.means_[0] - TRUTH.mean - 9.0).max() < 0.7
    assert np.abs(mean.means_[0] - TRUTH.mean - 6.0).max() < 0.3


@pytest.mark.parametrize("weighted", [False, True])
def test_weights_are_rows(weighted):
    rows, times = TRUTH.rvs(sum(SIZES), random_state=0), np.random.default_rng(0).integers(0, 4, sum(SIZES))
    options = {"n_components": 2, "random_state": 0}
    if not weighted:
        times[:] = 1
    parts, counts = batches(rows), batches(times)
    counts[1][:] = 1  # a call needs a row
    found = learn(GaussianMixture(**options), parts, counts)
    again = learn(GaussianMixture(**options), [np.repeat(p, c, axis=0) for p, c in zip(parts, counts, strict=True)])
    assert_close(found, again, rtol=1e-9)
    assert found.n_seen_ == again.n_seen_ == times.sum()


@every_structure
def test_far_from_zero_it_is_as_at_zero_and_means_may_move_far(structure):
    rows = TRUTH.rvs(600, random_state=0)
    options = {"n_components": 2, "random_state": 0, "covariance_type": structure, "reg_covar": 1e-3}
    parts = [rows[:200], rows[200:400] + 3e4, rows[400:]]
    near, far = (learn(GaussianMixture(**options), [part + shift for part in parts]) for shift in (0.0, 2.0**20))
    np.testing.assert_allclose(far.means_ - 2.0**20, near.means_, rtol=0, atol=1e-6 * 3e4)
    np.testing.assert_allclose(far.covariances_, near.covariances_, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("structure", ["full", "diag"])
def test_float32_rows(structure):
    rows = TRUTH.rvs(sum(SIZES), random_state=0)
    options = {"n_components": 2, "random_state": 0, "covariance_type": structure}
    single = learn(GaussianMixture(**options), batches(rows.astype(np.float32)))
    assert single.means_.dtype == single.covariances_.dtype == np.float32
    assert_close(single, learn(GaussianMixture(**options), batches(rows)), rtol=1e-4, atol=1e-5)


def test_missing_entries():
    rows = TRUTH.rvs(600, random_state=0)
    rows[np.random.default_rng(0).uniform(size=rows.shape) < 0.1] = np.nan
    found = learn(GaussianMixture(missing="em", **EXACT), batches(rows[:498]))
    assert np.abs(found.means_[0] - TRUTH.mean).max() < 0.3


@pytest.mark.parametrize("weights", [None, [1, 1, 0, 0, 0]])
def test_first_rows_fewer_than_components(weights):
    rows = TRUTH.rvs(2 if weights is None else 5, random_state=0)
    model = GaussianMixture(3)
    with pytest.raises(ValueError, match=r"first call of partial_fit needs at least 3 rows.*but got 2"):
        model.partial_fit(rows, sample_weight=weights)
    assert not hasattr(model, "n_features_in_") and not hasattr(model, "n_seen_")
    model.partial_fit(TRUTH.rvs(30, random_state=0)).partial_fit(rows[:1])
    assert model.n_seen_ == 31


def test_of_one_component_one_row_will_do():
    model = GaussianMixture(learning_decay=1.0, learning_offset=0.0)
    for value in (1.0, 2.0, 6.0):
        model.partial_fit([[value]])
    assert model.means_[0, 0] == pytest.approx(3.0)
    assert model.covariances_[0, 0, 0] == pytest.approx(14 / 3 + 1e-6)


def test_after_fit_it_goes_on_from_what_was_fitted_and_fit_forgets():
    rows, more = TRUTH.rvs(2000, random_state=0), TRUTH.rvs(10, random_state=1)
    fitted = GaussianMixture(2, random_state=0).fit(rows)
    assert fitted.n_seen_ == 2000
    model = pickle.loads(pickle.dumps(fitted)).partial_fit(more)
    assert model.n_seen_ == 2010 and model.n_iter_ == 1
    # One batch in 201: γ = 202^-0.7 = 0.024.
    assert 0 < np.abs(model.means_ - fitted.means_).max() < 0.05
    assert_close(model.fit(rows), fitted, rtol=0)
    assert model.n_seen_ == 2000
    known = GaussianMixture.from_parameters(TRUTH.weights, TRUTH.means, TRUTH.covariances)
    step = GaussianMixture(2, weights_init=TRUTH.weights, means_init=TRUTH.means, max_iter=1, tol=0)
    step.set_params(precisions_init=known.precisions_)
    assert_close(known.partial_fit(rows), step.fit(rows), rtol=1e-11)


@every_structure
def test_what_a_fit_leaves_is_what_its_parameters_say(structure):
    """With a step of no size, so many rows seen before, nothing changes: neither the ridge nor a shape is lost."""
    rows = TRUTH.rvs(500, random_state=0)
    fitted = GaussianMixture(2, covariance_type=structure, random_state=0, reg_covar=0.01).fit(rows)
    fitted.n_seen_ = 10**15
    before = clone(fitted).fit(rows)
    assert_close(fitted.partial_fit(TRUTH.rvs(5, random_state=1)), before, rtol=1e-6)


def test_edited_attributes_count():
    rows = TRUTH.rvs(900, random_state=0)
    model = learn(GaussianMixture(2, random_state=0), np.split(rows, 3))
    model.means_ = model.means_ + 100.0
    model.partial_fit(rows[:1])
    assert model.means_.min() > 50.0


def test_priors_are_of_the_first_rows_and_join_all_that_were_seen():
    rows = TRUTH.rvs(sum(SIZES), random_state=0)
    model = GaussianMixture(2, prior="default", random_state=0).partial_fit(rows[:100])
    mean = model.prior_.mean
    np.testing.assert_allclose(mean, rows[:100].mean(axis=0))
    model.partial_fit(rows[100:])
    assert model.prior_.mean is mean
    model = GaussianMixture(4, prior="default", random_state=0)
    for _ in range(3):
        model.partial_fit(np.repeat(rows[:1], 5, axis=0) if hasattr(model, "means_") else rows[:8])
    assert np.isfinite(model.covariances_).all()


def test_errors_leave_the_estimator_as_it_was():
    rows = TRUTH.rvs(300, random_state=0)
    model = GaussianMixture(2, random_state=0).partial_fit(rows)
    before = model.__dict__.copy()
    wrong = {
        "2 features": rows[:, :1],
        "NaN": np.full((3, 2), np.nan),
        "overflow": np.full((3, 2), 1e200),
    }
    for message, part in wrong.items():
        with pytest.raises(ValueError, match=message), np.errstate(all="ignore"):
            model.partial_fit(part)
        assert model.__dict__ == before
    with pytest.raises(DegenerateFitError) as caught, np.errstate(all="ignore"):
        model.partial_fit(wrong["overflow"])
    assert caught.value.mixture == model.mixture_
    for changed in ({"n_components": 3}, {"covariance_type": "tied"}):
        with pytest.raises(ValueError, match="goes on from 2 components"):
            pickle.loads(pickle.dumps(model)).set_params(**changed).partial_fit(rows)
    with pytest.raises(DegenerateFitError, match="initialisation"):
        GaussianMixture(2, reg_covar=0).partial_fit(np.ones((5, 2)))


@pytest.mark.parametrize("options", [{"learning_decay": 0.5}, {"learning_decay": 1.1}, {"learning_offset": -1.0}])
def test_parameters_of_the_step_size(options):
    with pytest.raises(ValueError, match="learning_"):
        GaussianMixture(**options).partial_fit(np.ones((3, 2)))


@every_structure
def test_statistics_mix_as_those_of_all_rows(structure):
    """Halves mixed by their shares are the whole, about the whole's means."""
    module, rows = STRUCTURES[structure], TRUTH.rvs(400, random_state=0)
    fitted = GaussianMixture(2, covariance_type=structure, random_state=0).fit(rows)
    parameters = fitted._parameters()
    whole, *parts = (
        online._scale(online._expect(ArrayRows(part), parameters, module), 1 / len(part))
        for part in (rows, rows[:100], rows[100:])
    )
    mixed = online._mix(parts[0], parts[1], 0.75, module)
    for name in ("centres", "weight", "first"):
        np.testing.assert_allclose(getattr(mixed, name), getattr(whole, name), rtol=1e-12, atol=1e-14)
    lower = np.tril if module.MATRICES else np.asarray
    np.testing.assert_allclose(lower(mixed.second), lower(whole.second), rtol=1e-11, atol=1e-13)
