"""The table of densities to sample: mixtures, so that every sampler can be given the same one."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bench.problems import Array


class Density(NamedTuple):
    """A mixture of normals, and the covariance of the steps of a random walk on it."""

    weights: Array
    means: Array
    covariances: Array  # (k, d, d)
    step: Array  # (d, d)


def _article() -> Density:
    """Two modes in the plane, as `python -m fastgmm tour` samples them."""
    from fastgmm.tour import TARGET

    return Density(TARGET.weights, TARGET.means, TARGET.covariances, np.eye(2))


def _many(structure: str) -> Density:
    """Twenty components in twenty dimensions that overlap enough for a random walk."""
    random = np.random.default_rng(20)
    k = d = 20
    mixing = random.standard_normal((k, d, d)) / np.sqrt(d)
    covariances = 0.5 * np.eye(d) + mixing @ mixing.swapaxes(1, 2)
    if structure == "spherical":
        covariances = random.uniform(0.5, 2.0, k)[:, None, None] * np.eye(d)
    return Density(
        np.full(k, 1.0 / k), 0.5 * random.standard_normal((k, d)), covariances, 2.38**2 / d * covariances.mean(axis=0)
    )


def _normal() -> Density:
    """One normal in ten dimensions, neighbours correlated by 0.9."""
    d = 10
    covariance = 0.9 ** np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    return Density(np.ones(1), np.zeros((1, d)), covariance[None], 2.38**2 / d * covariance)


DENSITIES: dict[str, Callable[[], Density]] = {
    "the article's, 2-D": _article,
    "correlated normal, 10-D": _normal,
    "20 components, 20-D, full": lambda: _many("full"),
    "20 components, 20-D, spherical": lambda: _many("spherical"),
}
