"""Markov chain Monte Carlo: draws from a density that is known up to a constant."""

from fastgmm.mcmc.diagnostics import effective_sample_size
from fastgmm.mcmc.result import Chains
from fastgmm.mcmc.sample import sample

__all__ = ["Chains", "effective_sample_size", "sample"]
