"""Rows with missing entries, completed."""

from typing import Any

import numpy as np

from fastgmm.kernels import masked
from fastgmm.mixture.evaluation import Evaluator
from fastgmm.sources.missing import order_of_patterns

_COMPLETED_ROWS = 1 << 16  # rows completed at a time, with their responsibilities and noise


def complete(evaluator: Evaluator, rows: np.ndarray, copies: int, random: Any) -> np.ndarray:
    """Completed copies (copies, n, d) of checked rows: with draws, or without `random` with conditional means."""
    means, factors = evaluator.parameters.means, evaluator.parameters.factors
    k, d = means.shape
    out = np.repeat(np.asarray(rows, dtype=np.float64)[None], copies, axis=0)
    missing = np.isnan(rows)
    places = np.flatnonzero(missing.any(axis=1))
    places = places[order_of_patterns(missing[places])]
    columns = evaluator.structure.dense(factors, k, d).swapaxes(1, 2).copy()
    for start in range(0, len(places), _COMPLETED_ROWS):
        these = places[start : start + _COMPLETED_ROWS]
        block = np.asarray(rows[these], dtype=np.float64)
        shares = evaluator.evaluate(block, "responsibilities", missing=True).responsibilities
        noise, filled = np.zeros_like(block), block.copy()
        bounds = shares.cumsum(axis=1)[:, :-1]
        for copy in out:
            if random is not None:
                labels = (random.uniform(size=(len(block), 1)) > bounds).sum(axis=1)
                shares = np.eye(k)[labels]
                noise = random.standard_normal(size=block.shape)
            masked.complete_rows(block, shares, noise, means, columns, filled)
            copy[these] = filled
    return out
