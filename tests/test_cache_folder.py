"""Where compiled kernels are kept; the functions run the same whether anything is compiled or not."""

import os
import time
from pathlib import Path

from fastgmm.kernels import _cache


def test_stamp_follows_the_content(monkeypatch, tmp_path):
    package = tmp_path / "package"
    (package / "kernels").mkdir(parents=True)
    (package / "kernels" / "_cache.py").write_text("a = 1\n")
    other = package / "other.py"
    other.write_text("b = 1\n")
    monkeypatch.setattr(_cache, "__file__", str(package / "kernels" / "_cache.py"))
    before = _cache._package_stamp()
    assert _cache._package_stamp() == before
    other.write_text("b = 2\n")
    changed = _cache._package_stamp()
    assert changed != before
    other.rename(package / "renamed.py")
    assert _cache._package_stamp() not in (before, changed)


def test_the_environment_comes_first(monkeypatch, tmp_path):
    monkeypatch.setattr(_cache.config, "CACHE_DIR", str(tmp_path / "numba"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    parents = list(_cache._cache_parents())
    assert parents[0] == tmp_path / "numba" / "fastgmm"
    assert len(parents) == len(set(parents)) >= 4
    assert _cache.find_cache_folder() == parents[0] / _cache._package_stamp()


def test_a_place_that_cannot_be_written_is_passed_over(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setattr(_cache, "_cache_parents", lambda: iter([blocked / "fastgmm", tmp_path / "good"]))
    assert _cache.find_cache_folder() == tmp_path / "good" / _cache._package_stamp()
    monkeypatch.setattr(_cache, "_cache_parents", lambda: iter([blocked / "fastgmm"]))
    assert _cache.find_cache_folder() is None


def test_neither_home_nor_temporary_folder_is_needed(monkeypatch):
    def nowhere(*arguments):
        raise FileNotFoundError("no usable folder")

    def homeless():
        raise RuntimeError("no home")

    monkeypatch.setattr(_cache.config, "CACHE_DIR", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(_cache.tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(Path, "home", homeless)
    assert [parent.name for parent in _cache._cache_parents()] == ["compiled"]


def test_folders_of_other_versions_go_when_unused(tmp_path):
    long_ago = time.time() - 40 * 86_400
    for name in ("current", "old", "recent"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kernel.nbc").write_text("")
    os.utime(tmp_path / "old", (long_ago, long_ago))
    os.utime(tmp_path / "current", (long_ago, long_ago))
    _cache._remove_unused(tmp_path, tmp_path / "current")
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["current", "recent"]
