"""What a run of the sampler leaves."""

import dataclasses
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

from fastgmm.mcmc import diagnostics
from fastgmm.mcmc.files import load_fields, save_fields
from fastgmm.mcmc.occupancy import ModeOccupancy, count_visits
from fastgmm.mcmc.run import State
from fastgmm.mcmc.summary import Summary, summarise
from fastgmm.mixture import Mixture

_FORMAT = "fastgmm.Chains.1"


# Entries of a file that are fields of the state.
_STATE = "state_"


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """What chains were made of: kept in memory for `resume`, not saved."""

    target: Any
    args: tuple[Any, ...]
    vectorized: bool
    kernel: Any


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Chains:
    """Draws of several chains, and what happened on the way.

    Attributes
    ----------
    draws : ndarray of shape (chain, draw, dim)
        The chains' states after steps `thin`, `2 thin`, ... since warm-up ended.
    log_density : ndarray of shape (chain, draw)
        The target's log-density at each draw.
    acceptance_rate : ndarray of shape (chain, move)
        Share of the candidates that were accepted after warm-up, by each kind of step; NaN for one never taken.
    rejected_nan : ndarray of shape (chain,)
        Number of candidates, warm-up included, that were rejected because the density there was NaN.
    rejected_overflow : ndarray of shape (chain,)
        Number of candidates, warm-up included, that were rejected because a coordinate was not finite.
    thin : int
        Steps from one draw to the next.
    warmup : int
        Steps of each chain that were taken before the first counted one.
    moves : tuple of str
        Names of the kinds of steps.
    nan : {"reject", "raise"}
        What a density of NaN is to these chains, also when they go on.
    interrupted : bool
        Whether sampling was interrupted before it had all draws.
    warmup_draws, warmup_log_density : ndarray or None
        The states after steps `thin`, `2 thin`, ... of warm-up and their log-densities, if they were to be kept.
    state : State or None
        Where the chains are, for `resume`.
    origin : Origin or None
        Target and kernel, for `resume`; not saved.

    Examples
    --------
    >>> from fastgmm import Mixture, sample
    >>> target = Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
    >>> chains = sample(target, draws=1000, chains=2, thin=5, seed=0)
    >>> chains.draws.shape, chains.flat().shape, chains.moves
    ((2, 1000, 1), (2000, 1), ('RandomWalk',))
    >>> bool((chains.mode_occupancy(target).share > 0.3).all())
    True
    """

    draws: np.ndarray
    log_density: np.ndarray
    acceptance_rate: np.ndarray
    rejected_nan: np.ndarray
    rejected_overflow: np.ndarray
    thin: int = 1
    warmup: int = 0
    moves: tuple[str, ...] = ("RandomWalk",)
    nan: str = "reject"
    interrupted: bool = False
    warmup_draws: np.ndarray | None = None
    warmup_log_density: np.ndarray | None = None
    state: State | None = None
    origin: Origin | None = None

    def flat(self) -> np.ndarray:
        """Return all draws as rows, chain after chain.

        Returns
        -------
        ndarray of shape (chain * draw, dim)
            A view, not a copy.
        """
        return self.draws.reshape(-1, self.draws.shape[2])

    def effective_sample_size(self, kind: str = "bulk", *, prob: float | None = None) -> np.ndarray:
        """Estimate how many independent draws the chains are worth, coordinate by coordinate.

        Parameters
        ----------
        kind : {"bulk", "tail", "mean", "sd", "quantile"}, default="bulk"
            For which estimate.
        prob : float, optional
            For "quantile" and "tail", which one.

        Returns
        -------
        ndarray of shape (dim,)
            See `fastgmm.mcmc.effective_sample_size`. NaN where no chain ever moved.

        Raises
        ------
        ValueError
            If `kind` is unknown; if `prob` is missing, superfluous or outside (0, 1).

        Warns
        -----
        RuntimeWarning
            If a chain never moved; names chains and dimensions.
        """
        estimate = diagnostics.size_of_kind(kind, prob)
        diagnostics.warn_of_stuck(self.draws, stacklevel=2)
        return diagnostics.by_dimension(self.draws, estimate)

    def summary(self, probs: Sequence[float] = (0.05, 0.5, 0.95)) -> Summary:
        """Tell mean, standard deviation, quantiles and how far to trust them, dimension by dimension.

        Parameters
        ----------
        probs : sequence of float, default=(0.05, 0.5, 0.95)
            Probabilities of the quantiles.

        Returns
        -------
        Summary
            A table when printed; its columns are attributes, and `to_dict()` suits `pandas.DataFrame`.

        Warns
        -----
        RuntimeWarning
            If a chain never moved; names chains and dimensions.
        """
        diagnostics.warn_of_stuck(self.draws, stacklevel=2)
        return summarise(self.draws, probs)

    def mode_occupancy(self, mixture: Mixture) -> ModeOccupancy:
        """Compare the chains by the components of a mixture that they visit.

        Parameters
        ----------
        mixture : Mixture
            Whose components stand for the modes: the target itself, or `mixture_` of a fit.

        Returns
        -------
        ModeOccupancy
            A table when printed, with what is wrong in sentences below.

        Raises
        ------
        TypeError
            If `mixture` is no Mixture.
        ValueError
            If it has another number of dimensions than the draws.
        """
        return count_visits(self.draws, mixture)

    def resume(
        self,
        draws: int,
        *,
        target: Any = None,
        args: tuple[Any, ...] | None = None,
        vectorized: bool | None = None,
        kernel: Any = None,
        n_jobs: int | None = None,
        progress: bool = False,
        callback: Any = None,
    ) -> "Chains":
        """Let the chains take more draws.

        Parameters
        ----------
        draws : int
            How many more each chain keeps.
        target, args, vectorized, kernel : optional
            As for `sample`. Needed after `load`, which does not know them, the kernel only if it is no `RandomWalk`.
        n_jobs, progress, callback : optional
            As for `sample`.

        Returns
        -------
        Chains
            All draws, those before and the new ones: bit for bit what one longer run would have left.

        Raises
        ------
        ValueError
            If the target or the kernel are not those that the chains were made with, or not known.
        Exception
            As by `sample`.

        Examples
        --------
        >>> from fastgmm import Mixture, sample
        >>> target = Mixture([1.0], [[2.0]], [[[4.0]]])
        >>> chains = sample(target, draws=100, seed=0).resume(50)
        >>> bool((chains.draws == sample(target, draws=150, seed=0).draws).all())
        True
        """
        from fastgmm.mcmc.sample import resume  # which returns a Chains

        return resume(
            self,
            draws,
            target=target,
            args=args,
            vectorized=vectorized,
            kernel=kernel,
            n_jobs=n_jobs,
            progress=progress,
            callback=callback,
        )

    def to_arviz(self) -> Any:
        """Hand the draws to ArviZ.

        Returns
        -------
        xarray.DataTree
            Group "posterior" with "x" of dimensions (chain, draw, x_dim_0), and "sample_stats" with the
            log-densities as "lp".

        Raises
        ------
        ImportError
            If arviz-base is not installed.
        """
        posterior, sample_stats = {"x": self.draws}, {"lp": self.log_density}
        try:
            from arviz_base import from_dict
        except ImportError:
            raise ImportError("to_arviz needs arviz-base: `pip install 'fastgmm[arviz]'`.") from None
        return from_dict({"posterior": posterior, "sample_stats": sample_stats})

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to an npz file at exactly this path; nothing is pickled.

        The file appears once it is complete: until then, and if writing fails, what was there stays.
        """
        names = [field.name for field in dataclasses.fields(self) if field.name not in ("state", "origin")]
        stored = {name: getattr(self, name) for name in names}
        if self.state is not None:
            stored |= {_STATE + name: value for name, value in self.state._asdict().items()}
        save_fields(path, _FORMAT, stored)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Chains":
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file holds something else, is damaged, or comes from a version that this one does not know.
        """
        stored = load_fields(path, _FORMAT)
        missing = [
            field.name
            for field in dataclasses.fields(cls)
            if field.name not in stored and field.default is field.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ValueError(f"{path} has no {', '.join(missing)}, which Chains.save writes.")
        values = {field.name: stored[field.name] for field in dataclasses.fields(cls) if field.name in stored}
        if all(_STATE + name in stored for name in State._fields):
            values["state"] = State(**{name: stored[_STATE + name] for name in State._fields})
        return cls(**values)

    def __repr__(self) -> str:
        chains, draws, dimensions = self.draws.shape
        parts = [
            f"{chains} chain{'s' * (chains != 1)} x {draws} draw{'s' * (draws != 1)}"
            f" of {dimensions} dimension{'s' * (dimensions != 1)}",
            f"every {self.thin} steps" if self.thin > 1 else "every step",
            f"after {self.warmup} of warm-up",
            self._acceptance(),
        ]
        if self.interrupted:
            parts.append("interrupted")
        if self.rejected_nan.any():
            parts.append(f"{self.rejected_nan.sum()} candidates of density NaN rejected")
        if self.rejected_overflow.any():
            parts.append(f"{self.rejected_overflow.sum()} infinite candidates rejected")
        return f"<Chains: {', '.join(parts)}>"

    def _acceptance(self) -> str:
        rates = self.acceptance_rate.reshape(len(self.acceptance_rate), -1).mean(axis=0)
        if len(rates) == 1:
            return f"acceptance rate {rates[0]:.3g}"
        named = ", ".join(f"{rate:.3g} ({name})" for name, rate in zip(self.moves, rates, strict=True))
        return f"acceptance rates {named}"
