"""The tour: sample a density, fit mixtures to the draws, choose one, and look at it.

Written against the public names only, as a user's script would be.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastgmm import GaussianMixture, Mixture, sample

STRUCTURES = ("full", "tied", "diag", "spherical")

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


class Fit(NamedTuple):
    """A fitted mixture and what the criteria say of it."""

    n_components: int
    structure: str
    model: GaussianMixture
    log_likelihood: float
    aic: float
    bic: float


class PicturesUnavailable(Exception):
    """The library that draws is not installed; the message says how to install it."""


def fit_all(draws: NDArray[np.float64], most_components: int, seed: int) -> list[Fit]:
    """Fit mixtures of 1 to `most_components` components in every covariance structure."""
    fits = []
    for structure in STRUCTURES:
        for n_components in range(1, most_components + 1):
            model = GaussianMixture(
                n_components=n_components, covariance_type=structure, n_init=3, max_iter=1_000, random_state=seed
            ).fit(draws)
            log_likelihood = model.score(draws) * len(draws)
            fits.append(Fit(n_components, structure, model, log_likelihood, model.aic(draws), model.bic(draws)))
    return fits


def describe_fits(fits: list[Fit], chosen: Fit) -> str:
    """Return a table of the criteria, a row for every fit."""
    lines = ["components  covariance  log-likelihood         AIC         BIC"]
    for fit in fits:
        mark = "  <- lowest BIC" if fit is chosen else ""
        lines.append(
            f"{fit.n_components:>10}  {fit.structure:<10}  {fit.log_likelihood:>14,.1f}  {fit.aic:>10,.1f}"
            f"  {fit.bic:>10,.1f}{mark}"
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


def density_on_grid(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unnormalised density at every pair of coordinates, rows along `y`."""
    return np.exp([[log_density(np.array([first, second])) for first in x] for second in y])


def draw_pictures(folder: Path, draws: NDArray[np.float64], fits: list[Fit], chosen: Fit) -> list[Path]:
    """Write the four pictures and return their paths."""
    from fastgmm import plots

    axis = np.linspace(-5.0, 5.0, 201)
    surface = plots.plot_surface(
        axis, axis, density_on_grid(axis, axis), title="The density to sample from", label="density (unnormalised)"
    )
    low, high = draws.min(axis=0) - 0.5, draws.max(axis=0) + 0.5
    x, y = np.linspace(low[0], high[0], 150), np.linspace(low[1], high[1], 150)
    samples = plots.plot_samples(
        draws, x, y, density_on_grid(x, y), title="Metropolis-Hastings draws", label="density (unnormalised)"
    )
    classes = plots.plot_classes(draws, chosen.model.predict(draws), chosen.model.mixture_)
    counts = sorted({fit.n_components for fit in fits})
    criteria = {
        "BIC": {name: [fit.bic for fit in fits if fit.structure == name] for name in STRUCTURES},
        "AIC": {name: [fit.aic for fit in fits if fit.structure == name] for name in STRUCTURES},
    }
    figures = {
        "3dgauss.png": surface.figure,
        "samples.png": samples.figure,
        "class.png": classes.figure,
        "bic.png": plots.plot_criteria(counts, criteria)[0].figure,
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

    fits = fit_all(draws, most_components, seed)
    chosen = min(fits, key=lambda fit: fit.bic)
    print(f"\n{describe_fits(fits, chosen)}")

    plural = "" if chosen.n_components == 1 else "s"
    print(f"\nChosen: {chosen.n_components} component{plural}, {chosen.structure} covariance\n")
    print(describe_mixture(chosen.model.mixture_))

    print()
    for path in draw_pictures(folder, draws, fits, chosen):
        print(f"wrote {path}")


def _require_plots() -> None:
    """Find out before a long computation that its pictures could not be drawn."""
    try:
        from fastgmm import plots  # noqa: F401
    except ImportError as error:
        raise PicturesUnavailable(str(error)) from error
