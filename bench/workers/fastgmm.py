"""fastgmm, with as many threads as it is allowed."""

from importlib.metadata import PackageNotFoundError, version

import numpy as np

from bench.problems import Array, Problem, Start
from bench.workers.estimator import Estimator
from fastgmm import GaussianMixture
from fastgmm.kernels import _jit

_jit.WORTH_A_DRIVER = 0  # what shares passes among threads is there before anything is measured


def _find_version() -> str:
    try:
        return version("fastgmm")
    except PackageNotFoundError:
        return "not installed"  # a checkout


MISSING_SHARE = 0.1


class Library(Estimator):
    """`fastgmm.GaussianMixture`."""

    def __init__(self) -> None:
        super().__init__(GaussianMixture, _find_version())

    def setup(self, problem: Problem, rows: Array, start: Start, threads: int) -> None:
        """Keep the rows and the constructor's arguments."""
        super().setup(problem, rows, start, threads)
        self._shape["n_jobs"] = threads

    def choose(self, option: str) -> None:
        """Give each row a weight of one, components the default prior, or take a tenth of the entries away."""
        if option == "weights":
            self._weights = {"sample_weight": np.ones(len(self._rows))}
        elif option == "prior":
            self._start["prior"] = "default"
        else:
            self._start["missing"] = "em"
            gone = np.random.default_rng(0).uniform(size=self._rows.shape) < MISSING_SHARE
            self._rows = np.where(gone, np.nan, self._rows)
