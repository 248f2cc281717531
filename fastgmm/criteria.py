"""Information criteria as formulas; lower is better."""

import math


def bic(log_likelihood: float, n_parameters: int, n: float) -> float:
    """Bayesian information criterion, -2 log L + p log n (Schwarz 1978).

    Examples
    --------
    >>> round(bic(-100.0, 5, 50), 3)
    219.56
    """
    return -2.0 * log_likelihood + n_parameters * math.log(n)


def aic(log_likelihood: float, n_parameters: int) -> float:
    """Akaike information criterion, -2 log L + 2 p (Akaike 1974).

    Examples
    --------
    >>> aic(-100.0, 5)
    210.0
    """
    return -2.0 * log_likelihood + 2.0 * n_parameters
