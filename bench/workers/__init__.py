"""Worker processes: each holds one library, rows and a start, and does what is asked line by line.

A file here has a class `Library` with `version`, `setup(problem, rows, start, threads)` and `iterate(n_iter)`.
"""

from typing import NamedTuple

from bench.problems import Array


class Run(NamedTuple):
    """What some iterations took and where they led; covariances are full matrices, one a component."""

    seconds: float
    n_iter: int  # fewer than asked for where a library cannot be kept from stopping
    weights: Array
    means: Array
    covariances: Array
