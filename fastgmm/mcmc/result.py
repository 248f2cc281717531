"""What a run of the sampler leaves."""

import dataclasses
from os import PathLike
from typing import Any

import numpy as np

from fastgmm.mcmc import diagnostics

_FORMAT = "fastgmm.Chains.1"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Chains:
    """Draws of several chains, and what happened on the way.

    Attributes
    ----------
    draws : ndarray of shape (chain, draw, dim)
        The chains' states after steps `thin`, `2 thin`, ... since warm-up ended.
    log_density : ndarray of shape (chain, draw)
        The target's log-density at each draw.
    acceptance_rate : ndarray of shape (chain,)
        Share of the candidates that were accepted after warm-up.
    rejected_nan : ndarray of shape (chain,)
        Number of candidates, warm-up included, that were rejected because the density there was NaN.
    rejected_overflow : ndarray of shape (chain,)
        Number of candidates, warm-up included, that were rejected because a coordinate was not finite.
    thin : int
        Steps from one draw to the next.
    warmup : int
        Steps of each chain that were taken before the first counted one.
    """

    draws: np.ndarray
    log_density: np.ndarray
    acceptance_rate: np.ndarray
    rejected_nan: np.ndarray
    rejected_overflow: np.ndarray
    thin: int = 1
    warmup: int = 0

    def flat(self) -> np.ndarray:
        """Return all draws as rows, chain after chain.

        Returns
        -------
        ndarray of shape (chain * draw, dim)
            A view, not a copy.
        """
        return self.draws.reshape(-1, self.draws.shape[2])

    def effective_sample_size(self) -> np.ndarray:
        """Estimate how many independent draws the chains are worth, coordinate by coordinate.

        Returns
        -------
        ndarray of shape (dim,)
            See `fastgmm.mcmc.effective_sample_size`. NaN where no chain ever moved.
        """
        return np.asarray(diagnostics.effective_sample_size(self.draws))

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to an npz file at exactly this path; nothing is pickled."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        with open(path, "wb") as file:
            np.savez(file, format=_FORMAT, **values)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Chains":
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file holds something else.
        """
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise ValueError(f"{path} was not written by Chains.save.")
        with stored:
            if "format" not in stored or stored["format"] != _FORMAT:
                raise ValueError(f"{path} was not written by Chains.save.")
            values: dict[str, Any] = {field.name: stored[field.name] for field in dataclasses.fields(cls)}
        for name in ("thin", "warmup"):
            values[name] = int(values[name])
        return cls(**values)

    def __repr__(self) -> str:
        chains, draws, dimensions = self.draws.shape
        parts = [
            f"{chains} chain{'s' * (chains != 1)} x {draws} draw{'s' * (draws != 1)}"
            f" of {dimensions} dimension{'s' * (dimensions != 1)}",
            f"every {self.thin} steps" if self.thin > 1 else "every step",
            f"after {self.warmup} of warm-up",
            f"acceptance rate {self.acceptance_rate.mean():.3g}",
        ]
        if self.rejected_nan.any():
            parts.append(f"{self.rejected_nan.sum()} candidates of density NaN rejected")
        if self.rejected_overflow.any():
            parts.append(f"{self.rejected_overflow.sum()} infinite candidates rejected")
        return f"<Chains: {', '.join(parts)}>"
