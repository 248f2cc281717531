"""What is compiled, when, and where it is kept."""

import contextlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import PACKAGE, machine_code, run, start

from fastgmm.kernels import _jit, _threads
from fastgmm.kernels._notice import CompilingNotice

pytestmark = pytest.mark.compiled

LOG_SUM = """
import numpy as np
from fastgmm.kernels import _jit, softmax

out = np.empty(_jit.TILE_ROWS)
softmax.log_sum(np.zeros_like(out), np.ones_like(out), np.ones_like(out), out)
result = float(out[0])
folder = str(_jit.CACHE_FOLDER) if _jit.CACHE_FOLDER else None
"""

FIT = """
import numpy as np
from fastgmm import GaussianMixture

X = np.random.default_rng(0).normal(size=(20_000, {features}))
GaussianMixture(2, random_state=0, tol=1e9).fit(X).predict(X)
"""

# Features of fits that follow one another, each in a new process, and the most kernels that each may have to compile:
# all that a first fit to so few rows needs, and nothing that would share them among threads; then none, as beyond four
# the number of features is no constant to the compiler.
MOST_COMPILED = {5: 38, 40: 0}

# What of a user's is compiled in the process of that first fit, after it.
OF_A_USER = """
import numba
from fastgmm.kernels import _jit
from fastgmm.mcmc.targets import make_target

compiled = len(list(_jit.CACHE_FOLDER.rglob("*.nbc")))
GaussianMixture(2, random_state=0).fit(X[:300, :2])

@numba.njit(error_model="numpy")
def density(X, out):
    for w in range(X.shape[1]):
        out[w] = -0.5 * np.sum(X[:, w] ** 2) - X[0, w] ** 2 - X[:, w].min()

result, folder = [compiled, make_target(density, (), True).compiled(2).separate], None
"""

LOG = """
from fastgmm.kernels import _jit, math

result = math.log(1.0, 1.0)
folder = str(_jit.CACHE_FOLDER) if _jit.CACHE_FOLDER else None
"""

FITS = """
import numpy as np
from fastgmm import GaussianMixture
from fastgmm.kernels import passes
from fastgmm.kernels.distances import add_moments, choose_seeds, lloyd

rows = np.random.default_rng(0).normal(size=(400, 2))
read_only = np.frombuffer(rows.tobytes()).reshape(rows.shape)
unaligned = np.frombuffer(b" " + rows.tobytes(), offset=1).reshape(rows.shape)
views = (rows, np.asfortranarray(rows), rows[::2], rows[::-1], read_only, unaligned)
for X in (*views, (9 * rows).astype(int), rows.astype(np.float16)):
    fitted = GaussianMixture(2, random_state=0, max_iter=3, tol=1.0).fit(X)
    fitted.predict(X), fitted.predict_proba(X), fitted.score_samples(X), fitted.fit_predict(X)
for structure in ("full", "tied", "diag", "spherical"):
    for X in (rows[:, :1], np.hstack([rows] * 3) + np.arange(400)[:, None] % 7):
        GaussianMixture(2, covariance_type=structure, random_state=0, max_iter=3, tol=1.0).fit(X).predict(X)
kernels = [passes.statistics_share, passes.rows_share]
kernels += [declared._kernel for declared in (choose_seeds, lloyd, add_moments)]
drivers = [passes.statistics_parallel, passes.rows_parallel]
result = {kernel.__name__: len(kernel.signatures) for kernel in kernels}
result |= {driver.__name__: len(driver._compiled) for driver in drivers}

many = np.tile(rows, (250, 1))  # shared among threads
GaussianMixture(2, max_iter=2, tol=1e9).fit(many).predict(many)
kernels += [compiled for driver in drivers for compiled in driver._compiled.values()]
folder = [kernel.__name__ for kernel in kernels if kernel.stats.cache_misses or not kernel.stats.cache_hits]
"""

BITS = """
import hashlib

import numpy as np
from fastgmm.covariance import STRUCTURES, Parameters
from fastgmm.sources import ArrayRows

result = {}
for structure in ("full", "tied", "diag", "spherical"):
    module = STRUCTURES[structure]
    for d in (3, 6):
        random = np.random.default_rng(d)
        rows, means = random.normal(size=(700, d)), random.normal(size=(3, d))
        covariances = module.from_dense(np.stack([np.eye(d)] * 3))
        parameters = Parameters(np.full(3, 1 / 3), means, covariances, module.factorise(covariances)[0])
        for kind, form in (("any", module.form(parameters)), ("centred", module.centred_form(parameters))):
            found = ArrayRows(rows, random.uniform(size=700)).reduce(form)
            written = ArrayRows(rows).map(form, "log_likelihoods", "responsibilities")
            arrays = (*found[1:4], np.float64(found.log_likelihood), *written[:2])
            result[f"{structure}, {d}, {kind}"] = [hashlib.sha1(a.tobytes()).hexdigest() for a in arrays]
folder = None
"""

