"""What a fit asks of its rows: any source that answers will do, wherever the rows lie."""

import numpy as np
import pytest
from reference import DISTINCT

from fastgmm import GaussianMixture, Prior, SourceError
from fastgmm.covariance import STRUCTURES
from fastgmm.em.fit import search_sample
from fastgmm.em.initialise import describe_rows
from fastgmm.kernels._jit import COMPILED
from fastgmm.sources import ArrayRows, Rows
from fastgmm.statistics import add

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
N, D, K = (3000 if COMPILED else 200), 3, 2
every_structure = pytest.mark.parametrize("structure", DISTINCT if COMPILED else ["full", "spherical"])


class Halves:
    """Rows in two parts, which offers what the protocol names and nothing else; reading it may fail."""

    def __init__(self, rows, sample=None, passes=np.inf):
        self.parts = [ArrayRows(rows[: len(rows) // 3]), ArrayRows(rows[len(rows) // 3 :])]
        self.n_rows, self.n_features = rows.shape
        self.total_weight, self.effective_rows, self.weighted = float(len(rows)), float(len(rows)), False
        self.column_means = None
        self.sample = ArrayRows(rows[::2].astype(float) if sample is None else sample)
        self.passes = passes

    def form(self, structure, parameters):
        return self.parts[0].form(structure, parameters)

    def centred_form(self, structure, parameters):
        return self.parts[0].centred_form(structure, parameters)

    def reduce(self, form, centres=None):
        self.passes -= 1
        if self.passes < 0:
            raise SourceError("The rows are gone.")
        return add(*(part.reduce(form, centres) for part in self.parts))


def make_rows(seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(N, D)) * [1.0, 2.0, 0.5] + 6 * random.integers(0, K, size=(N, 1))


def estimator(structure, **options):
    options = {"max_iter": 4, "tol": 0.0, "random_state": 0} | options
    model = GaussianMixture(K, covariance_type=structure, **options)
    model.n_features_in_ = D
    return model


def fit_source(model, source):
    model._fit_source(source, search_sample(model, source), np.float64)
    return model


def test_sources_offer_the_protocol():
    wanted = {name for name in (*vars(Rows), *Rows.__annotations__) if not name.startswith("_")}
    for source in (ArrayRows(make_rows()), Halves(make_rows())):
        assert wanted <= set(dir(source))


@every_structure
@pytest.mark.parametrize("prior", [None, "default"])
def test_a_fit_asks_no_more_than_the_protocol(structure, prior):
    rows = make_rows()
    options = {"prior": prior, "reg_covar": "auto"}
    parts = fit_source(estimator(structure, **options), Halves(rows, sample=rows))
    whole = estimator(structure, **options).fit(rows)
    for name in ("weights_", "means_", "covariances_", "lower_bound_"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)


@every_structure
@pytest.mark.parametrize("shift", [0.0, 1e8])
def test_rows_are_described_from_all_of_them_wherever_the_sample_lies(structure, shift):
    rows = make_rows() + shift
    sample = rows[:50] if shift == 0.0 else rows[:50] - 1e7
    mean, covariance = describe_rows(Halves(rows, sample=sample), STRUCTURES[structure])
    right, spread = describe_rows(ArrayRows(rows), STRUCTURES[structure])
    np.testing.assert_allclose(mean, right, rtol=1e-14)
    np.testing.assert_allclose(covariance, spread, rtol=1e-11 if shift == 0.0 else 1e-7)


def test_constant_features_have_no_variance_in_parts_either():
    rows = make_rows()
    rows[:, 1] = 7.0
    for constant in (rows, np.full_like(rows, 7.0)):
        source = Halves(constant)
        np.testing.assert_allclose(
            describe_rows(source, STRUCTURES["diag"])[1], constant.var(axis=0), rtol=1e-12, atol=1e-25
        )
        fit_source(estimator("full", prior="default"), source)


@pytest.mark.parametrize("passes", [0, 1, 3, 4])
def test_rows_that_are_lost_leave_the_mixture_that_was_reached(passes):
    rows = make_rows()
    with pytest.raises(SourceError, match="The rows are gone") as caught:
        fit_source(estimator("full"), Halves(rows, sample=rows, passes=passes))
    reached = estimator("full", max_iter=passes).fit(rows)
    np.testing.assert_allclose(caught.value.mixture.means, reached.means_, rtol=1e-12)
    np.testing.assert_allclose(caught.value.mixture.covariances, reached.covariances_, rtol=1e-12)


def test_rows_that_are_lost_before_em_leave_none():
    with pytest.raises(SourceError) as caught:
        fit_source(estimator("full", prior=Prior()), Halves(make_rows(), passes=0))
    assert caught.value.mixture is None
