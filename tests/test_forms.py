"""Every form's log-densities and moments on one tile, against the twin in the widest float."""

from typing import NamedTuple

import numpy as np
import pytest
import reference
from reference import FAMILIAR, as_tile, from_tile

from fastgmm.covariance import STRUCTURES, Parameters
from fastgmm.kernels import centred, expanded, forms, triangular
from fastgmm.kernels._jit import COMPILED, TILE_ROWS, TILE_STRIDE


class Route(NamedTuple):
    """A way to a form: the structure, the kind of its form, and the type of the tile."""

    structure: str
    kind: str
    dtype: type


CENTRED = [Route(structure, "centred", np.float64) for structure in FAMILIAR]
EXPANDED = [Route(structure, "expanded", dtype) for structure in FAMILIAR for dtype in (np.float64, np.float32)]
# Some components centred, the others expanded.
MIXED = [Route("full", "mixed", np.float64)]
# For rows that lack entries; here they do not.
MASKED = [Route(structure, "masked", np.float64) for structure in FAMILIAR]
ROUTES = CENTRED + EXPANDED + MIXED + MASKED
CLASSES = {
    ("tied", "centred"): centred.SharedTriangular,
    ("diag", "centred"): centred.Diagonal,
    ("spherical", "centred"): centred.Isotropic,
    ("tied", "expanded"): expanded.ExpandedTied,
    ("diag", "expanded"): expanded.ExpandedDiagonal,
    ("spherical", "expanded"): expanded.ExpandedIsotropic,
}

if COMPILED:
    SHAPES = [(1 + 3 * d % 10, d) for d in range(1, 41)] + [(k, 6) for k in range(1, 11)] + [(20, 2), (13, 8), (20, 14)]
else:
    SHAPES = [(3, 1), (2, 2), (1, 3), (2, 4), (4, 5), (1, 8), (2, 13), (1, 18)]


def has_form(route, d):
    if route.structure != "full" or route.kind in ("centred", "masked"):
        return True
    return d > triangular.SMALL_SIZES[-1]


CASES = [(route, k, d) for route in ROUTES for k, d in SHAPES if has_form(route, d)]
every_case = pytest.mark.parametrize(
    ("route", "k", "d"), CASES, ids=lambda v: "-".join([*v[:2], v.dtype.__name__]) if isinstance(v, Route) else str(v)
)
every_route = pytest.mark.parametrize("route", ROUTES, ids=lambda v: "-".join([*v[:2], v.dtype.__name__]))


@pytest.fixture(autouse=True)
def anything_may_be_expanded(monkeypatch):
    """Errors are measured in the terms that are added, so the chooser's limits do not matter here."""
    for dtype in forms.LARGEST_SPREAD:
        monkeypatch.setitem(forms.LARGEST_SPREAD, dtype, np.inf)
        monkeypatch.setitem(triangular.LARGEST_CENTRED_SPREAD, dtype, np.inf)
    monkeypatch.setattr(forms, "FARTHEST_MEAN", np.inf)


def make_form(route, parameters):
    structure = STRUCTURES[route.structure]
    if route.kind == "centred":
        return structure.centred_form(parameters)
    if route.kind == "masked":
        return structure.masked_form(parameters)
    with pytest.MonkeyPatch.context() as patch:
        if route.kind == "mixed":
            let_half_be_narrow(parameters, patch)
        form = structure.form(parameters, single=route.dtype == np.float32)
    assert type(form) is CLASSES.get((route.structure, route.kind), triangular.Triangular)
    assert form.means.dtype == route.dtype
    return form


def let_half_be_narrow(parameters, monkeypatch):
    """Those whose means are the farther from the reference."""
    away = parameters.means - parameters.weights @ parameters.means
    widths = (away**2 / np.einsum("cjj->cj", parameters.covariances)).max(axis=1)
    monkeypatch.setattr(forms, "FARTHEST_MEAN", np.median(widths))


