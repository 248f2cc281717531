"""When EM stops."""


def has_converged(log_likelihoods: list[float], before: float, tol: float) -> bool:
    """Whether the last change of the mean log-likelihood per row is below `tol`; `before` precedes the first."""
    previous = log_likelihoods[-2] if len(log_likelihoods) > 1 else before
    return abs(log_likelihoods[-1] - previous) < tol
