"""Gaussian mixtures for large data sets, and the Metropolis-Hastings draws they fit, in compiled loops."""

from fastgmm.covariance import Prior
from fastgmm.em.errors import DegenerateComponentWarning, DegenerateFitError, RegularisationWarning
from fastgmm.estimator import GaussianMixture
from fastgmm.mcmc.sample import sample
from fastgmm.mixture import Mixture
from fastgmm.selection import GaussianMixtureIC
from fastgmm.sources import SourceError

__version__ = "0.1.0"

__all__ = [
    "DegenerateComponentWarning",
    "DegenerateFitError",
    "GaussianMixture",
    "GaussianMixtureIC",
    "Mixture",
    "Prior",
    "RegularisationWarning",
    "SourceError",
    "sample",
]
