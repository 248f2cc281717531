"""torchgmm, EM under PyTorch Lightning, in float64 on the processor."""

import logging
import time
import warnings
from importlib.metadata import version

import numpy as np
import torch
from torchgmm.base.data import DataLoader, collate_tensor, dataset_from_tensors
from torchgmm.bayes import GaussianMixture
from torchgmm.bayes.core import cholesky_precision
from torchgmm.bayes.gmm.lightning_module import GaussianMixtureLightningModule
from torchgmm.bayes.gmm.model import GaussianMixtureModel, GaussianMixtureModelConfig

from bench.problems import Array, Problem, Start, dense_covariances
from bench.workers import Run


class Library:
    """The loop of `torchgmm.bayes.GaussianMixture.fit`, from our start.

    Its `fit` takes starting means only, and takes a single batch for many, which doubles the passes. Here its parts
    are put together as they are meant: one batch, one pass an iteration.
    """

    version = version("torchgmm")

    def setup(self, problem: Problem, rows: Array, start: Start, threads: int) -> None:
        """Put rows into one batch, and keep the start as tensors."""
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float64)  # some of its constants would be float32 otherwise
        warnings.simplefilter("ignore")
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        self._problem = problem
        self._config = GaussianMixtureModelConfig(problem.components, problem.features, problem.structure)
        data = dataset_from_tensors(torch.from_numpy(rows))
        self._loader = DataLoader(data, batch_size=len(rows), collate_fn=collate_tensor)
        self._weights, self._means = torch.from_numpy(start.weights), torch.from_numpy(start.means)
        self._factors = cholesky_precision(torch.from_numpy(np.array(start.covariances)), problem.structure)

    def iterate(self, n_iter: int) -> Run:
        """Run EM as one training of `n_iter` epochs; without a tolerance it never stops early."""
        model = GaussianMixtureModel(self._config).double()
        model.component_probs.copy_(self._weights)
        model.means.copy_(self._means)
        model.precisions_cholesky.copy_(self._factors)
        module = GaussianMixtureLightningModule(model, convergence_tolerance=0, covariance_regularization=0.0)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "precision": 64}
        trainer = GaussianMixture(self._problem.components, trainer_params=quiet).trainer(max_epochs=n_iter)
        began = time.perf_counter()
        trainer.fit(module, self._loader)
        seconds = time.perf_counter() - began
        covariances = dense_covariances(model.covariances.numpy(), self._problem)
        return Run(seconds, n_iter, model.component_probs.numpy(), model.means.numpy(), covariances)
