"""Mixtures of one variable: a feature, or a projection of several."""

from types import ModuleType
from typing import Any

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri

from fastgmm.covariance import Parameters
from fastgmm.mixture.parameters import real_array

_EPS = float(np.finfo(np.float64).eps)


def check_probabilities(q: Any) -> np.ndarray:
    """Probabilities as an array of float64.

    Raises
    ------
    ValueError
        If one is not from 0 to 1.
    """
    probabilities = np.asarray(q, dtype=np.float64)
    outside = ~((probabilities >= 0.0) & (probabilities <= 1.0))
    if outside.any():
        raise ValueError(f"Probabilities must be from 0 to 1, but got {probabilities[outside][0]:g}.")
    return probabilities


def cdf(x: np.ndarray, weights: np.ndarray, centres: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Σ_c w_c Φ((x - m_c) / s_c) of components along the last axis."""
    parts = weights * ndtr((x[..., None] - centres) / widths)
    return np.minimum(parts.sum(axis=-1) / weights.sum(axis=-1), 1.0)


def ppf(q: np.ndarray, weights: np.ndarray, centres: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Where the cdf of components along the last axis is q, to the digits that q determines.

    The root of log cdf(x) = log q between the least and the largest quantile of any component, by Newton's steps where
    they stay between and halve the last one, otherwise by bisection ("Numerical Recipes", 9.4). Beyond the median the
    variable is turned round, as 1 - q is exact there: so only lower tails are computed.
    """
    k = centres.shape[-1]
    shape = np.broadcast_shapes(q.shape, centres.shape[:-1])
    q = np.broadcast_to(q, shape).ravel()
    weights, centres, widths = (
        np.broadcast_to(part, (*shape, k)).reshape(-1, k) for part in (weights, centres, widths)
    )
    sign, least = np.where(q > 0.5, -1.0, 1.0), np.where(q > 0.5, 1.0 - q, q)
    centres = sign[:, None] * centres
    ends = centres + widths * ndtri(least)[:, None]
    low = np.min(ends, axis=1, where=weights > 0, initial=np.inf)
    high = np.max(ends, axis=1, where=weights > 0, initial=-np.inf)
    x, step = 0.5 * low + 0.5 * high, np.full_like(low, np.inf)
    with np.errstate(divide="ignore"):
        log_least, log_weights = np.log(least), np.log(weights / weights.sum(axis=1, keepdims=True))
    log_scales = log_weights - np.log(widths) - 0.5 * np.log(2.0 * np.pi)
    noise = 4.0 * _EPS * np.maximum(np.abs(log_least), 1.0)  # of the difference below
    left = np.flatnonzero(np.isfinite(x))  # for the others q is 0 or 1
    while left.size:
        with np.errstate(over="ignore", invalid="ignore"):  # where the cdf is flat
            z = (x[left, None] - centres[left]) / widths[left]
            log_cdf = _log_sum(log_weights[left] + log_ndtr(z))
            excess = log_cdf - log_least[left]
            newton = -excess * np.exp(log_cdf - _log_sum(log_scales[left] - 0.5 * z**2))
            low[left] = np.where(excess < 0, x[left], low[left])
            high[left] = np.where(excess > 0, x[left], high[left])
            ahead = x[left] + newton
            fast = (low[left] < ahead) & (ahead < high[left]) & (np.abs(newton) < 0.5 * np.abs(step[left]))
        found = np.abs(excess) <= noise[left]
        following = np.where(fast, ahead, np.where(found, x[left], 0.5 * low[left] + 0.5 * high[left]))
        step[left] = following - x[left]
        x[left] = following
        left = left[~(found | (np.abs(step[left]) <= _EPS * np.abs(following)))]
    return (sign * x).reshape(shape)


def _log_sum(parts: np.ndarray) -> np.ndarray:
    """Log of the sum of exponentials along the last axis."""
    peak = parts.max(axis=-1)
    return np.log(np.exp(parts - peak[..., None]).sum(axis=-1)) + peak


def project(parameters: Parameters, structure: ModuleType, direction: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and standard deviations of the components' projections on a direction, (k,) each.

    Raises
    ------
    ValueError
        If there is no direction where there are several features, or it is zero, not finite, or of another shape.
    """
    k, d = parameters.means.shape
    if direction is None and d > 1:
        raise ValueError(
            f"Of {d} features together there is no cdf or ppf; give the direction of a projection, or take the "
            "marginal of one feature."
        )
    axis = np.ones(1) if direction is None else real_array(direction, "direction")
    if axis.shape != (d,) or not axis.any():
        raise ValueError(f"direction must have shape ({d},) and not be zero, but is {direction!r}.")
    # aᵀ Σ a = |F⁻ᵀ a|², where nothing large is subtracted.
    scaled = np.linalg.solve(structure.dense(parameters.factors, k, d).swapaxes(1, 2), axis)
    return parameters.weights, parameters.means @ axis, np.sqrt((scaled**2).sum(axis=1))
