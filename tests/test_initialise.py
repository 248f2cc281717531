"""Starts: from k-means, random responsibilities and rows of the data."""

import tracemalloc
import warnings

import numpy as np
import pytest
from reference import FAMILIAR
from sklearn.datasets import make_blobs

from fastgmm.covariance import STRUCTURES, flat
from fastgmm.em import initialise, kmeans
from fastgmm.sources import ArrayRows, array

every_structure = pytest.mark.parametrize("covariance_type", FAMILIAR)
every_start = pytest.mark.parametrize("init_params", initialise.STARTS)

X, LABELS = make_blobs(200, n_features=2, centers=[[0, 0], [9, 1], [0, 12]], random_state=3)


def start(init_params, rows=X, k=3, covariance_type="full", reg_covar=1e-6, seed=0):
    structure = STRUCTURES[covariance_type]
    random = np.random.RandomState(seed)
    return initialise.STARTS[init_params](ArrayRows(rows), k, structure, flat(reg_covar, rows.shape[1]), random)


def blobs(n=3000, d=2, k=3, seed=0):
    """Well separated blobs of n / k rows, one after the other."""
    random = np.random.default_rng(seed)
    centres = 20.0 * np.eye(max(k, d))[:k, :d] + np.arange(k)[:, None]
    return np.concatenate([centre + random.normal(size=(n // k, d)) for centre in centres])


def covariance_of(rows, covariance_type, reg_covar=1e-6):
    covariance = np.cov(rows.T, bias=True) + reg_covar * np.eye(rows.shape[1])
    return {"full": covariance, "diag": np.diag(covariance), "spherical": np.trace(covariance) / len(covariance)}[
        covariance_type
    ]


@every_start
@every_structure
def test_the_same_seed_gives_the_same_start(init_params, covariance_type):
    # Four components: k-means finds the three blobs from any seed, but not always the same halves of one.
    one, two, other = (start(init_params, k=4, covariance_type=covariance_type, seed=seed) for seed in (4, 4, 6))
    for mine, again in zip(one.parameters, two.parameters, strict=True):
        np.testing.assert_array_equal(mine, again)
    assert not np.array_equal(one.parameters.means, other.parameters.means)
    assert one.failed == -1


@pytest.mark.parametrize("init_params", ["k-means++", "random_from_data"])
@every_structure
def test_starts_on_rows(init_params, covariance_type):
    """Means are different rows, weights equal, covariances `reg_covar` alone."""
    found = start(init_params, covariance_type=covariance_type, reg_covar=1e-3).parameters
    rows = {tuple(row) for row in X}
    assert all(tuple(mean) in rows for mean in found.means) and len({tuple(mean) for mean in found.means}) == 3
    np.testing.assert_allclose(found.weights, 1 / 3)
    np.testing.assert_allclose(STRUCTURES[covariance_type].dense(found.covariances, 3, 2), [1e-3 * np.eye(2)] * 3)


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_kmeans_start_has_the_moments_of_each_cluster(covariance_type, offset):
    found = start("kmeans", X + offset, covariance_type=covariance_type).parameters
    order = np.argsort(found.means @ [1.0, 0.1])  # 0, then the second, then the first
    for c, label in zip(order, (0, 2, 1), strict=True):
        rows = X[label == LABELS]
        assert found.weights[c] == pytest.approx(len(rows) / 200)
        np.testing.assert_allclose(found.means[c] - offset, rows.mean(axis=0), atol=1e-9)
        expected = covariance_of(rows, covariance_type)
        np.testing.assert_allclose(found.covariances[c], expected, rtol=1e-9, atol=1e-9)


def test_components_keep_their_numbers_from_seed_to_seed():
    means = [start("kmeans", seed=seed).parameters.means for seed in range(6)]
    assert (np.diff(means[0][:, 0]) > 0).all()
    for other in means:
        np.testing.assert_allclose(other, means[0], rtol=1e-12)


def test_kmeans_start_of_tied_has_the_pooled_covariance():
    found = start("kmeans", covariance_type="tied").parameters
    expected = sum(covariance_of(X[label == LABELS], "full") * (label == LABELS).mean() for label in range(3))
    np.testing.assert_allclose(found.covariances, expected, rtol=1e-9)


@every_structure
def test_kmeans_start_on_duplicated_points_is_sharp(covariance_type):
    """Where every row lies on its centre there is no inertia to take the width from."""
    rows = np.repeat([[0.0, 0.0], [1.0, 1.0]], [10, 30], axis=0)
    found = start("kmeans", rows, k=2, covariance_type=covariance_type)
    means, weights = found.parameters.means, found.parameters.weights
    order = weights.argsort()
    np.testing.assert_allclose(weights[order], [0.25, 0.75], rtol=1e-12)
    np.testing.assert_allclose(means[order], [[0, 0], [1, 1]], atol=1e-12)
    dense = STRUCTURES[covariance_type].dense(found.parameters.covariances, 2, 2)
    np.testing.assert_allclose(dense, [1e-6 * np.eye(2)] * 2, rtol=1e-9, atol=1e-18)
    assert start("kmeans", rows, k=2, covariance_type=covariance_type, reg_covar=0.0).failed >= 0


def test_a_kmeans_start_on_fewer_distinct_rows_than_components_is_sound():
    assert start("kmeans", np.repeat(X[:3], 5, axis=0), k=8).failed == -1


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++"])
def test_large_data_are_subsampled(monkeypatch, init_params):
    """Seeds are looked for among some rows only, different ones, by the random state."""
    monkeypatch.setattr(initialise, "KMEANS_ROWS", 50)
    monkeypatch.setattr(initialise, "_ROWS_PER_COMPONENT", 10)
    chosen = []
    some_rows = initialise._some_rows
    monkeypatch.setattr(initialise, "_some_rows", lambda *given: chosen.append(some_rows(*given)) or chosen[-1])
    start(init_params)
    rows = chosen[0].rows
    assert rows.shape == (50, 2) and len({tuple(row) for row in rows} & {tuple(row) for row in X}) == 50
    start(init_params, k=8)
    assert len(chosen[1].rows) == 80
    start(init_params, seed=1)
    assert not np.array_equal(rows, chosen[2].rows)
    start(init_params)
    np.testing.assert_array_equal(rows, chosen[3].rows)


def test_the_sample_is_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(initialise, "_SAMPLE_BYTES", 100 * 8 * 7)
    wide = np.random.default_rng(0).normal(size=(500, 7))
    assert len(initialise._some_rows(ArrayRows(wide), 3, np.random.RandomState(0)).rows) == 100
    assert len(initialise._some_rows(ArrayRows(wide), 60, np.random.RandomState(0)).rows) == 120


def start_on_sample(monkeypatch, rows, most, init_params="kmeans", **kwargs):
    """The k-means start from a sample of `most` rows, and whether all rows were read for the moments."""
    passes, assign = [], initialise._assign
    monkeypatch.setattr(initialise, "KMEANS_ROWS", most)
    monkeypatch.setattr(initialise, "_ROWS_PER_COMPONENT", 1)
    monkeypatch.setattr(initialise, "_assign", lambda *given: passes.append(1) or assign(*given))
    return start(init_params, rows, **kwargs).parameters, bool(passes)


# Rows of a component that its moments need: 32 for each of 2 features, or 32 for variances and shared matrices.
every_need = pytest.mark.parametrize(
    ("covariance_type", "needed"), [("full", 64), ("tied", 32), ("diag", 32), ("spherical", 32)]
)


@every_need
def test_clusters_large_in_the_sample_take_its_moments(monkeypatch, covariance_type, needed):
    rows = blobs()
    found, all_rows = start_on_sample(monkeypatch, rows, 3 * needed + 60, covariance_type=covariance_type)
    means = rows.reshape(3, 1000, 2).mean(axis=1)
    assert not all_rows and np.abs(found.means[:, None] - means).max(axis=2).min() > 1e-9


@every_need
def test_a_cluster_small_in_the_sample_takes_the_moments_of_all_rows(monkeypatch, covariance_type, needed):
    rows = blobs()
    found, all_rows = start_on_sample(monkeypatch, rows, 3 * needed - 3, covariance_type=covariance_type)
    assert all_rows
    order = found.means[:, 0].argsort()
    clusters = sorted(rows.reshape(3, 1000, 2), key=lambda cluster: cluster[:, 0].mean())
    np.testing.assert_allclose(found.weights, 1 / 3, rtol=1e-12)
    np.testing.assert_allclose(found.means[order], [cluster.mean(axis=0) for cluster in clusters], rtol=1e-12)
    if covariance_type != "tied":
        expected = [covariance_of(cluster, covariance_type) for cluster in clusters]
        np.testing.assert_allclose(found.covariances[order], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
@pytest.mark.parametrize("layout", ["C", "F", "reversed"])
def test_moments_of_all_rows_of_any_type_in_any_pieces(monkeypatch, dtype, layout):
    """Blocks of the source and chunks of those leave the moments as they are."""
    rows = (10 * blobs(1200)).round().astype(dtype)
    expected = start("kmeans", rows.astype(float)).parameters
    rows = {"C": rows, "F": np.asfortranarray(rows), "reversed": rows[::-1].copy()[::-1]}[layout]
    monkeypatch.setattr(initialise, "KMEANS_ROWS", 60)
    monkeypatch.setattr(initialise, "_ROWS_PER_COMPONENT", 20)
    monkeypatch.setattr(initialise, "_CHUNK_BYTES", 300 * 16)
    monkeypatch.setattr(array, "block_rows", lambda features: 500)
    found = start("kmeans", rows).parameters
    for c, mean in enumerate(found.means):
        same = int(np.abs(expected.means - mean).sum(axis=1).argmin())
        np.testing.assert_allclose(mean, expected.means[same], rtol=1e-12)
        np.testing.assert_allclose(found.covariances[c], expected.covariances[same], rtol=1e-10)


@pytest.mark.compiled
@pytest.mark.parametrize("init_params", initialise.STARTS)
@pytest.mark.parametrize(("n", "d", "k"), [(65_536, 128, 4), (600_000, 2, 20), (2_000_000, 1, 3)])
def test_starts_take_bounded_memory(init_params, n, d, k):
    rows = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    start(init_params, rows[:1000], k=k)
    tracemalloc.start()
    try:
        start(init_params, rows, k=k, covariance_type="full" if init_params == "kmeans" else "diag")
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


def test_kmeans_start_far_from_zero_is_that_at_zero():
    rows = np.round(blobs(600) * 64) / 64  # exact at 1e8
    near, far = (start("kmeans", rows + offset).parameters for offset in (0.0, 1e8))
    np.testing.assert_allclose(far.means - 1e8, near.means, atol=1e-7)
    np.testing.assert_allclose(far.covariances, near.covariances, rtol=1e-6)


def test_constant_columns():
    rows = np.column_stack([blobs(600), np.full(600, 7.0)])
    found = start("kmeans", rows).parameters
    np.testing.assert_allclose(found.covariances[:, 2, 2], 1e-6)
    np.testing.assert_array_equal(found.means[:, 2], 7.0)


def test_the_subsample_is_uniform(monkeypatch):
    monkeypatch.setattr(initialise, "KMEANS_ROWS", 100)
    monkeypatch.setattr(initialise, "_ROWS_PER_COMPONENT", 1)
    rows = np.arange(1000.0)[:, None]
    draws = (initialise._some_rows(ArrayRows(rows), 2, np.random.RandomState(seed)) for seed in range(60))
    means = [drawn.rows.mean() for drawn in draws]
    # The mean of 100 of 1000 has a standard error of 27.4; of 60 such means, 3.5.
    assert abs(np.mean(means) - 499.5) < 5 * 3.5


@every_structure
def test_random_responsibilities(covariance_type):
    """One stream of uniforms, drawn twice the same, as scikit-learn draws them."""
    found = start("random", covariance_type=covariance_type, seed=3).parameters
    shares = np.random.RandomState(3).uniform(size=(200, 3))
    shares /= shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.weights, shares.mean(axis=0), rtol=1e-12)
    means = shares.T @ X / shares.sum(axis=0)[:, None]
    np.testing.assert_allclose(found.means, means, rtol=1e-12)
    full = np.stack([np.cov(X.T, aweights=shares[:, c], bias=True) for c in range(3)])
    expected = {
        "full": lambda: full,
        "tied": lambda: np.einsum("c,cij->ij", found.weights, full),
        "diag": lambda: np.einsum("cjj->cj", full),
        "spherical": lambda: np.einsum("cjj->c", full) / 2,
    }[covariance_type]()
    reg = 1e-6 * np.eye(2) if covariance_type in ("full", "tied") else 1e-6
    np.testing.assert_allclose(found.covariances, expected + reg, rtol=1e-11)


def test_random_responsibilities_do_not_depend_on_blocks(monkeypatch):
    whole = start("random").parameters

    def blocks(self):
        for begin in range(0, 200, 64):
            yield begin, min(begin + 64, 200), self._rows[begin : begin + 64]

    monkeypatch.setattr(ArrayRows, "blocks", blocks)
    for mine, again in zip(start("random").parameters, whole, strict=True):
        np.testing.assert_allclose(mine, again, rtol=1e-11)


def test_the_random_state_moves_on():
    random = np.random.RandomState(0)
    source = ArrayRows(X)
    for init_params in initialise.STARTS:
        draw = initialise.STARTS[init_params]
        one, two = (draw(source, 5, STRUCTURES["full"], flat(1e-6, 2), random).parameters.means for _ in range(2))
        assert not np.array_equal(one, two), init_params


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_given_responsibilities(covariance_type):
    shares = np.eye(3)[LABELS]
    found = initialise.start_from_responsibilities(
        ArrayRows(X), lambda begin, end: shares[begin:end], 3, STRUCTURES[covariance_type], flat(1e-6, 2)
    ).parameters
    for c in range(3):
        np.testing.assert_allclose(found.means[c], X[c == LABELS].mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.covariances[c], covariance_of(X[c == LABELS], covariance_type), rtol=1e-10)


def test_no_rows():
    with pytest.raises(ValueError, match="no rows to start from"):
        initialise._moments(ArrayRows(X[:0]), lambda begin, end: np.ones((0, 3)), X[:3], STRUCTURES["full"])


def elongated(n=600, seed=0):
    """Two strips side by side, much longer than they are apart, and which of them each row is in."""
    random = np.random.default_rng(seed)
    labels = random.integers(2, size=n)
    return np.column_stack([100.0 * random.normal(size=n), 6.0 * labels + random.normal(size=n)]), labels


def means_of(rows, labels):
    return np.array([rows[labels == c].mean(axis=0) for c in np.unique(labels)])


@every_structure
def test_whitening_finds_elongated_clusters(covariance_type):
    """Of strips k-means cuts both in half; beside their width it sees their distance."""
    rows, labels = elongated()
    found, other = (
        start(name, rows, k=2, covariance_type=covariance_type).parameters for name in ("kmeans-whitened", "kmeans")
    )
    order = found.means[:, 1].argsort()
    np.testing.assert_allclose(found.means[order, 1], means_of(rows, labels)[:, 1], atol=0.2)
    assert np.ptp(other.means[:, 1]) < 1.0


@pytest.mark.parametrize("change", ["units", "tiny", "huge", "turn and shear", "offset"])
def test_a_whitened_start_knows_no_units(change):
    rows = elongated()[0]
    matrix = {
        "units": np.diag([1e-9, 1e6]),
        "tiny": 1e-150 * np.eye(2),
        "huge": 1e140 * np.eye(2),
        "turn and shear": np.array([[1.0, 2.0], [-3.0, 0.5]]),
        "offset": np.eye(2),
    }[change]
    offset = 1e6 if change == "offset" else 0.0
    found = start("kmeans-whitened", rows, k=2, reg_covar=0.0).parameters
    moved = start("kmeans-whitened", rows @ matrix + offset, k=2, reg_covar=0.0).parameters
    expected = found.means @ matrix + offset
    same = ((moved.means[:, None] - expected) / np.abs(matrix).max()) ** 2
    nearest = same.sum(axis=2).argmin(axis=1)
    assert set(nearest) == {0, 1}
    np.testing.assert_allclose(moved.means, expected[nearest], rtol=1e-6)


@pytest.mark.slow
@every_structure
@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("case", ["constant", "collinear", "both, far away", "identical rows", "two distinct rows"])
def test_whitening_leaves_out_directions_without_width(covariance_type, k, case):
    rows, labels = elongated()
    rows = {
        "constant": np.column_stack([rows, np.full(600, 1 / 3), np.zeros(600)]),
        "collinear": np.column_stack([rows, rows @ [0.1, 1.0]]),
        "both, far away": np.column_stack([rows, rows @ [0.1, 1.0], np.ones(600)]) + 1e7 / 3,
        "identical rows": np.full((20, 2), 3.7),
        "two distinct rows": np.repeat([[0.0, 0.0], [1.0, 2.0]], 10, axis=0),
    }[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = start("kmeans-whitened", rows, k=k, covariance_type=covariance_type)
    assert found.failed == -1 and all(np.isfinite(part).all() for part in found.parameters)
    assert found.parameters.weights.sum() == pytest.approx(1)
    if k == 2 and len(rows) == 600:
        order = found.parameters.means[:, 1].argsort()
        np.testing.assert_allclose(found.parameters.means[order, 1], means_of(rows, labels)[:, 1], atol=0.2)


def test_whitening_is_the_same_on_all_rows_as_on_the_sample(monkeypatch):
    """Rows beyond the sample are labelled in the same frame."""
    rows, labels = elongated(3000)
    found, all_rows = start_on_sample(monkeypatch, rows, 120, k=2, init_params="kmeans-whitened")
    assert all_rows
    order = found.means[:, 1].argsort()
    np.testing.assert_allclose(found.means[order], means_of(rows, labels), atol=3.0)
    np.testing.assert_allclose(found.means[order, 1], means_of(rows, labels)[:, 1], atol=0.2)


def test_a_frame_has_unit_covariance_and_can_be_left():
    rows = np.random.default_rng(0).normal(size=(50, 3)) @ np.diag([1e-3, 1.0, 1e5]) + 7.0
    weights = np.random.default_rng(1).uniform(size=50)
    frame = initialise._whiten(kmeans.Sample(rows, weights))
    inside = frame.enter(rows)
    np.testing.assert_allclose(np.cov(inside.T, aweights=weights, bias=True), np.eye(3), atol=1e-8)
    np.testing.assert_allclose(frame.leave(inside), rows, rtol=1e-9)


def test_squares_that_overflow_in_clusters():
    """A frame has no units, moments have."""
    with pytest.raises(ValueError, match="Scale the data"), np.errstate(all="ignore"):
        start("kmeans-whitened", 1e160 * X)


def test_squares_that_overflow():
    with pytest.raises(ValueError, match="Scale the data"), np.errstate(all="ignore"):
        start("kmeans", 1e160 * X)