TWO_FORMS = """
from typing import NamedTuple

import numpy as np

from fastgmm.kernels import _jit
from fastgmm.kernels._jit import chosen_by_class, kernel


class Square(NamedTuple):
    side: np.ndarray


class Circle(NamedTuple):
    radius: np.ndarray


@chosen_by_class
def area(form, out):
    ...


@area.body(Square)
@kernel
def _area_of_square(form, out):
    out[0] = form.side[0] ** 2


@area.body(Circle)
@kernel
def _area_of_circle(form, out):
    out[0] = 3.0 * form.radius[0] ** 2


@kernel
def measure(form, out):
    area(form, out)
"""


KNOWN = """
import gc

import numba
from numba.core.registry import cpu_target

from fastgmm.kernels import _jit

target = cpu_target.target_context
{how}
assert "refresh" not in vars(target) and gc.isenabled() and not gc.get_freeze_count()
target.refresh()  # what the last overload of all registers


def name(thing):
    if isinstance(thing, tuple):
        return [name(item) for item in thing]
    return f"{{thing.__module__}}.{{thing.__qualname__}}" if hasattr(thing, "__qualname__") else type(thing).__name__


def names(table):
    return [[name(key), [[str(kind), name(function)] for kind, function in table[key].versions]] for key in table]


typing = target.typing_context
result = [[[name(key), [name(type(each)) for each in found]] for key, found in table.items()]
          for table in (typing._functions, typing._attributes)]
result += [names(table) for table in (target._defns, target._getattrs, target._setattrs)]
result += [names({{0: table}}) for table in (target._casts, target._get_constants)]
folder = None
"""


def test_numba_is_set_up_as_it_would_be_by_itself(kernels_only, tmp_path):
    alone, _ = run(KNOWN.format(how="target.refresh()"), kernels_only, tmp_path, PYTHONHASHSEED="0")
    ours, _ = run(KNOWN.format(how="_jit.set_up_numba()"), kernels_only, tmp_path, PYTHONHASHSEED="0")
    assert len(alone[0]) > 300 and len(alone[2]) > 300
    assert ours == alone


def test_objects_that_were_frozen_stay_so(kernels_only, tmp_path):
    code = """
import gc

gc.freeze()
before = gc.get_freeze_count()
from fastgmm.kernels import _jit

_jit.set_up_numba()
result, folder = [before, gc.get_freeze_count()], None
"""
    (before, after), _ = run(code, kernels_only, tmp_path)
    assert before > 1_000 and after > 0.9 * before


def test_importing_compiles_nothing(tmp_path):
    code = """
import fastgmm
from numba.core.dispatcher import Dispatcher
import sys
modules = [module for name, module in sys.modules.items() if name.startswith("fastgmm")]
kernels = [value for module in modules for value in vars(module).values() if isinstance(value, Dispatcher)]
result = [len(kernels) > 10, sorted({kernel.__name__ for kernel in kernels if kernel.signatures})]
folder = None
"""
    result, _ = run(code, PACKAGE.parent, tmp_path)
    assert result == [True, []]
    assert not machine_code(tmp_path)


def test_an_upgrade_never_runs_old_kernels(kernels_only, tmp_path):
    old = run(LOG_SUM, kernels_only, tmp_path)
    assert run(LOG_SUM, kernels_only, tmp_path) == old
    # The callee changes, in another file than its cached caller.
    callee = kernels_only / "fastgmm" / "kernels" / "math.py"
    callee.write_text(callee.read_text().replace("return n * LN2_HIGH", "return 1.0 + n * LN2_HIGH"))
    new = run(LOG_SUM, kernels_only, tmp_path)
    assert (old[0], new[0]) == (0.0, 1.0)
    assert new[1] != old[1]
    # And back again: the old folder is still good.
    callee.write_text(callee.read_text().replace("return 1.0 + n", "return n"))
    before = machine_code(tmp_path)
    assert run(LOG_SUM, kernels_only, tmp_path) == old
    assert machine_code(tmp_path) == before


def test_the_line_about_compiling_is_written_apart_from_bars(monkeypatch, caplog):
    events = []

    @contextlib.contextmanager
    def external_write_mode():
        events.append(len(caplog.records))
        yield
        events.append(len(caplog.records))

    bars = SimpleNamespace(external_write_mode=external_write_mode)
    monkeypatch.setitem(sys.modules, "tqdm", SimpleNamespace(tqdm=bars))
    CompilingNotice(set(), None)._say()
    assert events == [0, 1]
    monkeypatch.delitem(sys.modules, "tqdm")
    CompilingNotice(set(), None)._say()
    assert len(caplog.records) == 2


