"""What the processor can do: the rates that a limit is made of, measured beside the peers."""

import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from bench.problems import Array, Problem, Start
from fastgmm.kernels._jit import TILE_ROWS, TILE_STRIDE
from fastgmm.kernels.softmax import exponentiate

_SIZE = 2_000  # of the square matrices
_COMPONENTS = 8
_VALUES = _COMPONENTS * TILE_ROWS  # they stay in the first cache
_REPEATS = 2_500
_NOWHERE = (0, 0)  # to be fetched meanwhile


@numba.njit(nogil=True, error_model="numpy")
def _exponentials(values: Array, vectors: Array, repeats: int) -> None:
    for _ in range(repeats):
        exponentiate(values, _COMPONENTS, vectors[0], vectors[1], vectors[2], _NOWHERE)


def _fastest(work: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


class Library:
    """NumPy's matrix product, and the faster of NumPy's exp and ours."""

    version = np.__version__

    def setup(self, problem: Problem, rows: Array, start: Start, threads: int) -> None:
        """Take nothing but the number of threads, and compile."""
        random = np.random.default_rng(0)
        self._threads = threads
        self._a, self._b = random.random((2, _SIZE, _SIZE))
        self._product = np.empty((_SIZE, _SIZE))
        self._values = -10.0 * random.random(_COMPONENTS * TILE_STRIDE)
        self._vectors = np.empty((3, TILE_ROWS))
        _exponentials(self._values, self._vectors, 1)

    def rates(self) -> dict[str, float]:
        """Return floating-point operations per second of dgemm and exponentials per second, on all threads allowed.

        An exponential is measured on one thread and counted for each, as nothing is shared between them.
        """
        dgemm = _fastest(lambda: np.matmul(self._a, self._b, out=self._product))
        ours = _fastest(lambda: _exponentials(self._values, self._vectors, _REPEATS)) / _REPEATS
        numpys = _fastest(self._numpy_exponentials) / _REPEATS
        return {"dgemm": 2.0 * _SIZE**3 / dgemm, "exp": self._threads * _VALUES / min(ours, numpys)}

    def _numpy_exponentials(self) -> None:
        values = np.resize(self._values, 2 * _VALUES)  # enough that the call itself does not count
        out = np.empty_like(values)
        for _ in range(_REPEATS // 2):
            np.exp(values, out=out)
