"""Kernels around a mixture that resembles the target, each with the exact ratio of its proposal's densities."""

import dataclasses
import math
from typing import Any

import numpy as np

from fastgmm.covariance import STRUCTURES
from fastgmm.kernels import lanes, moves
from fastgmm.kernels.linalg import invert_lower
from fastgmm.kernels.moves import Components
from fastgmm.kernels.triangles import pack_triangles
from fastgmm.mcmc.proposals import Move
from fastgmm.mixture import Mixture

_MOST_FREEDOM = 30  # so few uniforms that their product is a normal float64
_LOG_2PI = math.log(2.0 * math.pi)


@dataclasses.dataclass(frozen=True)
class Independence:
    """Candidates drawn from a mixture, wherever the chain is (Tierney 1994).

    The candidate is drawn from q = (1 - defensive) m + defensive t: m the mixture, its covariances multiplied by
    `widen`, and t a Student distribution around the whole of it. It is accepted with probability
    min(1, p(y) q(x) / (p(x) q(y))), which is 1 where q is the target.

    A chain sticks where the target's tails are heavier than those of q, as then p / q is unbounded and convergence
    not geometric (Mengersen and Tweedie 1996). The Student component bounds it for all targets with lighter tails
    (Hesterberg 1995 for importance sampling).

    Parameters
    ----------
    mixture : Mixture
        Close to the target: `mixture_` of a fit to draws of it, for instance.
    tail : int, default=5
        Degrees of freedom of the Student component, from 1 to 30; fewer make its tails heavier.
    defensive : float, default=0.1
        Its weight, 0 <= defensive < 1; at 0 there is none. Its location is the mixture's mean and its scale matrix the
        mixture's covariance, within and between components; of structures "diag" and "spherical", the diagonal of it.
    widen : float, default=1.0
        Factor on the covariances of the mixture's components.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.

    References
    ----------
    Tierney (1994), Markov chains for exploring posterior distributions. Annals of Statistics 22, 1701-1728.
    Mengersen and Tweedie (1996), Rates of convergence of the Hastings and Metropolis algorithms. Annals of Statistics
    24, 101-121.
    Hesterberg (1995), Weighted average importance sampling and defensive mixture distributions. Technometrics 37,
    185-194.

    Examples
    --------
    >>> from fastgmm import Mixture
    >>> from fastgmm.mcmc import Independence
    >>> Independence(Mixture([1.0], [[0.0]], [1.0], "spherical"), defensive=0.2).tail
    5
    """

    mixture: Mixture
    tail: int = 5
    defensive: float = 0.1
    widen: float = 1.0

    def __post_init__(self) -> None:
        _check_mixture(self)
        if isinstance(self.tail, (bool, np.bool_)) or not isinstance(self.tail, (int, np.integer)):
            raise TypeError(f"tail is the Student component's degrees of freedom, an integer, not {self.tail!r}.")
        if not 1 <= self.tail <= _MOST_FREEDOM:
            raise ValueError(f"tail must be between 1 and {_MOST_FREEDOM} degrees of freedom, not {self.tail}.")
        _check_number(self, "defensive")
        if not 0.0 <= self.defensive < 1.0:
            raise ValueError(f"defensive is a weight, at least 0 and less than 1, not {self.defensive}.")
        _check_positive(self, "widen")

    def prepare(self, dimensions: int) -> tuple[Move, ...]:
        """Check against the number of dimensions and return the move."""
        _check_dimensions(self, dimensions)
        normals = _components(self.mixture, math.log1p(-self.defensive), self.widen)
        weights = (1.0 - self.defensive) * self.mixture.weights / self.mixture.weights.sum()
        freedom = 0
        if self.defensive > 0.0:
            freedom = int(self.tail)
            normals = _joined(normals, _student(self.mixture, freedom, math.log(self.defensive)))
            weights = np.append(weights, self.defensive)
        k = len(weights)
        packed = moves.pack(_form(self.mixture), normals, (np.array([freedom]), _cumulative(weights)))
        uniforms = 1 + freedom // 2 + 2 * (freedom % 2)
        function = moves.compiled_move(moves.independence)
        return (Move("Independence", function=function, packed=packed, uniforms=uniforms, work=k + dimensions + 2),)


