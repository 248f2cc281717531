"""The distribution and what one asks of it; one question a file, and the class that answers them all."""

from fastgmm.mixture.distribution import Mixture

__all__ = ["Mixture"]
