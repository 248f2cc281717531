"""Mixture: the distribution itself, immutable; what one asks of a density lives here."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastgmm.covariance import ALIASES, STRUCTURES, Parameters
from fastgmm.data import check_points, check_random
from fastgmm.mixture import entropy, files, line
from fastgmm.mixture.completion import complete
from fastgmm.mixture.conditional import Conditional, check_dims, split
from fastgmm.mixture.entropy import EntropyBounds, Estimate
from fastgmm.mixture.evaluation import Evaluator
from fastgmm.mixture.parameters import check_parameters
from fastgmm.sources.array import RowsOut, Wanted


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

    @classmethod
    def from_estimator(cls, estimator: Any) -> "Mixture":
        """The distribution that a fitted estimator found.

        Parameters
        ----------
        estimator : GaussianMixture
            Ours or scikit-learn's; of its `BayesianGaussianMixture` the expected parameters.

        Returns
        -------
        Mixture
            With the estimator's weights, divided by their sum, means and covariances.

        Raises
        ------
        NotFittedError
            If it is not fitted.

        Examples
        --------
        >>> from sklearn.mixture import GaussianMixture
        >>> from fastgmm import Mixture
        >>> Mixture.from_estimator(GaussianMixture(1).fit([[0.0], [2.0]])).mean
        array([1.])
        """
        check_is_fitted(estimator, "weights_")
        weights = np.asarray(estimator.weights_, dtype=np.float64)
        return cls(weights / weights.sum(), estimator.means_, estimator.covariances_, estimator.covariance_type)

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
        values = self.evaluate(rows, "log_likelihoods").log_likelihoods.reshape(leading)
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
        out = self.evaluate(rows, "responsibilities").responsibilities
        return out.reshape(*leading, self.n_components)

    def rvs(self, size: int = 1, random_state: Any = None, *, return_labels: bool = False) -> Any:
        """Draw `size` points, in random order of components.

        Parameters
        ----------
        size : int, default=1
            Number of points.
        random_state : None, int, RandomState or Generator
            Where randomness comes from.
        return_labels : bool, default=False
            Whether to return the components as well.

        Returns
        -------
        points : ndarray of shape (size, d)
        labels : ndarray of shape (size,)
            The component each point came from; only if asked for.

        Examples
        --------
        >>> from fastgmm import Mixture
        >>> mixture = Mixture([0.5, 0.5], [[0.0], [9.0]], [1.0, 1.0], "spherical")
        >>> points, labels = mixture.rvs(100, random_state=0, return_labels=True)
        >>> bool(((points[:, 0] > 4.5) == labels).all())
        True
        """
        if size < 0:
            raise ValueError(f"size must not be negative, but got {size}.")
        random = check_random(random_state)
        labels = random.choice(self.n_components, size=size, p=self.weights / self.weights.sum())
        points = self.draw(labels, random)
        return (points, labels) if return_labels else points

    def draw(self, labels: np.ndarray, random: Any) -> np.ndarray:
        """Draw one point from the component of each label."""
        points = random.standard_normal(size=(len(labels), self.n_features))
        lower = np.linalg.cholesky(self.covariances_dense)
        for c in range(self.n_components):
            mine = labels == c
            points[mine] = self.means[c] + points[mine] @ lower[c].T
        return points

    def marginal(self, dims: Any) -> "Mixture":
        """Distribution of some features alone.

        Parameters
        ----------
        dims : int, array-like of int, or mask of shape (d,)
            Which features, and in what order.

        Returns
        -------
        Mixture
            Of the same structure; of mclust's the familiar one with covariances of that shape.

        Raises
        ------
        ValueError
            If `dims` is empty, names a feature twice, or one that is not there.

        Examples
        --------
        >>> from fastgmm import Mixture
        >>> Mixture([1.0], [[0.0, 1.0]], [[[1.0, 0.5], [0.5, 2.0]]]).marginal(1).cov
        array([[2.]])
        """
        parts = split(self.parameters, self._structure, check_dims(dims, self.n_features))
        return Mixture.from_parameters(parts.marginal, self._structure.SHAPE)

    def condition(self, dims: Any, values: Any) -> "Mixture | Conditional":
        """Distribution of the other features given values of some: regression with a mixture.

        Parameters
        ----------
        dims : int, array-like of int, or mask of shape (d,)
            Which features are given: d'' of them.
        values : array-like of shape (d'',) or (n, d'')
            Their values; of one feature also a number, or (n,).

        Returns
        -------
        Mixture or Conditional
            For one row of values a `Mixture` of the other features, in their order. For n rows a `Conditional`, which
            has mean (n, d'), cov (n, d', d'), weights (n, k), logpdf, pdf and ppf, and a `Mixture` for each row.

        Raises
        ------
        ValueError
            If `dims` is empty, names all features, one twice, or one that is not there; or if values have another shape
            or are not finite and real.

        References
        ----------
        Bishop (2006), "Pattern Recognition and Machine Learning", equations 2.81 and 2.82.

        Examples
        --------
        >>> from fastgmm import Mixture
        >>> mixture = Mixture([1.0], [[0.0, 1.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> mixture.condition(0, 2.0).mean, mixture.condition(0, 2.0).cov
        (array([2.]), array([[0.75]]))
        >>> mixture.condition(0, [0.0, 2.0, 4.0]).mean[:, 0]
        array([1., 2., 3.])
        """
        given = check_dims(dims, self.n_features)
        if len(given) == self.n_features:
            raise ValueError(f"dims names all {self.n_features} features, so that none is left to describe.")
        rows, leading = check_points(values, len(given), name="values")
        if len(leading) > 1:
            raise ValueError(
                f"values must have shape ({len(given)},) or (n, {len(given)}), but got {np.shape(values)}."
            )
        marginal, rest, gains = split(self.parameters, self._structure, given)
        weights = Mixture.from_parameters(marginal, self._structure.SHAPE).responsibilities(rows)
        others = Mixture.from_parameters(rest, self._structure.SHAPE)
        conditional = Conditional(weights, np.asarray(rows, dtype=np.float64), marginal.means, others, gains)
        return conditional if leading else conditional[0]

    def cdf(self, x: Any, direction: Any = None) -> Any:
        """Probability of at most `x`, of the only feature or of a projection.

        Parameters
        ----------
        x : array-like of shape (...)
            Values.
        direction : array-like of shape (d,), optional
            Which projection, direction · X, is at most `x`; of one feature itself by default.

        Returns
        -------
        float or ndarray of shape (...)
            Small probabilities to their last digits; of those near 1 take the other tail, that of -direction at -x.

        Raises
        ------
        ValueError
            If there are several features and no direction, or it is zero, not finite, or of another shape.

        Examples
        --------
        >>> from fastgmm import Mixture
        >>> mixture = Mixture([0.5, 0.5], [[0.0, 0.0], [3.0, 4.0]], [1.0, 1.0], "spherical")
        >>> mixture.cdf(2.5, direction=[0.6, 0.8]), mixture.marginal(0).cdf(1.5)
        (0.5, 0.5)
        """
        x = np.asarray(x, dtype=np.float64)
        values = line.cdf(x, *line.project(self.parameters, self._structure, direction))
        return float(values) if values.ndim == 0 else values

    def ppf(self, q: Any, direction: Any = None) -> Any:
        """Quantile: where `cdf` is `q`.

        Parameters
        ----------
        q : array-like of shape (...)
            Probabilities.
        direction : array-like of shape (d,), optional
            Of which projection, direction · X; of one feature itself by default.

        Returns
        -------
        float or ndarray of shape (...)
            To the digits that q determines; -inf and inf for 0 and 1.

        Raises
        ------
        ValueError
            If a probability is not from 0 to 1, or as for `cdf`.

        Examples
        --------
        >>> from fastgmm import Mixture
        >>> mixture = Mixture([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> mixture.ppf([0.0, 0.025, 0.5]).round(6)
        array([     -inf, -1.644854,  2.      ])
        """
        q = line.check_probabilities(q)
        values = line.ppf(q, *line.project(self.parameters, self._structure, direction))
        return float(values) if values.ndim == 0 else values

    def entropy_bounds(self) -> EntropyBounds:
        """Bounds on the differential entropy, -E log p(X), in nats.

        Returns
        -------
        EntropyBounds
            `lower` and `upper`, the best of several in closed form. They meet where components coincide or are far
            apart.

        References
        ----------
        Huber, Bailey, Durrant-Whyte and Hanebeck (2008), "On entropy approximation for Gaussian mixture random
        vectors", IEEE MFI, 181-188. Kolchinsky and Tracey (2017), "Estimating mixture entropy with pairwise distances",
        Entropy 19, 361.

        Examples
        --------
        >>> from fastgmm import Mixture
        >>> lower, upper = Mixture([0.5, 0.5], [[0.0], [3.0]], [1.0, 1.0], "spherical").entropy_bounds()
        >>> round(lower, 4), round(upper, 4)
        (1.8585, 2.0083)
        """
        return entropy.bounds(self.weights, self.means, self.factors_dense, self.cov)

    def kl(self, other: "Mixture", n: int = 100_000, random_state: Any = None) -> Estimate:
        """Kullback-Leibler divergence E log p(X) / q(X) of another mixture q from this one, p, by Monte Carlo.

        Parameters
        ----------
        other : Mixture
            The distribution q, of as many features.
        n : int, default=100_000
            Number of draws from p.
        random_state : None, int, RandomState or Generator
            Where randomness comes from.

        Returns
        -------
        Estimate
            `value`, in nats, and its `standard_error`, which falls as 1 / √n.

        Raises
        ------
        ValueError
            If the numbers of features differ or `n` is less than 2.

        Examples
        --------
        >>> from fastgmm import Mixture
        >>> p, q = (Mixture([1.0], [[mean]], [1.0], "spherical") for mean in (0.0, 1.0))
        >>> value, standard_error = p.kl(q, random_state=0)
        >>> abs(value - 0.5) < 5 * standard_error
        True
        """
        if not isinstance(other, Mixture) or other.n_features != self.n_features:
            raise ValueError(f"The divergence is from another Mixture of {self.n_features} features, not {other!r}.")
        if n < 2:
            raise ValueError(f"n must be at least 2, but got {n}.")
        points = self.rvs(n, random_state)
        ratios = self.logpdf(points) - other.logpdf(points)
        if np.isinf(ratios).any():
            return Estimate(np.inf, np.inf)
        return Estimate(float(ratios.mean()), float(ratios.std(ddof=1) / np.sqrt(n)))

    def sort(self, by: str | int = "weight") -> "Mixture":
        """The same distribution with its components in an order that does not change from fit to fit.

        Parameters
        ----------
        by : "weight" or int, default="weight"
            The heaviest first, or by their means of one feature, upwards. Equal ones stay in their order.

        Returns
        -------
        Mixture

        Raises
        ------
        ValueError
            If `by` is neither.

        Examples
        --------
        >>> from fastgmm import Mixture
        >>> Mixture([0.2, 0.8], [[0.0], [9.0]], [1.0, 2.0], "spherical").sort().weights
        array([0.8, 0.2])
        """
        if isinstance(by, str) and by != "weight":
            raise ValueError(f'by must be "weight" or the index of a feature, but got {by!r}.')
        keys = -self.weights if isinstance(by, str) else self.means[:, check_dims(by, self.n_features)[0]]
        order = np.argsort(keys, kind="stable")
        weights, means, *shapes = self.parameters
        if not self._structure.SHARED:
            shapes = [values[order] for values in shapes]
        return Mixture.from_parameters(Parameters(weights[order], means[order], *shapes), self.covariance_type)

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
        return complete(self._evaluator, points, 1, None)[0].reshape(*leading, self.n_features)

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
        copies = complete(self._evaluator, points, n, check_random(random_state))
        return copies.reshape(n, *leading, self.n_features)

    @property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self.parameters, self.covariance_type)

    def evaluate(self, rows: np.ndarray, *wanted: Wanted, missing: bool = False) -> RowsOut:
        """One pass over checked rows (n, d) that writes what is wanted; see `Evaluator.evaluate`."""
        return self._evaluator.evaluate(rows, *wanted, missing=missing)

    def save(self, path: str | Path) -> None:
        """Write to a NumPy .npz file, without pickle."""
        files.write(path, self.parameters, self.covariance_type)

    @classmethod
    def load(cls, path: str | Path) -> "Mixture":
        """Read what `save` wrote; densities are the same to the bit.

        Raises
        ------
        ValueError
            If the file is no .npz archive, lacks an array, or holds parameters that are not a mixture's.
        """
        parameters, covariance_type = files.read(path)
        return cls.from_parameters(parameters, covariance_type)

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
