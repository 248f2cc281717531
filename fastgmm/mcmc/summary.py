"""A table of what the draws say, dimension by dimension, and how far to trust it."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from fastgmm.mcmc import diagnostics
from fastgmm.table import format_beside, format_table


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Summary:
    """Moments, quantiles and diagnostics of each dimension; printed as a table.

    Attributes
    ----------
    mean, sd : ndarray of shape (dim,)
        Mean and standard deviation of all draws.
    mcse_mean, mcse_sd : ndarray of shape (dim,)
        Their Monte Carlo standard errors, see `fastgmm.mcmc.mcse`.
    quantiles : ndarray of shape (prob, dim)
        Quantiles of all draws, for the probabilities in `probs`.
    ess_bulk, ess_tail : ndarray of shape (dim,)
        Effective sample sizes, see `fastgmm.mcmc.effective_sample_size`.
    rhat : ndarray of shape (dim,)
        See `fastgmm.mcmc.rhat`.
    probs : tuple of float
        Probabilities of the quantiles.

    Examples
    --------
    >>> from fastgmm import Mixture
    >>> from fastgmm.mcmc import sample
    >>> summary = sample(Mixture([1.0], [[2.0]], [[[4.0]]]), draws=2000, seed=0).summary()
    >>> bool(abs(summary.mean[0] - 2.0) < 5.0 * summary.mcse_mean[0])
    True
    >>> list(summary.to_dict())
    ['mean', 'sd', 'mcse_mean', 'mcse_sd', 'q5', 'q50', 'q95', 'ess_bulk', 'ess_tail', 'rhat']
    """

    mean: np.ndarray
    sd: np.ndarray
    mcse_mean: np.ndarray
    mcse_sd: np.ndarray
    quantiles: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    rhat: np.ndarray
    probs: tuple[float, ...]

    def to_dict(self) -> dict[str, np.ndarray]:
        """Return the columns by name, for instance for `pandas.DataFrame`.

        Returns
        -------
        dict of str to ndarray of shape (dim,)
            A quantile's name is q and its per cent: "q5", "q97.5".
        """
        return {
            "mean": self.mean,
            "sd": self.sd,
            "mcse_mean": self.mcse_mean,
            "mcse_sd": self.mcse_sd,
            **{f"q{100.0 * prob:.10g}": values for prob, values in zip(self.probs, self.quantiles, strict=True)},
            "ess_bulk": self.ess_bulk,
            "ess_tail": self.ess_tail,
            "rhat": self.rhat,
        }

    def __repr__(self) -> str:
        columns = self.to_dict()
        rows = [
            [str(i), *(self._cell(name, float(values[i]), float(self.sd[i])) for name, values in columns.items())]
            for i in range(len(self.mean))
        ]
        return format_table(["dim", *columns], rows)

    @staticmethod
    def _cell(name: str, value: float, sd: float) -> str:
        if name.startswith("ess"):
            return f"{value:.0f}"
        if name == "rhat":
            return f"{value:.3f}"
        if name.startswith("mcse"):
            return f"{value:.2g}"
        return format_beside(value, sd)


def summarise(draws: np.ndarray, probs: Sequence[float]) -> Summary:
    """Summarise draws of shape (chain, draw, dim), without a word of chains that never moved."""
    probs = tuple(float(prob) for prob in probs)
    wrong = [prob for prob in probs if not 0.0 <= prob <= 1.0]
    if wrong:
        raise ValueError(f"probs must lie between 0 and 1, but hold {wrong[0]}.")
    tail = functools.partial(diagnostics.size_for_tail, prob=diagnostics.TAIL)
    return Summary(
        mean=diagnostics.by_dimension(draws, diagnostics.mean),
        sd=diagnostics.by_dimension(draws, diagnostics.standard_deviation),
        mcse_mean=diagnostics.by_dimension(draws, diagnostics.error_of_mean),
        mcse_sd=diagnostics.by_dimension(draws, diagnostics.error_of_sd),
        quantiles=np.quantile(draws, probs, axis=(0, 1)),
        ess_bulk=diagnostics.by_dimension(draws, diagnostics.size_for_bulk),
        ess_tail=diagnostics.by_dimension(draws, tail),
        rhat=diagnostics.by_dimension(draws, diagnostics.rank_normalised_rhat),
        probs=probs,
    )
