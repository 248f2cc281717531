"""Mixture: the distribution itself, immutable; what one asks of a density lives here."""

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from fastgmm.covariance import STRUCTURES, Parameters
from fastgmm.data import check_points
from fastgmm.kernels import masked
from fastgmm.sources import open_rows
from fastgmm.sources.array import RowsOut
from fastgmm.sources.missing import order_of_patterns

_WEIGHT_TOLERANCE = 1e-8
_COMPLETED_ROWS = 1 << 16  # rows completed at a time, with their responsibilities and noise


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
    covariance_type : {"full", "tied", "diag", "spherical"}, default="full"
        Which shape the covariances have.

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
        if covariance_type not in STRUCTURES:
            raise ValueError(f"covariance_type must be one of {', '.join(STRUCTURES)}, but got {covariance_type!r}.")
        weights = _check_weights(_real_array(weights, "weights"))
        means = _check_means(_real_array(means, "means"), weights.shape[0])
        covariances = _real_array(covariances, "covariances")
        _check_covariances(covariances, covariance_type, *means.shape)
        factors, failed = STRUCTURES[covariance_type].factorise(covariances)
        if failed >= 0:
            raise ValueError(
                f"Not positive-definite is {STRUCTURES[covariance_type].describe(failed)}: "
                f"{_why_not_positive(covariances, covariance_type, failed)}."
            )
        self._set(Parameters(weights, means, covariances, factors), covariance_type)

    def _set(self, parameters: Parameters, covariance_type: str) -> None:
        for name, array in parameters._asdict().items():
            array = np.array(array, dtype=np.float64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "covariance_type", covariance_type)
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
        return self._complete(points, 1, None)[0].reshape(*leading, self.n_features)

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
        return self._complete(points, n, _check_random(random_state)).reshape(n, *leading, self.n_features)

    def _complete(self, rows: np.ndarray, copies: int, random: Any) -> np.ndarray:
        """Completed copies (copies, n, d) of checked rows: with draws, or without `random` with conditional means."""
        out = np.repeat(np.asarray(rows, dtype=np.float64)[None], copies, axis=0)
        missing = np.isnan(rows)
        places = np.flatnonzero(missing.any(axis=1))
        places = places[order_of_patterns(missing[places])]
        columns = self.factors_dense.swapaxes(1, 2).copy()
        for start in range(0, len(places), _COMPLETED_ROWS):
            these = places[start : start + _COMPLETED_ROWS]
            block = np.asarray(rows[these], dtype=np.float64)
            shares = self.evaluate(block, responsibilities=True, missing=True).responsibilities
            noise, filled = np.zeros_like(block), block.copy()
            bounds = shares.cumsum(axis=1)[:, :-1]
            for copy in out:
                if random is not None:
                    labels = (random.uniform(size=(len(block), 1)) > bounds).sum(axis=1)
                    shares = np.eye(self.n_components)[labels]
                    noise = random.standard_normal(size=block.shape)
                masked.complete_rows(block, shares, noise, self.means.copy(), columns, filled)
                copy[these] = filled
        return out

    def evaluate(
        self,
        rows: np.ndarray,
        *,
        log_likelihoods: bool = False,
        responsibilities: bool = False,
        labels: bool = False,
        single: bool = False,
        missing: bool = False,
    ) -> RowsOut:
        """One pass over checked rows (n, d) that writes what is asked for; float32 suffices if `single`.

        If entries may be `missing`, those that are NaN are integrated out.
        """
        if rows.shape[0] == 0:
            return RowsOut(np.empty(0), np.empty((0, self.n_components)), np.empty(0, np.int64), 0)
        source = open_rows(rows, missing=missing)
        wanted = {"log_likelihoods": log_likelihoods, "responsibilities": responsibilities, "labels": labels}
        # Numba takes arrays that cannot be written for another type, and would compile the pass for them as well.
        parameters = Parameters(*(part.copy() for part in self.parameters))
        out = source.map(source.form(self._structure, parameters, single), **wanted)
        if out.lost:
            centred = source.centred_form(self._structure, parameters)
            out = source.map(centred, **wanted)
            if out.lost:
                lost = np.flatnonzero(~np.isfinite(source.map(centred, log_likelihoods=True).log_likelihoods))
                self._repair(out, lost, np.asarray(rows[lost], dtype=np.float64))
        return out

    def _repair(self, out: RowsOut, lost: np.ndarray, rows: np.ndarray) -> None:
        """Give `rows`, those at `lost`, whose squared distances overflow, -inf and wholly to the nearest component."""
        nearest = self._nearest(rows)
        if out.log_likelihoods.size:
            out.log_likelihoods[lost] = -np.inf
        if out.responsibilities.size:
            out.responsibilities[lost] = np.arange(self.n_components) == nearest[:, None]
        if out.labels.size:
            out.labels[lost] = nearest

    def _nearest(self, rows: np.ndarray) -> np.ndarray:
        """Component at the least Mahalanobis distance, computed in units of each row's own size."""
        missing = np.isnan(rows)
        unit = np.maximum(np.nanmax(np.abs(rows), axis=1, keepdims=True), 1.0)
        factors = self.factors_dense / np.abs(self.factors).max()
        distances = np.full((len(rows), self.n_components), np.inf)
        for c in np.flatnonzero(self.weights):
            scaled = np.where(missing, 0.0, rows / unit - self.means[c] / unit) @ factors[c].T
            for i in np.flatnonzero(missing.any(axis=1)):
                basis = np.linalg.qr(factors[c][:, missing[i]])[0]
                scaled[i] -= basis @ (basis.T @ scaled[i])
            distances[:, c] = (scaled**2).sum(1)
        return distances.argmin(1)

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


