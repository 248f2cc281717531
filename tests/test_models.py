"""mclust's structures: what covariances each allows, that they are the likeliest of those, and mclust's own figures."""

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
import reference
from reference import DISTINCT, FAMILIAR
from scipy.optimize import minimize
from sklearn.datasets import load_iris, make_blobs

from fastgmm import DegenerateComponentWarning, DegenerateFitError, GaussianMixture, Mixture
from fastgmm.covariance import ALIASES, STRUCTURES, flat
from fastgmm.em import engine
from fastgmm.kernels._jit import COMPILED
from fastgmm.mcmc.mixture_proposals import _form
from fastgmm.mcmc.targets import mixture_factors
from fastgmm.sources import ArrayRows
from fastgmm.statistics import Statistics

NEW = [name for name in DISTINCT if name not in FAMILIAR]
LETTERS = dict(zip(DISTINCT, ("VVV", "EEE", "VVI", "VII", *NEW), strict=True))
every_structure = pytest.mark.parametrize("structure", DISTINCT)
every_new = pytest.mark.parametrize("structure", NEW)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
DATA = Path(__file__).parent / "data"
K = 2

X = make_blobs(120, n_features=2, centers=[[0, 0], [6, 1], [0, 7]], random_state=3)[0]


def covariances_at(point, structure, d):
    """Σ_c = λ_c D_c A_c D_cᵀ (k, d, d) of free coordinates: volumes, shapes and orientations, one or k of each."""
    counts, below = {"E": 1, "V": K, "I": 0}, d * (d - 1) // 2
    sizes = [counts[letter] * size for letter, size in zip(LETTERS[structure], (1, d, below), strict=True)]
    volumes, shapes, turns = np.split(point[: sum(sizes)], np.cumsum(sizes)[:-1])
    shapes = shapes.reshape(-1, d) if shapes.size else np.zeros((1, d))
    skew = np.zeros((max(1, turns.size // below), d, d))
    for matrix, values in zip(skew, turns.reshape(-1, below), strict=False):
        matrix[np.tril_indices(d, -1)] = values
    # Cayley's map to rotations.
    skew -= skew.swapaxes(1, 2)
    axes = np.linalg.solve(np.eye(d) - skew, np.eye(d) + skew)
    variances = np.exp(volumes[:, None] + shapes - shapes.mean(axis=1, keepdims=True))
    return np.broadcast_to((axes * variances[:, None, :]) @ axes.swapaxes(1, 2), (K, d, d))


def coordinates(d, random):
    return 0.5 * random.normal(size=K * (1 + d + d * (d - 1) // 2))


@every_structure
def test_free_parameters_are_the_dimensions_of_what_is_allowed(structure):
    point, step = coordinates(3, np.random.default_rng(0)), 1e-5
    moves = step * np.eye(len(point))
    ahead, behind = ([covariances_at(point + h * m, structure, 3).ravel() for m in moves] for h in (1, -1))
    jacobian = (np.stack(ahead) - np.stack(behind)) / (2 * step)
    assert np.linalg.matrix_rank(jacobian, tol=1e-6) == STRUCTURES[structure].n_covariance_parameters(K, 3)


@every_structure
def test_maximise_finds_the_likeliest_covariances(structure):
    """Beside a general optimiser of the expected log-likelihood, over the coordinates above."""
    random, d = np.random.default_rng(1), 2
    counts, roots = np.array([30.0, 50.0]), random.normal(size=(K, d, d)) + np.eye(d)
    own = roots @ roots.swapaxes(1, 2)
    second = {
        "full": counts[:, None, None] * own,
        "tied": np.tensordot(counts, own, 1),
        "diag": counts[:, None] * np.einsum("cjj->cj", own),
        "spherical": counts * np.einsum("cjj->c", own),
    }[STRUCTURES[structure].SHAPE]
    statistics = Statistics(np.zeros((K, d)), counts, np.zeros((K, d)), second, 0.0, 0)
    found = STRUCTURES[structure].maximise(statistics, flat(0.0, d)).parameters

    def cost(covariances):
        # Σ_c N_c (log |Σ_c| + tr Σ_c⁻¹ S_c)
        traces = np.einsum("cij,cji->c", np.linalg.inv(covariances), own)
        return counts @ (np.linalg.slogdet(covariances)[1] + traces)

    starts = (coordinates(d, random) for _ in range(3))
    best = min(minimize(lambda x: cost(covariances_at(x, structure, d)), start, tol=1e-7).fun for start in starts)
    ours = cost(STRUCTURES[structure].dense(found.covariances, K, d))
    assert best - 1e-5 <= ours <= best + 1e-9
    np.testing.assert_allclose(found.weights, counts / 80)


def in_shape(covariances, structure):
    return STRUCTURES[structure].from_dense(np.ascontiguousarray(covariances))


@every_structure
def test_what_components_have_in_common(structure):
    """Equal for whatever a structure allows, and of their precisions; for less than that it is not."""
    module = STRUCTURES[structure]
    allowed = covariances_at(coordinates(3, np.random.default_rng(0)), structure, 3)
    for matrices in (allowed, np.linalg.inv(allowed)):
        common = module.common(in_shape(matrices, structure))
        np.testing.assert_allclose(common, np.broadcast_to(common[:1], common.shape), rtol=1e-12)
        assert common.shape[1:] == ({"variance": 1, "variances": 3, "eigenvalues": 3}.get(module.COMMON, 1),) or (
            structure in FAMILIAR and common.shape[1] == 0 and not module.COMMON
        )
    if structure in NEW:
        other = module.common(in_shape(allowed * np.array([1.0, 1.1])[:, None, None], structure))
        assert (np.abs(other[1] / other[0] - 1.1) < 1e-9).all()


@pytest.mark.parametrize("like", [lambda x: x.astype(int), lambda x: x.astype(np.float32), np.asfortranarray])
@every_structure
def test_statistics_of_any_type_and_order_are_maximised_alike(structure, like):
    rows = np.random.default_rng(0).integers(-9, 9, size=(40, 3)).astype(float)
    labels = np.eye(2)[np.arange(40) % 2]
    moments = reference.moments(labels, rows[:, None] - np.ones((2, 3)), structure)
    given = (np.ones((2, 3)), *(np.asarray(part, dtype=float) for part in moments))
    expected = STRUCTURES[structure].maximise(Statistics(*given, 0.0, 0), flat(0.5, 3))
    found = STRUCTURES[structure].maximise(Statistics(*map(like, given), 0.0, 0), flat(0.5, 3))
    for ours, theirs in zip(found.parameters, expected.parameters, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert found[1:] == expected[1:]


@pytest.mark.parametrize("place", [(0, 0), (1, 2)])
@pytest.mark.parametrize(("widths", "jumps"), [(50.0, False), (200.0, True)])
@every_structure
def test_a_mean_that_moves_by_a_hundred_of_its_widths_has_jumped(structure, widths, jumps, place):
    rows = np.random.default_rng(0).normal(size=(400, 3))
    labels, centres = np.eye(2)[np.arange(400) % 2], np.zeros((2, 3))
    centres[place] = widths
    moments = reference.moments(labels, rows[:, None] - centres, structure)
    update = STRUCTURES[structure].maximise(Statistics(centres, *moments, 0.0, 0), flat(0.0, 3))
    assert update.jumped == jumps and update.failed == -1


@pytest.mark.parametrize(("spread", "failed"), [(1e-3, False), (4e-9, True)])
@every_structure
def test_a_variance_that_rounding_of_the_mean_would_give_is_none(structure, spread, failed):
    rows = 1e8 + spread * np.random.default_rng(0).normal(size=(400, 3))
    labels, centres = np.eye(2)[np.arange(400) % 2], np.full((2, 3), 1e8)
    moments = reference.moments(labels, rows[:, None] - centres, structure)
    update = STRUCTURES[structure].maximise(Statistics(centres, *moments, 0.0, 0), flat(0.0, 3))
    assert (update.failed >= 0) == failed


@every_new
def test_precisions_to_start_from_have_it_in_common(structure):
    fitted = GaussianMixture(3, covariance_type=structure, random_state=0).fit(X)
    options = {"covariance_type": structure, "weights_init": fitted.weights_, "means_init": fitted.means_}
    for dtype in (np.float64, np.float32):
        again = GaussianMixture(3, precisions_init=fitted.precisions_.astype(dtype), max_iter=0, **options).fit(X)
        np.testing.assert_allclose(again.covariances_, fitted.covariances_, rtol=1e-5)
    other = fitted.precisions_.copy()
    other[2] *= 1.001
    with pytest.raises(ValueError) as caught:
        GaussianMixture(3, precisions_init=other, **options).fit(X)
    shared = f"'{structure} precision' should have the same {STRUCTURES[structure].COMMON} in all components"
    assert str(caught.value) == f"{shared}, but component 2 differs from component 0"


@pytest.mark.parametrize("reg_covar", [0.0, 0.3])
@every_new
def test_a_step_is_the_twin(structure, reg_covar):
    random = np.random.default_rng(2)
    rows, shares = random.normal(size=(40, 3)), random.dirichlet(np.ones(4), size=40)
    moments = reference.moments(shares, rows[:, None] - np.ones((4, 3)), structure)
    statistics = Statistics(np.ones((4, 3)), *moments, 0.0, 0)
    update = STRUCTURES[structure].maximise(statistics, flat(reg_covar, 3))
    for ours, theirs in zip(update.parameters, reference.maximise(rows, shares, structure, reg_covar), strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-13)
    factors = reference.factorise(update.parameters.covariances, structure, 4, 3)
    np.testing.assert_allclose(reference.dense(update.parameters.factors, structure, 4, 3), factors, atol=1e-12)
    assert update.failed == -1 and not update.jumped


@every_new
def test_the_likelihood_never_falls(structure):
    random = np.random.default_rng(0)
    truth = reference.random_parameters(structure, 3, 2, random)
    rows = reference.random_rows(truth, structure, 300 if COMPILED else 80, random)
    start = reference.random_parameters(structure, 3, 2, random)._replace(means=rows[:3].copy())
    iterations = 300 if COMPILED else 15
    follow = {"tol": 0.0, "prior": flat(0.0, 2), "max_iter": iterations}
    run = engine.run(ArrayRows(rows), start, STRUCTURES[structure], **follow)
    likelihoods = np.array(run.log_likelihoods)
    assert len(likelihoods) == iterations and likelihoods[-1] > likelihoods[0] + 0.01
    assert (np.diff(likelihoods) >= -1e-13 * np.abs(likelihoods[1:])).all()
    weights, _, covariances, _ = run.parameters
    np.testing.assert_allclose(reference.constrained(covariances, weights, structure), covariances, rtol=1e-10)


@pytest.mark.parametrize("alias", ALIASES)
def test_mclusts_names_of_familiar_structures_mean_the_same(alias):
    options = {"random_state": 0, "max_iter": 5}
    ours, theirs = (GaussianMixture(3, covariance_type=name, **options).fit(X) for name in (alias, ALIASES[alias]))
    np.testing.assert_array_equal(ours.covariances_, theirs.covariances_)
    assert ours.covariance_type == alias and ours.mixture_ == theirs.mixture_
    assert hash(ours.mixture_) == hash(theirs.mixture_) and ours.bic(X) == theirs.bic(X)


@every_new
def test_an_estimator_of_each(structure, tmp_path):
    gm = GaussianMixture(3, covariance_type=structure, random_state=0, tol=1e-10, max_iter=500).fit(X)
    shape = STRUCTURES[structure].SHAPE
    familiar = GaussianMixture(3, covariance_type=shape, random_state=0).fit(X)
    assert gm.covariances_.shape == familiar.covariances_.shape
    assert gm.score(X) <= familiar.score(X) + 1e-6 and gm._n_parameters() < familiar._n_parameters()
    np.testing.assert_allclose(reference.constrained(gm.covariances_, gm.weights_, structure), gm.covariances_)
    # As the familiar structure would with these parameters, so do whoever takes its attributes and a `Mixture`.
    same = Mixture(gm.weights_, gm.means_, gm.covariances_, shape)
    np.testing.assert_allclose(gm.score_samples(X), same.logpdf(X), rtol=1e-12)
    np.testing.assert_allclose(gm.predict_proba(X), same.responsibilities(X), atol=1e-12)
    np.testing.assert_array_equal(gm.mixture_.rvs(9, 0), same.rvs(9, 0))
    gm.mixture_.save(tmp_path / "mixture.npz")
    assert Mixture.load(tmp_path / "mixture.npz") == gm.mixture_
    # A start at the optimum stays there.
    start = {"weights_init": gm.weights_, "means_init": gm.means_, "precisions_init": gm.precisions_}
    again = GaussianMixture(3, covariance_type=structure, max_iter=1, **start).fit(X)
    np.testing.assert_allclose(again.covariances_, gm.covariances_, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=rf"The parameter '{structure} precision' should have the shape of \("):
        GaussianMixture(3, covariance_type=structure, **start | {"precisions_init": np.ones(5)}).fit(X)


@every_new
def test_chains_take_a_mixture_of_each_for_the_familiar_one_of_its_shape(structure):
    parameters = reference.random_parameters(structure, 2, 2, np.random.default_rng(0))
    names = (structure, STRUCTURES[structure].SHAPE)
    ours, theirs = (Mixture.from_parameters(parameters, name) for name in names)
    for mine, its in zip(mixture_factors(ours), mixture_factors(theirs), strict=True):
        np.testing.assert_array_equal(mine, its)
    assert _form(ours) == _form(theirs)


@every_new
def test_a_component_of_one_row(structure):
    """It has no shape, but may borrow a variance: then nothing is wrong."""
    rows = np.concatenate([X[:50], [[1e4, 1e4]]])
    options = {"covariance_type": structure, "random_state": 0, "reg_covar": 0.0}
    if structure in ("EVI", "EVV"):
        with pytest.raises(DegenerateFitError, match=r"the covariance of component \d is not positive-definite"):
            GaussianMixture(2, **options).fit(rows)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gm = GaussianMixture(2, **options).fit(rows)
    assert gm.weights_.min() == pytest.approx(1 / 51)
    np.testing.assert_allclose(gm.means_[gm.weights_.argmin()], [1e4, 1e4], rtol=1e-14)
    near = np.cov(X[:50].T, bias=True) * 50 / 51
    dense = reference.dense(gm.covariances_, structure, 2, 2)
    np.testing.assert_allclose(np.einsum("cjj->c", dense), np.trace(near), rtol=1e-9)


@every_new
def test_an_empty_component_and_identical_rows(structure):
    shape = STRUCTURES[structure].covariances_shape(3, 2)
    unit = np.broadcast_to(np.eye(2), shape) if STRUCTURES[structure].MATRICES else np.ones(shape)
    start = {"weights_init": np.full(3, 1 / 3), "precisions_init": unit, "covariance_type": structure}
    with pytest.warns(DegenerateComponentWarning, match=r"Degenerate components: 2 \(empty\)"):
        gm = GaussianMixture(3, means_init=[[0.0, 0.0], [5.0, 2.0], [1e5, -1e5]], **start).fit(X)
    assert all(np.isfinite(getattr(gm, name)).all() for name in ("covariances_", "precisions_", "lower_bounds_"))
    with pytest.warns(DegenerateComponentWarning, match="collapsed onto one point"):
        gm = GaussianMixture(2, covariance_type=structure, random_state=0).fit(np.full((20, 2), 3.7))
    np.testing.assert_allclose(gm.mixture_.cov, 1e-6 * np.eye(2), rtol=1e-6, atol=1e-12)
    with pytest.raises(DegenerateFitError, match="not positive-definite"):
        GaussianMixture(2, covariance_type=structure, reg_covar=0.0).fit(np.full((20, 2), 3.7))


@every_new
def test_squares_that_overflow(structure):
    with pytest.raises(ValueError, match=r"overflow|Scale the data|scale the input"), np.errstate(all="ignore"):
        GaussianMixture(2, covariance_type=structure).fit(1e160 * X)


def read_mclust():
    with open(DATA / "mclust.csv", encoding="utf-8") as file:
        return {(row["data"], row["model"], int(row["components"])): float(row["bic"]) for row in csv.DictReader(file)}


def read_rows(name):
    if name == "iris":
        return load_iris().data
    columns = {"faithful": (0, 1), "diabetes": (1, 2, 3)}[name]
    return np.loadtxt(DATA / f"{name}.csv", delimiter=",", skiprows=1, usecols=columns)


# Ever more starts: which of the likelihood's maxima they find is their business.
EFFORTS = [("kmeans", 3), ("random", 10), ("random", 40), ("kmeans", 30)]


def bics(rows, model, k):
    for init_params, n_init in EFFORTS:
        options = {"init_params": init_params, "n_init": n_init, "tol": 1e-6, "max_iter": 1000, "reg_covar": 0.0}
        yield GaussianMixture(k, covariance_type=model, random_state=0, **options).fit(rows).bic(rows)


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore::fastgmm.DegenerateComponentWarning")
@pytest.mark.parametrize("name", ["faithful", "iris", "diabetes"])
def test_bic_is_mclusts_or_better(name):
    """Of every model that mclust fits, up to five components; its sign is the other one."""
    figures = {(model, k): -bic for (data, model, k), bic in read_mclust().items() if data == name}
    assert len(figures) >= 44
    rows = read_rows(name)
    missed = [model for model, figure in figures.items() if not any(b <= figure + 0.01 for b in bics(rows, *model))]
    assert missed == []
