"""Markov chain Monte Carlo: draws from a density that is known up to a constant."""

from fastgmm.mcmc.diagnostics import autocorrelation_time, effective_sample_size, mcse, rhat
from fastgmm.mcmc.result import Chains
from fastgmm.mcmc.sample import sample

__all__ = ["Chains", "autocorrelation_time", "effective_sample_size", "mcse", "rhat", "sample"]
