"""Mixture: its densities, draws and moments against SciPy and mpmath, and its manners."""

import contextlib
import pickle

import mpmath
import numpy as np
import pytest
from reference import FAMILIAR
from scipy import stats

from fastgmm import Mixture
from fastgmm.covariance import STRUCTURES

every_structure = pytest.mark.parametrize("covariance_type", FAMILIAR)

FALSE_ALARMS = 1e-6


def make_mixture(covariance_type, k=3, d=2, offset=0.0, seed=0):
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.full(k, 5.0))
    means = random.normal(scale=3.0, size=(k, d)) + offset
    root = random.normal(size=(k, d, d)) + 2 * np.eye(d)
    full = root @ root.swapaxes(1, 2)
    covariances = {
        "full": full,
        "tied": full[0],
        "diag": random.uniform(0.5, 4.0, size=(k, d)),
        "spherical": random.uniform(0.5, 4.0, size=k),
    }[covariance_type]
    return Mixture(weights, means, covariances, covariance_type)


def dense(mixture):
    """Covariances (k, d, d), written out here on purpose."""
    k, d = mixture.means.shape
    given = mixture.covariances
    return {
        "full": lambda: given,
        "tied": lambda: np.stack([given] * k),
        "diag": lambda: np.stack([np.diag(row) for row in given]),
        "spherical": lambda: np.stack([value * np.eye(d) for value in given]),
    }[mixture.covariance_type]()


def component_pdfs(mixture, points):
    """w_c N(x | μ_c, Σ_c), shape (n, k), from SciPy."""
    parts = zip(mixture.weights, mixture.means, dense(mixture), strict=True)
    return np.stack([w * stats.multivariate_normal(m, c).pdf(points).reshape(len(points)) for w, m, c in parts], axis=1)


@every_structure
@pytest.mark.parametrize("d", [1, 2, 3, 16])
def test_densities_are_scipys(covariance_type, d):
    mixture = make_mixture(covariance_type, d=d)
    points = np.random.default_rng(1).normal(scale=4.0, size=(40, d))
    parts = component_pdfs(mixture, points)
    np.testing.assert_allclose(mixture.pdf(points), parts.sum(axis=1), rtol=1e-8)
    np.testing.assert_allclose(mixture.logpdf(points), np.log(parts.sum(axis=1)), rtol=1e-10)
    expected = parts / parts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(mixture.responsibilities(points), expected, rtol=1e-8, atol=1e-12)


@every_structure
def test_densities_are_mpmaths_to_the_last_digits(covariance_type):
    """From the stored parameters, to fifty digits, near and far from the means."""
    mixture = make_mixture(covariance_type, k=2, d=2)
    points = np.array([[0.0, 0.0], [1.5, -2.0], [30.0, 40.0], [-1e5, 1e6]])
    expected = []
    with mpmath.workdps(50):
        for point in points:
            total = mpmath.mpf(0)
            for w, mean, covariance in zip(mixture.weights, mixture.means, dense(mixture), strict=True):
                difference = mpmath.matrix([mpmath.mpf(x) - mpmath.mpf(m) for x, m in zip(point, mean, strict=True)])
                matrix = mpmath.matrix(covariance.tolist())
                square = (difference.T * mpmath.inverse(matrix) * difference)[0]
                total += mpmath.mpf(w) * mpmath.exp(-square / 2) / (2 * mpmath.pi * mpmath.sqrt(mpmath.det(matrix)))
            expected.append(float(mpmath.log(total)))
    np.testing.assert_allclose(mixture.logpdf(points), expected, rtol=5e-14)


def test_shapes():
    mixture = make_mixture("full", d=2)
    point, grid = np.array([0.5, -1.0]), np.random.default_rng(0).normal(size=(4, 3, 2))
    assert isinstance(mixture.logpdf(point), float) and isinstance(mixture.pdf(point), float)
    assert mixture.responsibilities(point).shape == (3,)
    assert mixture.logpdf(point[None]).shape == (1,)
    assert mixture.logpdf(grid).shape == mixture.pdf(grid).shape == (4, 3)
    assert mixture.responsibilities(grid).shape == (4, 3, 3)
    np.testing.assert_array_equal(mixture.logpdf(grid)[2, 1], mixture.logpdf(grid[2, 1]))
    assert mixture.logpdf(np.empty((0, 2))).shape == (0,)
    assert mixture.responsibilities(np.empty((0, 2))).shape == (0, 3)
    assert mixture.logpdf([[1, 2], [3, 4]]).shape == (2,)