@dataclasses.dataclass(frozen=True)
class MixtureLocal:
    """A random walk whose steps have the shape of the mixture's component that the chain is in.

    A component c is drawn with its responsibility r_c(x), and the candidate from N(x, scale² Σ_c). As another one may
    be responsible at the candidate, the walk is not symmetric: candidates have the density
    q(y | x) = Σ_c r_c(x) N(y | x, scale² Σ_c), and are accepted with probability
    min(1, p(y) q(x | y) / (p(x) q(y | x))). Regional adaptation is the same idea with one component each (Craiu,
    Rosenthal and Yang 2009).

    Parameters
    ----------
    mixture : Mixture
        Whose components have the shape of the target's modes.
    scale : float, optional
        Length of the steps in standard deviations; 2.38 / sqrt(d) if None, best for a normal target of many
        dimensions (Roberts, Gelman and Gilks 1997).

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.

    References
    ----------
    Craiu, Rosenthal and Yang (2009), Learn from thy neighbor: parallel-chain and regional adaptive MCMC. Journal of the
    American Statistical Association 104, 1454-1466.
    Roberts, Gelman and Gilks (1997), Weak convergence and optimal scaling of random walk Metropolis algorithms. Annals
    of Applied Probability 7, 110-120.

    Examples
    --------
    >>> from fastgmm import Mixture
    >>> from fastgmm.mcmc import MixtureLocal
    >>> MixtureLocal(Mixture([0.5, 0.5], [[0.0], [9.0]], [1.0, 4.0], "spherical"), scale=2.0).scale
    2.0
    """

    mixture: Mixture
    scale: float | None = None

    def __post_init__(self) -> None:
        _check_mixture(self)
        if self.scale is None:
            object.__setattr__(self, "scale", 2.38 / math.sqrt(self.mixture.n_features))
        _check_positive(self, "scale")

    def prepare(self, dimensions: int) -> tuple[Move, ...]:
        """Check against the number of dimensions and return the move."""
        _check_dimensions(self, dimensions)
        components = _components(self.mixture)
        k, d = self.mixture.means.shape
        extra = (np.array([self.scale]), _log_determinants(self.mixture.factors_dense), np.zeros((k, d)))
        packed = moves.pack(_form(self.mixture), components, extra)
        function = moves.compiled_move(moves.mixture_local)
        return (Move("MixtureLocal", function=function, packed=packed, uniforms=1, work=3 * k + 2 * d + 5),)


