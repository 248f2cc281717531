"""Mixture: the distribution itself, immutable; what one asks of a density lives here."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from fastgmm.covariance import ALIASES, STRUCTURES, Parameters
from fastgmm.data import check_points
from fastgmm.mixture.completion import complete
from fastgmm.mixture.evaluation import evaluate
from fastgmm.mixture.parameters import check_parameters
from fastgmm.sources.array import RowsOut


class Mixture:
    """A mixture of Gaussian distributions, p(x) = Σ_c w_c N(x | μ_c, Σ_c).

    Parameters
    ----------
    weights : array-like of shape (k,)
        Probabilities of the components; they sum to 1.
    means : array-like of shape (k, d)
        Means of the components, in the units of the data.
    covariances : array-like
        Covariances, in squared units: (k, d, d) for "full", (d, d) for "tied", (k, d) for "diag", (k,) for
        "spherical".
    covariance_type : str, default="full"
        Which shape the covariances have: one of the above, or another of those that `GaussianMixture` takes.

    Attributes
    ----------
    weights, means, covariances : ndarray
        As given, read-only, float64.
    n_components, n_features : int
        k and d.

    Raises
    ------
    ValueError
        If shapes disagree, weights are negative or do not sum to 1, or a covariance is not symmetric
        positive-definite; the message names the component.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgmm import Mixture
    >>> two = Mixture([0.5, 0.5], [[0.0], [4.0]], [[[1.0]], [[1.0]]])
    >>> two.mean
    array([2.])
    >>> two.cov
    array([[5.]])
    >>> two.responsibilities([[2.0]])
    array([[0.5, 0.5]])
    """

    __slots__ = ("_structure", "covariance_type", "covariances", "factors", "means", "weights")

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    factors: np.ndarray
    covariance_type: str
    _structure: ModuleType

    def __init__(self, weights: Any, means: Any, covariances: Any, covariance_type: str = "full") -> None:
        self._set(check_parameters(weights, means, covariances, covariance_type), covariance_type)

    def _set(self, parameters: Parameters, covariance_type: str) -> None:
        for name, array in parameters._asdict().items():
            array = np.array(array, dtype=np.float64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "covariance_type", ALIASES.get(covariance_type, covariance_type))
        object.__setattr__(self, "_structure", STRUCTURES[covariance_type])

    @classmethod
    def from_parameters(cls, parameters: Parameters, covariance_type: str) -> "Mixture":
        """Build from parameters that are known to be sound, keeping their factors."""
        mixture = cls.__new__(cls)
        mixture._set(parameters, covariance_type)
        return mixture

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"A Mixture is immutable; build a new one instead of setting {name!r}.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"A Mixture is immutable; {name!r} cannot be deleted.")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Mixture.from_parameters, (self.parameters, self.covariance_type))

    @property
    def parameters(self) -> Parameters:
        """Weights, means, covariances and factors as one tuple."""
        return Parameters(self.weights, self.means, self.covariances, self.factors)

    @property
    def n_components(self) -> int:
        """Number of components, k."""
        return int(self.means.shape[0])

    @property
    def n_features(self) -> int:
        """Number of features, d."""
        return int(self.means.shape[1])

    @property
    def mean(self) -> np.ndarray:
        """Mean of the distribution, shape (d,)."""
        # Deviations from one mean first: exact also far from zero.
        return self.means[0] + self.weights @ (self.means - self.means[0])

    @property
    def cov(self) -> np.ndarray:
        """Covariance of the distribution, shape (d, d): within components plus between them."""
        deviations = self.means - self.mean
        within = np.einsum("c,cij->ij", self.weights, self.covariances_dense)
        return within + (deviations.T * self.weights) @ deviations

    @property
    def covariances_dense(self) -> np.ndarray:
        """Covariances as matrices, shape (k, d, d)."""
        return self._structure.dense(self.covariances, *self.means.shape)

    @property
    def factors_dense(self) -> np.ndarray:
        """Lower triangular F, shape (k, d, d), with |F (x - μ)|² the squared Mahalanobis distance."""
        return self._structure.dense(self.factors, *self.means.shape)

    def logpdf(self, X: Any) -> Any:
        """Log-density at each point.

        Parameters
        ----------
        X : array-like of shape (..., d)
            Points; with one feature, (n,) is n points.

        Returns
        -------
        float or ndarray of shape (...)

        Examples
        --------
        >>> from fastgmm import Mixture
        >>> round(Mixture([1.0], [[0.0]], [1.0], "spherical").logpdf(0.0), 6)
        -0.918939
        """
        rows, leading = check_points(X, self.n_features)
        values = self.evaluate(rows, log_likelihoods=True).log_likelihoods.reshape(leading)
        return float(values) if leading == () else values

    def pdf(self, X: Any) -> Any:
        """Density at each point; see `logpdf`."""
        values = np.exp(self.logpdf(X))
        return float(values) if np.ndim(values) == 0 else values

    def responsibilities(self, X: Any) -> np.ndarray:
        """Probability of each component given each point, shape (..., k); a point's sum to 1.

        A point too far from every component for float64 belongs wholly to the nearest one.
        """
        rows, leading = check_points(X, self.n_features)
        out = self.evaluate(rows, responsibilities=True).responsibilities
        return out.reshape(*leading, self.n_components)

    def rvs(self, size: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw `size` points, shape (size, d), in random order of components.

        Parameters
        ----------
        size : int, default=1
            Number of points.
        random_state : None, int, RandomState or Generator
            Where randomness comes from.
        """
        return self.rvs_labelled(size, random_state)[0]

    def rvs_labelled(self, size: int = 1, random_state: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Draw points and the components they came from, shapes (size, d) and (size,)."""
        if size < 0:
            raise ValueError(f"size must not be negative, but got {size}.")
        random = _check_random(random_state)
        labels = random.choice(self.n_components, size=size, p=self.weights / self.weights.sum())
        return self.draw(labels, random), labels

    def draw(self, labels: np.ndarray, random: Any) -> np.ndarray:
        """Draw one point from the component of each label."""
        points = random.standard_normal(size=(len(labels), self.n_features))
        lower = np.linalg.cholesky(self.covariances_dense)
        for c in range(self.n_components):
            mine = labels == c
            points[mine] = self.means[c] + points[mine] @ lower[c].T
        return points

    def impute(self, X: Any) -> np.ndarray:
        """Points with their missing entries at their conditional means, given the observed entries.

        Parameters
        ----------
        X : array-like of shape (..., d)
            Points, NaN where an entry is missing.

        Returns
        -------
        ndarray of shape (..., d)
            The same points in float64; Σ_c r_c E[x_m | x_o, c] in place of NaN, with r_c the responsibilities given
            what is observed (Little and Rubin, "Statistical Analysis with Missing Data", chapter 11).

        Raises
        ------
        ValueError
            If the last axis is not d long or a value is infinite or complex.

        Examples
        --------
        >>> import numpy as np
        >>> from fastgmm import Mixture
        >>> Mixture([1.0], [[0.0, 1.0]], [[[1.0, 0.5], [0.5, 1.0]]]).impute([2.0, np.nan]).round(6)
        array([2., 2.])
        """
        points, leading = check_points(X, self.n_features, allow_missing=True)
        return complete(self.parameters, self._structure, points, 1, None)[0].reshape(*leading, self.n_features)

    def rvs_missing(self, X: Any, n: int = 1, random_state: Any = None) -> np.ndarray:
        """Draw completed copies of points: missing entries from their distribution given the observed entries.

        Parameters
        ----------
        X : array-like of shape (..., d)
            Points, NaN where an entry is missing.
        n : int, default=1
            Number of copies.
        random_state : None, int, RandomState or Generator
            Where randomness comes from.

        Returns
        -------
        ndarray of shape (n, ..., d)
            Copies of X in float64. Observed entries are as they were; the missing ones of a point are drawn together,
            from one component, and afresh in every copy.

        Raises
        ------
        ValueError
            If `n` is negative, the last axis of X is not d long, or a value is infinite or complex.

        Examples
        --------
        >>> import numpy as np
        >>> from fastgmm import Mixture
        >>> mixture = Mixture([1.0], [[0.0, 1.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> copies = mixture.rvs_missing([[2.0, np.nan], [0.0, 0.0]], 1_000, random_state=0)
        >>> copies.shape, copies[:, 0, 1].mean().round(1), copies[:, 0, 1].var().round(1)
        ((1000, 2, 2), np.float64(2.0), np.float64(0.7))
        """
        if n < 0:
            raise ValueError(f"n must not be negative, but got {n}.")
        points, leading = check_points(X, self.n_features, allow_missing=True)
        copies = complete(self.parameters, self._structure, points, n, _check_random(random_state))
        return copies.reshape(n, *leading, self.n_features)

    def evaluate(self, rows: np.ndarray, **wanted: bool) -> RowsOut:
        """One pass over checked rows (n, d) that writes what is wanted; see `evaluation.evaluate`."""
        return evaluate(self.parameters, self._structure, rows, **wanted)

    def save(self, path: str | Path) -> None:
        """Write to a NumPy .npz file, without pickle."""
        arrays = self.parameters._asdict() | {"covariance_type": np.array(self.covariance_type)}
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "Mixture":
        """Read what `save` wrote; densities are the same to the bit.

        Raises
        ------
        ValueError
            If the file is no .npz archive, lacks an array, or holds parameters that are not a mixture's.
        """
        arrays = _read_arrays(path)
        missing = {*Parameters._fields, "covariance_type"} - set(arrays)
        if missing:
            raise ValueError(f"{path} is not a saved Mixture: it has no {', '.join(sorted(missing))}.")
        parameters = Parameters(*(arrays[name] for name in Parameters._fields))
        covariance_type = str(arrays["covariance_type"])
        checked = cls(parameters.weights, parameters.means, parameters.covariances, covariance_type)
        loaded = cls.from_parameters(parameters, covariance_type)
        if parameters.factors.shape != checked.factors.shape or not loaded._factors_fit():
            raise ValueError(f"{path} is damaged: its factors are not those of its covariances.")
        return loaded

    def _factors_fit(self) -> bool:
        """Whether F Σ Fᵀ = 1 but for rounding, which F of a large condition magnifies."""
        factors, covariances = self.factors_dense, self.covariances_dense
        if not np.isfinite(factors).all():
            return False
        scale = (factors**2).sum(axis=(1, 2)) * np.einsum("cjj->c", covariances)
        errors = np.abs(factors @ covariances @ factors.swapaxes(1, 2) - np.eye(self.n_features)).max(axis=(1, 2))
        return bool((errors <= 1e-8 + 1e-13 * scale).all())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mixture):
            return NotImplemented
        return self.covariance_type == other.covariance_type and all(
            np.array_equal(mine, theirs) for mine, theirs in zip(self.parameters[:3], other.parameters[:3], strict=True)
        )

    def __hash__(self) -> int:
        return hash((self.covariance_type, self.weights.tobytes(), self.means.tobytes(), self.covariances.tobytes()))

    def __repr__(self) -> str:
        with np.printoptions(precision=4, suppress=True, threshold=60, edgeitems=2):
            body = ",\n".join(
                f"    {name}={np.array2string(getattr(self, name), separator=', ', prefix=' ' * (5 + len(name)))}"
                for name in ("weights", "means", "covariances")
            )
        return f"Mixture(\n{body},\n    covariance_type={self.covariance_type!r},\n)"


def _check_random(random_state: Any) -> Any:
    return random_state if isinstance(random_state, np.random.Generator) else check_random_state(random_state)


def _read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        try:
            with np.lib.npyio.NpzFile(file, allow_pickle=False) as saved:
                return {name: saved[name] for name in saved.files}
        except Exception as error:  # damaged bytes make zipfile and NumPy raise errors of a dozen kinds
            raise ValueError(f"{path} is not a saved Mixture: {error}.") from None