def test_shapes_of_one_feature():
    mixture = make_mixture("full", d=1)
    assert isinstance(mixture.logpdf(0.5), float)
    assert mixture.logpdf([0.5, 1.0, 2.0]).shape == (3,)
    assert mixture.logpdf([[0.5], [1.0]]).shape == (2,)
    assert mixture.responsibilities([0.5, 1.0]).shape == (2, 3)


@pytest.mark.parametrize("points", [0.0, [1.0, 2.0, 3.0], np.zeros((4, 3))])
def test_points_of_a_wrong_shape(points):
    with pytest.raises(ValueError, match=r"X must have shape \(..., 2\), features last, but got \("):
        make_mixture("full").logpdf(points)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1j])
def test_points_that_are_not_finite_reals(bad):
    with pytest.raises(ValueError, match=r"(NaN|infinity|[Cc]omplex)"):
        make_mixture("full").logpdf([[0.0, bad]])


@every_structure
def test_points_too_far_for_float64(covariance_type):
    mixture = make_mixture(covariance_type)
    points = np.array([[1e200, 1e200], [0.0, 0.0]])
    assert mixture.logpdf(points)[0] == -np.inf and np.isfinite(mixture.logpdf(points)[1])
    assert mixture.pdf(points)[0] == 0
    shares = mixture.responsibilities(points)
    assert sorted(shares[0]) == [0, 0, 1]
    assert shares[1].sum() == pytest.approx(1)


def test_the_nearest_takes_a_far_point():
    mixture = Mixture([0.5, 0.5], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 9.0], [9.0, 1.0]], "diag")
    np.testing.assert_array_equal(mixture.responsibilities([[0, 1e200], [1e200, 0]]), [[1, 0], [0, 1]])
    dead = Mixture([0.0, 1.0], [[0.0], [0.0]], [9.0, 1.0], "spherical")
    np.testing.assert_array_equal(dead.responsibilities([1e200]), [[0, 1]])


@every_structure
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_mean_and_cov_are_the_formulas(covariance_type, offset):
    near, far = make_mixture(covariance_type), make_mixture(covariance_type, offset=offset)
    exact = far.means - offset  # without the rounding of the offset means
    mean = near.weights @ exact
    expected = sum(
        w * (c + np.outer(m - mean, m - mean)) for w, m, c in zip(near.weights, exact, dense(near), strict=True)
    )
    np.testing.assert_allclose(far.mean, mean + offset, rtol=4e-16, atol=1e-15)
    np.testing.assert_allclose(far.cov, expected, rtol=1e-7 if offset else 1e-13)


@every_structure
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_draws_have_the_moments(covariance_type, offset):
    """Means of n draws lie within z standard errors, z for the false alarms of all entries together."""
    n = 40_000
    mixture = make_mixture(covariance_type, offset=offset)
    points = mixture.rvs(n, np.random.default_rng(2)) - offset
    z = stats.norm.isf(FALSE_ALARMS / 12)
    standard_errors = np.sqrt(np.diag(mixture.cov) / n)
    assert (np.abs(points.mean(axis=0) - (mixture.mean - offset)) < z * standard_errors + 1e-7).all()
    products = (points - points.mean(axis=0))[:, :, None] * (points - points.mean(axis=0))[:, None, :]
    assert (np.abs(products.mean(axis=0) - mixture.cov) < z * products.std(axis=0) / np.sqrt(n) + 1e-6).all()


@every_structure
def test_draws_have_the_distribution(covariance_type):
    """The projections of draws have the mixture's exact distribution function."""
    mixture = make_mixture(covariance_type)
    points = mixture.rvs(5000, 3)
    for direction in np.array([[1.0, 0.0], [0.0, 1.0], [0.6, -0.8]]):
        centres = mixture.means @ direction
        widths = np.sqrt([direction @ c @ direction for c in dense(mixture)])

        def cdf(x, centres=centres, widths=widths):
            return stats.norm.cdf(np.asarray(x)[:, None], centres, widths) @ mixture.weights

        assert stats.kstest(points @ direction, cdf).pvalue > FALSE_ALARMS


