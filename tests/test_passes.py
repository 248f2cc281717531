"""Passes over rows of any number, layout, type and weight, against the twin and against themselves."""

import copy

import numba
import numpy as np
import pytest
import reference

from fastgmm.covariance import Parameters
from fastgmm.kernels import passes
from fastgmm.kernels._jit import COMPILED, RANGE_ROWS
from fastgmm.kernels._threads import threads
from fastgmm.kernels.forms import pack, scratch_size, sums_size
from fastgmm.kernels.vectors import rest
from fastgmm.sources import ArrayRows, array
from fastgmm.sources.array import FewWriter
from fastgmm.statistics import TreeSum

NUMBERS = (1, 2, 255, 256, 257, 2047, 2048, 2049, 5000) if COMPILED else (1, 257)
LONG = 5 * RANGE_ROWS + 17 if COMPILED else 2 * RANGE_ROWS + 3
every_route = pytest.mark.parametrize(("structure", "d", "kind"), reference.ROUTES)
expanded_routes = pytest.mark.parametrize(("structure", "d"), [r[:2] for r in reference.ROUTES if r[2] == "expanded"])
# Where what is said does not depend on the form's bodies, one of each kind is enough: every form compiles for seconds.
two_routes = pytest.mark.parametrize(("structure", "d", "kind"), [("full", 2, "centred"), ("diag", 2, "expanded")])


def case(structure, d=2, kind="centred", k=3, n=300, seed=0, single=False):
    """A form and rows to read under it, on a coarse grid so that float32 and float16 hold them too."""
    random = np.random.default_rng(seed)
    parameters = reference.random_parameters(structure, k, d, random)
    rows = np.rint(16 * reference.random_rows(parameters, structure, n, random)) / 16
    return parameters, reference.form_of(structure, kind, parameters, single), rows


