"""A sample of rows that come by once, each with a chance by its weight."""

from collections.abc import Sequence

import numpy as np

from fastgmm.sources.array import ArrayRows
from fastgmm.sources.missing import open_rows


class Reservoir:
    """Priority sampling (Duffield, Lund and Thorup 2007): some rows whose weights stand for all.

    A row of weight w has the priority w / u, with u uniform in (0, 1], and those of the largest priorities stay. With
    the first priority τ that did not stay, max(w, τ) is a weight whose sum over any rows is expected to be theirs: rows
    of equal weight are drawn uniformly, without repeats, and one of very large weight keeps its own. While all rows
    find room they keep their order and weights. The sample depends on the rows and the seed, not on how they come in
    blocks.

    Parameters
    ----------
    capacity : int
        Most rows to keep.
    seed : int or sequence of int
        Of the priorities.
    """

    def __init__(self, capacity: int, seed: int | Sequence[int]) -> None:
        self._capacity = capacity
        self._random = np.random.default_rng(seed)
        self._threshold = 0.0
        self._weighted = False
        self._total_weight = 0.0
        # Rows (m, d), their weights, priorities and places among all (m,).
        self._kept: list[np.ndarray] = []

    def add(self, rows: np.ndarray, weights: np.ndarray | None, start: int) -> None:
        """Look at rows (m, d) of weights (m,) above zero, of which `start` came before."""
        self._weighted |= weights is not None
        weights = np.ones(len(rows)) if weights is None else weights
        self._total_weight += float(weights.sum())
        priorities = weights / (1.0 - self._random.random(len(rows)))
        likely = np.flatnonzero(priorities > self._threshold)
        if len(likely) > self._capacity + 1:
            likely = likely[np.argpartition(priorities[likely], -self._capacity - 1)[-self._capacity - 1 :]]
        self._keep(np.asarray(rows[likely], dtype=np.float64), weights[likely], priorities[likely], start + likely)

    def merge(self, other: "Reservoir") -> None:
        """Look at the rows of a reservoir that has seen others."""
        self._weighted |= other._weighted
        self._total_weight += other._total_weight
        self._threshold = max(self._threshold, other._threshold)
        if other._kept:
            self._keep(*other._kept)

    def _keep(self, *found: np.ndarray) -> None:
        parts = [np.concatenate(pair) for pair in zip(self._kept, found, strict=True)] if self._kept else list(found)
        priorities = parts[2]
        if len(priorities) > self._capacity:
            order = np.argpartition(priorities, -self._capacity)
            self._threshold = max(self._threshold, float(priorities[order[: -self._capacity]].max()))
            parts = [part[order[-self._capacity :]] for part in parts]
        self._kept = parts

    def sample(self) -> ArrayRows:
        """The rows that were kept, in the order in which they came; of all their weight."""
        rows, weights, priorities, places = self._kept
        missing = bool(np.isnan(rows).any())
        order = places.argsort()
        if self._threshold == 0.0:
            return open_rows(rows[order], weights[order] if self._weighted else None, missing=missing)
        order = order[priorities[order] > self._threshold]
        weights = np.maximum(weights[order], self._threshold)
        return open_rows(rows[order], weights * (self._total_weight / weights.sum()), missing=missing)
