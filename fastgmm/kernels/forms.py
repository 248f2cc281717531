"""What a pass asks of a form: how a component's log-densities and moments are computed on a tile.

A form is a tuple of parameters whose class chooses the bodies of the functions below. Passes know no form: they call
the bodies by address, so that the passes are compiled once for all forms.
`centred.py` has those that take every row's distance from every mean, good for any parameters; `expanded.py` those
that expand the squares about one reference, faster, for components not too narrow for the spread of their means;
`triangular.py` both for a covariance matrix per component; `masked.py` those for rows that lack entries.

Every form has `means` (k, d), for its shape, and a `reference` (d,) that is subtracted while a tile is loaded: means
and centres are in the tile's coordinates, relative to it. The type of `means` is the type a tile is computed in. Arrays
are C-contiguous, so that forms of one class, shape and type are one type to the compiler.
Features may be padded with zeros to a size the form can walk in blocks; the padding adds exact zeros to every sum.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numba
import numpy as np
from numba import types
from numba._dispatcher import compute_fingerprint

from fastgmm.kernels import calls
from fastgmm.kernels._jit import (
    COMPILED,
    FLOATS_1D,
    FLOATS_2D,
    TILE_STRIDE,
    address_of,
    addressed_kernel,
    chosen_by_class,
    declared_kernel,
    kernel,
    overload_for,
)
from fastgmm.kernels.calls import form_at

# A sum's first two entries: the log-likelihood, and the number of rows too far from every component.
HEAD = 2


# Centres (k, d), weight (k,), first moments (k, d) and second ones in the structure's shape: parts of a vector of sums,
# in the coordinates of the rows and without padding.
Moments = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Form(Protocol):
    """What every form has, beside bodies of `log_densities` and `accumulate`.

    Some also have `prepare_renewal(centres, weights, means, covariances, factors)`: a call that sets the form's own
    arrays by what is then in the last four, those it was made of, and `centres`, those that `cut` gave. It returns
    whether that needs another form now, and not this. The other moments are views of the sums.
    """

    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)

    @property
    def working_features(self) -> int:
        """How many features' room a tile needs, with the form's working memory."""

    @property
    def n_moments(self) -> int:
        """Length of the vector of sums after its head."""

    def cut(self, sums: np.ndarray, centres: np.ndarray, features: int) -> Moments:
        """Cut a vector of sums, from its head on, into moments; `centres` as they were given to `accumulate`."""


@chosen_by_class
def log_densities(form, tile, out, ahead):
    """out[c, i] = log w_c + log N(x_i | μ_c, Σ_c) for the rows of a tile.

    `tile` goes on after its features: the rest is the form's working memory, which `accumulate` finds as it was left.
    Meanwhile what is `ahead`, a place as `fetching.py` has it, comes into the caches; but for the masked forms, which
    take far longer than that.
    """


@chosen_by_class
def accumulate(form, tile, values, inverse, weights, centres, sums):
    """Turn `values * inverse` into responsibilities and add a tile's weight and moments to `sums`.

    `values` and `inverse` are what `exponentiate` left, and are overwritten. Centred forms take moments about
    `centres` (k, d), expanded ones about their reference but for what they centre.
    """


class Packed(NamedTuple):
    """A form as passes take it, which has one type for all forms of one type of numbers.

    It holds as long as the form lives. Compiled, the first two are addresses, and the third the memory where the form's
    tuple lies; uncompiled, they are the functions and the form.
    """

    log_densities: Any
    accumulate: Any  # 0 where nobody will call it
    form: Any
    means: np.ndarray  # (k, d)
    reference: np.ndarray  # (d,)


_packers: dict[tuple[bytes, bool], Callable[[Any], Packed]] = {}


def pack(form: Any, moments: bool) -> Packed:
    """Pack a form, for passes that take moments or for others."""
    return packer_for(form, moments)(form)


def packer_for(form: Any, moments: bool) -> Callable[[Any], Packed]:
    """What packs forms of this one's class and dimensions; their functions are compiled by now."""
    if not COMPILED:
        return lambda form: Packed(_log_densities_at, _accumulate_at, form, form.means, form.reference)
    kind = compute_fingerprint((form,)), moments
    if kind not in _packers:
        _packers[kind] = _make_packer(form, moments)
    return _packers[kind]


