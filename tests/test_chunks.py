"""Rows that come in blocks: the bits of the same rows in memory, and errors that say where."""

import itertools
import os
import threading
import warnings

import numpy as np
import pytest
from reference import DISTINCT

from fastgmm import DegenerateFitError, GaussianMixture, Prior, SourceError
from fastgmm.covariance import STRUCTURES
from fastgmm.kernels._jit import COMPILED, RANGE_ROWS
from fastgmm.sources import chunks

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
N, D, K = (5 * RANGE_ROWS + 17 if COMPILED else 300), 2, 2
ATTRIBUTES = ("weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bounds_")
MEANS = [[0.0] * D, [6.0] * D]
IDENTITIES = np.stack([np.eye(D)] * K)


def make_rows(n=N, seed=0, dtype=np.float64):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(n, D)) * [1.0, 0.5] + 6 * random.integers(0, K, size=(n, 1))
    return (10 * rows if np.dtype(dtype).kind in "iu" else rows).astype(dtype)


def cut(rows, sizes):
    """Blocks of these sizes again and again."""
    start, sizes = 0, itertools.cycle(sizes)
    while start < len(rows):
        size = next(sizes)
        yield rows[start : start + size]
        start += size


DIVISIONS = {
    "whole": [10**9],
    "ragged": [1, 7, 3 * RANGE_ROWS + 5, RANGE_ROWS, 2 * RANGE_ROWS - 1, 300],
    "small": [97, 1],
    "ranges": [RANGE_ROWS],
} if COMPILED else {"ragged": [1, 7, 300, 40]}  # fmt: skip


def estimator(**options):
    """One that always starts at the same place, and takes three steps."""
    structure = STRUCTURES[options.get("covariance_type", "full")]
    given = {"weights_init": [0.4, 0.6], "means_init": MEANS, "precisions_init": structure.from_dense(IDENTITIES)}
    return GaussianMixture(**{"n_components": K, "max_iter": 3, "tol": 0.0, "random_state": 0} | given | options)


SOUGHT = {"weights_init": None, "means_init": None, "precisions_init": None}


def assert_same_bits(one, other):
    for name in ATTRIBUTES:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert one.means_.dtype == other.means_.dtype


def assert_close(one, other, rtol=1e-12):
    for name in ATTRIBUTES:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, err_msg=name)


@pytest.mark.parametrize("structure", DISTINCT if COMPILED else ["full"])
@pytest.mark.parametrize("division", DIVISIONS)
def test_any_blocks_have_the_bits_of_rows_in_memory(structure, division, monkeypatch):
    monkeypatch.setattr(chunks, "_GATHERED", 4 * RANGE_ROWS)  # so that some blocks are read in place
    rows, options = make_rows(), {"covariance_type": structure}
    found = estimator(**options).fit_chunks(lambda: cut(rows, DIVISIONS[division]))
    assert_same_bits(found, estimator(**options).fit(rows))
    assert found.n_features_in_ == D and found.fit_report_.starts[0].iterations == 3


@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.int16, ">f8", np.float16] if COMPILED else [np.float32, np.int16])
def test_types_of_rows(division, dtype):
    rows = make_rows(dtype=dtype)
    options = {"means_init": [rows.min(axis=0).astype(float), rows.max(axis=0).astype(float)]}
    found = estimator(**options).fit_chunks(lambda: cut(rows, DIVISIONS[division]))
    assert_same_bits(found, estimator(**options).fit(rows))


@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("kind", ["random", "zeros", "ones"])
def test_weights_come_in_blocks_of_their_own(division, kind):
    rows, random = make_rows(), np.random.default_rng(1)
    weights = {
        "random": random.exponential(size=N),
        "zeros": random.exponential(size=N) * (random.uniform(size=N) < 0.3),
        "ones": np.ones(N),
    }[kind]
    whole = estimator().fit(rows, sample_weight=weights)
    for source in (lambda: cut(weights, [5, 800, 31]), list(cut(weights, [1000])), weights):
        found = estimator().fit_chunks(lambda: cut(rows, DIVISIONS[division]), sample_weight=source)
        assert_close(found, whole)
    assert found.bic(rows, weights) == pytest.approx(whole.bic(rows, weights), rel=1e-12)


