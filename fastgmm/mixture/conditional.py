"""Some features of a mixture, alone and given the others."""

from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from fastgmm.covariance import Parameters
from fastgmm.data import check_points
from fastgmm.mixture import line

if TYPE_CHECKING:
    from fastgmm.mixture.distribution import Mixture


class Split(NamedTuple):
    """A mixture as the marginal of some features, and the distribution of the rest given them."""

    marginal: Parameters
    rest: Parameters  # where the given features are at their means
    gains: np.ndarray  # (k, d', d''): by how much a mean of the rest moves with the given features


def check_dims(dims: Any, n_features: int) -> np.ndarray:
    """Indices of features, from an index, indices or a mask.

    Raises
    ------
    ValueError
        If there are none, one occurs twice, or one is not there.
    """
    found = np.asarray(dims)
    if found.dtype == bool and found.shape == (n_features,):
        found = np.flatnonzero(found)
    found = np.atleast_1d(found)
    if found.ndim != 1 or found.size == 0 or found.dtype.kind not in "iu":
        raise ValueError(f"dims must be the index of a feature, or some indices, but got {dims!r}.")
    if found.min() < -n_features or found.max() >= n_features:
        raise ValueError(f"dims must be from 0 to {n_features - 1}, the last of {n_features} features; got {dims!r}.")
    found = found % n_features
    if len(set(found.tolist())) < found.size:
        raise ValueError(f"dims must name each feature once, but got {dims!r}.")
    return found


def split(parameters: Parameters, structure: ModuleType, given: np.ndarray) -> Split:
    """The marginal of the features at `given`, and the others given these (Bishop 2006, equations 2.81 to 2.98).

    The factor is rotated to where the given features come first and it is lower triangular again,

        Q F P = [F₁₁ 0; F₂₁ F₂₂],  x₁ ~ N(μ₁, (F₁₁ᵀ F₁₁)⁻¹),  x₂ | x₁ ~ N(μ₂ - F₂₂⁻¹ F₂₁ (x₁ - μ₁), (F₂₂ᵀ F₂₂)⁻¹)

    so that nothing is subtracted and no digits go but those that the condition of F itself takes.
    """
    weights, means, covariances, factors = parameters
    k, d = means.shape
    rest = np.setdiff1d(np.arange(d), given)
    order, m = np.concatenate([given, rest]), len(given)
    # The triangle of columns turned end for end is lower when turned back.
    upper = np.asarray(np.linalg.qr(structure.dense(factors, k, d)[:, :, order[::-1]], mode="r"))
    lower = upper[:, ::-1, ::-1] * np.sign(np.einsum("cjj->cj", upper))[:, ::-1, None]
    within = structure.dense(covariances, k, d)[:, given[:, None], given]
    marginal = Parameters(weights, means[:, given], *map(structure.from_dense, (within, lower[:, :m, :m])))
    if not rest.size:
        return Split(marginal, marginal, np.empty((k, 0, m)))
    inverses = np.stack([solve_triangular(tail, np.eye(d - m), lower=True) for tail in lower[:, m:, m:]])
    beyond = inverses @ inverses.swapaxes(1, 2)
    rest_given = Parameters(weights, means[:, rest], *map(structure.from_dense, (beyond, lower[:, m:, m:])))
    return Split(marginal, rest_given, -inverses @ lower[:, m:, :m])


