"""What draws are worth: effective sample sizes, R-hat and Monte Carlo standard errors."""

import warnings
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, special

_FEWEST_DRAWS = 4
TAIL = 0.05
# Squares and indicators that differ by less than this, relatively, differ by rounding only.
_ROUNDING = 1e-15
# Cumulative probabilities of a standard normal at -1 and +1, to the digits that other implementations use.
_ONE_SIGMA = (0.1586553, 0.8413447)


def effective_sample_size(draws: ArrayLike, kind: str = "bulk", *, prob: float | None = None) -> float | np.ndarray:
    """Estimate how many independent draws would be as good.

    Chains are split in halves and the autocorrelations of a quantity are summed over Geyer's initial monotone
    sequence. The kinds differ in the quantity:

    - "bulk": normal scores of the draws' ranks; for the middle of the distribution, whatever its tails.
    - "tail": the smaller of those of kind "quantile" for `prob` and `1 - prob`.
    - "mean": the draws themselves; for errors of means.
    - "sd": squared deviations from the mean; for errors of standard deviations.
    - "quantile": whether a draw lies at or below the quantile of `prob`; for errors of quantiles.

    Parameters
    ----------
    draws : array_like of shape (chain, draw) or (chain, draw, dim)
        The chains.
    kind : {"bulk", "tail", "mean", "sd", "quantile"}, default="bulk"
        For which estimate.
    prob : float, optional
        For "quantile" which one, in (0, 1); for "tail" 0.05 if None.

    Returns
    -------
    float, or ndarray of shape (dim,)
        At most `N log10(N)` for N draws in all. NaN where chains have fewer than 4 draws, where a draw is not finite,
        and where no chain ever moved.

    Raises
    ------
    ValueError
        If `draws` has neither two nor three dimensions, or no chain; if `kind` is unknown; if `prob` is missing,
        superfluous or outside (0, 1).

    Warns
    -----
    RuntimeWarning
        If a chain of at least 4 draws never moved; names chains and dimensions.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Rank-normalization, folding, and localization: an
    improved R-hat for assessing convergence of MCMC. Bayesian Analysis 16(2), 667-718, section 3 and equations 10
    to 13.
    Geyer (1992), Practical Markov chain Monte Carlo. Statistical Science 7(4), 473-483, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgmm.mcmc import effective_sample_size
    >>> independent = np.random.default_rng(0).normal(size=(4, 1000))
    >>> bool(3000 < effective_sample_size(independent) < 5000)
    True
    >>> effective_sample_size(independent[:, :, None], "quantile", prob=0.9).shape
    (1,)
    """
    return _answer(draws, size_of_kind(kind, prob))


def rhat(draws: ArrayLike) -> float | np.ndarray:
    """Compare the variance between chains with that within: rank-normalised split R-hat.

    Chains are split in halves, so that one that drifts disagrees with itself. Draws, and separately their distances
    from the median, are replaced by normal scores of their ranks: the first sees chains in different places, the
    second chains of different widths. The larger of the two R-hats counts. Chains that agree give about 1; above
    1.01 they had better run longer.

    Parameters
    ----------
    draws : array_like of shape (chain, draw) or (chain, draw, dim)
        The chains. One alone is compared with itself, first half with second, and cannot tell what it never found.

    Returns
    -------
    float, or ndarray of shape (dim,)
        NaN where chains have fewer than 4 draws, where a draw is not finite, and where all draws are the same;
        infinite where no chain ever moved and they are not all in one place.

    Raises
    ------
    ValueError
        If `draws` has neither two nor three dimensions, or no chain.

    Warns
    -----
    RuntimeWarning
        If a chain of at least 4 draws never moved; names chains and dimensions.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Rank-normalization, folding, and localization: an
    improved R-hat for assessing convergence of MCMC. Bayesian Analysis 16(2), 667-718, equations 1 to 4 and 14.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgmm.mcmc import rhat
    >>> independent = np.random.default_rng(0).normal(size=(4, 1000))
    >>> bool(rhat(independent) < 1.01)
    True
    >>> bool(rhat(independent + [[0], [0], [0], [3]]) > 1.2)
    True
    """
    return _answer(draws, rank_normalised_rhat)


