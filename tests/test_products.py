"""The products on a tile against NumPy, compiled and not, and that nothing is written beside what is theirs."""

import numpy as np
import pytest
from reference import as_tile, exact, from_tile

from fastgmm.kernels import products
from fastgmm.kernels._jit import TILE_ROWS, TILE_STRIDE

HEIGHTS = range(1, 10)
COUNTS = range(1, 21)
GUARD = -7.25
MOST = products._MOST_COLUMNS
both_precisions = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def drawn(*shape, dtype, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype(dtype)


def guarded_tile(m, dtype):
    """Room for m features and one more, all guards."""
    return np.full((m + 1) * TILE_STRIDE, GUARD, dtype)


def only_features_written(tile, m):
    parts = tile.reshape(-1, TILE_STRIDE)
    return (parts[:, TILE_ROWS:] == GUARD).all() and (parts[m:] == GUARD).all()


def within_rounding(found, expected, sizes, dtype, factor):
    return (np.abs(found - expected) <= factor * np.finfo(dtype).eps * sizes).all()


def packed_rows(matrix):
    out = np.full(matrix.size + 1, GUARD, matrix.dtype)
    products.pack_rows(matrix, out)
    assert out[-1] == GUARD
    return out[:-1]


def multiply(matrix, initial, x):
    """initial + A x by the kernel, rows (b, k)."""
    k, count = matrix.shape
    out = guarded_tile(k, x.dtype)
    products.multiply(packed_rows(matrix), initial, as_tile(x, x.dtype), k, count, out, (0, 0))
    assert only_features_written(out, k)
    return from_tile(out, k)


def multiply_quadratic(linear, quadratic, initial, x):
    """initial + A x + B x² by the kernel, rows (b, k)."""
    k, count = linear.shape
    out = guarded_tile(k, x.dtype)
    packed = packed_rows(np.hstack([linear, quadratic]))
    products.multiply_quadratic(packed, initial, as_tile(x, x.dtype), k, count, out, (0, 0))
    assert only_features_written(out, k)
    return from_tile(out, k)


def add_products(a, b, initial, stride):
    """initial + a bᵀ by the kernel, (rows, columns), into the corner of a wider matrix."""
    rows, columns = initial.shape
    out = np.full((rows + 1, stride), GUARD)
    out[:rows, :columns] = initial
    products.add_products(as_tile(a, a.dtype), rows, as_tile(b, b.dtype), columns, out.ravel(), stride)
    assert (out[rows:] == GUARD).all() and (out[:, columns:] == GUARD).all()
    return out[:rows, :columns]


@both_precisions
@pytest.mark.parametrize("k", HEIGHTS)
def test_coefficients_times_features(k, dtype):
    for count in COUNTS:
        matrix, initial = drawn(k, count, dtype=dtype), drawn(k, dtype=dtype)
        x = drawn(TILE_ROWS, count, dtype=dtype)
        expected = exact(initial) + exact(x) @ exact(matrix).T
        sizes = np.abs(initial) + np.abs(x) @ np.abs(matrix).T
        assert within_rounding(multiply(matrix, initial, x), expected, sizes, dtype, count / 2 + 1)


@both_precisions
@pytest.mark.parametrize("k", HEIGHTS)
def test_coefficients_times_features_and_their_squares(k, dtype):
    for count in COUNTS:
        linear, quadratic = drawn(k, count, dtype=dtype), drawn(k, count, dtype=dtype, seed=1)
        initial, x = drawn(k, dtype=dtype), drawn(TILE_ROWS, count, dtype=dtype)
        expected = exact(initial) + exact(x) @ exact(linear).T + exact(x) ** 2 @ exact(quadratic).T
        sizes = np.abs(initial) + np.abs(x) @ np.abs(linear).T + x**2 @ np.abs(quadratic).T
        found = multiply_quadratic(linear, quadratic, initial, x)
        assert within_rounding(found, expected, sizes, dtype, count / 2 + 1)


@both_precisions
@pytest.mark.parametrize("rows", HEIGHTS)
def test_sums_of_products_over_a_tile(rows, dtype):
    for columns in HEIGHTS:
        a, b = drawn(TILE_ROWS, rows, dtype=dtype), drawn(TILE_ROWS, columns, dtype=dtype, seed=1)
        initial = drawn(rows, columns, dtype=np.float64)
        expected = initial + exact(a).T @ exact(b)
        sizes = np.abs(initial) + np.abs(a).T @ np.abs(b)
        for stride in (columns, columns + 3):
            assert within_rounding(add_products(a, b, initial, stride), expected, sizes, dtype, 16)


@both_precisions
def test_sums_leave_a_tile_as_float64(dtype):
    # What was there has more digits than a float32 has, and loses none.
    a = np.ones((TILE_ROWS, 1), dtype)
    assert add_products(a, a, np.array([[2.0**40 + 2.0**-12]]), 1) == 2.0**40 + TILE_ROWS + 2.0**-12


def blocks(size):
    """The rows that each block of a packed matrix holds."""
    at = 0
    while at < size:
        height = products.next_height(size - at)
        yield slice(at, at + height)
        at += height


@pytest.mark.parametrize("size", range(1, 31))
def test_blocks_hold_every_row_once_and_none_alone(size):
    parts = list(blocks(size))
    assert [r for part in parts for r in range(size)[part]] == list(range(size))
    heights = {part.stop - part.start for part in parts}
    assert heights <= {2, 3} or size == 1


@pytest.mark.parametrize("k", HEIGHTS)
def test_packed_rows_unpack(k):
    for count in COUNTS:
        matrix = drawn(k, count, dtype=np.float64)
        packed, at = packed_rows(matrix), 0
        for part in blocks(k):
            height = part.stop - part.start
            end = at + height * count
            assert np.array_equal(packed[at:end].reshape(count, height).T, matrix[part])
            at = end
        assert at == packed.size


@both_precisions
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 7, 11])
def test_packing_and_multiplying_by_one_gives_the_matrix_back(d, dtype):
    matrix = drawn(d, d, dtype=dtype)
    ones = np.zeros((TILE_ROWS, d), dtype)
    ones[:d] = np.eye(d)
    assert np.array_equal(multiply(matrix, np.zeros(d, dtype), ones)[:d], matrix.T)


