"""Where compiled kernels are kept from process to process."""

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from numba import config

# After so many days without use the folder of another version is dropped.
_UNUSED_DAYS = 30


def _package_stamp() -> str:
    """Hash the package's sources: a cached caller never meets a callee of another version."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cache_parents() -> Iterator[Path]:
    """Places where compiled kernels may be kept, best first."""
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR) / "fastgmm"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        yield Path(os.environ["LOCALAPPDATA"]) / "fastgmm" / "Cache"
    elif os.environ.get("XDG_CACHE_HOME"):
        yield Path(os.environ["XDG_CACHE_HOME"]) / "fastgmm"
    with contextlib.suppress(RuntimeError):  # no home directory
        caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
        yield Path.home() / caches / "fastgmm"
    yield Path(__file__).resolve().parent / "__pycache__" / "compiled"
    with contextlib.suppress(OSError):  # no folder for temporary files
        # Compiled code is loaded and run, so in a shared folder it must be ours alone.
        yield Path(tempfile.gettempdir()) / f"fastgmm-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


def _usable(folder: Path) -> bool:
    """Make `folder` if need be and say whether it, and what holds it, are ours to write."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        owners = {folder.stat().st_uid, folder.parent.stat().st_uid}
        return not hasattr(os, "getuid") or owners == {os.getuid()}
    except OSError:
        return False


def _remove_unused(parent: Path, current: Path) -> None:
    """Drop the folders of other versions that nobody has used for a month."""
    oldest = time.time() - _UNUSED_DAYS * 86_400
    for folder in parent.iterdir():
        if folder != current and folder.is_dir() and folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


def find_cache_folder() -> Path | None:
    """The folder for kernels of this version of the package, made if need be; None where none can be written."""
    stamp = _package_stamp()
    for parent in _cache_parents():
        folder = parent / stamp
        if _usable(folder):
            with contextlib.suppress(OSError):
                os.utime(folder)
                _remove_unused(parent, folder)
            return folder
    return None