class Tile:
    """A form with a tile of rows, as a pass would hold them."""

    def __init__(self, route, k, d, parameters=None, rows=None):
        random = np.random.default_rng(100 * d + k)
        self.route = route
        drawn = reference.random_parameters(route.structure, k, d, random)
        self.parameters = drawn if parameters is None else parameters
        self.rows = reference.random_rows(drawn, route.structure, TILE_ROWS, random) if rows is None else rows
        self.form = make_form(route, self.parameters)
        self.origin = self.form.reference[:d]
        kind = reference.kind_of(self.form)
        assert kind == route.kind or (route.kind, kind, k) == ("mixed", "expanded", 1)
        # Which components have moments about centres of their own.
        self.own = self.form.centred if kind == "mixed" else np.array([kind in ("centred", "masked")] * k)
        self.eps = float(np.finfo(route.dtype).eps)
        padded = forms.pad(self.rows - self.origin, self.form.means.shape[1])
        # One feature's room more than a pass gives: nothing may be written there.
        self.tile = np.full((self.form.working_features + 1) * TILE_STRIDE, np.nan, route.dtype)
        self.tile[: padded.shape[1] * TILE_STRIDE] = as_tile(padded, route.dtype)
        self.values = np.full((k + 1) * TILE_STRIDE, np.nan, route.dtype)

    def log_densities(self):
        k = len(self.parameters.weights)
        forms.log_densities(self.form, self.tile, self.values, (0, 0))
        assert np.isnan(self.tile[-TILE_STRIDE:]).all() and np.isnan(self.values[-TILE_STRIDE:]).all()
        return from_tile(self.values, k)

    def moments(self, terms, weights, centres):
        """Centres, weight, first and second moments, with responsibilities terms / their sum times the weights."""
        k, d = self.parameters.means.shape
        self.log_densities()
        self.values[: k * TILE_STRIDE] = as_tile(terms, self.route.dtype)
        sums = np.full(forms.sums_size(self.form) + 1, 0.0)
        about = forms.pad(centres - self.origin, self.form.means.shape[1]).astype(self.route.dtype)
        inverse = 1.0 / terms.sum(axis=1)
        forms.accumulate(self.form, self.tile, self.values, inverse, weights.copy(), about, sums)
        assert not sums[: forms.HEAD].any() and sums[-1] == 0.0
        assert np.isnan(self.tile[-TILE_STRIDE:]).all() and np.isnan(self.values[-TILE_STRIDE:]).all()
        found_about, *moments = self.form.cut(sums[:-1], about, d)
        return found_about, reference.counted(moments, self.route.structure)


def constant_terms(parameters, factors):
    """log w_c + log |F_c| - d/2 log 2π, each part's size."""
    with np.errstate(divide="ignore"):
        logs = np.log(parameters.weights)
    d = parameters.means.shape[1]
    return np.abs(logs) + np.abs(np.log(np.einsum("cjj->cj", factors))).sum(axis=1) + d


def sizes_of_terms(case, factors):
    """Σ of the absolute values that a form adds to a log-density, (b, k): what its rounding is measured in."""
    constants = constant_terms(case.parameters, factors)
    x = case.rows - case.origin
    means = case.parameters.means - case.origin
    # (Σ_l |F_jl| |x_l - μ_l|)² / 2 over j; where there is a reference, both are rounded about it before they meet.
    spread = np.abs(reference.deviations(case.rows, case.parameters.means))
    if case.route.structure == "tied" or case.route.kind in ("expanded", "mixed"):
        spread = np.abs(x)[:, None] + np.abs(means)
    if case.route.structure == "full" or case.route.kind in ("centred", "masked"):
        return constants + (np.einsum("cjl,icl->icj", np.abs(factors), spread) ** 2).sum(axis=2) / 2
    # Σ_p |A_cp| |φ_p| + |constant|
    precisions = factors.swapaxes(1, 2) @ factors
    linear = np.einsum("cjl,cl->cj", precisions, means)
    if case.route.structure == "tied":
        quadratic = ((np.abs(x) @ np.abs(factors[0]).T) ** 2).sum(axis=1)[:, None]
    else:
        quadratic = np.einsum("ij,cjl,il->ic", np.abs(x), np.abs(precisions), np.abs(x))
    return constants + np.abs(linear * means).sum(axis=1) / 2 + np.abs(x) @ np.abs(linear).T + quadratic / 2


@every_case
def test_log_densities(route, k, d):
    case = Tile(route, k, d)
    weights, means, _, factors = map(reference.exact, case.parameters)
    factors = reference.dense(factors, route.structure, k, d)
    expected = reference.log_densities(reference.exact(case.rows), weights, means, factors)
    size = sizes_of_terms(case, factors)
    assert (np.abs(case.log_densities() - expected) <= 8 * case.eps * size).all()


def weight_patterns(random):
    return {
        "ones": np.ones(TILE_ROWS),
        "real": random.uniform(0, 3, TILE_ROWS),
        "with zeros": random.uniform(size=TILE_ROWS) * (random.uniform(size=TILE_ROWS) < 0.5),
        "integers": random.integers(0, 4, TILE_ROWS).astype(float),
        "one row": np.eye(TILE_ROWS)[17],
    }


