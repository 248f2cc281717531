"""The table of problems: what is fitted, from which rows, and from which start."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """A shape to fit: rows, features, components and covariance structure."""

    name: str
    rows: int
    features: int
    components: int
    structure: str

    def __str__(self) -> str:
        return f"{self.name}: {self.rows:,} x {self.features}, {self.components} components, {self.structure}"


@dataclass(frozen=True)
class Start:
    """Parameters before the first iteration, covariances and precisions in the shape of the problem's structure."""

    weights: Array
    means: Array
    covariances: Array
    precisions: Array  # what scikit-learn's `precisions_init` takes


PROBLEMS = (
    Problem("W1", 1_000_000, 2, 2, "full"),
    Problem("W2", 1_000_000, 8, 8, "full"),
    Problem("W3", 200_000, 32, 16, "full"),
    Problem("W4", 50_000, 128, 10, "full"),
    Problem("W5", 1_000_000, 16, 32, "diag"),
    Problem("W6", 200_000, 16, 16, "tied"),
    Problem("W7", 1_000_000, 8, 8, "spherical"),
    Problem("W8", 1_000, 2, 2, "full"),
    Problem("W9", 100_000, 16, 256, "full"),
    Problem("W10", 1_000_000, 1, 5, "full"),
)

# The same shapes with fewer rows: enough to see that everything runs and roughly how it compares.
QUICK_PROBLEMS = (
    Problem("Q1", 100_000, 2, 2, "full"),
    Problem("Q2", 50_000, 8, 8, "full"),
    Problem("Q3", 10_000, 32, 16, "full"),
    Problem("Q4", 4_000, 128, 4, "full"),
    Problem("Q5", 40_000, 16, 32, "diag"),
    Problem("Q6", 20_000, 16, 16, "tied"),
    Problem("Q7", 50_000, 8, 8, "spherical"),
    Problem("Q8", 1_000, 2, 2, "full"),
    Problem("Q10", 100_000, 1, 5, "full"),
)


def make_rows(problem: Problem, seed: int = 0) -> Array:
    """Draw rows from a mixture of the problem's shape, from each component in turn.

    The means spread twice as widely as the components, which overlap the more the fewer features there are.
    """
    random = np.random.default_rng([seed, problem.rows, problem.features, problem.components])
    means = 2.0 * random.standard_normal((problem.components, problem.features))
    mixing = random.standard_normal((problem.components, problem.features, problem.features))
    mixing /= np.sqrt(problem.features)
    component = np.arange(problem.rows) % problem.components
    rows = random.standard_normal((problem.rows, problem.features))
    for c in range(problem.components):
        members = component == c
        rows[members] = means[c] + 0.5 * rows[members] + rows[members] @ mixing[c]
    return rows


def widen(rows: Array, seed: int = 2) -> Array:
    """Return rows with noise added, so that no component is too narrow in any direction for float32.

    Of a covariance whose condition is some millions float32 has no digits, and rows in it are computed in float64.
    """
    return rows + 0.5 * np.random.default_rng(seed).standard_normal(rows.shape)


def make_start(problem: Problem, rows: Array, seed: int = 1) -> Start:
    """Return uniform weights, seeded rows as means, and the variances of the data as covariances.

    The rows are k successive ones, hence one of each component. Any k rows would do at first, but not for long: in
    many features some would attract fewer rows than a covariance needs, and no peer survives that unregularised.
    """
    k = problem.components
    first = k * int(np.random.default_rng(seed).integers(problem.rows // k))
    variances = rows.var(axis=0)
    shapes: dict[str, Callable[[Array], Array]] = {
        "full": lambda values: np.tile(np.diag(values), (k, 1, 1)),
        "tied": np.diag,
        "diag": lambda values: np.tile(values, (k, 1)),
        "spherical": lambda values: np.full(k, values[0]),
    }
    if problem.structure == "spherical":
        variances = np.full_like(variances, variances.mean())
    shape = shapes[problem.structure]
    return Start(np.full(k, 1.0 / k), rows[first : first + k].copy(), shape(variances), shape(1.0 / variances))


def dense_covariances(covariances: Array, problem: Problem) -> Array:
    """Return one full covariance matrix for every component, (k, d, d)."""
    k, d = problem.components, problem.features
    shapes: dict[str, Callable[[], Array]] = {
        "full": lambda: covariances,
        "tied": lambda: np.broadcast_to(covariances, (k, d, d)),
        "diag": lambda: covariances[:, :, None] * np.eye(d),
        "spherical": lambda: covariances[:, None, None] * np.eye(d),
    }
    return shapes[problem.structure]()
