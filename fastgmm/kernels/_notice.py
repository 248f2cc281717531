"""One line, once a process, when compiling keeps the user waiting."""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

from numba.core import event

PATIENCE = 2.0  # seconds of compiling in a process before anything is said

# A warning reaches standard error unless the application configures logging otherwise.
logger = logging.getLogger("fastgmm")


class CompilingNotice(event.Listener):  # type: ignore[misc]
    """Says that kernels are being compiled once that has taken `PATIENCE` seconds.

    Only `kernels` count: what users compile is theirs to know of. Numba holds its compiler lock while
    it calls a listener, so no two threads are in here at once. Code that comes from the cache is no event at all.

    Parameters
    ----------
    kernels : set of callable
        Our functions, compiled and yet to be.
    folder : Path or None
        Where compiled kernels are kept, None for nowhere.
    """

    def __init__(self, kernels: Set[Callable[..., Any]], folder: Path | None) -> None:
        self._kernels = kernels
        self._folder = folder
        self._said = False
        self._spent = 0.0
        self.forget()

    def forget(self) -> None:
        """Forget what is being compiled; a forked child has none of its parent's threads."""
        self._depth = 0
        self._began = 0.0
        self._timer: threading.Timer | None = None

    def on_start(self, event: Any) -> None:
        """Count the seconds from the outermost kernel on."""
        if self._said or event.data["dispatcher"].py_func not in self._kernels:
            return
        self._depth += 1
        if self._depth == 1:
            self._began = time.monotonic()
            self._timer = threading.Timer(max(0.0, PATIENCE - self._spent), self._say)
            self._timer.daemon = True
            self._timer.start()

    def on_end(self, event: Any) -> None:
        """Stop counting when the outermost kernel is done."""
        if self._depth == 0 or event.data["dispatcher"].py_func not in self._kernels:
            return
        self._depth -= 1
        if self._depth == 0 and self._timer is not None:
            self._timer.cancel()
            self._spent += time.monotonic() - self._began

    def _say(self) -> None:
        self._said = True
        bars = sys.modules.get("tqdm")
        # Bars are wiped, and drawn anew below the line.
        with bars.tqdm.external_write_mode() if bars is not None else contextlib.nullcontext():
            logger.warning("%s", describe(self._folder))


def describe(folder: Path | None) -> str:
    """What the line says."""
    if folder is None:
        return (
            "fastgmm is compiling its kernels, and every process will compile anew, as no folder for them can be "
            "written; set NUMBA_CACHE_DIR to one that can."
        )
    return (
        f"fastgmm is compiling its kernels for this machine; later processes will load them from {folder}. "
        "`python -m fastgmm warmup` compiles all of them beforehand."
    )
