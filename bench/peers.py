"""The table of peers: everything that can run a given number of EM iterations from a given start."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple, Protocol

import numpy as np

from bench.problems import Array, Problem, Start


def find_version(package: str) -> str:
    """Return the version of a package; a checkout that was never installed has none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


class Run(NamedTuple):
    """What some iterations took and where they led; covariances are full matrices, one a component."""

    seconds: float
    weights: Array
    means: Array
    covariances: Array


class Peer(Protocol):
    """A library under measurement."""

    name: str
    version: str

    def setup(self, problem: Problem, rows: Array, start: Start, threads: int) -> None:
        """Take what to fit; nothing here is timed."""

    def iterate(self, n_iter: int) -> Run:
        """Run exactly `n_iter` iterations from the start."""


@dataclass
class EstimatorPeer:
    """A class with scikit-learn's `GaussianMixture` interface."""

    name: str
    package: str
    load: Callable[[], Any]
    takes_n_jobs: bool = False
    version: str = field(init=False)

    def __post_init__(self) -> None:
        self.version = find_version(self.package)

    def setup(self, problem: Problem, rows: Array, start: Start, threads: int) -> None:
        """Keep the rows and the constructor's arguments."""
        self._problem, self._rows, self._class = problem, rows, self.load()
        self._options: dict[str, Any] = {
            "n_components": problem.components,
            "covariance_type": problem.structure,
            "tol": 0.0,  # never converged: all iterations are done
            "reg_covar": 0.0,
            "weights_init": start.weights,
            "means_init": start.means,
            "precisions_init": start.precisions,
        }
        if self.takes_n_jobs:
            self._options["n_jobs"] = threads

    def iterate(self, n_iter: int) -> Run:
        """Fit with a limit of `n_iter` iterations and no tolerance."""
        estimator = self._class(max_iter=n_iter, **self._options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it did not converge is meant
            began = time.perf_counter()
            estimator.fit(self._rows)
            seconds = time.perf_counter() - began
        if estimator.n_iter_ != n_iter:
            raise RuntimeError(f"{self.name} stopped after {estimator.n_iter_} of {n_iter} iterations")
        return Run(seconds, estimator.weights_, estimator.means_, _matrices(estimator.covariances_, self._problem))


def _matrices(covariances: Array, problem: Problem) -> Array:
    """Return one full covariance matrix for every component."""
    k, d = problem.components, problem.features
    shapes = {
        "full": lambda: covariances,
        "tied": lambda: np.broadcast_to(covariances, (k, d, d)),
        "diag": lambda: covariances[:, :, None] * np.eye(d),
        "spherical": lambda: covariances[:, None, None] * np.eye(d),
    }
    return shapes[problem.structure]()


def _load_scikit_learn() -> Any:
    from sklearn.mixture import GaussianMixture

    return GaussianMixture


def _load_fastgmm() -> Any:
    from fastgmm import GaussianMixture

    return GaussianMixture


REFERENCE = "scikit-learn"


def make_peers() -> list[Peer]:
    """Return every peer, the reference first."""
    return [
        EstimatorPeer(REFERENCE, "scikit-learn", _load_scikit_learn),
        EstimatorPeer("fastgmm", "fastgmm", _load_fastgmm, takes_n_jobs=True),
    ]