def _real_array(values: Any, name: str) -> np.ndarray:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of real numbers: {error}") from None
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, but {name}[{', '.join(map(str, where))}] is {array[where]}.")
    return array


def _check_weights(weights: np.ndarray) -> np.ndarray:
    if weights.ndim != 1 or weights.size == 0:
        raise ValueError(f"weights must have shape (k,) with k at least 1, but got {weights.shape}.")
    if (weights < 0).any():
        c = int(weights.argmin())
        raise ValueError(f"weights must not be negative, but component {c} has weight {weights[c]:g}.")
    total = math.fsum(weights)
    if abs(total - 1.0) > _WEIGHT_TOLERANCE:
        raise ValueError(f"weights must sum to 1, but sum to {total:.10g}; divide them by their sum.")
    return weights


def _check_means(means: np.ndarray, k: int) -> np.ndarray:
    if means.ndim != 2 or means.shape[0] != k or means.shape[1] == 0:
        raise ValueError(f"means must have shape (k, d) with k = {k} as in weights, but got {means.shape}.")
    return means


def _check_covariances(covariances: np.ndarray, covariance_type: str, k: int, d: int) -> None:
    expected = STRUCTURES[covariance_type].covariances_shape(k, d)
    if covariances.shape != expected:
        raise ValueError(
            f"{covariance_type} covariances of {k} components in {d} features have shape {expected}, "
            f"but got {covariances.shape}."
        )
    if STRUCTURES[covariance_type].MATRICES:
        _check_symmetric(covariances, covariance_type)


def _check_symmetric(covariances: np.ndarray, covariance_type: str) -> None:
    matrices = covariances if covariances.ndim == 3 else covariances[None]
    for c, matrix in enumerate(matrices):
        largest = np.abs(matrix).max()
        if (np.abs(matrix - matrix.T) > 1e-8 * largest).any():
            i, j = (int(a) for a in np.unravel_index(np.abs(matrix - matrix.T).argmax(), matrix.shape))
            raise ValueError(
                f"Not symmetric is {STRUCTURES[covariance_type].describe(c)}: "
                f"[{i}, {j}] is {matrix[i, j]:g} and [{j}, {i}] is {matrix[j, i]:g}."
            )


def _why_not_positive(covariances: np.ndarray, covariance_type: str, component: int) -> str:
    if STRUCTURES[covariance_type].MATRICES:
        matrix = covariances.reshape(-1, *covariances.shape[-2:])[component]
        return f"its smallest eigenvalue is {np.linalg.eigvalsh(matrix)[0]:.3g}"
    return f"its smallest variance is {np.min(covariances[component]):.3g}"