def test_folders_that_nobody_used_for_a_month_are_dropped(kernels_only, tmp_path):
    cache = tmp_path / "cache"
    old, recent = cache / "fastgmm" / "old", cache / "fastgmm" / "recent"
    for folder in (old, recent):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    _, folder = run(LOG, kernels_only, cache)
    assert {path.name for path in (cache / "fastgmm").iterdir()} == {"recent", Path(folder).name}


def test_the_next_process_finds_every_kernel(tmp_path):
    # The cache of this test run, where most of these kernels already are.
    cache = os.environ.get("NUMBA_CACHE_DIR", tmp_path)
    first, _ = run(FITS, PACKAGE.parent, cache)
    before = machine_code(cache)
    second, not_found = run(FITS, PACKAGE.parent, cache)
    assert machine_code(cache) == before
    assert not not_found
    # One variant each, whatever the layout and type of X, its features and the covariances; nothing parallel for one
    # range of rows.
    assert first == second
    assert first == {
        "statistics_share": 1,
        "rows_share": 1,
        "choose_seeds": 1,
        "lloyd": 1,
        "add_moments": 1,
        "statistics_parallel": 0,
        "rows_parallel": 0,
    }


@pytest.mark.slow
def test_kernels_from_the_cache_give_the_bits_of_those_just_compiled():
    # Numba compiles a kernel by itself and again as a part of those that call it, and a process runs the first it has:
    # this one what it compiled, here or in the tests before, and the other what that left in the cache.
    here: dict = {}
    exec(BITS, here)
    found, _ = run(BITS, PACKAGE.parent, os.environ["NUMBA_CACHE_DIR"])
    assert found and found == here["result"]


@pytest.fixture(scope="module")
def first_fit(tmp_path_factory):
    """How many kernels the first fit of all compiled, whether a user's density was as written after it, the cache."""
    cache = tmp_path_factory.mktemp("first_fit")
    (compiled, separate), _ = run(FIT.format(features=min(MOST_COMPILED)) + OF_A_USER, PACKAGE.parent, cache)
    return SimpleNamespace(compiled=compiled, separate=separate, cache=cache)


def test_a_density_compiled_after_our_kernels_is_rounded_as_written(first_fit):
    assert first_fit.separate is True


@pytest.mark.slow
def test_few_kernels_are_compiled_for_a_fit(first_fit):
    first, *others = MOST_COMPILED
    assert 20 < first_fit.compiled <= MOST_COMPILED[first]
    before = len(machine_code(first_fit.cache))
    for features in others:
        start(FIT.format(features=features), PACKAGE.parent, first_fit.cache)
        compiled = len(machine_code(first_fit.cache)) - before
        assert compiled <= MOST_COMPILED[features], f"{compiled} kernels compiled for {features} features"


def test_a_kernel_that_kernels_call_is_called_from_python_as_well(kernels_only, tmp_path):
    code = """
import numpy as np
from fastgmm.kernels import softmax
from fastgmm.kernels.math import log
total, out = np.full(256, 3.0), np.empty(256)
softmax.log_sum(np.zeros(256), total, 1 / total, out)
result = [float(out[0]), float(log(3.0, 1 / 3.0)), len(log.signatures)]
folder = None
"""
    (inner, outer, signatures), _ = run(code, kernels_only, tmp_path)
    assert inner == outer == pytest.approx(1.0986122886681098, rel=1e-15)
    assert signatures == 1
    before = machine_code(tmp_path)
    assert {"math.log_callee", "math.log"} <= {path.name.rpartition("-")[0] for path in before}
    assert run(code, kernels_only, tmp_path) == [[inner, outer, signatures], None]
    assert machine_code(tmp_path) == before


def test_sharing_work_compiles_a_share_no_second_time(tmp_path):
    code = """
import numpy as np
from fastgmm import Mixture
from fastgmm.kernels import _jit, passes

_jit.WORTH_A_DRIVER = 0
mixture = Mixture([0.5, 0.5], [[0.0], [1.0]], [[[1.0]], [[1.0]]])
mixture.logpdf(np.zeros((300_000, 1)))
result = [len(passes.rows_parallel._compiled), len(passes.rows_share.signatures)]
folder = None
"""
    cache = os.environ.get("NUMBA_CACHE_DIR", tmp_path)
    serial = "import numba\nnumba.set_num_threads(1)"
    assert run(code, PACKAGE.parent, cache, preamble=serial)[0] == [0, 1]
    shares = {path for path in machine_code(cache) if path.name.startswith("passes.rows_share")}
    drivers, compiled = run(code, PACKAGE.parent, cache)[0]
    assert compiled == 1
    if drivers:  # more than one thread
        assert {path for path in machine_code(cache) if path.name.startswith("passes.rows_share")} == shares


