"""Elementary functions for users' densities: right for every argument, and vectorised by LLVM.

Those of `math.py` serve the passes over rows: fewer instructions, for the arguments that occur there. Here zeros,
infinities, NaN and subnormal numbers get what IEEE 754 recommends, always by selection, never by a branch. What is
fused says so, and nothing else is: a density has the same bits in a vector, in the remainder of a loop and in plain
Python, so that a chain does not depend on how many others run beside it.
"""

import math
from fractions import Fraction

import numpy as np
from numba import types
from numba.extending import intrinsic

from fastgmm.kernels._jit import COMPILED, SEPARATE, kernel
from fastgmm.kernels.math import LN2_HIGH, LN2_LOW, LOG2_E, MANTISSA_BITS, SQRT_HALF, TWO, WHOLE, WHOLE_BIAS

_LN2 = 6.93147180559945309417e-01
# Adding 1.5 * 2**52 rounds a float64 to an integer and leaves that integer in its low bits.
_ROUNDER = 6755399441055744.0
_BIASED_ROUNDER = _ROUNDER + 1023.0
TWO_LESS_ROOT = np.uint64(TWO - SQRT_HALF)

_SPLITTER = 2.0**27 + 1.0
_INF, _NAN = math.inf, math.nan
_LARGEST_OF_EXP = 709.782712893384  # the next float64 overflows
_SMALLEST_OF_EXP = -745.1332191019412  # the next rounds to 0
_SMALLEST_NORMAL = 2.0**-1022
_NEGLIGIBLE = 2.0**-54  # log(1 + x) and e**x - 1 are x

# e**r = 1 + r + r² (t0 + t1 r + ... + t9 r**9) on |r| <= log(2) / 2, by Remez's exchange. Weighed to serve e**r - 1 as
# well, whose relative error is 1.8e-17.
_T0, _T1, _T2, _T3 = 0.5000000000000006, 0.16666666666666588, 0.04166666666657676, 0.008333333333389563
_T4, _T5, _T6 = 0.001388888893156479, 0.00019841269718984982, 2.480150527382352e-05
_T7, _T8, _T9 = 2.7557407562462797e-06, 2.76260378952033e-07, 2.5053768742239466e-08

# log(1 + f) = f - f²/2 + s (f²/2 + l1 s² + l2 s⁴ + ...), s = f / (2 + f): the freely distributable mathematics library
# (Sun Microsystems, 1993).
_L1, _L2, _L3 = 6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01
_L4, _L5, _L6 = 2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01
_L7 = 1.479819860511658591e-01

# The same for who writes a logarithm out in vectors.
LOG_COEFFICIENTS = (_L1, _L2, _L3, _L4, _L5, _L6, _L7)


def _make_fma():
    def fma(a, b, c):
        """a b + c, rounded once."""
        a, b, c = float(a), float(b), float(c)
        product = a * b
        if 1e-200 < abs(product) < 1e200 and max(abs(a), abs(b), abs(c)) < 1e200:
            # The product's rounding error in halves of the factors (Dekker 1971), and a sum that is rounded once.
            a_high, b_high = _SPLITTER * a, _SPLITTER * b
            a_high, b_high = a_high - (a_high - a), b_high - (b_high - b)
            a_low, b_low = a - a_high, b - b_high
            error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
            return math.fsum((product, error, c))
        if a == 0.0 or b == 0.0 or not (math.isfinite(a) and math.isfinite(b)):
            return product + c
        if not math.isfinite(c):
            return c
        exact = Fraction(a) * Fraction(b) + Fraction(c)
        try:
            return float(exact) if exact else a * b + c  # which gives a zero its sign
        except OverflowError:
            return _INF if exact > 0 else -_INF

    def generate(context, builder, signature, values):
        return builder.fma(*values)

    def typed(typing_context, a, b, c):
        return types.float64(types.float64, types.float64, types.float64), generate

    return intrinsic(typed) if COMPILED else fma


fma = _make_fma()


@kernel(flags=SEPARATE, merge=True)
def _power_of_two(shifted):
    """2**n from n + _BIASED_ROUNDER, for an integer -1022 <= n <= 1023."""
    return float(np.uint64(np.float64(shifted).view(np.uint64) << MANTISSA_BITS).view(np.float64))


