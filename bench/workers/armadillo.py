"""Armadillo's mixtures, compiled here where a C++ compiler and the library are found."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from bench.problems import Array, Problem, Start, dense_covariances
from bench.workers import Run

_SOURCE = Path(__file__).with_name("armadillo.cpp")
_FLAGS = ["-O3", "-march=native", "-fopenmp", "-DNDEBUG", "-DARMA_NO_DEBUG", "-std=c++17", "-shared", "-fPIC"]
_LIBRARIES = ["-larmadillo", "-lopenblas"]


def _compile(folder: str) -> ctypes.CDLL:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise RuntimeError("no C++ compiler found")
    target = Path(folder) / "armadillo.so"
    command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(target), *_LIBRARIES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"armadillo.cpp does not compile: {done.stderr.strip().splitlines()[0]}")
    return ctypes.CDLL(str(target))


class Library:
    """`gmm_full` and `gmm_diag` in float64."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self._library = _compile(folder)
        self._library.version.restype = ctypes.c_char_p
        self.version = self._library.version().decode().split(" ")[0]

    def setup(self, problem: Problem, rows: Array, start: Start, threads: int) -> None:
        """Keep rows and start; OpenMP and OpenBLAS take their threads from the environment."""
        self._problem, self._start, self._rows = problem, start, np.ascontiguousarray(rows)

    def iterate(self, n_iter: int) -> Run:
        """Run EM; it stops early once the mean log-likelihood changes by no more than the machine's epsilon."""
        parameters = [
            np.array(values, order="C") for values in (self._start.weights, self._start.means, self._start.covariances)
        ]
        seconds = ctypes.c_double()
        learn = getattr(self._library, f"learn_{self._problem.structure}")
        pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in parameters]
        sizes = (*self._rows.shape, self._problem.components, n_iter)
        done = learn(self._rows.ctypes.data_as(ctypes.c_void_p), *sizes, *pointers, ctypes.byref(seconds))
        if done < 0:
            raise RuntimeError("learn() failed")
        weights, means, covariances = parameters
        return Run(seconds.value, done, weights, means, dense_covariances(covariances, self._problem))
