"""Kernels compiled for tests go to a throw-away folder; tests about compiled code rest when nothing is compiled."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

# Before fastgmm is imported: it looks for its folder then.
_THROW_AWAY = None if "NUMBA_CACHE_DIR" in os.environ else tempfile.mkdtemp(prefix="fastgmm-tests-")
if _THROW_AWAY:
    os.environ["NUMBA_CACHE_DIR"] = _THROW_AWAY


_INTERPRETED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


def pytest_unconfigure():
    if _THROW_AWAY:
        shutil.rmtree(_THROW_AWAY, ignore_errors=True)


def pytest_collection_modifyitems(items):
    if _INTERPRETED:
        for item in items:
            if item.get_closest_marker("compiled"):
                item.add_marker(pytest.mark.skip(reason="about compiled code, and nothing is compiled"))


@pytest.fixture(autouse=_INTERPRETED)
def quiet_wrapping():
    """The kernels' integers wrap round, which compiled code does in silence and NumPy's scalars do not."""
    with np.errstate(over="ignore"):
        yield


@pytest.fixture(autouse=True)
def shared_passes(request, monkeypatch):
    """Tests of threads need not have so many rows that sharing a pass pays, and compiling what shares it."""
    if request.node.get_closest_marker("threads"):
        from fastgmm import prediction  # not before the folder is set
        from fastgmm.kernels import _jit
        from fastgmm.sources import array

        monkeypatch.setattr(prediction, "_kept", ())  # what is kept knows for how many rows
        monkeypatch.setattr(array, "WORTH_A_WORKER", 1)
        monkeypatch.setattr(_jit, "WORTH_A_DRIVER", 0)


@pytest.fixture
def openmp_anew(monkeypatch):
    """OMP_NUM_THREADS, unset, is read again in the test, and again after it."""
    from fastgmm.kernels import _threads  # not before the folder is set

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    _threads._openmp_threads.cache_clear()
    yield
    _threads._openmp_threads.cache_clear()


@pytest.fixture
def kernels_only(tmp_path):
    """A copy of the package with a few kernels and nothing to import beside them."""
    import fastgmm  # not before the folder is set

    kernels = Path(fastgmm.__file__).parent / "kernels"
    copy = tmp_path / "copy" / "fastgmm"
    (copy / "kernels").mkdir(parents=True)
    (copy / "__init__.py").touch()
    few = "fetching", "math", "softmax", "tiles", "vectors"
    for name in ("__init__", "_cache", "_collector", "_jit", "_compilers", "_notice", *few):
        shutil.copy(kernels / f"{name}.py", copy / "kernels")
    return copy.parent
