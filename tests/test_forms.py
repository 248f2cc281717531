"""Every form's log-densities and moments on one tile, against the twin in the widest float."""

import numpy as np
import pytest
import reference
from reference import EPS

from fastgmm.covariance import STRUCTURES
from fastgmm.kernels import forms
from fastgmm.kernels._jit import COMPILED, TILE_ROWS

if COMPILED:
    # Kernels are compiled per padded size, so all dimensions cost little more than one of each size.
    SHAPES = [(1 + d % 5, d) for d in range(1, 41)] + [(20, 2), (13, 8), (7, 5), (20, 14)]
else:
    SHAPES = [(2, d) for d in (1, 2, 3, 4, 5, 8, 12)] + [(1, 14), (1, 18)]
CASES = [(structure, k, d) for structure in STRUCTURES for k, d in SHAPES]


class Tile:
    """A form with a tile of rows, as a pass would hold them."""

    def __init__(self, structure, k, d, rows=None):
        random = np.random.default_rng(100 * d + k)
        self.structure = structure
        self.parameters = reference.random_parameters(structure, k, d, random)
        drawn = reference.random_rows(self.parameters, structure, TILE_ROWS, random)
        self.rows = drawn if rows is None else rows
        self.form = STRUCTURES[structure].form(self.parameters)
        self.size = self.form.means.shape[1]
        self.tile = forms.pad(self.rows, self.size).T.ravel()
        self.work = np.full(forms.work_size(len(self.form.means), self.size), np.nan)
        # Rows beyond the last component, up to a multiple of four, are the form's to use.
        self.values = np.full(-(-k // 4) * 4 * TILE_ROWS, np.nan)

    @property
    def reference_point(self):
        """What the form subtracts before anything else: the means, or for a shared factor one point."""
        return getattr(self.form, "reference", np.zeros(self.size))[: self.rows.shape[1]]

    def log_densities(self):
        forms.log_densities(self.form, self.tile, self.work, self.values)
        k = len(self.parameters.weights)
        return self.values.reshape(-1, TILE_ROWS)[:k].T

    def moments(self, terms, weights, centres):
        """Weight, first and second moments with responsibilities terms / their sum, times the rows' weights."""
        k, d = self.parameters.means.shape
        self.values[: k * TILE_ROWS] = terms.T.ravel()
        sums = np.zeros(forms.sums_size(self.form))
        about = forms.pad(centres, self.size)
        total = terms.sum(axis=1)
        forms.accumulate(self.form, self.tile, self.work, self.values, total, weights.copy(), about, sums)
        assert not sums[: forms.HEAD].any()
        _, weight, first, second, _, _ = forms.moments(self.form, sums, about, d)
        return reference.counted((weight, first, second), self.structure)


@pytest.mark.parametrize(("structure", "k", "d"), CASES)
def test_log_densities(structure, k, d):
    case = Tile(structure, k, d)
    weights, means, _, factors = map(reference.exact, case.parameters)
    factors = reference.dense(factors, structure, k, d)
    expected = reference.log_densities(reference.exact(case.rows), weights, means, factors)
    # Rounding is measured in the terms that are added: |constant| + (Σ_l |F_jl| |x_l - μ_l|)² / 2 over j.
    spread = np.abs(reference.deviations(case.rows, case.parameters.means))
    if structure == "tied":
        away = np.abs(case.rows - case.reference_point)[:, None] + np.abs(means - case.reference_point)
        spread = np.maximum(spread, away)
    terms = np.einsum("cjl,icl->icj", np.abs(factors), spread)
    size = np.abs(case.form.log_constants) + (terms**2).sum(axis=2) / 2
    assert (np.abs(case.log_densities() - expected) <= 8 * EPS * size).all()


def weight_patterns(random):
    return {
        "ones": np.ones(TILE_ROWS),
        "real": random.uniform(0, 3, TILE_ROWS),
        "with zeros": random.uniform(size=TILE_ROWS) * (random.uniform(size=TILE_ROWS) < 0.5),
        "integers": random.integers(0, 4, TILE_ROWS).astype(float),
        "one row": np.eye(TILE_ROWS)[17],
    }


@pytest.mark.parametrize(("structure", "k", "d"), CASES)
def test_moments(structure, k, d):
    case = Tile(structure, k, d)
    random = np.random.default_rng(d)
    centres = case.parameters.means + random.normal(size=(k, d))
    terms = random.exponential(size=(TILE_ROWS, k)) ** 4
    patterns = weight_patterns(random)
    name = list(patterns)[(k + d) % len(patterns)]
    weights = patterns[name]
    shares = weights[:, None] * (reference.exact(terms) / reference.exact(terms).sum(axis=1, keepdims=True))
    away = reference.deviations(reference.exact(case.rows), reference.exact(centres))
    expected = reference.counted(reference.moments(shares, away, structure), structure)
    extent = np.abs(away)
    if structure == "tied":
        # The scatter is about each row's own mixture of centres, taken from the reference point.
        extent = np.abs(case.rows - case.reference_point)[:, None] + np.abs(centres - case.reference_point)
    sizes = reference.counted(reference.moments(shares, extent, structure), structure)
    for found, right, size in zip(case.moments(terms, weights, centres), expected, sizes, strict=True):
        assert found.shape == right.shape
        assert (np.abs(found - right) <= (k + 16) * EPS * size).all(), name


@pytest.mark.parametrize("structure", STRUCTURES)
def test_rows_of_no_weight_add_nothing(structure):
    case = Tile(structure, 2, 3)
    parts = case.moments(np.ones((TILE_ROWS, 2)), np.zeros(TILE_ROWS), case.parameters.means)
    assert not any(part.any() for part in parts)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_component_without_weight_has_no_density(structure):
    random = np.random.default_rng(0)
    parameters = reference.random_parameters(structure, 2, 3, random)._replace(weights=np.array([1.0, 0.0]))
    case = Tile(structure, 2, 3)
    case.form = STRUCTURES[structure].form(parameters)
    densities = case.log_densities()
    assert np.isfinite(densities[:, 0]).all() and (densities[:, 1] == -np.inf).all()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_wide_offset_costs_only_the_rounding_of_the_rows(structure):
    # Rows and means are multiples of 2**-20, so that adding 2**30 is exact in every feature.
    case = Tile(structure, 2, 3)
    grid = 2.0**20
    rows, means = np.rint(case.rows * grid) / grid, np.rint(case.parameters.means * grid) / grid
    near, far = Tile(structure, 2, 3, rows), Tile(structure, 2, 3, rows + 2.0**30)
    near.form = STRUCTURES[structure].form(case.parameters._replace(means=means))
    far.form = STRUCTURES[structure].form(case.parameters._replace(means=means + 2.0**30))
    # A shared factor's reference is a weighted mean, rounded at the offset: 2**-22 of it may be lost, squared lengths.
    tolerance = 1e-5 if structure == "tied" else 0.0
    assert np.allclose(far.log_densities(), near.log_densities(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("d", range(1, 41))
def test_few_sizes_are_compiled(d):
    parameters = reference.random_parameters("full", 1, d, np.random.default_rng(0))
    form = STRUCTURES["full"].form(parameters)
    if d <= forms.SMALL_SIZES[-1]:
        assert isinstance(form, forms.SmallTriangular)
        assert form.size.ndim == min(size for size in forms.SMALL_SIZES if size >= d)
    else:
        assert isinstance(form, forms.BlockedTriangular)
        assert form.means.shape[1] == -(-d // 4) * 4
