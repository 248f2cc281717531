"""What comes next is fetched while a tile is worked on."""

from itertools import pairwise

import numba
import numpy as np
import pytest
import reference

from fastgmm.kernels import fetching, forms, softmax
from fastgmm.kernels._jit import COMPILED, TILE_ROWS, TILE_STRIDE
from fastgmm.kernels._threads import threads
from fastgmm.kernels.fetching import fetch, place_of
from fastgmm.sources import ArrayRows

every_route = pytest.mark.parametrize(("structure", "d", "kind"), [r for r in reference.ROUTES if r[2] != "masked"])
ROWS = np.random.default_rng(0).normal(size=(600, 6))


def kernel_rows(rows):
    return rows[:, :, None]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_place_is_where_the_next_rows_lie(dtype):
    rows = kernel_rows(ROWS.astype(dtype))
    row = 6 * rows.itemsize
    begin = rows.ctypes.data
    assert place_of(rows, 256) == (begin + 256 * row, TILE_ROWS * row)
    assert place_of(rows, 512) == (begin + 512 * row, 88 * row)


def test_no_bytes_are_where_there_are_no_rows_or_they_lie_apart():
    begin = ROWS.ctypes.data
    assert place_of(kernel_rows(ROWS), 600) == (begin, 0)
    for apart in (ROWS[::2], ROWS[:, ::2], ROWS[:, :4], np.asfortranarray(ROWS), ROWS[::-1]):
        assert place_of(kernel_rows(apart), 0)[1] == 0


@pytest.mark.skipif(COMPILED, reason="compiled, nobody sees what is fetched")
@every_route
def test_labels_fetch_all_rows_but_the_first_tile_once(structure, d, kind, monkeypatch):
    fetched = []
    monkeypatch.setattr(fetching, "_fetch_lines", lambda address, size: fetched.append((address, size)))
    parameters = reference.random_parameters(structure, 5, d, np.random.default_rng(0))
    rows = reference.random_rows(parameters, structure, 600, np.random.default_rng(1))
    form = reference.form_of(structure, kind, parameters)
    with threads(1):
        source = ArrayRows(rows)
        source.map(form, "labels")
        parts = sorted(part for part in fetched if part[1])
        fetched.clear()
        source.map(form, "log_likelihoods")
        source.reduce(form)
    assert parts[0][0] == rows.ctypes.data + TILE_ROWS * d * 8
    assert all(one[0] + one[1] == other[0] for one, other in pairwise(parts))
    assert sum(parts[-1]) == rows.ctypes.data + rows.nbytes
    assert not any(size for _, size in fetched), "exponentials have time for that"


def assert_fetches(kernel, *arguments):
    anew = numba.njit(kernel.py_func)  # of what comes from the disk there is no assembly to look at
    anew(*arguments)
    assert all("prefetch" in code or "prfm" in code for code in anew.inspect_asm().values())


@pytest.mark.compiled
@pytest.mark.parametrize("k", [2, 3])
def test_exponentials_fetch(k):
    assert_fetches(softmax.exponentiate, np.zeros(k * TILE_STRIDE), k, *np.empty((3, TILE_ROWS)), (0, 0))


@pytest.mark.compiled
@every_route
def test_forms_fetch(structure, d, kind):
    form = reference.form_of(structure, kind, reference.random_parameters(structure, 3, d, np.random.default_rng(0)))
    tile = np.zeros((form.working_features + form.means.shape[1]) * TILE_STRIDE)
    body = forms.log_densities.bodies[type(form)]
    assert_fetches(body, form, tile, np.zeros(3 * TILE_STRIDE), (0, 0))


def test_parts_make_a_whole(monkeypatch):
    fetched = []
    monkeypatch.setattr(fetching, "_fetch_lines", lambda address, size: fetched.append((address, size)))
    plain = getattr(fetch, "py_func", fetch)
    for first, last in ((0, 3), (3, 5), (5, 7)):
        plain((1000, 1001), first, last, 7)
    assert fetched == [(1000, 429), (1429, 286), (1715, 286)]