def _make_packer(form: Any, moments: bool) -> Callable[[Any], Packed]:
    place, number = types.CPointer(numba.typeof(form)), numba.typeof(form.means).dtype
    addresses = (
        address_of(_log_densities_at, calls.log_densities_signature(place, number)),
        address_of(_accumulate_at, calls.accumulate_signature(place, number)) if moments else 0,
    )
    # What an array is to Numba: five words, and two for each dimension.
    size = sum(5 + 2 * np.ndim(part) for part in form)
    store = overload_for(calls.store_form, form, np.empty(size, np.int64))

    def packer(form: Any) -> Packed:
        words = np.empty(size, np.int64)
        store(form, words)
        return Packed(*addresses, words, form.means, form.reference)

    return packer


@addressed_kernel
def _log_densities_at(place, tile, out, ahead):
    log_densities(form_at(place), tile, out, ahead)


@addressed_kernel
def _accumulate_at(place, tile, values, inverse, weights, centres, sums):
    accumulate(form_at(place), tile, values, inverse, weights, centres, sums)


def scratch_size(form: Form) -> int:
    """Elements of working memory that one worker needs for a pass."""
    return (4 + form.means.shape[0] + form.working_features) * TILE_STRIDE


def sums_size(form: Form) -> int:
    """Length of the vector of sums."""
    return HEAD + form.n_moments


def pad(values: np.ndarray, features: int) -> np.ndarray:
    """Append zeros to the last axis until it has `features` entries; the result is new, float64 and contiguous."""
    out = np.zeros((*values.shape[:-1], features))
    out[..., : values.shape[-1]] = values
    return out


_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


@kernel(inline=True)
def log_constant(weight, log_determinant, d):
    """log w + log |F| - d/2 log 2π; a component without weight has density 0."""
    # NumPy would warn of the logarithm of a weight of zero.
    return (np.log(weight) if weight > 0.0 else -np.inf) + log_determinant - d * _HALF_LOG_2_PI


def make_log_constants(weights: np.ndarray, log_determinants: Any, features: int) -> np.ndarray:
    """`log_constant` of all components."""
    with np.errstate(divide="ignore"):
        return np.log(weights) + log_determinants - features * _HALF_LOG_2_PI


@declared_kernel(FLOATS_1D, FLOATS_2D, FLOATS_1D, FLOATS_2D, short=True)
def set_about_reference(weights, means, reference, offsets):
    """What `about_reference` returns."""
    k, d = means.shape
    total = 0.0
    for c in range(k):
        total += weights[c]
    for j in range(d):
        distance = 0.0
        for c in range(1, k):
            distance += weights[c] * (means[c, j] - means[0, j])
        reference[j] = means[0, j] + distance / total
        for c in range(k):
            offsets[c, j] = means[c, j] - reference[j]


def about_reference(weights: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the mixture (d,) and the means about it; both arguments are contiguous and float64."""
    reference, offsets = np.empty(means.shape[1]), np.empty(means.shape)
    set_about_reference.call(weights, means, reference, offsets)
    return reference, offsets


# Squares between these, and what is a thousand widths away, stay clear of float32's ends.
_SMALLEST_SINGLE, _LARGEST_SINGLE = 1e-30, 1e30


def suits_single(variances: np.ndarray, centred: np.ndarray) -> bool:
    """Whether the unit of the data lets float32 hold squares and precisions; variances and means by feature."""
    return bool(variances.min() > _SMALLEST_SINGLE and variances.max() + (centred**2).max() < _LARGEST_SINGLE)


# Largest spread of what is expanded about a reference, by the type of the tile. The spread says how much larger the
# terms of a squared distance are than their sum: a log-density then has an error of some eps * spread *
# max(1, |log-density|) and a covariance one of eps * spread in units of its own width, 1e-10 and in float32 1e-4.
LARGEST_SPREAD = {np.dtype(np.float64): 1e6, np.dtype(np.float32): 1e3}
# A mean may be so many widths, squared, from the reference: a tenth of what has `maximise` ask for moments about it.
FARTHEST_MEAN = 1e3


@kernel(inline=True)
def is_near(offset, variance, farthest):
    """Whether a mean is near enough to the reference for moments about it, by one feature; see `FARTHEST_MEAN`."""
    return offset * offset <= farthest * variance
