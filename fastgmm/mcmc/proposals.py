"""How chains propose: small objects that name a kind of step and own its Hastings ratio.

The loop knows `Move` alone: a kernel's `prepare` makes one, or, for a mixture of kernels, several with their weights.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

_NOTHING = np.zeros(0, dtype=np.int64)


class Move(NamedTuple):
    """One kind of step as the loop takes it.

    A normal random walk is built into the loop and has a `factor`; every other step is a `function`.
    """

    name: str  # as `Chains.moves` shows it
    weight: float = 1.0  # its share of the steps, relative to the other moves'
    function: Any = None  # of type `fastgmm.kernels.calls.MOVE`; None for a random walk
    packed: np.ndarray = _NOTHING  # int64, handed to the function; every group of chains has a copy of its own
    uniforms: int = 0  # how many extra uniforms a step needs
    work: int = 0  # how many features of TILE_STRIDE float64 the function may use as it likes
    keep: tuple[Any, ...] = ()  # arrays whose addresses `packed` holds
    factor: np.ndarray | None = None  # (d, d), lower triangular: Cholesky factor of a random walk's covariance
    adapt: str | None = None  # how the factor changes during warm-up: "ram", "am" or None


class Kernel(Protocol):
    """What `sample` asks of a kernel, which moves every chain by itself; `run.Run` says where others will join."""

    def prepare(self, dimensions: int) -> tuple[Move, ...]:
        """Check against the number of dimensions, compile or load what is needed, and return the moves."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class RandomWalk:
    """Candidates y ~ N(x, C) about the position x; symmetric, so its Hastings ratio is 1.

    Parameters
    ----------
    cov : array_like of shape (dim, dim), optional
        Covariance C of the candidates, with which warm-up begins if C is adapted. None is the identity, divided by
        dim / 2.38**2 if C is adapted.
    adapt : {"ram", "am"} or None, default="ram"
        How each chain changes its C during warm-up; afterwards C is fixed. "ram", robust adaptive Metropolis, turns and
        scales C until a share of 0.234 of the candidates (0.44 in one dimension) is accepted; unless it is one of
        `Mixed` kernels, the shape of the chain's positions helps it on. "am" takes the covariance of the positions so
        far, times 2.38**2 / dim, the first `cov` counting as that of 2 dim positions; it needs a first `cov` with which
        the chain moves. None leaves C.

    Raises
    ------
    ValueError
        If `adapt` is something else; by `sample` if `cov` is not a positive definite matrix of the target's dimension.

    References
    ----------
    Vihola (2012), Robust adaptive Metropolis algorithm with coerced acceptance rate. Statistics and Computing 22,
    997-1008.
    Andrieu and Thoms (2008), A tutorial on adaptive MCMC. Statistics and Computing 18, 343-373.
    Tyler (1987), A distribution-free M-estimator of multivariate scatter. Annals of Statistics 15, 234-251.
    Haario, Saksman and Tamminen (2001), An adaptive Metropolis algorithm. Bernoulli 7, 223-242.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgmm import Mixture, sample
    >>> from fastgmm.mcmc import RandomWalk
    >>> narrow = Mixture([1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1e-6]]])
    >>> learned = sample(narrow, draws=500, seed=0)
    >>> fixed = sample(narrow, draws=500, seed=0, kernel=RandomWalk(cov=[[2.0, 0.0], [0.0, 2e-6]], adapt=None))
    >>> bool(abs(learned.acceptance_rate.mean() - 0.234) < 0.1), bool(fixed.acceptance_rate.mean() > 0.3)
    (True, True)
    """

    cov: ArrayLike | None = None
    adapt: str | None = "ram"

    def __post_init__(self) -> None:
        if self.adapt not in ("ram", "am", None):
            raise ValueError(f"adapt must be 'ram', 'am' or None, not {self.adapt!r}.")

    def prepare(self, dimensions: int, *, name: str = "cov") -> tuple[Move, ...]:
        """Factorise the covariance, which errors call by `name`."""
        if self.cov is not None:
            factor = cholesky_factor(self.cov, dimensions, name)
        else:
            factor = np.eye(dimensions) * (2.38 / np.sqrt(dimensions) if self.adapt else 1.0)
        return (Move("RandomWalk", factor=factor, adapt=self.adapt),)


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Several kernels, of which each step takes one at random: a random scan.

    Every kernel leaves the target as it is, so their mixture does, whatever the weights. Which one a step takes is
    drawn once for all chains.

    Parameters
    ----------
    kernels : sequence of (kernel, weight)
        Kernels, `Mixed` ones included, and how often each is taken relative to the others.

    Attributes
    ----------
    kernels : tuple
        The kernels alone.
    weights : tuple of float
        Their weights, which sum to 1.

    Raises
    ------
    TypeError, ValueError
        If there is no kernel, something else is none, a weight is not positive, or all kernels are `ModeJump`.

    References
    ----------
    Tierney (1994), Markov chains for exploring posterior distributions. Annals of Statistics 22, 1701-1728.

    Examples
    --------
    >>> from fastgmm import Mixture, sample
    >>> from fastgmm.mcmc import Independence, Mixed, RandomWalk
    >>> target = Mixture([0.5, 0.5], [[0.0], [30.0]], [1.0, 4.0], "spherical")
    >>> kernel = Mixed([(RandomWalk(), 3), (Independence(target), 1)])
    >>> kernel.weights
    (0.75, 0.25)
    >>> chains = sample(target, draws=500, seed=0, kernel=kernel)
    >>> chains.moves, chains.acceptance_rate.shape
    (('RandomWalk', 'Independence'), (4, 2))
    """

    kernels: Any
    weights: tuple[float, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        try:
            pairs = [(kernel, float(weight)) for kernel, weight in self.kernels]
        except (TypeError, ValueError):
            raise TypeError(
                "Mixed takes a sequence of pairs (kernel, weight), e.g. "
                f"`Mixed([(RandomWalk(), 0.7), (Independence(mixture), 0.3)])`, not {self.kernels!r}."
            ) from None
        if not pairs:
            raise ValueError("Mixed needs at least one pair (kernel, weight).")
        for kernel, weight in pairs:
            if isinstance(kernel, type) or not hasattr(kernel, "prepare"):
                raise TypeError(f"Mixed takes kernels such as RandomWalk(), not {kernel!r}.")
            if not (np.isfinite(weight) and weight > 0.0):
                raise ValueError(f"The weight of {type(kernel).__name__} must be positive and finite, not {weight}.")
        if all(hasattr(kernel, "prepare_within") for kernel, _ in pairs):
            raise ValueError(
                f"Mixed of {type(pairs[0][0]).__name__} alone does not reach every point; add a kernel that does, such "
                "as RandomWalk()."
            )
        total = sum(weight for _, weight in pairs)
        object.__setattr__(self, "kernels", tuple(kernel for kernel, _ in pairs))
        object.__setattr__(self, "weights", tuple(weight / total for _, weight in pairs))

    def prepare(self, dimensions: int) -> tuple[Move, ...]:
        """Prepare every kernel; its moves share its weight, and those of one name are numbered."""
        moves: list[Move] = []
        for kernel, weight in zip(self.kernels, self.weights, strict=True):
            # What some kernels refuse to be alone, they are here.
            parts = getattr(kernel, "prepare_within", kernel.prepare)(dimensions)
            total = sum(part.weight for part in parts)
            moves += [part._replace(weight=weight * part.weight / total) for part in parts]
        return tuple(_numbered(moves))


def _numbered(moves: list[Move]) -> Iterator[Move]:
    """Tell moves of one name apart: "RandomWalk", "RandomWalk 2"."""
    seen: dict[str, int] = {}
    for move in moves:
        seen[move.name] = seen.get(move.name, 0) + 1
        name = move.name if seen[move.name] == 1 else f"{move.name} {seen[move.name]}"
        yield move._replace(name=name)


def cholesky_factor(cov: ArrayLike, dimensions: int, name: str = "cov") -> np.ndarray:
    """Return the lower Cholesky factor of a covariance, or say what is wrong with it.

    Raises
    ------
    TypeError
        If `cov` does not hold real numbers.
    ValueError
        If it is not a finite, symmetric, positive definite matrix of this dimension.
    """
    covariance = np.asarray(cov)
    if covariance.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, not dtype {covariance.dtype}.")
    covariance = covariance.astype(np.float64)
    if covariance.shape != (dimensions, dimensions):
        raise ValueError(
            f"{name} must be of shape {(dimensions, dimensions)}, as start has {dimensions} dimensions, "
            f"not {covariance.shape}."
        )
    if not np.isfinite(covariance).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    asymmetry = np.abs(covariance - covariance.T)
    if asymmetry.max() > 1e-10 * np.abs(covariance).max():
        i, j = np.unravel_index(asymmetry.argmax(), asymmetry.shape)
        raise ValueError(
            f"{name} is not symmetric: entries ({i}, {j}) and ({j}, {i}) are {covariance[i, j]:.6g} and "
            f"{covariance[j, i]:.6g}."
        )
    eigenvalues = np.linalg.eigvalsh(covariance)
    if eigenvalues[0] <= 0.0:
        raise ValueError(f"{name} is not positive definite: its smallest eigenvalue is {eigenvalues[0]:.6g}.")
    try:
        return np.ascontiguousarray(np.linalg.cholesky(covariance))
    except np.linalg.LinAlgError:
        raise ValueError(
            f"{name} is not positive definite to working precision: its smallest eigenvalue is "
            f"{eigenvalues[0]:.6g}, its largest {eigenvalues[-1]:.6g}."
        ) from None