def test_labelled_draws():
    mixture = make_mixture("full")
    points, labels = mixture.rvs(6000, 0, return_labels=True)
    assert stats.chisquare(np.bincount(labels, minlength=3), 6000 * mixture.weights).pvalue > FALSE_ALARMS
    for c in range(3):
        deviations = points[labels == c] - mixture.means[c]
        squares = np.einsum("ni,ij,nj->n", deviations, np.linalg.inv(dense(mixture)[c]), deviations)
        assert stats.kstest(squares, stats.chi2(2).cdf).pvalue > FALSE_ALARMS
    assert (np.diff(labels) < 0).any(), "components come in random order"


def test_draws_follow_the_seed():
    mixture = make_mixture("diag")
    np.testing.assert_array_equal(mixture.rvs(5, 1), mixture.rvs(5, 1))
    assert not np.array_equal(mixture.rvs(5, 1), mixture.rvs(5, 2))
    generator = np.random.default_rng(0)
    assert not np.array_equal(mixture.rvs(5, generator), mixture.rvs(5, generator))
    np.testing.assert_array_equal(mixture.rvs(5, np.random.RandomState(1)), mixture.rvs(5, 1))
    assert mixture.rvs().shape == (1, 2) and mixture.rvs(0).shape == (0, 2)
    with pytest.raises(ValueError, match="size must not be negative, but got -1"):
        mixture.rvs(-1)


@every_structure
def test_it_cannot_be_changed(covariance_type):
    weights = np.array([0.25, 0.75])
    mixture = Mixture(weights, [[0.0], [1.0]], make_mixture(covariance_type, k=2, d=1).covariances, covariance_type)
    for name in ("weights", "means", "covariances", "factors"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(mixture, name)[...] = 1.0
    with pytest.raises(AttributeError, match="immutable; build a new one instead of setting 'weights'"):
        mixture.weights = weights
    with pytest.raises(AttributeError, match="immutable"):
        mixture.colour = "red"
    with pytest.raises(AttributeError, match="'means' cannot be deleted"):
        del mixture.means
    weights[0] = 9.0
    assert mixture.weights[0] == 0.25


@every_structure
def test_equality_and_hash(covariance_type):
    one, same, other = (make_mixture(covariance_type, seed=seed) for seed in (0, 0, 1))
    assert one == same and hash(one) == hash(same) and len({one, same}) == 1
    assert one != other
    assert one != "a mixture"
    copy = pickle.loads(pickle.dumps(one))
    assert copy == one and copy is not one
    np.testing.assert_array_equal(copy.factors, one.factors)


def test_structures_with_the_same_numbers_differ():
    assert Mixture([1.0], [[0.0]], [[1.0]], "tied") != Mixture([1.0], [[0.0]], [[1.0]], "diag")


@every_structure
def test_repr_builds_it_again(covariance_type):
    covariances = make_mixture(covariance_type, k=2, d=1).covariances.round(2)
    mixture = Mixture([0.5, 0.5], [[0.0], [1.0]], covariances, covariance_type)
    assert eval(repr(mixture), {"Mixture": Mixture}) == mixture


def test_repr_of_a_large_mixture_is_short():
    assert len(repr(make_mixture("full", k=50, d=20))) < 4000


@every_structure
def test_save_and_load(covariance_type, tmp_path):
    mixture = make_mixture(covariance_type, d=3)
    mixture.save(tmp_path / "mixture.npz")
    loaded = Mixture.load(tmp_path / "mixture.npz")
    assert loaded == mixture and loaded.covariance_type == covariance_type
    points = mixture.rvs(20, 0)
    np.testing.assert_array_equal(loaded.logpdf(points), mixture.logpdf(points))
    with np.load(tmp_path / "mixture.npz", allow_pickle=False) as file:
        assert "object" not in {str(file[name].dtype) for name in file.files}


def test_save_keeps_the_name_it_was_given(tmp_path):
    make_mixture("full").save(str(tmp_path / "plain"))
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]
    assert Mixture.load(str(tmp_path / "plain")).n_components == 3