PRODUCTS = {
    "multiply": ("_multiply_", products._make_multiply_strip, [(1,), (2,), (3,)]),
    "multiply_quadratic": ("_quadratic_", products._make_quadratic_strip, [(1,), (2,), (3,)]),
    "add_products": ("_add_", products.make_add_block, [(r, c) for r in (1, 2, 3, 4) for c in (1, 2, MOST)]),
}


def interpret(name, monkeypatch):
    """Let products.<name> run the Python function of every micro-kernel, as it does when nothing is compiled."""
    prefix, make, sizes = PRODUCTS[name]
    monkeypatch.setattr(products, "COMPILED", False)
    monkeypatch.setattr(products, "rest", lambda values, first: values[first:])
    monkeypatch.setattr(products, "itemsize_of", lambda values: values.itemsize)
    for size in sizes:
        suffix = "x".join("most" if place and count == MOST else str(count) for place, count in enumerate(size))
        monkeypatch.setattr(products, prefix + suffix, make(*size))
    for function in (name, "_add_block", "_begin_block", "next_height", "_next_rows", "_next_columns"):
        monkeypatch.setattr(products, function, getattr(products, function).py_func)


@pytest.mark.compiled
@both_precisions
@pytest.mark.parametrize("name", PRODUCTS)
def test_instructions_do_what_the_python_beside_them_does(name, dtype, monkeypatch):
    # Whole numbers have exact products and sums in whatever order, so that equal means equal.
    random = np.random.default_rng(0)

    def whole(*shape):
        return random.integers(-4, 5, size=shape).astype(dtype)

    cases = {
        "multiply": [(multiply, whole(k, 7), whole(k), whole(TILE_ROWS, 7)) for k in HEIGHTS],
        "multiply_quadratic": [
            (multiply_quadratic, whole(k, 7), whole(k, 7), whole(k), whole(TILE_ROWS, 7)) for k in HEIGHTS
        ],
        "add_products": [
            (add_products, whole(TILE_ROWS, r), whole(TILE_ROWS, c), whole(r, c).astype(float), c + 1)
            for r in HEIGHTS
            for c in HEIGHTS
        ],
    }[name]
    compiled = [function(*arguments) for function, *arguments in cases]
    interpret(name, monkeypatch)
    for (function, *arguments), found in zip(cases, compiled, strict=True):
        assert np.array_equal(function(*arguments), found)
