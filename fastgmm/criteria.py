"""Information criteria as formulas; lower is better."""

import math

# What criteria are called, by the names that choose them.
CRITERIA = {"bic": "BIC", "aic": "AIC", "icl": "ICL", "heldout": "held-out deviance"}


def bic(log_likelihood: float, n_parameters: int, n: float) -> float:
    """Bayesian information criterion, -2 log L + p log n (Schwarz 1978).

    Examples
    --------
    >>> round(bic(-100.0, 5, 50), 3)
    219.56
    """
    return -2.0 * log_likelihood + n_parameters * math.log(n)


def icl(log_likelihood: float, log_certainty: float, n_parameters: int, n: float) -> float:
    """Integrated completed likelihood, -2 (log L + Σ_i log max_c r_ic) + p log n (Biernacki, Celeux and Govaert 2000).

    BIC with every row's most probable component counted as seen: `log_certainty` is the sum of the logarithms of its
    responsibilities, 0 where none is in doubt.

    References
    ----------
    Biernacki, Celeux and Govaert (2000), "Assessing a mixture model for clustering with the integrated completed
    likelihood", IEEE Transactions on Pattern Analysis and Machine Intelligence 22, 719-725.

    Examples
    --------
    >>> icl(-100.0, -3.0, 5, 50) - bic(-100.0, 5, 50)
    6.0
    """
    return bic(log_likelihood + log_certainty, n_parameters, n)


def heldout(log_likelihood: float) -> float:
    """Deviance of rows that were held out, -2 log L.

    Examples
    --------
    >>> heldout(-100.0)
    200.0
    """
    return -2.0 * log_likelihood


def aic(log_likelihood: float, n_parameters: int) -> float:
    """Akaike information criterion, -2 log L + 2 p (Akaike 1974).

    Examples
    --------
    >>> aic(-100.0, 5)
    210.0
    """
    return -2.0 * log_likelihood + 2.0 * n_parameters
