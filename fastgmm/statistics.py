"""What one pass over the rows leaves for the next step: weights and moments about centres."""

from typing import NamedTuple

import numpy as np

from fastgmm.kernels.passes import add_in_pairs


class Statistics(NamedTuple):
    """Sufficient statistics of a mixture, about `centres`. Those with equal centres add.

    The second moments have the structure's shape: (k, d, d) full, of which the lower triangle counts; (d, d) tied,
    summed over components; (k, d) diag; (k,) spherical, summed over features.
    """

    centres: np.ndarray  # (k, d)
    weight: np.ndarray  # (k,): Σ_i w_i r_ic
    first: np.ndarray  # (k, d): Σ_i w_i r_ic (x_i - centre_c)
    second: np.ndarray  # Σ_i w_i r_ic (x_i - centre_c)(x_i - centre_c)ᵀ
    log_likelihood: float  # Σ_i w_i log p(x_i)
    lost: int  # rows whose log-likelihood is not finite


def add(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of the rows of `a` and `b` together; both must be about the same centres."""
    if not np.array_equal(a.centres, b.centres):
        raise ValueError("Statistics about different centres do not add; take both about the same ones.")
    return Statistics(
        a.centres,
        a.weight + b.weight,
        a.first + b.first,
        a.second + b.second,
        a.log_likelihood + b.log_likelihood,
        a.lost + b.lost,
    )


class TreeSum:
    """Add vectors in a binary tree over their index, as a binary counter carries.

    The tree is the one `kernels.passes.statistics_span` follows, so sums over parts have the bits of the whole: parts
    of a power of two of leaves that begin at a multiple of it; the very last may be shorter.

    Attributes
    ----------
    leaves : int
        How many have been pushed, by themselves or as parts of them.
    """

    def __init__(self) -> None:
        self.leaves = 0
        self._waiting: list[np.ndarray | None] = []

    def push(self, vector: np.ndarray, leaves: int = 1) -> None:
        """Append the sum of the next so many leaves; it is not copied and may be changed."""
        level = leaves.bit_length() - 1
        self.leaves += leaves
        while level < len(self._waiting) and (waiting := self._waiting[level]) is not None:
            vector = waiting + vector
            self._waiting[level] = None
            level += 1
        self._waiting += [None] * (level + 1 - len(self._waiting))
        self._waiting[level] = vector

    def push_all(self, vectors: np.ndarray, leaves: int = 1, last: bool = False) -> None:
        """Append sums (m, size), each of the next so many leaves, as m calls of `push` would, but sooner.

        They are contiguous, and are used up. What was pushed before must be a multiple of those leaves. If they are
        the `last`, the total may lie in their memory.
        """
        if last and self.leaves == 0:  # so that one tree holds all there is
            add_in_pairs.call(vectors)
            self.push(vectors[0], leaves << (len(vectors) - 1).bit_length())
            return
        while len(vectors):
            count, before = 1 << (len(vectors).bit_length() - 1), self.leaves // leaves
            if before:
                count = min(count, before & -before)
            add_in_pairs.call(vectors[:count])
            self.push(vectors[0].copy(), count * leaves)
            vectors = vectors[count:]

    def total(self) -> np.ndarray:
        """The sum of everything pushed so far."""
        result: np.ndarray | None = None
        for waiting in self._waiting:
            if waiting is not None:
                result = waiting if result is None else waiting + result
        if result is None:
            raise ValueError("Nothing was pushed, so there is no sum.")
        return result