def mcse(draws: ArrayLike, kind: str = "mean", *, prob: float | None = None) -> float | np.ndarray:
    """Estimate the standard error that a finite run leaves on a mean, a standard deviation or a quantile.

    Parameters
    ----------
    draws : array_like of shape (chain, draw) or (chain, draw, dim)
        The chains.
    kind : {"mean", "sd", "quantile"}, default="mean"
        Of which estimate from all draws.
    prob : float, optional
        For "quantile" which one, in (0, 1).

    Returns
    -------
    float, or ndarray of shape (dim,)
        In units of the draws. NaN where chains have fewer than 4 draws, where a draw is not finite, and where no chain
        ever moved.

    Raises
    ------
    ValueError
        If `draws` has neither two nor three dimensions, or no chain; if `kind` is unknown; if `prob` is missing,
        superfluous or outside (0, 1).

    Warns
    -----
    RuntimeWarning
        If a chain of at least 4 draws never moved; names chains and dimensions.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Rank-normalization, folding, and localization: an
    improved R-hat for assessing convergence of MCMC. Bayesian Analysis 16(2), 667-718, section 4.
    Kenney and Keeping (1951), Mathematics of Statistics, part two, 2nd edition, p. 141, for the standard deviation.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgmm.mcmc import mcse
    >>> independent = np.random.default_rng(0).normal(size=(4, 2500))
    >>> bool(0.008 < mcse(independent) < 0.012)
    True
    """
    return _answer(draws, _choose(_STANDARD_ERRORS, kind, prob))


def autocorrelation_time(draws: ArrayLike) -> float | np.ndarray:
    """Estimate after how many draws a chain has forgotten: the integrated autocorrelation time, `1 + 2 Σ_t ρ_t`.

    Parameters
    ----------
    draws : array_like of shape (chain, draw) or (chain, draw, dim)
        The chains.

    Returns
    -------
    float, or ndarray of shape (dim,)
        The number of draws over the effective sample size of kind "mean", in draws: multiply by `thin` for steps.
        NaN, errors and warnings as there.

    References
    ----------
    Geyer (1992), Practical Markov chain Monte Carlo. Statistical Science 7(4), 473-483, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> from fastgmm.mcmc import autocorrelation_time
    >>> independent = np.random.default_rng(0).normal(size=(4, 1000))
    >>> bool(0.8 < autocorrelation_time(independent) < 1.2)
    True
    """
    return _answer(draws, lambda chains: chains.size / size_for_mean(chains))


def size_of_kind(kind: str, prob: float | None) -> Callable[[np.ndarray], float]:
    """Return the estimate that `effective_sample_size` makes of one dimension."""
    return _choose(_EFFECTIVE_SIZES, kind, TAIL if kind == "tail" and prob is None else prob)


def warn_of_stuck(chains: np.ndarray, stacklevel: int) -> None:
    """Warn once of all chains, of shape (chain, draw, dim), that never moved in some dimension.

    Their diagnostics are left as the formulas have them where other chains moved: such a chain adds nothing to the
    variance within and all the more to that between, so that R-hat is large, as it should be.
    """
    if chains.shape[1] < _FEWEST_DRAWS:
        return
    stuck = np.asarray(np.all(chains == chains[:, :1], axis=1))
    if stuck.any():
        warnings.warn(_describe_stuck(stuck), RuntimeWarning, stacklevel=stacklevel + 1)


def name_all(noun: str, numbers: Iterable[int]) -> str:
    """Name numbered things in a sentence: "chain 3", "chains 0, 2"; ten at most."""
    names = [str(number) for number in numbers]
    shown = ", ".join(names[:10]) + ", ..." * (len(names) > 10)
    return f"{noun}{'s' * (len(names) > 1)} {shown}"


def _describe_stuck(stuck: np.ndarray) -> str:
    """Say which chains never moved, from an array of shape (chain, dim)."""
    nowhere, everywhere = np.all(stuck, axis=0), np.all(stuck, axis=1)
    if nowhere.all():
        return "No chain ever moved: nothing can be estimated from these draws."
    parts = []
    if everywhere.any():
        parts.append(f"{name_all('chain', np.flatnonzero(everywhere))} never moved")
    if nowhere.any():
        parts.append(f"no chain moved in {name_all('dimension', np.flatnonzero(nowhere))}, where nothing is estimated")
    rest = stuck & ~nowhere & ~everywhere[:, None]
    parts += [
        f"chain {c} never moved in {name_all('dimension', np.flatnonzero(rest[c]))}"
        for c in np.flatnonzero(rest.any(axis=1))
    ]
    sentence = "; ".join(parts[:10]) + "; ..." * (len(parts) > 10)
    return f"{sentence[0].upper()}{sentence[1:]}."


