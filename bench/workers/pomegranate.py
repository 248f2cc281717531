"""pomegranate, EM in PyTorch, in float64 on the processor."""

import time
from importlib.metadata import version

import numpy as np
import torch
from pomegranate.distributions import Normal
from pomegranate.gmm import GeneralMixtureModel

from bench.problems import Array, Problem, Start, dense_covariances
from bench.workers import Run


class Library:
    """`GeneralMixtureModel` of `Normal` components."""

    version = version("pomegranate")

    def setup(self, problem: Problem, rows: Array, start: Start, threads: int) -> None:
        """Keep the rows as a tensor."""
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float64)  # some of its constants would be float32 otherwise
        self._problem, self._start, self._rows = problem, start, torch.from_numpy(rows)

    def iterate(self, n_iter: int) -> Run:
        """Run EM with a tolerance that no iteration misses."""
        kind = self._problem.structure
        components = [
            Normal(torch.from_numpy(mean), torch.from_numpy(np.array(covariance)), covariance_type=kind)
            for mean, covariance in zip(self._start.means.copy(), self._start.covariances, strict=True)
        ]
        model = GeneralMixtureModel(
            components, priors=torch.from_numpy(self._start.weights.copy()), max_iter=n_iter, tol=-np.inf
        )
        began = time.perf_counter()
        model.fit(self._rows)
        seconds = time.perf_counter() - began
        means = torch.stack([component.means.data for component in components]).numpy()
        covariances = torch.stack([component.covs.data for component in components]).numpy()
        weights = model.priors.data.numpy()
        return Run(seconds, n_iter, weights, means, dense_covariances(covariances, self._problem))
