"""`python -m fastgmm warmup`: what it says, and that nothing is left to compile after it."""

import os
import sys

import pytest
from processes import PACKAGE, machine_code, start
from reference import FAMILIAR

from fastgmm import warmup
from fastgmm.__main__ import _STRUCTURES, main

WARM_UP = "from fastgmm.__main__ import main\nmain(['warmup', {options}])"

# Other sizes than the warm-up's own.
USE = """
import warnings

import numba
import numpy as np

from fastgmm import GaussianMixture, Mixture, sample
from fastgmm.kernels import _jit
from fastgmm.mcmc import Independence, Mixed, MixtureLocal, ModeJump, RandomWalk
from fastgmm.sources import array

warnings.simplefilter("ignore")
array.WORTH_A_WORKER, _jit.WORTH_A_DRIVER = 1, 0
random = np.random.default_rng(1)
for structure in {structures}:
    for features in (1, 2, 3, 4, 7, 33):
        for components in (1, 5):
            for rows, threads, steps in ((500, 1, 12), (11_000, 2, 2)):
                for distance in (0.0, 1e5):
                    X = random.normal(size=(rows, features)) + distance * random.integers(components, size=(rows, 1))
                    for points in (X, X.astype(np.float32)):
                        options = {{"covariance_type": structure, "tol": 0.0, "max_iter": steps, "n_jobs": threads}}
                        model = GaussianMixture(components, **options)
                        model.fit(points).predict(points), model.predict_proba(points), model.score(points)
                        model.mixture_.logpdf(points[:10]), model.mixture_.responsibilities(points), model.sample(3)
                        holes = np.where(np.arange(features) == np.arange(rows)[:, None] % 3, np.nan, points)
                        model.set_params(missing="em").fit(holes).score(holes)
    for start in ("k-means++", "random", "random_from_data"):
        GaussianMixture(2, covariance_type=structure, init_params=start, max_iter=2).fit(X)

@numba.njit
def log_density(x, scale):
    return -0.5 * np.sum((x / scale) ** 2)

sample(log_density, start=np.zeros(2), draws=5, args=(3.0,), seed=0)
mixture = Mixture([0.5, 0.5], np.eye(2), np.stack([np.eye(2)] * 2))
mixture.rvs_missing([[1.0, np.nan]])
kernels = RandomWalk(), Independence(mixture), MixtureLocal(mixture), ModeJump(mixture), RandomWalk(adapt="am")
sample(mixture, draws=5, seed=0, kernel=Mixed([(kernel, 1.0) for kernel in kernels]))
"""


@pytest.fixture
def cases_seen(monkeypatch, tmp_path):
    """A warm-up that notes its cases, and the files that they would compile, and does nothing."""
    seen = []

    def note(case):
        seen.append(case)
        (tmp_path / f"{case.structure}-{case.dtype}.nbc").touch()

    monkeypatch.setattr(warmup, "_fit", note)
    monkeypatch.setattr(warmup, "_draw", lambda: seen.append("chains"))
    monkeypatch.setattr(warmup, "COMPILED", True)
    monkeypatch.setattr(warmup, "CACHE_FOLDER", tmp_path)
    return seen


def nothing_is_left_to_compile(structures, cache):
    options = ["--quiet", "--structures", *structures]
    warmed = start(WARM_UP.format(options=str(options)[1:-1]), PACKAGE.parent, cache, timeout=1200)
    assert not warmed.stdout and not warmed.stderr
    before = machine_code(cache)
    assert before
    start(USE.format(structures=structures), PACKAGE.parent, cache, timeout=1200)
    return machine_code(cache) == before


@pytest.mark.compiled
@pytest.mark.slow
def test_nothing_is_left_to_compile(tmp_path):
    # The structure with the most forms; in the cache of this test run, where some are already: minutes otherwise.
    assert nothing_is_left_to_compile(["full"], os.environ.get("NUMBA_CACHE_DIR", tmp_path))


def test_every_structure_is_known():
    assert list(warmup.STRUCTURES) == _STRUCTURES == FAMILIAR


def test_without_tqdm_there_are_plain_lines(cases_seen, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    (tmp_path / "diag-float32.nbc").touch()  # from an earlier time
    assert main(["warmup", "--structures", "diag", "tied"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == [f"compiling for {name}, {dtype}" for name in ("diag", "tied") for dtype in ("float64", "float32")]
    assert last.startswith("3 kernels compiled and 1 found, in ") and last.endswith(str(tmp_path))
    assert cases_seen[-1] == "chains"
    assert {case.structure for case in cases_seen[:-1]} == {"diag", "tied"}


def test_with_tqdm_there_is_a_bar(cases_seen, capsys):
    pytest.importorskip("tqdm")
    assert main(["warmup", "--structures", "full"]) == 0
    printed = capsys.readouterr()
    assert "100%" in printed.err and "full, float32" in printed.err
    assert "compiling for" not in printed.out and "kernels compiled" in printed.out


def test_quiet_is_quiet(cases_seen, capsys):
    assert main(["warmup", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert {case.structure for case in cases_seen[:-1]} == set(FAMILIAR)


@pytest.mark.parametrize(
    ("compiled", "reason"), [(True, "set NUMBA_CACHE_DIR to one that can"), (False, "NUMBA_DISABLE_JIT is set")]
)
def test_with_nothing_to_keep_it_fails(compiled, reason, cases_seen, monkeypatch, capsys):
    monkeypatch.setattr(warmup, "COMPILED", compiled)
    monkeypatch.setattr(warmup, "CACHE_FOLDER", None)
    with pytest.raises(SystemExit) as stopped:
        main(["warmup"])
    assert stopped.value.code == 1
    assert reason in capsys.readouterr().err
    assert not cases_seen


def test_a_case_is_what_it_says(monkeypatch):
    rows = warmup._make_rows(warmup.Case("full", "float32", 5, 3, 1e5, 1))
    assert rows.shape == (300, 5) and rows.dtype == "float32"
    assert len({round(float(x), -5) for x in rows[:, 0]}) == 3
