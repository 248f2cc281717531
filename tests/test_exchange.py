"""Estimators from parameters, as scikit-learn's, and as ONNX: the same predictions everywhere."""

import pickle

import numpy as np
import pandas as pd
import pytest
from reference import DISTINCT, FAMILIAR
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture as ScikitLearnMixture
from test_mixture import make_mixture

from fastgmm import GaussianMixture, Mixture
from fastgmm.covariance import STRUCTURES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
POINTS = np.random.default_rng(1).normal(scale=4.0, size=(50, 2))


def known(covariance_type, **parameters):
    """An estimator of the mixture that `make_mixture` makes."""
    shape = STRUCTURES[covariance_type].SHAPE
    return GaussianMixture.from_parameters(*make_mixture(shape).parameters[:3], covariance_type, **parameters)


@pytest.mark.parametrize("covariance_type", FAMILIAR)
def test_parameters_make_a_fitted_estimator(covariance_type):
    mixture = make_mixture(covariance_type)
    gm = known(covariance_type, random_state=7)
    assert gm.mixture_ == mixture and gm.n_components == 3 and gm.random_state == 7 and gm.n_features_in_ == 2
    np.testing.assert_array_equal(gm.score_samples(POINTS), mixture.logpdf(POINTS))
    np.testing.assert_array_equal(gm.predict_proba(POINTS), mixture.responsibilities(POINTS))
    fitted = GaussianMixture(
        3, covariance_type=covariance_type, weights_init=gm.weights_, means_init=gm.means_,
        precisions_init=gm.precisions_, max_iter=0,
    ).fit(POINTS)  # fmt: skip
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        np.testing.assert_allclose(getattr(gm, name), getattr(fitted, name), rtol=1e-12, atol=1e-14, err_msg=name)
        getattr(gm, name)[...] += 0.0  # may be edited
    for name in ("converged_", "n_iter_", "lower_bound_", "lower_bounds_"):
        assert getattr(gm, name) == getattr(fitted, name), name
    np.testing.assert_array_equal(gm.sample(5)[0], known(covariance_type, random_state=7).sample(5)[0])


def test_a_fit_goes_on_from_known_parameters():
    rows = make_mixture("full").rvs(200, 0)
    warm = known("full", warm_start=True, max_iter=2, tol=0.0).fit(rows)
    cold = GaussianMixture(
        3, weights_init=warm.mixture_.weights, means_init=warm.means_, precisions_init=warm.precisions_, max_iter=1,
        tol=0.0,
    )  # fmt: skip
    assert warm.n_iter_ == 2 and warm.lower_bound_ > known("full").score(rows)
    assert cold.fit(rows).score(rows) > warm.score(rows)


def test_impossible_parameters_are_told():
    with pytest.raises(ValueError, match="Not positive-definite is the covariance of component 1"):
        GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [1.0]], [1.0, -1.0], "spherical")
    with pytest.raises(TypeError, match="colour"):
        GaussianMixture.from_parameters([1.0], [[0.0]], [1.0], "spherical", colour="red")


@pytest.mark.parametrize("covariance_type", DISTINCT)
def test_scikit_learns_estimator_predicts_the_same(covariance_type):
    ours = known(covariance_type, max_iter=7, reg_covar="auto", init_params="k-means++")
    theirs = ours.to_sklearn()
    assert type(theirs) is ScikitLearnMixture
    assert theirs.get_params() == ScikitLearnMixture(
        3, covariance_type=STRUCTURES[covariance_type].SHAPE, max_iter=7, init_params="k-means++"
    ).get_params()  # fmt: skip
    for copied in (theirs, pickle.loads(pickle.dumps(theirs))):
        np.testing.assert_allclose(copied.score_samples(POINTS), ours.score_samples(POINTS), rtol=1e-11)
        np.testing.assert_allclose(copied.predict_proba(POINTS), ours.predict_proba(POINTS), rtol=1e-9, atol=1e-14)
        np.testing.assert_array_equal(copied.predict(POINTS), ours.predict(POINTS))
        np.testing.assert_array_equal(copied.precisions_, ours.precisions_)
    assert Mixture.from_estimator(theirs).parameters[0].tolist() == ours.weights_.tolist()
    assert clone(theirs).fit(POINTS).n_iter_ <= 7
    theirs.means_[0] = 99.0
    assert 99.0 not in ours.means_


def test_scikit_learns_estimator_has_what_a_fit_left():
    frame = pd.DataFrame(make_mixture("diag").rvs(100, 0), columns=["height", "weight"])
    ours = GaussianMixture(2, covariance_type="diag", random_state=0).fit(frame)
    theirs = ours.to_sklearn()
    fitted = ScikitLearnMixture(2, covariance_type="diag", random_state=0).fit(frame)
    missing = {name for name in vars(fitted) if name.endswith("_")} - set(vars(theirs))
    assert not missing and list(theirs.feature_names_in_) == ["height", "weight"]
    assert (theirs.n_iter_, theirs.converged_, theirs.lower_bound_) == (ours.n_iter_, True, ours.lower_bound_)
    np.testing.assert_array_equal(theirs.predict(frame), ours.predict(frame))
    with pytest.raises(NotFittedError):
        GaussianMixture().to_sklearn()


@pytest.mark.parametrize("covariance_type", FAMILIAR)
def test_onnx_predicts_the_same(covariance_type):
    skl2onnx = pytest.importorskip("skl2onnx")
    reference = pytest.importorskip("onnx.reference")
    types = pytest.importorskip("skl2onnx.common.data_types")
    gm = known(covariance_type)
    for kind, dtype, rtol in ((types.DoubleTensorType, float, 1e-10), (types.FloatTensorType, np.float32, 1e-3)):
        model = skl2onnx.to_onnx(gm.to_sklearn(), initial_types=[("X", kind([None, 2]))])
        labels, shares = reference.ReferenceEvaluator(model).run(None, {"X": POINTS.astype(dtype)})
        np.testing.assert_array_equal(labels.ravel(), gm.predict(POINTS))
        np.testing.assert_allclose(shares, gm.predict_proba(POINTS), rtol=rtol, atol=rtol * 1e-3)
