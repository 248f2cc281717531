"""The kernels' log against fifty digits."""

import math

import mpmath
import numpy as np
import pytest

from fastgmm.kernels.math import log


def largest_error(arguments):
    """Largest error of log in units of the last place of the exact results, or of 1 if that is more."""
    with mpmath.workdps(50):
        exact = [mpmath.log(mpmath.mpf(float(x))) for x in arguments]
        return max(
            float(abs(mpmath.mpf(float(log(x, 1.0 / x))) - e)) / math.ulp(max(1.0, abs(float(e))))
            for x, e in zip(arguments, exact, strict=True)
        )


def arguments_of_log():
    random = np.random.default_rng(1)
    borders = math.sqrt(0.5) * 2.0 ** np.arange(-100, 100)  # where the reduced argument is largest
    arguments = [
        *2.0 ** random.uniform(-1022, 1022, 2000),
        *random.uniform(0.5, 20, 2000),
        *1.0 + 10.0 ** random.uniform(-15, -1, 500),
        *1.0 - 10.0 ** random.uniform(-15, -1, 500),
        *np.nextafter(borders, 0),
        *borders,
    ]
    return np.array(arguments)


def test_log_is_within_one_unit():
    # 0.92 was measured, over 100,000 arguments.
    assert largest_error(arguments_of_log()) <= 1.0


def test_log_of_one_is_exactly_zero():
    assert log(1.0, 1.0) == 0.0


@pytest.mark.parametrize("exponent", [-1022, -1, 1, 2, 1022])
def test_log_of_a_power_of_two(exponent):
    assert log(2.0**exponent, 2.0**-exponent) == exponent * math.log(2.0)


def test_log_at_the_ends_of_the_range():
    for x in (np.finfo(float).tiny, 1.0 / np.finfo(float).tiny):
        assert log(x, 1.0 / x) == pytest.approx(math.log(x), rel=2.3e-16)


@pytest.mark.parametrize("x", [np.nan, np.inf])
def test_log_of_no_finite_number_is_no_number(x):
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.isnan(log(np.float64(x), 1.0 / np.float64(x)))
