"""The tour: sample a density, fit mixtures to the draws, choose one, and look at it.

Written against the public names only, as a user's script would be.
"""

import math
from pathlib import Path

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastgmm import GaussianMixtureIC, Mixture, sample

STRUCTURES = ["full", "tied", "diag", "spherical"]

# The density is 0.6 g1 + 28.4 g2 / (0.6 + 28.4). The division applies to its second term only, so it integrates to
# 1.579 rather than 1, which a sampler need not know.
FACTORS = np.array([0.6, 28.4 / (0.6 + 28.4)])
TARGET = Mixture(
    weights=FACTORS / FACTORS.sum(),
    means=[[-1.0, -1.0], [1.0, 2.0]],
    covariances=[[[1.0, -0.8], [-0.8, 1.0]], [[1.5**2, 0.6], [0.6, 0.8**2]]],
)


@numba.njit  # type: ignore[untyped-decorator]  # a user's function, hence not one of the library's own kernels
def log_bivariate_normal(
    x: float, y: float, sigma_x: float, sigma_y: float, mean_x: float, mean_y: float, covariance: float
) -> float:
    """Return the logarithm of a Gaussian density of two coordinates."""
    correlation = covariance / (sigma_x * sigma_y)
    u, v = (x - mean_x) / sigma_x, (y - mean_y) / sigma_y
    rest = 1.0 - correlation**2
    squared_distance = (u * u - 2.0 * correlation * u * v + v * v) / rest
    return -0.5 * squared_distance - math.log(2.0 * math.pi * sigma_x * sigma_y * math.sqrt(rest))


@numba.njit  # type: ignore[untyped-decorator]
def log_density(point: NDArray[np.float64]) -> float:
    """Return the logarithm of 0.6 g1 + 28.4 g2 / (0.6 + 28.4) at a point of the plane."""
    x, y = point[0], point[1]
    first = math.log(0.6) + log_bivariate_normal(x, y, 1.0, 1.0, -1.0, -1.0, -0.8)
    second = math.log(28.4 / (0.6 + 28.4)) + log_bivariate_normal(x, y, 1.5, 0.8, 1.0, 2.0, 0.6)
    return np.logaddexp(first, second)


class PicturesUnavailable(Exception):
    """The library that draws is not installed; the message says how to install it."""


def describe_fits(chosen: GaussianMixtureIC) -> str:
    """Return a table of the criteria, a row for every fit."""
    lines = ["components  covariance  log-likelihood a draw         AIC         BIC"]
    table = chosen.results_
    for row, (size, structure) in enumerate(zip(table["n_components"], table["covariance_type"], strict=True)):
        best = (size, structure) == (chosen.n_components_, chosen.covariance_type_)
        lines.append(
            f"{size:>10}  {structure:<10}  {table['log_likelihood'][row]:>21,.4f}  {table['aic'][row]:>10,.1f}"
            f"  {table['bic'][row]:>10,.1f}{'  <- lowest BIC' if best else ''}"
        )
    return "\n".join(lines)


def describe_mixture(mixture: Mixture) -> str:
    """Return the parameters of every component beside those of the true component whose mean is nearest."""
    lines = ["                    fitted                   true"]
    for component, mean in enumerate(mixture.means):
        distances = np.linalg.norm(TARGET.means - mean, axis=1)
        true = int(np.argmin(distances))
        lines.append(f"component {component}")
        lines.append(_beside("weight", mixture.weights[component], TARGET.weights[true]))
        lines.append(_beside("mean", mean, TARGET.means[true]))
        rows = zip(mixture.covariances_dense[component], TARGET.covariances[true], strict=True)
        for name, (fitted_row, true_row) in zip(("covariance", ""), rows, strict=True):
            lines.append(_beside(name, fitted_row, true_row))
    return "\n".join(lines)


def _beside(name: str, fitted: ArrayLike, true: ArrayLike) -> str:
    return f"  {name:<12}{_numbers(fitted)}     {_numbers(true)}".rstrip()


def _numbers(values: ArrayLike) -> str:
    return "".join(f"{value:>10.3f}" for value in np.atleast_1d(values)).ljust(20)


def density(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unnormalised density at points (n, 2)."""
    return np.exp([log_density(point) for point in points])


def draw_pictures(folder: Path, draws: NDArray[np.float64], chosen: GaussianMixtureIC) -> list[Path]:
    """Write the four pictures and return their paths."""
    from fastgmm import plots

    names, label = ("x₁", "x₂"), "density (unnormalised)"
    square = ((-5.0, 5.0), (-5.0, 5.0))
    around = np.stack([draws.min(axis=0) - 0.5, draws.max(axis=0) + 0.5], axis=1)
    figures = {
        "3dgauss.png": plots.density(
            density, kind="surface", limits=square, names=names, label=label, title="The density to sample from"
        ).figure,
        "samples.png": plots.density(
            density, draws, limits=around, names=names, label=label, title="Metropolis-Hastings draws"
        ).figure,
        "class.png": plots.classes(
            chosen.mixture_, draws, chosen.predict(draws), names=names, title="Draws by their most probable component"
        ).figure,
        "bic.png": plots.criteria(chosen.results_, ["bic", "aic"])[0].figure,
    }
    return [plots.save(figure, folder / name) for name, figure in figures.items()]


def run(folder: Path, steps: int, thin: int, seed: int, most_components: int) -> None:
    """Do the whole tour, print what it finds, and write its pictures to `folder`.

    Parameters
    ----------
    folder : pathlib.Path
        Where the pictures go; an existing folder.
    steps : int
        Steps of the chain.
    thin : int
        Every `thin`-th state is kept.
    seed : int
        Seed of the chain and of the fits.
    most_components : int
        Mixtures of 1 to so many components are fitted.

    Raises
    ------
    PicturesUnavailable
        If matplotlib is not installed; before anything else is done.
    """
    _require_plots()
    chains = sample(log_density, start=np.zeros(2), draws=steps // thin, thin=thin, chains=1, warmup=0, seed=seed)
    draws = chains.flat()
    print(f"Sampled {steps:,} steps from (0, 0), every {thin} kept: {len(draws):,} draws")
    print(f"  acceptance rate        {float(np.mean(chains.acceptance_rate)):.3f}")
    print("  effective sample size " + "".join(f" {size:,.0f}" for size in chains.effective_sample_size()))

    chosen = GaussianMixtureIC(
        (1, most_components), covariance_type=STRUCTURES, n_init=3, max_iter=1_000, random_state=seed
    ).fit(draws)
    print(f"\n{describe_fits(chosen)}")

    plural = "" if chosen.n_components_ == 1 else "s"
    print(f"\nChosen: {chosen.n_components_} component{plural}, {chosen.covariance_type_} covariance\n")
    print(describe_mixture(chosen.mixture_))

    print()
    for path in draw_pictures(folder, draws, chosen):
        print(f"wrote {path}")


def _require_plots() -> None:
    """Find out before a long computation that its pictures could not be drawn."""
    try:
        from fastgmm import plots  # noqa: F401
    except ImportError as error:
        raise PicturesUnavailable(str(error)) from error
