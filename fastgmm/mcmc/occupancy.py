"""Which modes the chains found, and whether they agree on them."""

import dataclasses

import numpy as np

from fastgmm.data import check_points
from fastgmm.mcmc import diagnostics
from fastgmm.mcmc.diagnostics import name_all
from fastgmm.mixture import Mixture
from fastgmm.table import format_table

_BLOCK_DRAWS = 2**16
_MOST_CHAINS_SHOWN = 8
_LARGEST_RHAT = 1.01


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ModeOccupancy:
    """How often each chain visits each component of a mixture; printed as a table with what is wrong below.

    A draw visits the component of highest responsibility. Visits rather than mean responsibilities, since a chain
    changes or never leaves a component only where each draw is in one; where components overlap, shares therefore
    differ from the mixture's weights even for exact draws.

    Attributes
    ----------
    share : ndarray of shape (chain, component)
        Share of each chain's draws that visit each component; a chain's sum to 1.
    switches : ndarray of shape (chain,)
        How often a chain's next draw visited another component.
    ess : ndarray of shape (component,)
        Effective sample size of the share of each component in all draws. NaN where nothing changes in any chain.
    rhat : ndarray of shape (component,)
        Split R-hat of the visits to each component: NaN where all draws or none visit it, infinite where some
        chains always do and others never.
    weights : ndarray of shape (component,)
        The mixture's.
    problems : tuple of str
        What is wrong, in sentences: chains that never left a component, components that no chain visited, shares
        with an R-hat above 1.01. Empty if nothing is seen to be.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgmm import Mixture
    >>> from fastgmm.mcmc import sample
    >>> far = Mixture([0.5, 0.5], [[0.0], [100.0]], [1.0, 1.0], "spherical")
    >>> occupancy = sample(far, start=np.zeros(1), draws=500, seed=0).mode_occupancy(far)
    >>> print(*occupancy.problems, sep="\\n")
    Chains 0, 1, 2, 3 never left component 0.
    No chain visited component 1, of weight 0.5.
    """

    share: np.ndarray
    switches: np.ndarray
    ess: np.ndarray
    rhat: np.ndarray
    weights: np.ndarray
    problems: tuple[str, ...]

    def __repr__(self) -> str:
        chains = len(self.share)
        if chains <= _MOST_CHAINS_SHOWN:
            names = [f"chain {c}" for c in range(chains)]
            columns, switches = self.share, self.switches
        else:
            names = ["least", "median", "most"]
            columns, switches = (np.quantile(values, [0.0, 0.5, 1.0], axis=0) for values in (self.share, self.switches))
        rows = [
            [
                str(component),
                f"{self.weights[component]:.3g}",
                f"{self.share[:, component].mean():.3f}",
                *(f"{share:.3f}" for share in columns[:, component]),
                f"{self.ess[component]:.0f}",
                f"{self.rhat[component]:.3f}",
            ]
            for component in range(len(self.weights))
        ]
        rows.append(["switches", "", "", *(f"{count:.0f}" for count in switches), "", ""])
        table = format_table(["component", "weight", "all", *names, "ess", "rhat"], rows)
        return "\n".join([table, *self.problems])


def count_visits(draws: np.ndarray, mixture: Mixture) -> ModeOccupancy:
    """Compare chains, of shape (chain, draw, dim), by the mixture's components that they visit."""
    labels = _labels(draws, mixture)
    components = range(mixture.n_components)
    visits = [labels == component for component in components]
    share = np.stack([visit.mean(axis=1) for visit in visits], axis=1)
    # Ranks of two values are a linear map of them, so that nothing is lost without.
    ess = np.array([diagnostics.size_for_mean(visit.astype(np.float64)) for visit in visits])
    rhat = np.array([diagnostics.rank_normalised_rhat(visit.astype(np.float64)) for visit in visits])
    switches = np.count_nonzero(labels[:, 1:] != labels[:, :-1], axis=1)
    problems = _problems(share, rhat, mixture.weights)
    return ModeOccupancy(share, switches, ess, rhat, mixture.weights, problems)


def _labels(draws: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Return the component of highest responsibility for each draw, of shape (chain, draw)."""
    if not isinstance(mixture, Mixture):
        raise TypeError(f"mixture must be a Mixture, such as `mixture_` of a fit, not {type(mixture).__name__}.")
    if draws.shape[2] != mixture.n_features:
        raise ValueError(f"The draws have {draws.shape[2]} dimensions but the mixture has {mixture.n_features}.")
    rows = draws.reshape(-1, draws.shape[2])
    labels = np.empty(len(rows), dtype=np.int32)
    for begin in range(0, len(rows), _BLOCK_DRAWS):
        block, _ = check_points(rows[begin : begin + _BLOCK_DRAWS], mixture.n_features)
        labels[begin : begin + _BLOCK_DRAWS] = mixture.evaluate(block, "labels").labels
    return labels.reshape(draws.shape[:2])


def _problems(share: np.ndarray, rhat: np.ndarray, weights: np.ndarray) -> tuple[str, ...]:
    """Say what is wrong; components of weight 0 are nowhere and cannot be missed."""
    if len(weights) == 1:
        return ()
    sentences = []
    for component in np.flatnonzero((share == 1.0).any(axis=0)):
        stayed = name_all("Chain", np.flatnonzero(share[:, component] == 1.0))
        sentences.append(f"{stayed} never left component {component}.")
    missed = np.flatnonzero((share == 0.0).all(axis=0) & (weights > 0.0))
    sentences += [
        f"No chain visited component {component}, of weight {weights[component]:.3g}." for component in missed
    ]
    differing = np.flatnonzero(rhat > _LARGEST_RHAT)
    if len(differing):
        who = "The chains" if len(share) > 1 else "The chain's halves"
        of = name_all("component", differing)
        sentences.append(f"{who} disagree on the share of {of}: R-hat up to {rhat[differing].max():.3g}.")
    return tuple(sentences)