@kernel(flags=SEPARATE, merge=True)
def _reduce(x):
    """Return n and r with x = n log 2 + r, |r| <= log(2) / 2, and r before n's small part was taken from it."""
    n = fma(x, LOG2_E, _ROUNDER) - _ROUNDER
    high = fma(-n, LN2_HIGH, x)
    return n, fma(-n, LN2_LOW, high), high


@kernel(flags=SEPARATE, merge=True)
def _tail(r, r2):
    """(e**r - 1 - r) / r², in pairs so that no long chain of sums makes the processor wait (Estrin 1960)."""
    r4 = r2 * r2
    low = fma(fma(_T3, r, _T2), r2, fma(_T1, r, _T0))
    middle = fma(fma(_T7, r, _T6), r2, fma(_T5, r, _T4))
    return fma(fma(fma(_T9, r, _T8), r4, middle), r4, low)


@kernel(flags=SEPARATE, merge=True)
def exp(x: float) -> float:
    """Return e**x.

    Parameters
    ----------
    x : float
        Any number; integers and float32 are taken as float64.

    Returns
    -------
    float
        Within 1.1 ulp, subnormal results included. inf above 709.78, 0 below -745.13.

    Notes
    -----
    x = n log 2 + r with |r| <= log(2) / 2 (Cody and Waite, *Software Manual for the Elementary Functions*, 1980) and a
    polynomial in r. 2**n is multiplied in two halves: neither overflows, and only the second can round.

    Examples
    --------
    >>> from fastgmm.math import exp
    >>> exp(0.0), exp(-1e300), exp(1e300)
    (1.0, 0.0, inf)
    """
    x = float(np.float64(x))
    n, r, _ = _reduce(x)
    r2 = r * r
    half = fma(n, 0.5, _BIASED_ROUNDER)
    other = n - (half - _BIASED_ROUNDER) + _BIASED_ROUNDER
    result = (1.0 + fma(r2, _tail(r, r2), r)) * _power_of_two(half) * _power_of_two(other)
    result = _INF if x > _LARGEST_OF_EXP else result
    return 0.0 if x < _SMALLEST_OF_EXP else result


@kernel(flags=SEPARATE, merge=True)
def expm1(x: float) -> float:
    """Return e**x - 1, with all its digits also for x near 0.

    Parameters
    ----------
    x : float
        Any number; integers and float32 are taken as float64.

    Returns
    -------
    float
        Within 1.2 ulp. inf above 709.78, -1 below -37.43; of -0.0 it is -0.0.

    Notes
    -----
    As `exp`, with e**x - 1 = (2**n - 1) + 2**n r + 2**n (e**r - 1 - r). The first sum's rounding error is computed
    (Dekker 1971) and joins the last term. All is halved until the end: 2**1024 is no float64.

    Examples
    --------
    >>> from fastgmm.math import expm1
    >>> expm1(1e-20), expm1(-1e300)
    (1e-20, -1.0)
    """
    x = float(np.float64(x))
    n, r, high = _reduce(-40.0 if x < -40.0 else x)
    error = fma(-n, LN2_LOW, high - r)
    r2 = r * r
    half = _power_of_two(n - 1.0 + _BIASED_ROUNDER)
    shift = half - 0.5
    total = fma(half, r, shift)
    rest = fma(half, r, shift - total) + half * fma(r2, _tail(r, r2), error)
    result = 2.0 * (total + rest)
    result = _INF if x > _LARGEST_OF_EXP else result
    return x if abs(x) < _NEGLIGIBLE else result


@kernel(flags=SEPARATE, merge=True)
def _split(x, bias):
    """Return n and m with |x| = 2**n m, sqrt(1/2) <= m < sqrt(2), for finite, normal x; n is by `bias` too small."""
    bits = np.float64(abs(x)).view(np.uint64)
    # The integer 1024 + n: never negative, as AVX2 shifts 64-bit integers without regard to their sign.
    biased = np.uint64(bits + TWO_LESS_ROOT) >> MANTISSA_BITS
    n = float(np.uint64(biased | WHOLE).view(np.float64)) - (WHOLE_BIAS + bias)
    m = np.uint64(np.uint64(bits + TWO) - np.uint64(biased << MANTISSA_BITS)).view(np.float64)
    return n, float(m)


