"""`exp` and `log` for vectors; the C library's are scalar calls of 3 to 7 ns."""

from typing import Any, NamedTuple

import numpy as np

from fastgmm.kernels._jit import VECTOR_BYTES, kernel

LOG2_E = 1.4426950408889634
# log 2 in two parts: n * LN2_HIGH is exact for every exponent n a float64 can have.
LN2_HIGH = 6.93147180369123816490e-01
LN2_LOW = 1.90821492927058770002e-10

# Bits of 2, of sqrt(1/2) and of 2**52, and where an exponent is. With TWO added, and MANTISSA_BITS further down, it is
# 1024 + n without a sign, of which WHOLE makes the float WHOLE_BIAS + n.
TWO = np.uint64(0x4000000000000000)
SQRT_HALF = np.uint64(0x3FE6A09E667F3BCD)
WHOLE = np.uint64(0x4330000000000000)
WHOLE_BIAS = 2.0**52 + 1024.0
MANTISSA_BITS = np.uint64(52)
_EXPONENT = np.uint64(0xFFF0000000000000)


class Exponential(NamedTuple):
    """What `exp` needs to know of a type."""

    smallest: float  # the result is 0 below
    steps: float  # in a unit of x: so many to a power of two, over log 2
    rounder: float  # adding it rounds to an integer and leaves that integer in the low bits
    step: tuple[float, float]  # log 2 over the steps to a power of two, in two parts: products with the first are exact
    coefficients: tuple[float, ...]  # of the powers of r from the highest down to the square; by Remez's exchange
    shift: int  # from the low bits to where a step is in a number's exponent and mantissa
    powers: np.ndarray  # bits of 2**(j / steps to a power of two), less j shifted: adding all of m shifted leaves no j


# e**x is 2**n times an entry of a table times a polynomial in the rest r. Sixteen entries are what AVX-512 finds in two
# registers, or in one of float32; a processor without it has but the power 1, and a longer polynomial.
_TABLED = VECTOR_BYTES == 64
_STEP_BITS = 4 if _TABLED else 0
_PER_POWER = 1 << _STEP_BITS
_PER_UNIT = _PER_POWER * LOG2_E


def _find_powers(real: type, whole: Any, shift: int) -> np.ndarray:
    powers: np.ndarray = np.array([2.0 ** (j / _PER_POWER) for j in range(_PER_POWER)], real)
    bits: np.ndarray = powers.view(whole) - (np.arange(_PER_POWER, dtype=whole) << shift)
    return bits


# The polynomials are of least relative error to e**r on |r| <= log(2) / 2 over the powers: 3.6e-18, the short one
# 1.2e-17, and 3.1e-9 and 1.6e-9 for float32. What e**-600 = 1e-260 and e**-69 = 1e-30 are multiplied with gives normal
# numbers as well. Of smaller ones many products would be subnormal, which some processors take a hundred times as long
# for: a twelfth of a pass over 128 features, half of one in float32.
EXP_DOUBLE = Exponential(
    -600.0,
    _PER_UNIT,
    6755399441055744.0,
    (LN2_HIGH / _PER_POWER, LN2_LOW / _PER_POWER),
    (0.0013888594007473907, 0.008333471948475566, 0.04166666669326054, 0.1666666666441707, 0.49999999999999606)
    if _TABLED
    else (
        *(2.5000059256054842e-08, 2.7630248379742436e-07, 2.7557586380882427e-06, 2.480149309892918e-05),
        *(0.0001984126950657133, 0.001388888894363005, 0.008333333333494465, 0.04166666666653016),
        *(0.16666666666666413, 0.5000000000000011),
    ),
    52 - _STEP_BITS,
    _find_powers(np.float64, np.int64, 52 - _STEP_BITS),
)
EXP_SINGLE = Exponential(
    -69.0,
    _PER_UNIT,
    12582912.0,
    (0.693359375 / _PER_POWER, -2.12194440e-4 / _PER_POWER),
    (0.16666718470773342, 0.5000161606471971)
    if _TABLED
    else (0.001381459852760012, 0.0083687168776981, 0.0416683880462062, 0.16666520631748297, 0.4999999344780462),
    23 - _STEP_BITS,
    _find_powers(np.float32, np.int32, 23 - _STEP_BITS),
)


def exp(x: np.ndarray) -> np.ndarray:
    """Return e**x for x <= 0; 0 below -600, or -69 in float32. Within 1.5 ulp.

    x = m log(2) / s + r, with s steps to a power of two, m whole and |r| at most half a step: a polynomial in r, and m
    goes straight into the bits of an entry of the table of powers. This is what runs uncompiled; `softmax` writes the
    same out in vectors.
    """
    constants = EXP_SINGLE if x.dtype == np.float32 else EXP_DOUBLE
    bounded = np.maximum(x, constants.smallest)
    shifted = bounded * constants.steps + constants.rounder
    m = shifted - constants.rounder
    r = bounded - m * constants.step[0] - m * constants.step[1]
    q = np.zeros_like(x)
    for coefficient in constants.coefficients:
        q = q * r + coefficient
    p = q * (r * r) + r
    low = shifted.view(constants.powers.dtype)
    scale = (constants.powers[low % _PER_POWER] + (low << constants.shift)).view(x.dtype)
    return np.where(x < constants.smallest, x.dtype.type(0.0), scale + scale * p)


@kernel(merge=True)
def log(x: float, inverse: float) -> float:
    """Return log x for positive, finite x and its inverse, both normal; NaN for NaN and infinity.

    Within 1 ulp, or one of 1 where |log x| is less: the inverse tells no more.
    x = 2**n m with m in [sqrt(1/2), sqrt(2)), and m - 1 / m = 2 sinh(log m): the polynomial is of least relative error
    to the inverse of that, 8.5e-18 (Remez's exchange). Series in (m - 1) / (m + 1) are shorter by three terms, but
    that division takes longer than those where 1 / x is known.
    """
    bits = np.float64(x).view(np.uint64)
    power = (bits - SQRT_HALF) & _EXPONENT  # n, where a number has its exponent
    m = np.uint64(bits - power).view(np.float64)
    reciprocal = np.uint64(np.float64(inverse).view(np.uint64) + power).view(np.float64)
    # 1024 + n, by a logical shift: AVX2 has no arithmetic one for 64-bit integers.
    biased = (power + TWO) >> MANTISSA_BITS
    n = np.uint64(biased | WHOLE).view(np.float64) - WHOLE_BIAS
    y = m - reciprocal
    z = y * y
    z2 = z * z
    # In pairs, that wait for each other less than in Horner's order.
    p = (2.1168866595913467e-06 - 4.2218894937781047e-07 * z) + z2 * (8.09848773869745e-08 - 1.1139497640466952e-08 * z)
    p = (5.933969638002005e-05 - 1.0923610861766964e-05 * z) + z2 * p
    p = (0.00234374999988592 - 0.0003487723184770387 * z) + z2 * p
    p = (0.5 - 0.020833333333331622 * z) + z2 * p
    return n * LN2_HIGH + (y * p + n * LN2_LOW) + (x - x)