def test_what_shares_passes_is_compiled_when_that_is_repaid(monkeypatch, tmp_path):
    def driver():
        return _jit.ParallelKernel(lambda share: None)

    monkeypatch.setattr(_jit, "WORTH_A_DRIVER", 100)
    monkeypatch.setattr(_jit, "CACHE_FOLDER", tmp_path)
    new = driver()
    assert [new.repays(work) for work in (60, 39, 1, 0)] == [False, False, True, True]
    compiled = driver()
    compiled._compiled[b"kinds"] = print
    assert compiled.repays(1)
    folder = tmp_path / "kernels_of_another_process"
    folder.mkdir()
    name = f"test_compile.{new._function.__qualname__}"
    (folder / f"{name}_too-1.py311.1.nbc").touch()
    assert not driver().repays(1)
    (folder / f"{name}-1.py311.1.nbc").touch()
    assert driver().repays(1)


@pytest.mark.parametrize("repaid", [False, True])
def test_shares_are_run_by_the_driver_or_one_after_the_other(repaid):
    ran = []

    class Driver:
        def repays(self, work):
            return repaid and work == 7

        def __call__(self, share, *arguments):
            ran.append(arguments)

    _threads.run_shares(Driver(), lambda worker, *arguments: ran.append((worker, *arguments)), ("a", "b"), 2, 7)
    assert ran == [("a", "b")] if repaid else ran == [(0, "a", "b"), (1, "a", "b")]
    ran.clear()
    _threads.run_shares(Driver(), lambda worker, *arguments: ran.append((worker, *arguments)), ("a",), 1, 7)
    assert ran == [(0, "a")]


def test_bodies_chosen_by_class_are_found_by_the_next_process(kernels_only, tmp_path):
    (kernels_only / "fastgmm" / "kernels" / "shapes.py").write_text(TWO_FORMS)
    code = """
import numpy as np
from fastgmm.kernels import _jit, shapes
result = []
for form in (shapes.Square(np.full(1, 2.0)), shapes.Circle(np.full(1, 2.0))):
    out = np.empty(1)
    shapes.measure(form, out)
    result.append(out[0])
    shapes.area(form, out)
    result.append(out[0])
folder = len(shapes.measure.signatures)
"""
    assert run(code, kernels_only, tmp_path) == [[4.0, 4.0, 12.0, 12.0], 2]
    before = machine_code(tmp_path)
    assert before
    assert run(code, kernels_only, tmp_path) == [[4.0, 4.0, 12.0, 12.0], 2]
    assert machine_code(tmp_path) == before


# A file where a folder should be refuses everyone, root as well.
NOWHERE = "/dev/null/nowhere"
NO_HOME = """
import pwd
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
"""


def blocked(package):
    """Make the package's own folder useless as a cache."""
    (package / "fastgmm" / "kernels" / "__pycache__").touch()
    return package


def test_an_unwritable_home_falls_back_to_the_package(kernels_only):
    result, folder = run(LOG, kernels_only, HOME=NOWHERE)
    assert result == 0.0
    assert Path(folder).is_relative_to(kernels_only)
    assert machine_code(folder)


def test_an_unwritable_numba_folder_falls_back_to_the_home(kernels_only, tmp_path):
    result, folder = run(LOG, kernels_only, NOWHERE, HOME=str(tmp_path / "home"))
    assert result == 0.0
    assert Path(folder).is_relative_to(tmp_path / "home")


@pytest.mark.skipif(sys.platform == "win32", reason="homes are found otherwise there")
def test_a_missing_home_falls_back_to_the_package(kernels_only):
    result, folder = run(LOG, kernels_only, preamble=NO_HOME, HOME=None)
    assert result == 0.0
    assert Path(folder).is_relative_to(kernels_only)


def test_an_unwritable_home_and_package_fall_back_to_the_temporary_folder(kernels_only, tmp_path):
    (tmp_path / "temporary").mkdir()
    result, folder = run(LOG, blocked(kernels_only), HOME=NOWHERE, TMPDIR=str(tmp_path / "temporary"))
    assert result == 0.0
    assert Path(folder).is_relative_to(tmp_path / "temporary")
    assert Path(folder).stat().st_mode & 0o077 == 0


def test_with_nowhere_to_write_kernels_still_run(kernels_only):
    nowhere = f"import tempfile; tempfile.gettempdir = lambda: {NOWHERE!r}"
    assert run(LOG, blocked(kernels_only), preamble=nowhere, HOME=NOWHERE) == [0.0, None]


def test_nor_need_there_be_a_temporary_folder(kernels_only):
    none = """
import tempfile
def refuse():
    raise FileNotFoundError("No usable temporary directory found")
tempfile.gettempdir = refuse
"""
    assert run(LOG, blocked(kernels_only), preamble=none, HOME=NOWHERE) == [0.0, None]
