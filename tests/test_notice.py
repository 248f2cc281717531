"""What is said when compiling takes long, and that nothing is said otherwise."""

import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import start

from fastgmm.kernels import _notice

PATIENCE = 0.05
NOWHERE = "/dev/null/nowhere"
LOG = "from fastgmm.kernels import math\nmath.log(1.0, 1.0)"
AT_ONCE = "from fastgmm.kernels import _notice\n_notice.PATIENCE = 0.0"


def ours():
    """A kernel of the library."""


def theirs():
    """A function that a user compiles."""


def compiling(function):
    return SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=function)})


@pytest.fixture
def notice(monkeypatch):
    monkeypatch.setattr(_notice, "PATIENCE", PATIENCE)
    return _notice.CompilingNotice({ours}, Path("folder"))


def compile_for(notice, function, seconds):
    notice.on_start(compiling(function))
    time.sleep(seconds)
    notice.on_end(compiling(function))


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "fastgmm"]


def test_a_long_wait_is_explained_once_while_it_lasts(notice, caplog):
    notice.on_start(compiling(ours))
    notice.on_start(compiling(ours))
    time.sleep(8 * PATIENCE)
    (line,) = lines(caplog)
    assert "compiling" in line and "folder" in line and "python -m fastgmm warmup" in line
    assert "\n" not in line
    notice.on_end(compiling(ours))
    notice.on_end(compiling(ours))
    compile_for(notice, ours, 4 * PATIENCE)
    assert len(lines(caplog)) == 1


def test_short_waits_add_up(notice, caplog):
    compile_for(notice, ours, PATIENCE / 3)
    time.sleep(2 * PATIENCE)
    assert not lines(caplog)
    for _ in range(4):
        compile_for(notice, ours, PATIENCE / 3)
    time.sleep(2 * PATIENCE)
    assert len(lines(caplog)) == 1


def test_what_users_compile_is_not_counted(notice, caplog):
    compile_for(notice, theirs, 4 * PATIENCE)
    # Nor is a short kernel inside it, whatever follows.
    notice.on_start(compiling(theirs))
    compile_for(notice, ours, 0.0)
    time.sleep(4 * PATIENCE)
    notice.on_end(compiling(theirs))
    assert not lines(caplog)


def test_a_forked_child_starts_afresh(notice, caplog):
    notice.on_start(compiling(ours))
    notice._timer.cancel()  # as in a child, where the timer's thread is not
    notice.forget()
    notice.on_end(compiling(ours))
    compile_for(notice, ours, 8 * PATIENCE)
    assert len(lines(caplog)) == 1


@pytest.mark.compiled
def test_only_the_process_that_compiles_says_so(kernels_only, tmp_path):
    assert not start(LOG, kernels_only, tmp_path).stderr  # soon done
    shutil.rmtree(tmp_path / "fastgmm")
    first = start(LOG, kernels_only, tmp_path, preamble=AT_ONCE)
    assert first.stderr.count("\n") == 1 and str(tmp_path) in first.stderr
    assert not first.stdout
    assert not start(LOG, kernels_only, tmp_path, preamble=AT_ONCE).stderr  # loaded


@pytest.mark.compiled
def test_logging_silences_it(kernels_only, tmp_path):
    silent = f"{AT_ONCE}\nimport logging\nlogging.getLogger('fastgmm').setLevel(logging.ERROR)"
    assert not start(LOG, kernels_only, tmp_path, preamble=silent).stderr


@pytest.mark.compiled
def test_without_a_folder_it_says_that_every_process_compiles(kernels_only):
    (kernels_only / "fastgmm" / "kernels" / "__pycache__").touch()
    preamble = f"{AT_ONCE}\nimport tempfile; tempfile.gettempdir = lambda: {NOWHERE!r}"
    line = start(LOG, kernels_only, preamble=preamble, HOME=NOWHERE).stderr
    assert line.count("\n") == 1
    assert "every process" in line and "NUMBA_CACHE_DIR" in line
