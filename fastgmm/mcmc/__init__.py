"""Markov chain Monte Carlo: draws from a density that is known up to a constant, and what they are worth."""

from fastgmm.mcmc.diagnostics import autocorrelation_time, effective_sample_size, mcse, rhat
from fastgmm.mcmc.mixture_proposals import Independence, MixtureLocal, ModeJump
from fastgmm.mcmc.occupancy import ModeOccupancy
from fastgmm.mcmc.proposals import Mixed, RandomWalk
from fastgmm.mcmc.result import Chains
from fastgmm.mcmc.sample import sample
from fastgmm.mcmc.summary import Summary

__all__ = [
    "Chains",
    "Independence",
    "Mixed",
    "MixtureLocal",
    "ModeJump",
    "ModeOccupancy",
    "RandomWalk",
    "Summary",
    "autocorrelation_time",
    "effective_sample_size",
    "mcse",
    "rhat",
    "sample",
]