def saved_with(tmp_path, **changes):
    """Write a saved mixture with some arrays replaced or (None) left out."""
    path = tmp_path / "changed.npz"
    arrays = make_mixture("full").parameters._asdict() | {"covariance_type": np.array("full")} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


DAMAGES = {
    "no means": ({"means": None}, "is not a saved Mixture: it has no means"),
    "weights": ({"weights": np.array([0.5, 0.5, 0.5])}, "weights must sum to 1"),
    "means": ({"means": np.full((3, 2), np.nan)}, "means must be finite"),
    "covariances": ({"covariances": -np.ones((3, 2, 2))}, "Not positive-definite is the covariance of component 0"),
    "factors' shape": ({"factors": np.ones((3, 2))}, "damaged"),
    "factors' values": ({"factors": np.full((3, 2, 2), np.nan)}, "damaged"),
    "other factors": ({"factors": np.stack([np.eye(2)] * 3)}, "damaged"),
    "structure": ({"covariance_type": np.array("banana")}, "covariance_type must be one of"),
    "pickled": ({"weights": np.array([{}], dtype=object)}, "is not a saved Mixture: .*allow_pickle=False"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_load_of_a_damaged_file(tmp_path, damage):
    changes, message = DAMAGES[damage]
    with pytest.raises(ValueError, match=message):
        Mixture.load(saved_with(tmp_path, **changes))


def test_load_of_any_damaged_byte(tmp_path):
    """Whatever byte is wrong, the file is refused or read as it was."""
    mixture = make_mixture("diag", k=2, d=1)
    path = tmp_path / "mixture.npz"
    mixture.save(path)
    sound = path.read_bytes()
    for position in range(0, len(sound), 7):
        path.write_bytes(sound[:position] + bytes([sound[position] ^ 0x55]) + sound[position + 1 :])
        with contextlib.suppress(ValueError):
            assert Mixture.load(path) == mixture


@every_structure
def test_ill_conditioned_mixtures_are_saved_too(covariance_type, tmp_path):
    spread = np.logspace(0, -14, 6)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    covariances = {"full": [(basis * spread) @ basis.T], "tied": (basis * spread) @ basis.T, "diag": [spread]}
    mixture = Mixture([1.0], np.zeros((1, 6)), covariances.get(covariance_type, [1e-300]), covariance_type)
    mixture.save(tmp_path / "mixture.npz")
    assert Mixture.load(tmp_path / "mixture.npz") == mixture


def test_load_of_another_file(tmp_path):
    path = tmp_path / "notes.npz"
    path.write_bytes(b"not an archive")
    with pytest.raises(ValueError, match="is not a saved Mixture"):
        Mixture.load(path)
    np.save(tmp_path / "array.npy", np.ones(3))
    with pytest.raises(ValueError, match="is not a saved Mixture"):
        Mixture.load(tmp_path / "array.npy")
    make_mixture("full").save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="is not a saved Mixture"):
        Mixture.load(path)
    with pytest.raises(FileNotFoundError):
        Mixture.load(tmp_path / "missing.npz")


ONE, TWO = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.5], [0.5, 1.0]]
MEANS = [[0.0, 0.0], [1.0, 1.0]]
HALVES = [0.5, 0.5]
INVALID = {
    f"covariance_type must be one of {', '.join(STRUCTURES)}, but got 'round'.": (HALVES, MEANS, [ONE, TWO], "round"),
    "weights must have shape (k,) with k at least 1, but got ().": (1.0, MEANS, [ONE, TWO]),
    "weights must have shape (k,) with k at least 1, but got (0,).": ([], MEANS, [ONE, TWO]),
    "weights must not be negative, but component 1 has weight -0.5.": ([1.5, -0.5], MEANS, [ONE, TWO]),
    "weights must sum to 1, but sum to 0.9; divide them by their sum.": ([0.5, 0.4], MEANS, [ONE, TWO]),
    "weights must be finite, but weights[1] is nan.": ([0.5, np.nan], MEANS, [ONE, TWO]),
    "weights must be an array of real numbers": (["a", "b"], MEANS, [ONE, TWO]),
    "means must have shape (k, d) with k = 2 as in weights, but got (1, 2).": (HALVES, MEANS[:1], [ONE, TWO]),
    "means must have shape (k, d) with k = 2 as in weights, but got (2,).": (HALVES, [0.0, 1.0], [ONE, TWO]),
    "means must have shape (k, d) with k = 2 as in weights, but got (2, 0).": (HALVES, [[], []], [ONE, TWO]),
    "means must be finite, but means[1, 0] is inf.": (HALVES, [[0, 0], [np.inf, 0]], [ONE, TWO]),
    "means must be an array of real numbers": (HALVES, [[0.0], [1.0, 2.0]], [ONE, TWO]),
    "full covariances of 2 components in 2 features have shape (2, 2, 2), but got (2, 2).": (HALVES, MEANS, ONE),
    "tied covariances of 2 components in 2 features have shape (2, 2), but got (2,).": (HALVES, MEANS, [1, 2], "tied"),
    "diag covariances of 2 components in 2 features have shape (2, 2), but got (3, 2).": (
        HALVES,
        MEANS,
        np.ones((3, 2)),
        "diag",
    ),
    "spherical covariances of 2 components in 2 features have shape (2,), but got ().": (HALVES, MEANS, 1, "spherical"),
    "covariances must be finite, but covariances[1, 0, 1] is nan.": (
        HALVES,
        MEANS,
        [ONE, [[1.0, np.nan], [0.5, 1.0]]],
    ),
    "Not symmetric is the covariance of component 1: [0, 1] is 0.5 and [1, 0] is 0.4.": (
        HALVES,
        MEANS,
        [ONE, [[1.0, 0.5], [0.4, 1.0]]],
    ),
    "Not symmetric is the tied covariance: [0, 1] is 2 and [1, 0] is 0.": (HALVES, MEANS, [[1, 2], [0, 1]], "tied"),
    "Not positive-definite is the covariance of component 1: its smallest eigenvalue is -1.": (
        HALVES,
        MEANS,
        [ONE, [[1.0, 2.0], [2.0, 1.0]]],
    ),
    "Not positive-definite is the covariance of component 0: its smallest eigenvalue is 0.": (
        HALVES,
        MEANS,
        [[[1.0, 0.0], [0.0, 0.0]], ONE],
    ),
    "Not positive-definite is the tied covariance: its smallest eigenvalue is -1.": (
        HALVES,
        MEANS,
        [[1.0, 2.0], [2.0, 1.0]],
        "tied",
    ),
    "Not positive-definite is the covariance of component 1: its smallest variance is -2.": (
        HALVES,
        MEANS,
        [[1, 1], [1, -2]],
        "diag",
    ),
    "Not positive-definite is the covariance of component 1: its smallest variance is 0.": (
        HALVES,
        MEANS,
        [1.0, 0.0],
        "spherical",
    ),
}


