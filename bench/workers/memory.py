"""The peak of a process's memory during one call, as Linux counts resident pages."""

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # what clear_refs takes to set VmHWM back to VmRSS


def _kilobytes(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise OSError(f"{_STATUS} has no {field}")


def _return_free_memory() -> None:
    """Give freed pages back, so that memory the call could take again does not hide what it takes."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def peak_above(work: Callable[[], Any]) -> int:
    """Return the bytes by which resident memory peaked during `work()` above what it was before and its output.

    Raises
    ------
    OSError
        Where the system cannot reset the peak: anywhere but on Linux, and in some containers.
    """
    _return_free_memory()
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    before = _kilobytes("VmRSS")
    output = work()
    peak = _kilobytes("VmHWM")
    return max(0, 1024 * (peak - before) - getattr(output, "nbytes", 0))
