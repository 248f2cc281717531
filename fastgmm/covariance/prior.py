"""What joins the statistics when they are maximised: a conjugate prior, or what is added to variances.

A conjugate prior acts as rows that were not seen: κ of them at a mean m for each component, and others whose second
moments about it are Λ. The posterior's mode is then in closed form (Fraley and Raftery 2007, section 2 and table 1).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastgmm.statistics import Statistics

_EPS = float(np.finfo(np.float64).eps)
_RIDGE = 1e-6  # of a feature's variance


@dataclass(frozen=True, eq=False)
class Prior:
    """A conjugate prior of a mixture; what is None is taken from the data, so that a fit is free of their units.

    Weights have a Dirichlet prior. The mean of a component, given its covariance Σ, is normal about `mean` with
    covariance Σ / `shrinkage`. Covariances have an inverse Wishart prior for "full" and, one for all, for "tied";
    variances an inverse gamma prior of shape `degrees_of_freedom` / 2 and scale `scale` / 2 for "diag" and "spherical".
    "EII" and "EEI" have one such prior for all components; "EVI", "EEV" and "EVV" have one for each, on the covariances
    they allow.

    Parameters
    ----------
    weight_concentration : float, default=1.0
        Parameter α of the Dirichlet distribution, for all components alike: as if α - 1 rows had been seen of each.
        1 is flat; below, weights would have no mode.
    shrinkage : float, default=0.01
        Strength κ of the prior on means, in rows; 0 leaves them free.
    mean : array-like of shape (d,), default=None
        Where means are drawn to; None is the mean of the rows.
    degrees_of_freedom : float, default=None
        Strength ν of the prior on covariances; None is d + 2. For matrices it must exceed d - 1, for variances 0.
    scale : float or array-like, default=None
        Scale of the prior on covariances, in squared units of the data and the shape of one covariance: (d, d) for
        "full", (d,) for "diag", a float for "spherical"; fewer axes stand for equal variances, or for no covariance.
        None is the covariance of all rows in that structure, with the divisor n, over k^(2/d); its variances are raised
        by a millionth, so that constant or collinear features have a width.

    Raises
    ------
    ValueError
        If a parameter is outside its range; from `fit`, if a shape does not suit the data.

    References
    ----------
    Fraley and Raftery (2007), "Bayesian regularization for normal mixture estimation and model-based clustering",
    Journal of Classification 24, 155-181. The defaults are those of mclust's `defaultPrior`, but that "diag" has a
    scale for each feature, where mclust has their mean.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgmm import GaussianMixture, Prior
    >>> X = np.array([[0.0], [0.0], [0.0], [5.0]])
    >>> gm = GaussianMixture(2, prior=Prior(shrinkage=0.0), random_state=0).fit(X)
    >>> bool((gm.covariances_ > 0.1).all())
    True
    """

    weight_concentration: float = 1.0
    shrinkage: float = 0.01
    mean: Any = None
    degrees_of_freedom: float | None = None
    scale: Any = None

    def __post_init__(self) -> None:
        if not 1.0 <= self.weight_concentration < np.inf:
            raise ValueError(f"weight_concentration must be a number from 1 on, but got {self.weight_concentration}.")
        if not 0.0 <= self.shrinkage < np.inf:
            raise ValueError(f"shrinkage must be a number from 0 on, but got {self.shrinkage}.")
        for name in ("mean", "degrees_of_freedom", "scale"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(np.asarray(value, dtype=np.float64)).all():
                raise ValueError(f"{name} must be finite, but got {value}.")

    @property
    def complete(self) -> bool:
        """Whether nothing is left to the data."""
        return all(value is not None for value in (self.mean, self.degrees_of_freedom, self.scale))

    def completed(self, mean: np.ndarray, covariance: np.ndarray, ridge: np.ndarray, k: int) -> "Prior":
        """The same with what is None filled in, from the rows' mean (d,) and their covariance in one structure."""
        d = len(mean)
        scale = covariance / k ** (2 / d)
        scale += np.diag(ridge) if scale.ndim == 2 else ridge if scale.ndim == 1 else ridge.mean()
        values = {"mean": mean, "degrees_of_freedom": d + 2.0, "scale": scale}
        return replace(self, **{name: value for name, value in values.items() if getattr(self, name) is None})

    def hyperparameters(self, structure: ModuleType, k: int, d: int) -> "Hyperparameters":
        """What joins the statistics in one structure; the prior must be complete."""
        mean = np.asarray(self.mean, dtype=np.float64)
        if mean.shape != (d,):
            raise ValueError(f"The prior's mean should have shape ({d},), but got {mean.shape}.")
        least = d - 1 if structure.MATRICES else 0
        degrees = float(self.degrees_of_freedom)  # type: ignore[arg-type]
        if degrees <= least:
            raise ValueError(f"The prior's degrees_of_freedom should exceed {least} here, but got {degrees:g}.")
        return Hyperparameters(
            np.zeros(d),
            float(self.weight_concentration) - 1.0,
            float(self.shrinkage),
            mean,
            float(structure.prior_rows(degrees, self.shrinkage > 0, k, d)),
            # Of a covariance held k times, each has its share of the prior.
            _check_scale(np.asarray(self.scale, dtype=np.float64), structure, k, d) / (k if structure.REPEATED else 1),
        )