def as_chains(draws: ArrayLike) -> np.ndarray:
    """Return draws as float64 of shape (chain, draw, dim)."""
    array = np.asarray(draws, dtype=np.float64)
    if array.ndim not in (2, 3) or len(array) == 0:
        raise ValueError(
            f"draws must be of shape (chain, draw) or (chain, draw, dim) with at least one chain, not {array.shape}."
        )
    return array if array.ndim == 3 else array[:, :, None]


def by_dimension(chains: np.ndarray, estimate: Callable[[np.ndarray], float]) -> np.ndarray:
    """Apply an estimate on (chain, draw) to each dimension of (chain, draw, dim)."""
    return np.array([estimate(chains[:, :, i]) for i in range(chains.shape[2])])


def _answer(draws: ArrayLike, estimate: Callable[[np.ndarray], float]) -> float | np.ndarray:
    """Estimate for the public function that calls this, and warn its caller."""
    chains = as_chains(draws)
    warn_of_stuck(chains, stacklevel=3)
    values = by_dimension(chains, estimate)
    return values if np.ndim(draws) == 3 else float(values[0])


def _choose(table: dict[str, Callable[..., float]], kind: str, prob: float | None) -> Callable[[np.ndarray], float]:
    """Look up the estimate of a kind; those in `_OF_QUANTILES` need a probability."""
    if kind not in table:
        raise ValueError(f"kind must be one of {', '.join(table)}, not {kind!r}.")
    estimate = table[kind]
    if kind not in _OF_QUANTILES:
        if prob is not None:
            raise ValueError(f"prob is for {' and '.join(k for k in table if k in _OF_QUANTILES)}, not for {kind!r}.")
        return estimate
    if prob is None or not 0.0 < prob < 1.0:
        raise ValueError(f"prob must lie between 0 and 1 for {kind!r}, but is {prob}.")
    return lambda chains: estimate(chains, prob)


def _defined(chains: np.ndarray) -> bool:
    """Whether a quantity has draws enough, all known, and moved in some chain."""
    return _known(chains) and not np.all(chains == chains[:, :1])


def _known(chains: np.ndarray) -> bool:
    return chains.shape[1] >= _FEWEST_DRAWS and bool(np.isfinite(chains).all())


def size_for_bulk(chains: np.ndarray) -> float:
    return _effective_size(_normal_scores(_split(chains))) if _defined(chains) else np.nan


def size_for_tail(chains: np.ndarray, prob: float) -> float:
    return min(size_for_quantile(chains, prob), size_for_quantile(chains, 1.0 - prob))


def size_for_quantile(chains: np.ndarray, prob: float) -> float:
    if not _defined(chains):
        return np.nan
    return _effective_size(_split((chains <= np.quantile(chains, prob)).astype(np.float64)))


def size_for_mean(chains: np.ndarray) -> float:
    return _effective_size(_split(_scaled(chains)[0])) if _defined(chains) else np.nan


def size_for_sd(chains: np.ndarray) -> float:
    return _effective_size(_split(_squared_deviations(_scaled(chains)[0]))) if _defined(chains) else np.nan


def error_of_mean(chains: np.ndarray) -> float:
    return standard_deviation(chains) / np.sqrt(size_for_mean(chains)) if _defined(chains) else np.nan


def error_of_sd(chains: np.ndarray) -> float:
    if not _defined(chains):
        return np.nan
    scaled, exponent = _scaled(chains)
    squares = _squared_deviations(scaled)
    # Var(s²) = (E(x - μ)⁴ - σ⁴) / ESS, and Var(s) = Var(s²) / 4σ² to first order.
    variance = squares.mean()
    variance_of_variance = (np.square(squares).mean() - variance**2) / _effective_size(_split(squares))
    # Rounding may leave less than nothing where all squares are the same.
    return float(np.ldexp(np.sqrt(max(variance_of_variance, 0.0) / variance / 4.0), exponent))


def error_of_quantile(chains: np.ndarray, prob: float) -> float:
    """Half the distance between the quantiles that the true one lies between with a probability of 0.68."""
    size = size_for_quantile(chains, prob)
    if np.isnan(size):
        return np.nan
    lower, upper = special.betaincinv(size * prob + 1.0, size * (1.0 - prob) + 1.0, _ONE_SIGMA)
    ordered = np.sort(chains, axis=None)
    last = ordered.size - 1
    first = ordered[int(np.floor(max(lower * ordered.size - 1.0, 0.0)))]
    return float(ordered[int(np.ceil(min(upper * ordered.size - 1.0, last)))] / 2.0 - first / 2.0)