def same_bits(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def assert_close_to_twin(found, rows, parameters, structure, row_weights=None, eps=reference.EPS):
    k, d = parameters.means.shape
    row_weights = np.ones(len(rows)) if row_weights is None else row_weights
    factors = reference.dense(parameters.factors, structure, k, d)
    densities = reference.log_densities(rows, parameters.weights, parameters.means, factors)
    shares = row_weights[:, None] * reference.responsibilities(densities)
    away = reference.deviations(rows, found.centres)
    # Measured in the largest the sums could be.
    scale = row_weights.sum() * max(1.0, (away**2).max())
    expected = reference.counted(reference.moments(shares, away, structure), structure)
    for part, right in zip(reference.counted(found[1:4], structure), expected, strict=True):
        assert np.abs(part - right).max() <= 50 * eps * scale
    values = reference.log_likelihoods(densities)
    assert abs(found.log_likelihood - row_weights @ values) <= 50 * eps * (row_weights @ np.abs(values))
    assert found.lost == 0


@every_route
@pytest.mark.parametrize("n", NUMBERS)
def test_statistics_of_any_number_of_rows(structure, d, kind, n):
    parameters, form, rows = case(structure, d, kind, n=n)
    with threads(1):
        found = ArrayRows(rows).reduce(form)
    assert_close_to_twin(found, rows, parameters, structure)
    if kind == "expanded":
        assert np.array_equal(found.centres, np.broadcast_to(form.reference, (3, d)))
    else:
        assert np.allclose(found.centres, parameters.means, rtol=0, atol=1e-15)


@every_route
@pytest.mark.parametrize("k", [1, 3, 20] if COMPILED else [1, 3])
@pytest.mark.parametrize("pattern", ["random", "zeros", "integers"])
def test_weighted_statistics(structure, d, kind, k, pattern):
    parameters, form, rows = case(structure, d, kind, k=k, n=270)
    random = np.random.default_rng(1)
    row_weights = {
        "random": random.exponential(size=270),
        "zeros": random.exponential(size=270) * (random.uniform(size=270) < 0.3),
        "integers": random.integers(0, 5, 270).astype(float),
    }[pattern]
    found = ArrayRows(rows, row_weights).reduce(form)
    assert_close_to_twin(found, rows, parameters, structure, row_weights)


@every_route
def test_every_pass_over_few_rows_has_sums_of_its_own(structure, d, kind):
    _, form, rows = case(structure, d, kind)
    others = [case(structure, d, kind, k=k, seed=seed)[1] for k, seed in ((3, 1), (2, 2))]
    source = ArrayRows(rows)
    # Forms alike and of another layout by turns; the arrays of a pass may be those of the one before.
    for asked in (form, others[0], others[1], form):
        found, alone = source.reduce(asked), ArrayRows(rows).reduce(asked)
        again = super(ArrayRows, ArrayRows(rows)).reduce(asked)  # as of many rows
        assert same_bits(found, alone)
        assert same_bits(found, again)


@pytest.mark.parametrize(("structure", "d"), [r[:2] for r in reference.ROUTES if r[2] == "centred"])
def test_moments_are_about_the_centres_asked_for(structure, d):
    parameters, form, rows = case(structure, d)
    centres = parameters.means + 3.0
    found = ArrayRows(rows).reduce(form, centres)
    about_means = ArrayRows(rows).reduce(form)
    assert np.allclose(found.centres, centres, rtol=0, atol=1e-15)
    assert np.array_equal(found.weight, about_means.weight)
    # Σ s (x - c - δ) = Σ s (x - c) - δ Σ s
    assert np.allclose(found.first, about_means.first - 3.0 * found.weight[:, None], rtol=0, atol=1e-11)


@every_route
def test_rows_out(structure, d, kind):
    k = 3
    parameters, form, rows = case(structure, d, kind, n=300 if COMPILED else 257)
    out = ArrayRows(rows).map(form, "log_likelihoods", "responsibilities", "labels")
    factors = reference.dense(parameters.factors, structure, k, d)
    densities = reference.log_densities(rows, parameters.weights, parameters.means, factors)
    assert np.allclose(out.log_likelihoods, reference.log_likelihoods(densities), rtol=1e-13, atol=1e-13)
    assert np.allclose(out.responsibilities, reference.responsibilities(densities), rtol=1e-12, atol=1e-13)
    assert np.array_equal(out.labels, densities.argmax(axis=1))
    assert out.lost == 0


@pytest.mark.parametrize("wanted", ["log_likelihoods", "responsibilities", "labels"])
def test_only_what_is_asked_for_is_written(wanted):
    _, form, rows = case("diag")
    out = ArrayRows(rows).map(form, wanted)._asdict()
    everything = ArrayRows(rows).map(form, "log_likelihoods", "responsibilities", "labels")._asdict()
    found, expected = out.pop(wanted), everything[wanted]
    if wanted == "log_likelihoods":  # the same exponentials, of three components, in another order
        assert (np.abs(found - expected) <= np.spacing(np.abs(expected)) + 3 * reference.EPS).all()
    else:
        assert np.array_equal(found, expected)
    assert out.pop("lost") == 0
    assert all(array.size == 0 for array in out.values())


@every_route
def test_few_rows_are_written_with_the_bits_of_any(structure, d, kind):
    _, form, rows = case(structure, d, kind)
    writer = FewWriter(form)
    for some in (rows, rows[:17], np.asfortranarray(rows[::2])):  # the memory is what the last rows left
        for wanted in (("log_likelihoods", "responsibilities", "labels"), ("labels",), ("log_likelihoods",)):
            found = writer.write(some, wanted)
            expected = ArrayRows(some.copy()).map(form, *wanted)
            assert same_bits(found, expected)


def test_few_rows_that_are_lost_are_counted():
    _, form, rows = case("full")
    rows[[3, 299]] = 1e200
    writer = FewWriter(form)
    with np.errstate(all="ignore"):
        assert [writer.write(some, ("labels",)).lost for some in (rows, rows[:9], rows[4:9])] == [2, 1, 0]


@pytest.mark.parametrize(("k", "d"), [(1, 1), (3, 2), (40, 20)])
def test_few_rows_are_those_not_worth_sharing(k, d):
    _, form, _ = case("full", d=d, k=k)
    takes, most = FewWriter(form).takes, array.most_alone(sums_size(form))
    assert array.count_shares(most, sums_size(form)) == 1 < array.count_shares(most + 1, sums_size(form))
    rows = np.broadcast_to(np.zeros(d), (most + 1, d))
    assert takes(rows[:1]) and takes(rows[1:]) and takes(rows[1:].astype(np.float32)) and takes(rows[::2])
    assert not takes(rows) and not takes(rows[:0]) and not takes(rows[:9].astype(int))
    assert not takes(rows[1:].astype(">f8")) and not takes(LAYOUTS["unaligned"](rows[:9]))


@pytest.mark.parametrize("kind", ["centred", "expanded"])
def test_a_tie_goes_to_the_first_component(kind):
    same = Parameters(np.full(5, 0.2), np.zeros((5, 2)), np.ones(5), np.ones(5))
    out = ArrayRows(np.ones((3, 2))).map(reference.form_of("spherical", kind, same), "labels")
    assert not out.labels.any()


@every_route
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_too_far_from_every_component_are_counted(structure, d, kind, weighted):
    _, form, rows = case(structure, d, kind)
    rows[[3, 299]] = 1e200
    with np.errstate(all="ignore"):
        assert ArrayRows(rows, np.ones(300) if weighted else None).reduce(form).lost == 2
        assert ArrayRows(rows).map(form, "labels").lost == 2


@expanded_routes
def test_rows_too_far_for_float32_are_counted(structure, d):
    _, form, rows = case(structure, d, "expanded", single=True)
    rows[[3, 299]] = 1e25
    with np.errstate(all="ignore"):
        assert ArrayRows(rows.astype(np.float32)).reduce(form).lost == 2
        assert ArrayRows(rows.astype(np.float32)).map(form, "labels").lost == 2


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "every second row": lambda rows: np.repeat(rows, 2, axis=0)[::2],
    "some columns": lambda rows: np.concatenate([rows, rows], axis=1)[:, : rows.shape[1]],
    "reversed": lambda rows: rows[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": lambda rows: np.frombuffer(rows.tobytes()).reshape(rows.shape),
    "unaligned": lambda rows: np.frombuffer(b" " + rows.tobytes(), offset=1).reshape(rows.shape),
    "big-endian": lambda rows: rows.astype(">f8"),
    "float16": lambda rows: rows.astype(np.float16),
    "longdouble": lambda rows: rows.astype(np.longdouble),
}


@(every_route if COMPILED else two_routes)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_and_type_do_not_change_a_bit(structure, d, kind, layout):
    _, form, rows = case(structure, d, kind)
    assert same_bits(ArrayRows(LAYOUTS[layout](rows)).reduce(form), ArrayRows(rows).reduce(form))


def assert_layout_does_not_matter(single, form, found):
    for layout in (np.asfortranarray(single), np.repeat(single, 2, axis=0)[::2]):
        assert same_bits(ArrayRows(layout).reduce(form), found)


@two_routes
def test_float32_rows_in_float64_tiles_are_their_float64_copy_up_to_rounding(structure, d, kind):
    # Tiles are float64 for both, but another compiled variant may add a tile's terms in another order.
    parameters, form, rows = case(structure, d, kind)
    single = rows.astype(np.float32)
    found = ArrayRows(single).reduce(form)
    assert_close_to_twin(found, rows, parameters, structure)
    assert_layout_does_not_matter(single, form, found)
    out, copy = (ArrayRows(r).map(form, "responsibilities").responsibilities for r in (single, rows))
    assert np.allclose(out, copy, rtol=1e-13, atol=1e-15)


@expanded_routes
@pytest.mark.parametrize("weighted", [False, True])
def test_float32_tiles_are_good_to_float32(structure, d, weighted):
    n = 2 * RANGE_ROWS + 3 if COMPILED else 300
    parameters, form, rows = case(structure, d, "expanded", n=n, single=True)
    row_weights = np.random.default_rng(1).exponential(size=n) if weighted else None
    single = rows.astype(np.float32)
    source = ArrayRows(single, row_weights)
    assert source.single
    found = source.reduce(form)
    assert all(part.dtype == np.float64 for part in found[:4])
    assert_close_to_twin(found, rows, parameters, structure, row_weights, float(np.finfo(np.float32).eps))
    # Not so close as float64 tiles would come.
    assert not same_bits(
        found, ArrayRows(rows, row_weights).reduce(reference.form_of(structure, "expanded", parameters))
    )
    if not weighted:
        assert_layout_does_not_matter(single, form, found)


@expanded_routes
def test_float32_tiles_write_rows_out_to_float32(structure, d):
    parameters, form, rows = case(structure, d, "expanded", n=300 if COMPILED else 257, single=True)
    out = ArrayRows(rows.astype(np.float32)).map(form, "log_likelihoods", "responsibilities", "labels")
    factors = reference.dense(parameters.factors, structure, 3, d)
    densities = reference.log_densities(rows, parameters.weights, parameters.means, factors)
    shares = reference.responsibilities(densities)
    assert out.log_likelihoods.dtype == out.responsibilities.dtype == np.float64
    assert np.allclose(out.log_likelihoods, reference.log_likelihoods(densities), rtol=1e-4, atol=1e-4)
    assert np.allclose(out.responsibilities, shares, rtol=0, atol=1e-4)
    # Labels may differ only where two components are as good as equal.
    best = np.take_along_axis(shares, out.labels[:, None], axis=1)[:, 0]
    assert (best >= shares.max(axis=1) - 1e-4).all()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64, np.bool_])
