"""Python's garbage collector while Numba works: it would go through all that Numba makes, over and over."""

import contextlib
import gc
from collections.abc import Callable, Iterator, Set
from typing import Any

from numba.core import event

# New objects between two collections while kernels compile; Python's own threshold is some 700. Of a first fit the
# collector then takes 0.2 s and not 1.0, and the process 15 MB more; without a collection it would take 90 MB more.
_MANY = 100_000


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """Let Numba do something small with no collection at all.

    Not for what takes seconds, which leaves much to collect.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class RareCollections(event.Listener):  # type: ignore[misc]
    """Has objects collected rarely while any of `kernels` compiles, and as often as before from then on.

    Numba holds its compiler lock while it calls a listener, so no two threads are in here at once.
    """

    def __init__(self, kernels: Set[Callable[..., Any]]) -> None:
        self._kernels = kernels
        self._before: list[tuple[int, int, int]] = []  # of the kernels being compiled, the outermost first

    def on_start(self, event: Any) -> None:
        """Raise the threshold, unless it is 0 and nothing is collected."""
        if event.data["dispatcher"].py_func in self._kernels:
            young, *older = before = gc.get_threshold()
            self._before.append(before)
            if young:
                gc.set_threshold(max(young, _MANY), *older)

    def on_end(self, event: Any) -> None:
        """Put it back as it was before the kernel."""
        if self._before and event.data["dispatcher"].py_func in self._kernels:
            gc.set_threshold(*self._before.pop())

    def forget(self) -> None:
        """Put it back as it was before all of them; a forked child has none of its parent's threads."""
        if self._before:
            gc.set_threshold(*self._before[0])
            self._before.clear()