def test_blocks_of_different_types_and_kinds_are_one_array():
    pandas, rows = pytest.importorskip("pandas"), np.rint(make_rows(1000))
    blocks = [rows[:10].astype(np.int8), rows[10:400].astype(np.float32), pandas.DataFrame(rows[400:500])]
    blocks += [rows[500:].tolist()]
    assert_same_bits(estimator().fit_chunks(blocks), estimator().fit(rows))


@pytest.mark.parametrize("init_params", ["kmeans", "kmeans-whitened", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_that_fit_the_sample_start_as_in_memory(init_params, weighted):
    rows = make_rows(2000 if COMPILED else 200)
    weights = np.random.default_rng(1).exponential(size=len(rows)) if weighted else None
    options = SOUGHT | {"init_params": init_params, "n_init": 2}
    for random_state in (0, np.random.RandomState(3)):
        found = estimator(**options, random_state=random_state).fit_chunks(
            lambda: cut(rows, [700, 1]), sample_weight=weights
        )
        if random_state:
            random_state = np.random.RandomState(3)
        assert_close(found, estimator(**options, random_state=random_state).fit(rows, sample_weight=weights))


@pytest.mark.compiled
@pytest.mark.parametrize("init_params", ["kmeans", "random_from_data", lambda X, k, random: X[[0, -1]]])
def test_starts_are_sought_among_a_sample_of_more_rows(init_params):
    rows = make_rows(50_000)
    rows = rows[rows[:, 0].argsort()]  # the first blocks tell nothing of the last
    options = SOUGHT | {"init_params": init_params, "max_iter": 200, "tol": 1e-6}
    found = estimator(**options).fit_chunks(lambda: cut(rows, [999]))
    again = estimator(**options).fit_chunks(lambda: cut(rows, [31_000]))
    assert_same_bits(found, again)
    assert found.score(rows) == pytest.approx(estimator(max_iter=200, tol=1e-6).fit(rows).score(rows), abs=1e-4)


@pytest.mark.parametrize("structure", DISTINCT if COMPILED else ["full"])
def test_priors_and_relative_ridges_are_those_of_all_rows(structure):
    rows = make_rows(9000 if COMPILED else 300) + 1e3
    rows = rows[rows[:, 0].argsort()]
    means = [rows.min(axis=0), rows.max(axis=0)]
    for options in ({"prior": "default"}, {"prior": Prior(shrinkage=1.0)}, {"reg_covar": "auto"}):
        options |= {"covariance_type": structure, "means_init": means}
        found = estimator(**options).fit_chunks(lambda: cut(rows, [1, 5000]))
        assert_close(found, estimator(**options).fit(rows), rtol=1e-9)
        if found.prior_ is not None:
            np.testing.assert_allclose(found.prior_.mean, rows.mean(axis=0), rtol=1e-13)


def save(folder, rows, sizes):
    """Files whose names are in the order of the rows."""
    paths = [folder / f"{index:03}.npy" for index, _ in enumerate(cut(rows, sizes))]
    for path, block in zip(paths, cut(rows, sizes), strict=True):
        np.save(path, block)
    return paths


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_files_of_numpy(tmp_path, dtype, order):
    rows = make_rows(dtype=dtype)
    options = {"means_init": [rows.min(axis=0).astype(float), rows.max(axis=0).astype(float)]}
    paths = save(tmp_path, np.asarray(rows, order=order), [N // 2 + 100, 10])
    whole = estimator(**options).fit(rows)
    for source in (paths, list(map(str, paths)), tmp_path, str(tmp_path)):
        assert_same_bits(estimator(**options).fit_chunks(source), whole)
    weights = np.random.default_rng(0).exponential(size=N)
    files = save(tmp_path / "..", weights, [1000])
    found = estimator(**options).fit_chunks(paths, sample_weight=[os.fspath(path) for path in files])
    assert_close(found, estimator(**options).fit(rows, sample_weight=weights), 1e-12 if dtype != np.float32 else 1e-5)
    np.save(tmp_path / "whole.npy", rows)
    assert_same_bits(estimator(**options).fit_chunks(tmp_path / "whole.npy"), whole)


@pytest.fixture
def arrow():
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    return pyarrow


def table_of(arrow, rows, names="ab", **more):
    return arrow.table({name: rows[:, j] for j, name in enumerate(names)} | more)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_files_of_parquet(tmp_path, arrow, dtype):
    rows = make_rows(dtype=dtype)
    options = {"means_init": [rows.min(axis=0).astype(float), rows.max(axis=0).astype(float)]}
    whole = estimator(**options).fit(rows)
    weights = np.random.default_rng(0).exponential(size=N)
    for index, (block, part) in enumerate(zip(cut(rows, [N // 2]), cut(weights, [N // 2]), strict=True)):
        plain, weighted = tmp_path / "plain" / "deep", tmp_path / "weighted"
        for folder in (plain, weighted):
            folder.mkdir(parents=True, exist_ok=True)
        arrow.parquet.write_table(table_of(arrow, block), plain / f"{index}.parquet", row_group_size=1000)
        arrow.parquet.write_table(table_of(arrow, block, w=part), weighted / f"{index}.parquet")
    found = estimator(**options).fit_chunks(tmp_path / "plain")
    assert_same_bits(found, whole)
    assert found.feature_names_in_.tolist() == ["a", "b"]
    found = estimator(**options).fit_chunks(sorted(weighted.iterdir()), sample_weight="w")
    assert found.feature_names_in_.tolist() == ["a", "b"]
    assert_close(found, estimator(**options).fit(rows, sample_weight=weights), 1e-12 if dtype != np.float32 else 1e-5)
    with pytest.raises(SourceError, match=r"Block 0 .*0.parquet.*no column 'v', only a, b, w"):
        estimator(**options).fit_chunks(weighted, sample_weight="v")


def test_batches_of_arrow_and_what_they_may_hold(arrow):
    rows = make_rows(1000)
    table = table_of(arrow, rows)
    found = estimator().fit_chunks(lambda: table.to_batches(max_chunksize=300))
    assert_same_bits(found, estimator().fit(rows))
    assert_same_bits(estimator().fit_chunks([table]), found)
    flags = arrow.table({"a": rows[:, 0], "b": rows[:, 1] > 3})
    assert_same_bits(
        estimator().fit_chunks([flags]), estimator().fit(np.column_stack([rows[:, 0], rows[:, 1] > 3]))
    )
    for name, values, message in (
        ("b", ["x"] * 1000, r"Block 0 has a column 'b' of type string; .* pass a function"),
        ("b", [None, *rows[1:, 1]], r"Block 0 has nan in row 0, feature 1"),
        ("b", [None, *[True] * 999], r"Block 0 has nan in row 0, feature 1"),
    ):
        with pytest.raises(SourceError, match=message):
            estimator().fit_chunks([table.set_column(1, name, arrow.array(values))])


def test_parquet_needs_pyarrow(monkeypatch, tmp_path):
    (tmp_path / "x.parquet").touch()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'fastgmm\[parquet\]'"):
        estimator().fit_chunks(tmp_path)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (lambda folder: cut(make_rows(10), [5]), TypeError, "can be read only once.*pass the function"),
        (lambda folder: make_rows(10), ValueError, "is one array; fit takes it"),
        (lambda folder: pytest.importorskip("dask.array").ones((10, D)), ValueError, "is one array; fit takes it"),
        (lambda folder: 3, TypeError, "should be a function .* but it is of type int"),
        (lambda folder: folder, ValueError, "has no .parquet, .pq or .npy files"),
        (lambda folder: [folder / "x.csv"], ValueError, "x.csv' is none of .npy, .parquet and .pq"),
        (lambda folder: [], SourceError, "has no blocks"),
        (lambda folder: [folder / "x.npy"], SourceError, r"Block 0 \(.*x.npy\) could not be read from row 0 on"),
    ],
)
def test_what_is_no_source(tmp_path, source, kind, message):
    with pytest.raises(kind, match=message):
        estimator().fit_chunks(source(tmp_path))


def broken(change):
    """Ten blocks of 50 rows, changed."""
    blocks = [block.copy() for block in cut(make_rows(500), [50])]
    change(blocks)
    return blocks


def put(blocks, index, values):
    blocks[index] = values


def set_entry(blocks, index, row, value):
    blocks[index][row, 1] = value


BROKEN = {
    "empty": (lambda b: put(b, 7, b[7][:0]), "Block 7 is empty"),
    "another width": (lambda b: put(b, 7, b[7][:, :1]), "Block 7 has 1 features, but the first block has 2"),
    "NaN": (lambda b: set_entry(b, 7, 13, np.nan), "Block 7 has nan in row 13, feature 1"),
    "infinite": (lambda b: set_entry(b, 7, 13, -np.inf), "Block 7 has -inf in row 13, feature 1"),
    "one row": (lambda b: put(b, 7, b[7][0]), r"Block 7 should have rows and features, \(m, d\), but has shape \(2,\)"),
    "a tuple": (lambda b: put(b, 7, (b[7], np.ones(50))), "Block 7 is a tuple.*sample_weight"),
    "words": (lambda b: put(b, 7, [["a", "b"]]), "Block 7 has values of type <U1"),
    "complex": (lambda b: put(b, 7, b[7] + 1j), "Block 7 has values of type complex128"),
    "objects": (lambda b: put(b, 7, np.array([["a", 1]], object)), "Block 7 is no array of numbers"),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_bad_blocks_are_named_and_the_estimator_stays_as_it_was(problem):
    change, message = BROKEN[problem]
    fitted = estimator().fit(make_rows(500))
    before = fitted.__dict__.copy()
    with pytest.raises(SourceError, match=message) as caught:
        fitted.fit_chunks(broken(change))
    assert fitted.__dict__ == before and caught.value.mixture is None
    fresh = estimator()
    with pytest.raises(SourceError):
        fresh.fit_chunks(broken(change))
    assert not hasattr(fresh, "n_features_in_")


class Changing:
    """A source that is another from some pass on; the first is 0."""

    def __init__(self, change, from_pass=3):
        self.good, self.bad, self.passes, self.from_pass = broken(lambda blocks: None), broken(change), 0, from_pass

    def __call__(self):
        self.passes += 1
        return iter(self.good if self.passes <= self.from_pass else self.bad)


LATER = {
    "NaN": (lambda b: set_entry(b, 7, 13, np.nan), "Block 7 has nan in row 13, feature 1"),
    "width": (lambda b: put(b, 0, b[0][:, :1]), "Block 0 has 1 features, but it had 2 in the first pass"),
    "more": (lambda b: b.append(b[0]), "Block 10 brings more rows than the 500 of the first pass"),
    "fewer": (lambda b: b.pop(), "ends after block 8, at row 450, but had 500 rows"),
    "none": (lambda b: b.clear(), "ends before the first block, at row 0, but had 500 rows"),
    "empty": (lambda b: put(b, 7, b[7][:0]), "Block 7 is empty"),
}


@pytest.mark.parametrize("problem", LATER)
def test_what_changes_while_a_fit_runs_leaves_the_last_mixture(problem):
    change, message = LATER[problem]
    fitted = estimator(max_iter=10).fit(make_rows(500))
    before = fitted.__dict__.copy()
    with pytest.raises(SourceError, match=message) as caught:
        fitted.fit_chunks(Changing(change))
    assert fitted.__dict__ == before
    reached = estimator(max_iter=2).fit(make_rows(500))
    assert np.array_equal(caught.value.mixture.means, reached.means_)


def test_an_exception_of_the_users_is_the_cause():
    def read():
        yield from broken(lambda blocks: None)[:4]
        raise KeyError("no such key")

    with pytest.raises(SourceError, match="source raised KeyError at block 4: 'no such key'") as caught:
        estimator().fit_chunks(read)
    assert isinstance(caught.value.__cause__, KeyError)

    def weights():
        yield np.ones(100)
        raise OSError("gone")

    with pytest.raises(SourceError, match="sample_weight raised OSError at block 1: gone"):
        estimator().fit_chunks(broken(lambda blocks: None), sample_weight=weights)


def test_a_file_that_vanishes(tmp_path):
    paths = save(tmp_path, make_rows(500), [100])
    seen = []

    def remove(iteration, *_):
        seen.append(iteration)
        if iteration == 2:
            paths[3].unlink()

    with pytest.raises(SourceError, match=r"Block 3 \(.*003.npy\) could not be read from row 0 on") as caught:
        estimator(max_iter=9, callback=remove).fit_chunks(paths)
    assert isinstance(caught.value.__cause__, FileNotFoundError) and seen == [1, 2]
    assert np.array_equal(caught.value.mixture.means, estimator(max_iter=2).fit(make_rows(500)).means_)
    paths[3].write_bytes(paths[2].read_bytes()[:-100])
    with pytest.raises(SourceError, match="Block 3"):
        estimator().fit_chunks(paths)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([np.ones(300), np.ones(199)], "Block 9 has no weights from row 49 on: sample_weight has ended"),
        ([np.ones(300), np.ones(201)], "sample_weight goes on after the 500 rows"),
        ([np.ones(300), -np.ones(200)], "Block 1 of sample_weight has -1.0 in row 0"),
        ([np.ones(300), np.full(200, np.nan)], "Block 1 of sample_weight has nan in row 0"),
        ([np.ones((500, 1))], r"Block 0 of sample_weight should have one weight for each row, .* shape \(500, 1\)"),
        ([np.zeros(500)], "at least one non-zero"),
        ([np.full(500, 1e307)], "their sum overflows"),
    ],
)
def test_bad_weights(weights, message):
    with np.errstate(over="ignore"), pytest.raises(SourceError, match=message):
        estimator().fit_chunks(broken(lambda blocks: None), sample_weight=weights)


def test_a_weight_column_is_of_parquet():
    with pytest.raises(ValueError, match="names a column, but the source is not Parquet"):
        estimator().fit_chunks([make_rows(10)], sample_weight="w")


def test_other_complaints_are_those_of_fit():
    with pytest.raises(ValueError, match="n_samples >= n_components"):
        estimator(**SOUGHT | {"n_components": 20}).fit_chunks([make_rows(10)])
    with pytest.raises(ValueError, match="tol"):
        estimator(tol=-1).fit_chunks([make_rows(10)])
    with pytest.raises(ValueError, match="init_params as an array"):
        estimator(**SOUGHT | {"init_params": np.zeros(10)}).fit_chunks([make_rows(10)])
    with pytest.raises(DegenerateFitError):
        estimator(reg_covar=0.0).fit_chunks([np.ones((10, D))])


def knock_out(rows):
    """The same with entries missing: of rows 100 to 150 all lack one, those from 200 to 250 none."""
    missing = np.random.default_rng(5).random(rows.shape) < 0.2
    missing[100:150] = [True, *[False] * (D - 1)]
    missing[200:250] = False
    return np.where(missing, np.nan, rows)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("structure", DISTINCT if COMPILED else ["full", "spherical"])
def test_rows_that_lack_entries_give_the_fit_of_those_in_memory(structure, weighted):
    rows, options = knock_out(make_rows(500)), {"covariance_type": structure, "missing": "em"}
    weights = np.random.default_rng(6).integers(0, 3, 500) / 2 if weighted else None
    whole = estimator(**options).fit(rows, sample_weight=weights)
    for sizes in ([50], [7, 130, 1]):
        found = estimator(**options).fit_chunks(lambda sizes=sizes: cut(rows, sizes), sample_weight=weights)
        for name in ATTRIBUTES:
            np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("more", [{}, {"prior": Prior()}, {"reg_covar": "auto"}, {"init_params": "random_from_data"}])
def test_and_so_they_do_from_a_start_that_is_sought(more):
    rows, options = knock_out(make_rows(500)), SOUGHT | {"missing": "em"} | more
    found, whole = estimator(**options).fit_chunks(lambda: cut(rows, [70])), estimator(**options).fit(rows)
    for name in ATTRIBUTES:
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-10, atol=1e-12)


def test_what_may_not_be_missing_from_blocks():
    blocks = broken(lambda blocks: None)
    blocks[4][3, 1] = np.inf
    with pytest.raises(SourceError, match="Block 4 has inf in row 3, feature 1"):
        estimator(missing="em").fit_chunks(blocks)
    with pytest.raises(ValueError, match="no observed value of feature 1"):
        estimator(missing="em").fit_chunks([np.where([False, True], np.nan, make_rows(50))] * 2)


def test_a_source_may_overwrite_its_blocks(monkeypatch):
    monkeypatch.setattr(chunks, "_GATHERED", 4 * RANGE_ROWS)
    size = 2 * RANGE_ROWS if COMPILED else 100  # so long that blocks would be read in place
    rows = make_rows(8 * size)

    def read():
        buffer = np.empty((size, D))
        for block in cut(rows, [size]):
            buffer[:] = block
            yield buffer

    assert_same_bits(estimator().fit_chunks(read), estimator().fit(rows))


@pytest.mark.compiled
def test_blocks_are_read_one_ahead_on_a_thread(monkeypatch):
    monkeypatch.setattr(chunks, "_GATHERED", 4 * RANGE_ROWS)
    rows, read, most = make_rows(20 * RANGE_ROWS), [], []

    def source():
        read.clear()
        for block in cut(rows, [2 * RANGE_ROWS]):
            read.append(threading.current_thread())
            yield block

    used = []
    add_sums = chunks.ChunkRows._add_sums

    def add(self, block, *rest):
        used.append(block)
        most.append(len(read) - (block.start + len(block.rows)) // (2 * RANGE_ROWS))
        return add_sums(self, block, *rest)

    monkeypatch.setattr(chunks.ChunkRows, "_add_sums", add)
    estimator(max_iter=1).fit_chunks(source)
    assert threading.main_thread() not in read
    assert len(used) == 20 and max(most) <= 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastgmm-reader")]


def test_one_pass_for_each_iteration():
    source = Changing(lambda blocks: None)
    estimator(max_iter=4).fit_chunks(source)
    assert source.passes == 1 + 4 + 1  # the survey, the steps, and the likelihood of where they led


class Bar:
    """What tqdm's bars offer that is used."""

    all = []  # noqa: RUF012

    def __init__(self, total=None, desc="", **options):
        self.total, self.desc, self.n, self.closed = total, desc, 0, False
        Bar.all.append(self)

    def update(self, count=1):
        self.n += count

    def set_postfix_str(self, *_, **__):
        pass

    def close(self):
        self.closed = True


def test_bars_over_passes_and_rows(monkeypatch):
    import fastgmm.em.watch
    import fastgmm.estimator

    for module in (fastgmm.em.watch, fastgmm.estimator):
        monkeypatch.setattr(module, "import_tqdm", lambda: Bar)
    Bar.all.clear()
    estimator(progress=True).fit_chunks(broken(lambda blocks: None))
    rows = [bar for bar in Bar.all if bar.desc.startswith("pass")]
    assert [bar.desc for bar in rows] == [f"pass {number}" for number in range(1, 6)]
    assert [bar.total for bar in rows] == [None, 500, 500, 500, 500]
    assert all(bar.n == 500 and bar.closed for bar in rows)
    (steps,) = [bar for bar in Bar.all if bar.desc.startswith("start")]
    assert steps.n == 3 and steps.closed


def test_warm_starts_and_fits_after_one_another():
    rows = make_rows(500)
    found = estimator(warm_start=True, max_iter=2).fit(rows)
    found.fit_chunks([rows])
    assert np.array_equal(found.means_, estimator(max_iter=4).fit(rows).means_)


def test_names_of_frames_are_learnt_and_compared():
    pandas = pytest.importorskip("pandas")
    frames = [pandas.DataFrame(block, columns=list("ab")) for block in broken(lambda blocks: None)]
    found = estimator().fit_chunks(frames)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found.predict(frames[0])
    frames[4] = frames[4].rename(columns={"b": "z"})
    with pytest.raises(SourceError, match="Block 4 has features a, z, but"):
        estimator().fit_chunks(frames)
    assert not hasattr(found.fit_chunks(broken(lambda blocks: None)), "feature_names_in_")


def test_from_many_threads_at_once():
    rows, whole, found = make_rows(), estimator().fit(make_rows()), []

    def fit():
        found.append(estimator().fit_chunks(lambda: cut(rows, [700])))

    workers = [threading.Thread(target=fit) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for each in found:
        assert_same_bits(each, whole)
    assert len(found) == 4