@pytest.mark.parametrize("message", INVALID)
def test_invalid_parameters(message):
    with pytest.raises(ValueError) as caught:
        Mixture(*INVALID[message])
    assert str(caught.value).startswith(message)


def test_complex_parameters_are_refused():
    with pytest.raises(ValueError, match="means must be an array of real numbers"):
        Mixture([1.0], [[1j]], [1.0], "spherical")


@every_structure
def test_from_parameters_keeps_them(covariance_type):
    mixture = make_mixture(covariance_type)
    marked = mixture.parameters._replace(factors=2.0 * mixture.factors)
    built = Mixture.from_parameters(marked, covariance_type)
    np.testing.assert_array_equal(built.factors, 2.0 * mixture.factors)
    assert built.n_components == 3 and built.n_features == 2 and built.covariance_type == covariance_type
    # Twice the factor is a quarter of the covariance.
    assert built.logpdf(mixture.means[0]) != mixture.logpdf(mixture.means[0])


@every_structure
def test_dense_forms(covariance_type):
    mixture = make_mixture(covariance_type)
    np.testing.assert_array_equal(mixture.covariances_dense, dense(mixture))
    product = mixture.factors_dense @ dense(mixture) @ mixture.factors_dense.swapaxes(1, 2)
    np.testing.assert_allclose(product, np.stack([np.eye(2)] * 3), atol=1e-13)


def test_weights_that_sum_to_one_but_for_rounding():
    weights = np.full(10, 0.1)
    assert sum(weights) != 1.0
    assert Mixture(weights, np.zeros((10, 1)), np.ones(10), "spherical").rvs(3, 0).shape == (3, 1)