@dataclasses.dataclass(frozen=True)
class ModeJump:
    """Jumps from a mixture's component to another, which keep the place within it.

    A component a is drawn with its responsibility at x, another one b with probability o_ab, proportional to
    `odds`, and the candidate is y = μ_b + L_b L_a⁻¹ (x - μ_a), with Σ = L Lᵀ. It is accepted with probability
    min(1, p(y) r_b(y) o_ba |L_b| / (p(x) r_a(x) o_ab |L_a|)): the way back, and the volume that the map stretches
    (Green 1995).

    The chain moves only between points that the maps connect, so this is a kernel for `Mixed`, beside one that moves
    within components.

    Parameters
    ----------
    mixture : Mixture
        Whose components stand for the target's modes; at least two of positive weight.
    odds : array_like of shape (k,), optional
        How likely each component is to be jumped to, relative to the others; the mixture's weights if None.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these, or there is nowhere to jump.

    References
    ----------
    Green (1995), Reversible jump Markov chain Monte Carlo computation and Bayesian model determination. Biometrika 82,
    711-732.
    Tjelmeland and Hegstad (2001), Mode jumping proposals in MCMC. Scandinavian Journal of Statistics 28, 205-223.

    Examples
    --------
    >>> from fastgmm import Mixture
    >>> from fastgmm.mcmc import Mixed, ModeJump, RandomWalk
    >>> two = Mixture([0.5, 0.5], [[0.0], [9.0]], [1.0, 4.0], "spherical")
    >>> Mixed([(RandomWalk(), 0.8), (ModeJump(two), 0.2)]).weights
    (0.8, 0.2)
    """

    mixture: Mixture
    odds: Any = None

    def __post_init__(self) -> None:
        _check_mixture(self)
        k = self.mixture.n_components
        odds = np.array(self.mixture.weights if self.odds is None else self.odds, dtype=np.float64)
        if odds.shape != (k,):
            raise ValueError(f"odds must be of shape ({k},), one for each component, not {odds.shape}.")
        if not (np.isfinite(odds).all() and (odds >= 0.0).all()):
            raise ValueError(f"odds must be finite and not negative, but are {odds.tolist()}.")
        if np.count_nonzero((odds > 0.0) & (self.mixture.weights > 0.0)) < 2:
            raise ValueError(
                "ModeJump needs two components of positive weight and odds to jump between; "
                f"of {k} there {'is' if k == 1 else 'are'} fewer."
            )
        object.__setattr__(self, "odds", tuple((odds / odds.sum()).tolist()))

    def prepare(self, dimensions: int) -> tuple[Move, ...]:
        """Refuse to be the only kernel.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(
            "ModeJump alone does not reach every point: it only maps components onto each other. Mix it with a kernel "
            "that moves within them, e.g. `Mixed([(RandomWalk(), 0.8), (ModeJump(mixture), 0.2)])`."
        )

    def prepare_within(self, dimensions: int) -> tuple[Move, ...]:
        """Check against the number of dimensions and return the move, for `Mixed`."""
        _check_dimensions(self, dimensions)
        components = _components(self.mixture)
        k, d = self.mixture.means.shape
        form = _form(self.mixture)
        whites = _triangles(form, self.mixture.factors_dense)
        packed = moves.pack(form, components, (np.array(self.odds), self._log_balance(), whites))
        function = moves.compiled_move(moves.mode_jump)
        return (Move("ModeJump", function=function, packed=packed, uniforms=2, work=k + 2 * d + 5),)

    def _log_balance(self) -> np.ndarray:
        """log (w_c / (odds_c (1 - odds_c))): what of w_b o_ba / (w_a o_ab) belongs to each component."""
        odds, weights = np.array(self.odds), self.mixture.weights
        others = np.array([math.fsum(np.delete(odds, c)) for c in range(len(odds))])
        with np.errstate(divide="ignore", invalid="ignore"):
            balance = np.log(weights) - np.log(odds) - np.log(others)
        # Neither jumped from nor jumped to.
        balance[(weights == 0.0) & (odds == 0.0)] = 0.0
        return balance


def _form(mixture: Mixture) -> int:
    # The Student component, which is as wide as the mixture, is not isotropic.
    return lanes.DIAGONAL if not STRUCTURES[mixture.covariance_type].MATRICES else lanes.FULL


def _components(mixture: Mixture, log_weight: float = 0.0, widen: float = 1.0) -> Components:
    """Lay out a mixture for the moves."""
    factors = mixture.factors_dense / math.sqrt(widen)
    with np.errstate(divide="ignore"):  # a component of weight 0 has no say
        log_weights = log_weight + np.log(mixture.weights)
    constants = log_weights + _log_determinants(factors) - 0.5 * mixture.n_features * _LOG_2PI
    return _laid_out(_form(mixture), constants, mixture.means, factors)


def _student(mixture: Mixture, freedom: int, log_weight: float) -> Components:
    """Lay out the Student distribution around a mixture."""
    d, form, scale = mixture.n_features, _form(mixture), mixture.cov
    lower = np.linalg.cholesky(scale) if form == lanes.FULL else np.diag(np.sqrt(np.diagonal(scale)))
    factor = _inverses(lower[None])
    constant = (
        log_weight
        + math.lgamma(0.5 * (freedom + d))
        - math.lgamma(0.5 * freedom)
        - 0.5 * d * math.log(math.pi * freedom)
        + _log_determinants(factor)
    )
    return _laid_out(form, constant, mixture.mean[None], factor)


def _laid_out(form: int, constants: np.ndarray, means: np.ndarray, factors: np.ndarray) -> Components:
    lowers = _triangles(form, _inverses(factors))
    if form == lanes.DIAGONAL:
        return Components(constants, means, _triangles(form, factors), lowers)
    return Components(constants, means, pack_triangles(factors), lowers)


def _joined(first: Components, second: Components) -> Components:
    return Components(*(np.concatenate(parts) for parts in zip(first, second, strict=True)))


def _triangles(form: int, matrices: np.ndarray) -> np.ndarray:
    """Lower triangles row by row, or diagonals: (k, size)."""
    if form == lanes.DIAGONAL:
        return np.array(np.diagonal(matrices, axis1=1, axis2=2))
    rows, columns = np.tril_indices(matrices.shape[1])
    return np.array(matrices[:, rows, columns])


def _log_determinants(factors: np.ndarray) -> np.ndarray:
    return np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)


def _inverses(triangles: np.ndarray) -> np.ndarray:
    inverses = np.array(triangles, order="C")
    for inverse in inverses:
        invert_lower(inverse)
    return inverses


def _cumulative(weights: np.ndarray) -> np.ndarray:
    """Cumulative weights, 1 from the last positive one on."""
    cumulative = np.cumsum(weights) / np.sum(weights)
    cumulative[np.flatnonzero(weights)[-1] :] = 1.0
    return np.minimum(cumulative, 1.0)


def _check_mixture(kernel: Any) -> None:
    if not isinstance(kernel.mixture, Mixture):
        raise TypeError(
            f"{type(kernel).__name__} needs a Mixture, such as `mixture_` of a fitted GaussianMixture, "
            f"not {type(kernel.mixture).__name__}."
        )


def _check_dimensions(kernel: Any, dimensions: int) -> None:
    features = kernel.mixture.n_features
    if features != dimensions:
        raise ValueError(
            f"{type(kernel).__name__} has a mixture of {features} features, but the target has {dimensions} dimensions."
        )


def _check_number(kernel: Any, name: str) -> None:
    value = getattr(kernel, name)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, not {value!r}.")


def _check_positive(kernel: Any, name: str) -> None:
    _check_number(kernel, name)
    value = getattr(kernel, name)
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"{name} must be positive and finite, not {value}.")