_OF_QUANTILES = ("tail", "quantile")
_EFFECTIVE_SIZES: dict[str, Callable[..., float]] = {
    "bulk": size_for_bulk,
    "tail": size_for_tail,
    "mean": size_for_mean,
    "sd": size_for_sd,
    "quantile": size_for_quantile,
}
_STANDARD_ERRORS: dict[str, Callable[..., float]] = {
    "mean": error_of_mean,
    "sd": error_of_sd,
    "quantile": error_of_quantile,
}


def mean(chains: np.ndarray) -> float:
    """Mean of all draws, also where their sum overflows."""
    exponent = _exponent(chains)
    return float(np.ldexp(np.ldexp(chains, -exponent).mean(), exponent))


def standard_deviation(chains: np.ndarray) -> float:
    """Standard deviation of all draws, with N - 1, also where squares overflow; NaN of a single draw."""
    if chains.size < 2:
        return np.nan
    scaled, exponent = _scaled(chains)
    return float(np.ldexp(scaled.std(ddof=1), exponent))


def rank_normalised_rhat(chains: np.ndarray) -> float:
    if not _known(chains):
        return np.nan
    if not _defined(chains):
        return np.nan if np.all(chains == chains[0, 0]) else np.inf
    split = _split(chains)
    folded = np.abs(split - np.median(split))
    # Folding may leave nothing that varies, as of draws ±1: then the other counts.
    return float(np.fmax(_variance_ratio(_normal_scores(split)), _variance_ratio(_normal_scores(folded))))


def _variance_ratio(chains: np.ndarray) -> float:
    """R-hat of chains as they are, √(((n - 1) W / n + B / n) / W), B / n the variance of the chains' means."""
    n = chains.shape[1]
    # From the first draw on, so that a chain that never moved has variance 0 and not that of rounding.
    within = (chains - chains[:, :1]).var(axis=1, ddof=1).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.sqrt((n - 1) / n + chains.mean(axis=1).var(ddof=1) / within))


def _exponent(values: np.ndarray) -> int:
    """Return e with |values| <= 2^e: what is divided by 2^e loses no digit, and no square of it overflows."""
    return int(np.frexp(np.abs(values).max())[1])


def _scaled(chains: np.ndarray) -> tuple[np.ndarray, int]:
    """Return y and e with chains = constant + y 2^e and |y| at most 2."""
    exponent = _exponent(chains)
    scaled = np.ldexp(chains, -exponent)
    return scaled - scaled[0, 0], exponent


def _squared_deviations(values: np.ndarray) -> np.ndarray:
    return np.square(values - values.mean())


def _split(chains: np.ndarray) -> np.ndarray:
    """Make two chains of each, without the middle draw of an odd number."""
    half = chains.shape[1] // 2
    return np.concatenate([chains[:, :half], chains[:, -half:]])


def _normal_scores(chains: np.ndarray) -> np.ndarray:
    """Replace draws by normal quantiles of their ranks, Blom's `(rank - 3/8) / (N + 1/4)`."""
    return special.ndtri((_ranks(chains) - 0.375) / (chains.size + 0.25))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their mean rank: not by scipy.stats, slower to import than all of ours."""
    order = np.argsort(values, axis=None)
    ordered = values.ravel()[order]
    begins = np.append(True, ordered[1:] != ordered[:-1])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], values.size)
    ranks = np.empty(values.size)
    ranks[order] = (0.5 * (first + last + 1))[np.cumsum(begins) - 1]
    return ranks.reshape(values.shape)


def _autocovariances(chains: np.ndarray) -> np.ndarray:
    """Average over chains the autocovariance at every lag, each divided by the number of draws."""
    n = chains.shape[1]
    padded = fft.next_fast_len(2 * n, real=True)
    spectrum = fft.rfft(chains - chains.mean(axis=1, keepdims=True), n=padded, axis=1)
    return fft.irfft(np.square(np.abs(spectrum)).mean(axis=0), n=padded)[:n] / n


def _effective_size(chains: np.ndarray) -> float:
    """Number of draws over their autocorrelation time; of what never varies every draw counts."""
    if np.ptp(chains) <= _ROUNDING * np.abs(chains).max():
        return float(chains.size)
    return chains.size / _autocorrelation_time(chains)


def _autocorrelation_time(chains: np.ndarray) -> float:
    """Sum the autocorrelations, `-1 + 2 Σ_t ρ_t` from lag 0 on, as far as they are distinguishable from noise."""
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