def test_integer_rows_are_their_float64_copy(dtype):
    _, form, rows = case("diag", 2, "expanded")
    rows = np.abs(np.rint(rows)).astype(dtype)
    assert same_bits(ArrayRows(rows).reduce(form), ArrayRows(rows.astype(np.float64)).reduce(form))
    out, copy = (ArrayRows(r).map(form, "responsibilities") for r in (rows, rows.astype(np.float64)))
    assert np.array_equal(out.responsibilities, copy.responsibilities)


@(every_route if COMPILED else two_routes)
def test_blocks_of_rows_have_the_bits_of_one_pass(structure, d, kind, monkeypatch):
    _, form, rows = case(structure, d, kind, n=LONG)
    integers = np.rint(4 * rows).astype(np.int32)
    row_weights = np.random.default_rng(0).uniform(size=LONG)
    with threads(1):
        whole = ArrayRows(integers.astype(np.float64), row_weights).reduce(form)
        mapped = ArrayRows(integers.astype(np.float64)).map(form, "labels", "log_likelihoods")
        for ranges in (1, 2):
            monkeypatch.setattr(array, "_BUDGET", ranges * RANGE_ROWS * d * 8)
            source = ArrayRows(integers, row_weights)
            assert len(list(source.blocks())) == -(-LONG // (ranges * RANGE_ROWS))
            assert same_bits(source.reduce(form), whole)
            assert same_bits(source.map(form, "labels", "log_likelihoods"), mapped)


@pytest.mark.threads
@two_routes
@pytest.mark.parametrize("spans_per_worker", [1, 32])
def test_the_number_of_threads_does_not_change_a_bit(structure, d, kind, spans_per_worker, monkeypatch):
    monkeypatch.setattr(array, "_SPANS_PER_WORKER", spans_per_worker)
    _, form, rows = case(structure, d, kind, n=LONG)
    row_weights = np.random.default_rng(0).uniform(size=LONG)
    with threads(1):
        alone = ArrayRows(rows, row_weights).reduce(form)
    with threads(2):
        together = ArrayRows(rows, row_weights).reduce(form)
    assert same_bits(alone, together)


@two_routes
@pytest.mark.parametrize("n", [RANGE_ROWS + 1, 3 * RANGE_ROWS, LONG])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_pass_alone_has_the_bits_of_one_that_is_shared(structure, d, kind, n, weighted, monkeypatch):
    _, form, rows = case(structure, d, kind, n=n)
    weights = np.random.default_rng(0).uniform(size=n) if weighted else None
    wanted = ("log_likelihoods", "responsibilities", "labels")
    alone, written = ArrayRows(rows, weights).reduce(form), FewWriter(form).write(rows, wanted)
    monkeypatch.setattr(array, "WORTH_A_WORKER", 1)
    assert not FewWriter(form).takes(rows)
    with threads(2):
        assert same_bits(alone, ArrayRows(rows, weights).reduce(form))
        assert same_bits(written, ArrayRows(rows).map(form, *wanted))


@pytest.mark.threads
@pytest.mark.parametrize("spans_per_worker", [1, 32])
def test_the_number_of_threads_does_not_change_a_row_out(spans_per_worker, monkeypatch):
    monkeypatch.setattr(array, "_SPANS_PER_WORKER", spans_per_worker)
    _, form, rows = case("full", n=LONG)
    with threads(1):
        alone = ArrayRows(rows).map(form, "log_likelihoods", "responsibilities", "labels")
    with threads(2):
        together = ArrayRows(rows).map(form, "log_likelihoods", "responsibilities", "labels")
    assert same_bits(alone, together)


@pytest.mark.threads
@pytest.mark.parametrize("span", [1, 2, 4, 8])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_driver_adds_to_the_bits_of_the_serial_body(span, workers):
    _, form, rows = case("full", n=LONG)
    ranges, size, packed = -(-LONG // RANGE_ROWS), sums_size(form), pack(form, moments=True)
    scratch, levels = np.zeros((workers, scratch_size(form))), np.zeros((workers, 8, size))
    serial, partial = np.empty((1, size)), np.empty((-(-ranges // span), size))
    whole, taken = 1 << (ranges - 1).bit_length(), np.zeros(1, np.int64)
    given = array._as_kernel_rows(rows), np.empty(0), packed, form.means, ranges
    passes.statistics_share(0, *given, whole, scratch[:1], levels[:1], serial, np.zeros(1, np.int64))
    passes.statistics_parallel(passes.statistics_share, *given, span, scratch, levels, partial, taken)
    assert np.array_equal(reference.tree_sum(list(partial)), serial[0])
    # Every span once, and every worker one that was not there.
    assert taken[0] == (len(partial) + workers if workers > 1 else 0)


@numba.njit(error_model="numpy")
def sum_span(rows, weights, packed, centres, first, last, scratch, levels, size, out):
    own, waiting = rest(scratch, 0), rest(levels, 0)
    passes.statistics_span(rows, weights, packed, centres, first, last, own, waiting, size, rest(out, 0))


@pytest.mark.parametrize("ranges", range(1, 10) if COMPILED else (1, 3))
def test_ranges_are_added_in_the_tree(ranges):
    n = ranges * RANGE_ROWS - 5
    _, form, rows = case("full", k=1, n=n)
    kernel_rows, size = array._as_kernel_rows(rows), sums_size(form)
    packed, scratch, levels = pack(form, moments=True), np.zeros(scratch_size(form)), np.zeros(8 * size)

    def sums(first, last):
        out = np.empty(size)
        sum_span(kernel_rows, np.empty(0), packed, form.means, first, last, scratch, levels, size, out)
        return out

    parts = [sums(index, index + 1) for index in range(ranges)]
    assert np.array_equal(sums(0, ranges), reference.tree_sum(parts))


@pytest.mark.parametrize("count", range(1, 34))
def test_a_tree_sum_is_the_tree(count):
    vectors = list(np.random.default_rng(count).normal(size=(count, 3)))
    tree = TreeSum()
    for vector in vectors:
        tree.push(vector)
    assert np.array_equal(tree.total(), reference.tree_sum(vectors))
    assert np.array_equal(tree.total(), tree.total())


@pytest.mark.parametrize("count", [1, 2, 7, 32, 33])
@pytest.mark.parametrize("before", [0, 1, 2, 6, 8, 12])
@pytest.mark.parametrize("leaves", [1, 4])
def test_sums_pushed_together_are_those_pushed_one_by_one(count, before, leaves):
    vectors = np.random.default_rng(count).normal(size=(before + count, 3))
    one_by_one, together = TreeSum(), TreeSum()
    for vector in vectors:
        one_by_one.push(vector, leaves)
    for vector in vectors[:before]:
        together.push(vector, leaves)
    last = copy.deepcopy(together)
    last.push_all(vectors[before:].copy(), leaves, last=True)
    assert np.array_equal(last.total(), one_by_one.total())
    together.push_all(vectors[before:], leaves)
    assert together.leaves == one_by_one.leaves
    for own, other in zip(together._waiting, one_by_one._waiting, strict=True):
        assert (own is None) == (other is None) and (own is None or np.array_equal(own, other))


def test_nothing_has_no_sum():
    with pytest.raises(ValueError, match="Nothing was pushed"):
        TreeSum().total()


def test_working_memory_is_kept_and_does_not_leak_from_pass_to_pass():
    _, form, rows = case("full", n=600)
    source = ArrayRows(rows)
    once = copy.deepcopy(source.reduce(form))
    source.reduce(case("full", seed=1)[1])
    assert same_bits(source.reduce(form), once)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_sums_of_ranges_that_come_in_any_parts_have_the_bits_of_one_pass(size, monkeypatch):
    _, form, rows = case("diag", 2, "expanded", n=LONG)
    row_weights = np.random.default_rng(0).uniform(size=LONG)
    monkeypatch.setattr(array, "_SPANS_PER_WORKER", size)
    whole, random = ArrayRows(rows, row_weights), np.random.default_rng(size)
    expected = whole._sums(form, form.means).copy()
    for _ in range(20):
        tree, start = TreeSum(), 0
        while start < LONG:
            stop = min(LONG, start + RANGE_ROWS * int(random.integers(1, 5)))
            block = array.Readable(start, rows[start:stop], row_weights[start:stop], stop == LONG)
            whole._add_sums(block, form, form.means, tree)
            start = stop
        assert np.array_equal(tree.total(), expected)