def _check_scale(scale: np.ndarray, structure: ModuleType, k: int, d: int) -> np.ndarray:
    """The scale in the structure's shape for one covariance."""
    shape = structure.covariances_shape(k, d)[0 if structure.SHARED else 1 :]
    try:
        full = np.diag(np.broadcast_to(scale, d)) if structure.MATRICES and scale.ndim < 2 else scale
        full = np.broadcast_to(full, shape).copy() if full.ndim < 2 else full
    except ValueError:
        full = scale
    if full.shape != shape:
        raise ValueError(f"The prior's scale should have shape {shape} or fewer axes, but got {scale.shape}.")
    if structure.MATRICES and not np.allclose(full, full.T):
        raise ValueError("The prior's scale should be symmetric.")
    if structure.factorise(full if structure.SHARED else full[None])[1] >= 0:
        raise ValueError(f"The prior's scale should be positive{'-definite' * structure.MATRICES}.")
    return full


class Hyperparameters(NamedTuple):
    """A prior, or what is added to variances, in numbers for one structure."""

    ridge: np.ndarray  # (d,): added to the variances
    concentration: float = 0.0  # α - 1, rows that join every weight
    shrinkage: float = 0.0  # κ, rows that join every mean
    mean: np.ndarray | None = None  # (d,): m, where those lie
    rows: float = 0.0  # rows that join every covariance
    scale: np.ndarray | None = None  # Λ, their second moments, in the structure's shape for one; None without a prior


def flat(reg_covar: float | np.ndarray, features: int) -> Hyperparameters:
    """No prior, and `reg_covar` added to all variances."""
    return Hyperparameters(np.full(features, reg_covar, np.float64))


def relative_ridge(variances: np.ndarray, means: np.ndarray, rows: float = 1.0) -> np.ndarray:
    """What gives every feature a width, (d,): a millionth of its variance, or if that is rounding of their mean.

    A share of it, one over `rows`, is still more than what rounding leaves of a constant feature at its mean.
    """
    noise = (16 * _EPS * means) ** 2
    constant = variances <= noise
    usual = variances[~constant].mean() if not constant.all() else float((means**2).max()) or 1.0
    return _RIDGE * np.where(constant, usual, variances) + rows * noise


def join(statistics: Statistics, prior: Hyperparameters, scatter: Callable[..., np.ndarray]) -> Statistics:
    """Statistics as if the prior's rows had been seen as well; `scatter` is the structure's."""
    if prior.scale is None:
        return statistics
    centres, weight, first, second, log_likelihood, lost = statistics
    # first + κ (m - centre), second + κ (m - centre)(m - centre)ᵀ + Λ
    away = prior.mean - centres
    joined = first + prior.shrinkage * away, second + _prior_moments(prior, away, scatter)
    return Statistics(centres, weight, *joined, log_likelihood, lost)


def _prior_moments(prior: Hyperparameters, away: np.ndarray, scatter: Callable[..., np.ndarray]) -> Any:
    """Second moments of the prior's rows about centres that its mean is so far `away` from, (k, d)."""
    return scatter(away, np.full(len(away), prior.shrinkage)) + prior.scale


def log_density(prior: Hyperparameters, parameters: Any, structure: ModuleType) -> float:
    """Log of the prior's density but for a constant; 0 without a prior."""
    if prior.scale is None:
        return 0.0
    weights, means, _, factors = parameters
    second = _prior_moments(prior, prior.mean - means, structure.scatter)
    # (α - 1) Σ log w_c + rows log |F| - ½ tr F (Λ + κ (m - μ)(m - μ)ᵀ) Fᵀ
    value = prior.rows * structure.log_determinant(factors, means.shape[1])
    value -= 0.5 * float((structure.precisions(factors) * second).sum())
    if prior.concentration > 0:
        with np.errstate(divide="ignore"):
            value += prior.concentration * np.log(weights).sum()
    return float(value)
