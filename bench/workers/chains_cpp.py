"""A loop in C++, compiled here where a compiler is found: one chain after another."""

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.workers.chains import describe, draw_starts, factorise, load_density

_SOURCE = Path(__file__).with_name("chains.cpp")
_FLAGS = ["-O3", "-march=native", "-std=c++17", "-shared", "-fPIC"]


class Library:
    """`chains.cpp`."""

    def __init__(self) -> None:
        compiler = shutil.which(os.environ.get("CXX", "c++"))
        if compiler is None:
            raise RuntimeError("no C++ compiler found")
        self.version = subprocess.run(
            [compiler, "-dumpfullversion"], capture_output=True, text=True, check=True
        ).stdout.strip()
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "chains.so"
            subprocess.run([compiler, *_FLAGS, str(_SOURCE), "-o", str(target)], check=True)
            self._library = ctypes.CDLL(str(target))
        self._library.walk.restype = ctypes.c_long

    def prepare(self, density: str, chains: int, threads: int) -> None:
        """Lay the arrays out."""
        table = load_density(density)
        self._sizes = (*table.means.shape, chains)
        constants, factors = factorise(table)
        self._arrays = [
            np.ascontiguousarray(values) for values in (constants, table.means, factors, np.linalg.cholesky(table.step))
        ]
        self._positions = draw_starts(table, chains)
        self._seed = 0

    def walk(self, steps: int) -> dict[str, object]:
        """Take steps, none of which is stored."""
        began = time.perf_counter()
        self._seed += 1
        pointers = [values.ctypes.data_as(ctypes.c_void_p) for values in (*self._arrays, self._positions)]
        accepted = self._library.walk(*self._sizes, ctypes.c_long(steps), ctypes.c_ulong(self._seed), *pointers)
        seconds = time.perf_counter() - began
        return describe(seconds, accepted / steps / len(self._positions), self._positions)