@every_case
def test_moments(route, k, d):
    case = Tile(route, k, d)
    random = np.random.default_rng(d)
    asked = case.parameters.means + random.normal(size=(k, d))
    terms = (random.exponential(size=(TILE_ROWS, k)) ** 4).astype(route.dtype)
    patterns = weight_patterns(random)
    name = list(patterns)[(k + d) % len(patterns)]
    weights = patterns[name].astype(route.dtype)
    centres, found = case.moments(terms, weights, asked)
    own = case.own
    assert np.array_equal(centres[~own], np.broadcast_to(case.origin, centres[~own].shape))
    assert np.allclose(centres[own], asked[own], rtol=0, atol=4 * case.eps * np.abs(asked).max())
    shares = weights[:, None] * (reference.exact(terms) / reference.exact(terms).sum(axis=1, keepdims=True))
    away = reference.deviations(reference.exact(case.rows), reference.exact(centres))
    expected = reference.counted(reference.moments(shares, away, route.structure), route.structure)
    extent = np.abs(away)
    if route.structure == "tied" or route.kind == "mixed":
        # Rows and centres are taken from the reference point; a tied scatter is about each row's mixture of centres.
        extent = np.abs(case.rows - case.origin)[:, None] + np.abs(centres - case.origin)
    elif route.kind == "masked":  # rows are taken from the means, and those from the centres
        means = case.parameters.means
        extent = np.abs(reference.deviations(case.rows, means)) + np.abs(centres - means)
    sizes = reference.counted(reference.moments(shares, extent, route.structure), route.structure)
    for part, right, size in zip(found, expected, sizes, strict=True):
        assert part.shape == right.shape and part.dtype == np.float64
        assert (np.abs(part - right) <= (k + 16) * case.eps * size).all(), name


@every_route
def test_rows_of_no_weight_add_nothing(route):
    case = Tile(route, 3, 5)
    terms = np.ones((TILE_ROWS, 3), route.dtype)
    _, parts = case.moments(terms, np.zeros(TILE_ROWS, route.dtype), case.parameters.means)
    assert not any(part.any() for part in parts)


@every_route
@pytest.mark.parametrize("d", [3, 5])
def test_a_component_without_weight_has_no_density(route, d):
    if not has_form(route, d):
        pytest.skip("no such form")
    random = np.random.default_rng(0)
    parameters = reference.random_parameters(route.structure, 3, d, random)
    case = Tile(route, 3, d, parameters._replace(weights=np.array([0.75, 0.0, 0.25])))
    densities = case.log_densities()
    assert np.isfinite(densities[:, [0, 2]]).all() and (densities[:, 1] == -np.inf).all()


@every_route
@pytest.mark.parametrize("d", [3, 5])
def test_a_wide_offset_costs_only_the_rounding_of_the_rows(route, d):
    if not has_form(route, d):
        pytest.skip("no such form")
    # Rows and means are multiples of 2**-20, so that adding 2**30 is exact in every feature.
    case = Tile(route, 3, d)
    grid = 2.0**20
    rows, means = np.rint(case.rows * grid) / grid, np.rint(case.parameters.means * grid) / grid
    parameters = case.parameters._replace(means=means)
    near = Tile(route, 3, d, parameters, rows)
    far = Tile(route, 3, d, parameters._replace(means=means + 2.0**30), rows + 2.0**30)
    factors = reference.dense(parameters.factors, route.structure, 3, d)
    # The reference itself is rounded at the offset, which moves the terms but not their sum.
    tolerance = 8 * near.eps * (sizes_of_terms(near, factors) + sizes_of_terms(far, factors))
    if route.kind == "masked" or (route.kind == "centred" and route.structure != "tied"):
        tolerance = 0.0
    assert (np.abs(far.log_densities() - near.log_densities()) <= tolerance).all()


@pytest.mark.parametrize("d", range(1, 41))
def test_few_sizes_are_compiled(d):
    parameters = reference.random_parameters("full", 1, d, np.random.default_rng(0))
    form = STRUCTURES["full"].centred_form(parameters)
    if d <= triangular.SMALL_SIZES[-1]:
        assert isinstance(form, triangular.SmallTriangular)
        assert form.size.ndim == d
    else:
        assert isinstance(form, triangular.Triangular)


@every_route
@pytest.mark.parametrize("d", [3, 6])
def test_arrays_of_a_form_are_contiguous_whatever_the_parameters_are(route, d):
    if not has_form(route, d):
        pytest.skip("there is no such form of so few features")
    parameters = reference.random_parameters(route.structure, 4, d, np.random.default_rng(0))
    form = make_form(route, Parameters(*map(np.asfortranarray, parameters)))
    assert all(part.flags.c_contiguous for part in form if isinstance(part, np.ndarray))


def test_every_form_is_exercised():
    exercised = {type(Tile(route, k, d).form) for route, k, d in CASES}
    assert exercised == set(forms.log_densities.bodies) == set(forms.accumulate.bodies)
