"""What a fit asks of its rows, wherever they lie."""

from types import ModuleType
from typing import Any, Protocol

import numpy as np

from fastgmm.covariance import Parameters
from fastgmm.sources.array import ArrayRows
from fastgmm.statistics import Statistics


class Rows(Protocol):
    """Rows of weight above zero that EM reads once per iteration.

    Attributes
    ----------
    n_rows, n_features : int
        The shape of all rows together.
    total_weight : float
        Sum of the weights; the number of rows where there are none.
    column_means : ndarray of shape (d,) or None
        Where entries are missing the means of the others, NaN if a feature has none; else None.
    """

    n_rows: int
    n_features: int
    total_weight: float
    column_means: np.ndarray | None

    @property
    def weighted(self) -> bool:
        """Whether the rows have weights."""

    @property
    def effective_rows(self) -> float:
        """Rows of equal weight that would tell as much, (Σ w)² / Σ w² (Kish 1965)."""

    @property
    def sample(self) -> ArrayRows:
        """Rows in memory among which a start is sought: all, or some whose weights stand for all."""

    def form(self, structure: ModuleType, parameters: Parameters) -> Any:
        """What a pass needs of the parameters: the fastest form."""

    def centred_form(self, structure: ModuleType, parameters: Parameters) -> Any:
        """The same, good for any data and for moments about any centres."""

    def reduce(self, form: Any, centres: np.ndarray | None = None) -> Statistics:
        """Statistics of all rows under `form`, with moments about `centres` (k, d), by default the form's own.

        Their arrays may lie in memory of the source: they hold until its next pass.
        """


class SourceError(ValueError):
    """Rows that a fit reads again and again could not be read, or are not what they were.

    Attributes
    ----------
    mixture : Mixture or None
        What the fit had reached; None if EM had not begun.
    """

    mixture: Any = None
