"""The house: what every structure offers, what an import brings along, and what the front door shows."""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reference import DISTINCT

import fastgmm
from fastgmm import covariance
from fastgmm.covariance import ALIASES, STRUCTURES
from fastgmm.em.initialise import STARTS

PACKAGE = Path(fastgmm.__file__).parent

VERBS = {
    "maximise": ("statistics", "prior"),
    "prior_rows": ("degrees_of_freedom", "shrunk", "k", "d"),
    "log_determinant": ("factors", "d"),
    "form": ("parameters", "single"),
    "centred_form": ("parameters",),
    "masked_form": ("parameters",),
    "second_moments": ("deviations", "responsibilities"),
    "scatter": ("shifts", "weights"),
    "stack": ("second",),
    "covariances_shape": ("k", "d"),
    "describe": ("component",),
    "common": ("covariances",),
    "n_covariance_parameters": ("k", "d"),
    "least_rows": ("d",),
    "factorise": ("covariances",),
    "factors_from_precisions": ("precisions",),
    "precisions": ("factors",),
    "covariances_from_factors": ("factors",),
    "transpose_factors": ("factors",),
    "extremes": ("covariances",),
    "ridge_share": ("factors", "ridge"),
    "to_vector": ("parameters", "origin"),
    "from_vector": ("vector", "origin"),
    "dense": ("values", "k", "d"),
    "from_dense": ("matrices",),
}

every_structure = pytest.mark.parametrize("name", DISTINCT)


def run_python(program):
    environment_path = str(PACKAGE.parent)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {environment_path!r})\n{program}"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_every_file_of_covariance_is_in_the_table():
    files = {path.stem for path in (PACKAGE / "covariance").glob("*.py")} - {"__init__", "update", "prior"}
    assert files == {name.lower() for name in DISTINCT}
    for name in DISTINCT:
        assert STRUCTURES[name].__name__ == f"fastgmm.covariance.{name.lower()}"
    assert all(STRUCTURES[alias] is STRUCTURES[name] for alias, name in ALIASES.items())


def test_scikit_learns_structures_come_first_and_in_its_order():
    assert list(STRUCTURES)[:4] == ["full", "tied", "diag", "spherical"]


@every_structure
def test_structures_offer_the_same_names(name):
    module = STRUCTURES[name]
    own = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and inspect.isfunction(value) and value.__module__ == module.__name__
    }
    # What mclust's structures do not say themselves they have from the one whose covariances have their shape.
    verbs = own - {"factorise_all", "factor_coordinates", "factors_at"}
    assert verbs == set(VERBS) if name == module.SHAPE else verbs < set(VERBS)
    for verb, parameters in VERBS.items():
        assert tuple(inspect.signature(getattr(module, verb)).parameters)[: len(parameters)] == parameters
        assert inspect.getdoc(getattr(module, verb))
    assert {type(getattr(module, flag)) for flag in ("MATRICES", "SHARED", "REPEATED")} == {bool}
    assert STRUCTURES[module.SHAPE].SHAPE == module.SHAPE
    assert inspect.getdoc(module).startswith(f"{name if name.isupper() else name.capitalize()}: ")


@every_structure
def test_conversions_of_a_structure_agree(name):
    """Covariances -> factors -> covariances and precisions, in the shapes it declares."""
    module, k, d = STRUCTURES[name], 3, 4
    shape = module.covariances_shape(k, d)
    random = np.random.default_rng(0)
    values = random.uniform(1.0, 2.0, size=shape)
    covariances = values @ values.swapaxes(-1, -2) + np.eye(d) if module.MATRICES else values
    factors, failed = module.factorise(covariances)
    assert failed == -1 and factors.shape == shape
    np.testing.assert_allclose(module.covariances_from_factors(factors), covariances, rtol=1e-12)
    np.testing.assert_allclose(module.factors_from_precisions(module.precisions(factors)), factors, atol=1e-12)
    np.testing.assert_array_equal(module.transpose_factors(module.transpose_factors(factors)), factors)
    dense, precision = module.dense(covariances, k, d), module.dense(module.precisions(factors), k, d)
    assert dense.shape == (k, d, d)
    np.testing.assert_array_equal(module.from_dense(dense), covariances)
    np.testing.assert_allclose(dense @ precision, np.stack([np.eye(d)] * k), atol=1e-10)
    lower = module.dense(factors, k, d)
    np.testing.assert_array_equal(lower, np.tril(lower))


@every_structure
def test_factorise_names_the_first_bad_component(name):
    module = STRUCTURES[name]
    unit = np.eye(2) if module.MATRICES else 1.0
    covariances = np.broadcast_to(unit, module.covariances_shape(3, 2)).copy()
    last = covariances if module.SHARED else covariances[1:]
    last -= 3.0 * unit
    with np.errstate(all="ignore"):
        _, failed = module.factorise(covariances)
    assert failed == (0 if module.SHARED else 1)
    assert ("tied" if module.SHARED else "component 1") in module.describe(failed)


def test_estimator_takes_what_the_tables_hold():
    constraints = fastgmm.GaussianMixture._parameter_constraints
    assert constraints["covariance_type"][0].options == set(STRUCTURES)
    assert constraints["init_params"][0].options == set(STARTS)


def test_import_brings_no_optional_library():
    """Beyond what the libraries we need bring by themselves: scikit-learn imports pandas where it finds it."""
    optional = {"matplotlib", "mpl_toolkits", "pandas", "polars", "pyarrow", "tqdm", "pytest", "mpmath"}
    optional |= {"arviz", "arviz_base", "arviz_stats", "xarray", "dask", "distributed"}
    program = """
import numba, scipy.stats, sklearn.base, sklearn.utils.validation
before = set(sys.modules)
import fastgmm
print(*{name.split(".")[0] for name in set(sys.modules) - before})
"""
    loaded = run_python(program)
    assert "fastgmm" in loaded and not optional & set(loaded)


@pytest.mark.compiled
def test_import_compiles_nothing(tmp_path):
    program = f"""
import os
os.environ["NUMBA_CACHE_DIR"] = {str(tmp_path)!r}
import numba.core.compiler, numba.core.registry
compiled = []
original = numba.core.compiler.compile_extra
def record(*arguments, **options):
    compiled.append(arguments)
    return original(*arguments, **options)
numba.core.compiler.compile_extra = record
import fastgmm
print(len(compiled))
"""
    assert run_python(program) == ["0"]
    assert not list(tmp_path.rglob("*.nbc"))


def test_public_names():
    assert sorted(fastgmm.__all__) == fastgmm.__all__
    for name in fastgmm.__all__:
        assert inspect.getdoc(getattr(fastgmm, name))
    assert fastgmm.__version__.count(".") == 2
    nouns = ["ALIASES", "STRUCTURES", "Hyperparameters", "Parameters", "Prior", "Update"]
    assert covariance.__all__ == [*nouns, "count_parameters", "flat"]


def test_numba_is_decorated_in_one_place():
    """Only `kernels/_jit.py` calls the compiler, so that caching, flags and threads are decided once.

    The tour and the warm-up play the user, who compiles a density.
    """
    elsewhere = [path for path in PACKAGE.rglob("*.py") if path.name not in ("_jit.py", "tour.py", "warmup.py")]
    calls = ("@numba.njit", "@njit", "@jit", "numba.jit(", "@numba.jit", "@vectorize", "numba.cfunc(", "@cfunc")
    found = [
        (path.name, line)
        for path in elsewhere
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith(calls)
    ]
    assert found == []