@kernel(flags=SEPARATE, merge=True)
def _log_of_product(n, f, error):
    """n log 2 + log(1 + f) + error for sqrt(1/2) <= 1 + f < sqrt(2)."""
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    odd = fma(w, fma(w, fma(w, _L7, _L5), _L3), _L1)
    even = w * fma(w, fma(w, _L6, _L4), _L2)
    half_square = 0.5 * f * f
    small = fma(s, half_square + fma(z, odd, even), fma(n, LN2_LOW, error))
    return fma(n, LN2_HIGH, f - (half_square - small))


@kernel(flags=SEPARATE, merge=True)
def log_of_normal(x):
    """Return log x, within 1 ulp, for positive, finite, normal x; of others it is anything."""
    n, m = _split(x, 0.0)
    return _log_of_product(n, m - 1.0, 0.0)


@kernel(flags=SEPARATE, merge=True)
def log(x: float) -> float:
    """Return the natural logarithm of x.

    Parameters
    ----------
    x : float
        Any number; integers and float32 are taken as float64.

    Returns
    -------
    float
        Within 1 ulp, subnormal arguments included. -inf for 0, NaN for negative numbers; no exception is raised.

    Notes
    -----
    The method and the coefficients are those of the freely distributable mathematics library (Sun Microsystems, 1993).

    Examples
    --------
    >>> from fastgmm.math import log
    >>> log(1.0), log(0.0), log(-1.0)
    (0.0, -inf, nan)
    """
    x = float(np.float64(x))
    subnormal = x < _SMALLEST_NORMAL
    n, m = _split(x * 2.0**54 if subnormal else x, 54.0 if subnormal else 0.0)
    result = _log_of_product(n, m - 1.0, 0.0)
    result = result if x < _INF else x  # inf and NaN
    result = _NAN if x < 0.0 else result
    return -_INF if x == 0.0 else result


@kernel(flags=SEPARATE, merge=True)
def log1p(x: float) -> float:
    """Return log(1 + x), with all its digits also for x near 0.

    Parameters
    ----------
    x : float
        Any number; integers and float32 are taken as float64.

    Returns
    -------
    float
        Within 1 ulp. -inf for -1, NaN below; of -0.0 it is -0.0.

    Notes
    -----
    The logarithm of u = 1 + x, rounded, and what the rounding lost divided by u (Sun Microsystems, 1993).

    Examples
    --------
    >>> from fastgmm.math import log1p
    >>> log1p(1e-20), log1p(-1.0)
    (1e-20, -inf)
    """
    x = float(np.float64(x))
    u = 1.0 + x
    n, m = _split(u, 0.0)
    lost = 1.0 - (u - x) if u > 2.0 else x - (u - 1.0)
    error = lost / (u if u != 0.0 else 1.0)
    whole = n == 0.0  # then f is x itself
    result = _log_of_product(n, x if whole else m - 1.0, 0.0 if whole else error)
    result = result if x < _INF else x  # inf and NaN
    result = _NAN if x < -1.0 else result
    result = -_INF if x == -1.0 else result
    return x if abs(x) < _NEGLIGIBLE else result


@kernel(flags=SEPARATE, merge=True)
def sqrt(x: float) -> float:
    """Return the square root of x.

    Parameters
    ----------
    x : float
        Any number; integers and float32 are taken as float64.

    Returns
    -------
    float
        Correctly rounded; NaN for negative numbers, no exception is raised. Of -0.0 it is -0.0.

    Examples
    --------
    >>> from fastgmm.math import sqrt
    >>> sqrt(2.25), sqrt(-1.0)
    (1.5, nan)
    """
    x = float(np.float64(x))
    return math.sqrt(x) if x >= 0.0 else _NAN


@kernel(flags=SEPARATE, merge=True)
def logaddexp(a: float, b: float) -> float:
    """Return log(e**a + e**b), also where neither power is a float64.

    Parameters
    ----------
    a, b : float
        Any numbers; integers and float32 are taken as float64.

    Returns
    -------
    float
        Within 2 units in the last place of the largest of 1, abs(a) and abs(b). Of two equal infinities it is that
        infinity.

    Notes
    -----
    max(a, b) + log1p(exp(-abs(a - b))), as in NumPy.

    Examples
    --------
    >>> from fastgmm.math import logaddexp
    >>> round(logaddexp(-10_000.0, -10_000.0), 9)
    -9999.306852819
    """
    a, b = float(np.float64(a)), float(np.float64(b))
    larger = a if a > b else b
    result = larger + log1p(exp(-abs(a - b)))
    return a + _LN2 if a == b else result