@dataclass(frozen=True, eq=False, repr=False)
class Conditional:
    """Features of a mixture given the others, for n rows of values: what `Mixture.condition` returns.

    Row i of it, `conditional[i]`, is a `Mixture` of the d' features; a loop goes over all rows.

    Attributes
    ----------
    weights : ndarray of shape (n, k)
        Weights of the components given each row.
    means : ndarray of shape (n, k, d')
        Their means given each row; the covariances are the same in all.
    mean : ndarray of shape (n, d')
        Mean given each row: the regression on the given features.
    cov : ndarray of shape (n, d', d')
        Covariance given each row.

    Examples
    --------
    >>> from fastgmm import Mixture
    >>> mixture = Mixture([0.5, 0.5], [[0.0, 0.0], [4.0, 8.0]], [[1.0, 1.0], [1.0, 1.0]], "diag")
    >>> conditional = mixture.condition(0, [0.0, 2.0, 4.0])
    >>> conditional.mean[:, 0].round(2), conditional.cov[:, 0, 0].round(2)
    (array([0., 4., 8.]), array([ 1.02, 17.  ,  1.02]))
    >>> conditional.ppf([0.1, 0.9]).round(2)
    array([[-1.28,  1.28],
           [-0.84,  8.84],
           [ 6.72,  9.28]])
    """

    weights: np.ndarray
    _given: np.ndarray  # (n, d'')
    _centres: np.ndarray  # (k, d''): means of the given features
    _rest: "Mixture"  # the others, where the given features are at their means
    _gains: np.ndarray

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, row: int) -> "Mixture":
        deviations = self._given[row] - self._centres
        means = self._rest.means + np.einsum("cij,cj->ci", self._gains, deviations)
        parameters = self._rest.parameters._replace(weights=self.weights[row], means=means)
        return self._rest.from_parameters(parameters, self._rest.covariance_type)

    @property
    def means(self) -> np.ndarray:
        """Means of the components given each row."""
        return np.stack([self._means(c) for c in range(len(self._centres))], axis=1)

    def _means(self, c: int) -> np.ndarray:
        """Means of one component, (n, d')."""
        return self._rest.means[c] + (self._given - self._centres[c]) @ self._gains[c].T

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean given each row."""
        return sum(self.weights[:, c, None] * self._means(c) for c in range(len(self._centres)))

    @cached_property
    def cov(self) -> np.ndarray:
        """Covariance given each row."""
        total = np.einsum("nc,cij->nij", self.weights, self._rest.covariances_dense)
        for c, weights in enumerate(self.weights.T):
            deviations = self._means(c) - self.mean
            total += (weights[:, None] * deviations)[:, :, None] * deviations[:, None, :]
        return total

    def logpdf(self, Y: Any) -> np.ndarray:
        """Log-density of each row's own point.

        Parameters
        ----------
        Y : array-like of shape (n, d')
            Values of the features that were not given; with one, (n,) as well.

        Returns
        -------
        ndarray of shape (n,)

        Raises
        ------
        ValueError
            If Y has another shape, or values that are not finite and real.
        """
        points, leading = check_points(Y, self._rest.n_features, name="Y")
        if leading != (len(self),):
            raise ValueError(f"Y must have a row for each of the {len(self)} given ones, but got {np.shape(Y)}.")
        densities = np.empty_like(self.weights)
        with np.errstate(over="ignore"):  # far from every component: -inf
            for c, factor in enumerate(self._rest.factors_dense):
                scaled = (points - self._means(c)) @ factor.T
                densities[:, c] = np.log(np.diag(factor)).sum() - 0.5 * (scaled**2).sum(axis=1)
        return logsumexp(densities, axis=1, b=self.weights) - 0.5 * points.shape[1] * np.log(2.0 * np.pi)

    def pdf(self, Y: Any) -> np.ndarray:
        """Density of each row's own point; see `logpdf`."""
        return np.exp(self.logpdf(Y))

    def ppf(self, q: Any) -> np.ndarray:
        """Quantiles given each row, of one feature.

        Parameters
        ----------
        q : float or array-like of shape (m,)
            Probabilities.

        Returns
        -------
        ndarray of shape (n,) or (n, m)
            See `Mixture.ppf`.

        Raises
        ------
        ValueError
            If more than one feature is left, or a probability is not from 0 to 1.
        """
        if self._rest.n_features > 1:
            raise ValueError(
                f"Quantiles are of one feature, but {self._rest.n_features} are left; give values of the others, "
                "or take the marginal of one and the given features first."
            )
        q = line.check_probabilities(q)
        shape = (len(self), *(1,) * q.ndim, -1)
        widths = 1.0 / self._rest.factors_dense[:, 0, 0]
        return line.ppf(q[None], self.weights.reshape(shape), self.means.reshape(shape), widths)
