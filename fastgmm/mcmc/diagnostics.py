"""What draws are worth."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, special

_FEWEST_DRAWS = 4


def effective_sample_size(draws: ArrayLike) -> float | np.ndarray:
    """Estimate how many independent draws the chains are worth, for the bulk of the distribution.

    Chains are split in halves, all draws are replaced by normal scores of their ranks, and the autocorrelations are
    summed over Geyer's initial monotone sequence.

    Parameters
    ----------
    draws : array_like of shape (chain, draw) or (chain, draw, dim)
        The chains.

    Returns
    -------
    float, or ndarray of shape (dim,)
        At most `N log10(N)` for N draws in all. NaN where chains have fewer than 4 draws, where a draw is NaN, and
        where no chain ever moved.

    Raises
    ------
    ValueError
        If `draws` has neither two nor three dimensions, or no chain.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Rank-normalization, folding, and localization: an
    improved R-hat for assessing convergence of MCMC. Bayesian Analysis 16(2), 667-718, section 3.
    Geyer (1992), Practical Markov chain Monte Carlo. Statistical Science 7(4), 473-483, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgmm.mcmc import effective_sample_size
    >>> independent = np.random.default_rng(0).normal(size=(4, 1000))
    >>> bool(3000 < effective_sample_size(independent) < 5000)
    True
    """
    array = np.asarray(draws, dtype=np.float64)
    if array.ndim not in (2, 3) or len(array) == 0:
        raise ValueError(
            f"draws must be of shape (chain, draw) or (chain, draw, dim) with at least one chain, not {array.shape}."
        )
    if array.ndim == 2:
        return _bulk(array)
    return np.array([_bulk(array[:, :, i]) for i in range(array.shape[2])])


def _bulk(chains: np.ndarray) -> float:
    """Estimate the bulk effective sample size of one quantity, of shape (chain, draw)."""
    if chains.shape[1] < _FEWEST_DRAWS or np.isnan(chains).any() or np.all(chains == chains[:, :1]):
        return float("nan")
    scores = _normal_scores(_split(chains))
    return scores.size / _autocorrelation_time(scores)


def _split(chains: np.ndarray) -> np.ndarray:
    """Make two chains of each, without the middle draw of an odd number."""
    half = chains.shape[1] // 2
    return np.concatenate([chains[:, :half], chains[:, -half:]])


def _normal_scores(chains: np.ndarray) -> np.ndarray:
    """Replace draws by normal quantiles of their ranks, Blom's `(rank - 3/8) / (N + 1/4)`; ties share a rank."""
    ordered = np.sort(chains, axis=None)
    # Not scipy.stats.rankdata, whose module takes longer to import than all of ours.
    ranks = 0.5 * (np.searchsorted(ordered, chains, "left") + np.searchsorted(ordered, chains, "right") + 1)
    return special.ndtri((ranks - 0.375) / (chains.size + 0.25))


def _autocovariances(chains: np.ndarray) -> np.ndarray:
    """Average over chains the autocovariance at every lag, each divided by the number of draws."""
    n = chains.shape[1]
    padded = fft.next_fast_len(2 * n, real=True)
    spectrum = fft.rfft(chains - chains.mean(axis=1, keepdims=True), n=padded, axis=1)
    return fft.irfft(np.abs(spectrum) ** 2, n=padded, axis=1)[:, :n].mean(axis=0) / n


def _autocorrelation_time(chains: np.ndarray) -> float:
    """Sum the autocorrelations, `-1 + 2 Σ_t ρ_t`, as far as they are distinguishable from noise."""
    m, n = chains.shape
    autocovariances = _autocovariances(chains)
    within = autocovariances[0] * n / (n - 1)
    total = autocovariances[0] + (chains.mean(axis=1).var(ddof=1) if m > 1 else 0.0)
    correlations = 1.0 - (within - autocovariances) / total
    correlations[0] = 1.0
    # Sums of neighbours, ρ_2m + ρ_2m+1, are positive and fall in a reversible chain: stop before the first that is
    # not positive, and let none exceed the one before. The last two lags are left out.
    n_pairs = max(1, (n - 1) // 2)
    pairs = correlations[: 2 * n_pairs].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0.0)
    stop = negative[0] if len(negative) else n_pairs - 1
    time = -1.0 + 2.0 * np.minimum.accumulate(pairs[:stop]).sum()
    # The even lag of the pair at the stop still counts, once: it makes the estimate less biased.
    if correlations[2 * stop] > 0.0 or pairs[stop] >= 0.0:
        time += correlations[2 * stop]
    # Antithetic chains may be worth more than their number, but no estimate can be trusted further than this.
    return float(max(time, 1.0 / np.log10(chains.size)))
