"""The kernels' exp and log against fifty digits."""

import math

import mpmath
import numpy as np
import pytest

from fastgmm.kernels.math import exp, exp_single, log


def largest_error(function, oracle, arguments):
    """Largest error in units of the last place of the exact results."""
    with mpmath.workdps(50):
        return max(
            float(abs(mpmath.mpf(float(function(x))) - oracle(mpmath.mpf(x)))) / math.ulp(float(oracle(mpmath.mpf(x))))
            for x in map(float, arguments)
        )


def arguments_of_exp():
    random = np.random.default_rng(0)
    halves = (np.arange(-1020, 1020) + 0.5) * math.log(2)  # where the reduced argument is largest
    return [
        *random.uniform(-708, 709, 2000),
        *random.uniform(-1, 1, 1000),
        *-(10.0 ** random.uniform(-20, 2.8, 1000)),
        *halves[::4],
    ]


def arguments_of_log():
    random = np.random.default_rng(1)
    borders = math.sqrt(0.5) * 2.0 ** np.arange(-100, 100)  # where the reduced argument is largest
    return [
        *2.0 ** random.uniform(-1022, 1024, 2000),
        *random.uniform(0.5, 20, 2000),
        *1.0 + 10.0 ** random.uniform(-15, -1, 500),
        *1.0 - 10.0 ** random.uniform(-15, -1, 500),
        *np.nextafter(borders, 0),
        *borders,
    ]


def test_exp_is_within_one_and_a_half_units():
    # 0.89 was measured, over 300,000 arguments.
    assert largest_error(exp, mpmath.exp, arguments_of_exp()) <= 1.5


def test_exp_of_float32_is_within_two_units():
    # 0.99 was measured, over 300,000 arguments.
    random = np.random.default_rng(2)
    halves = (np.arange(-125, 127) + 0.5) * math.log(2)  # where the reduced argument is largest
    arguments = np.concatenate([random.uniform(-87, 88, 3000), random.uniform(-1, 1, 1000), halves]).astype(np.float32)
    found = np.array([exp_single(x) for x in arguments], np.float32)
    expected = np.exp(arguments.astype(np.longdouble))
    assert (np.abs(found - expected) / np.spacing(expected.astype(np.float32))).max() <= 2.0


def test_log_is_within_one_unit():
    # 0.75 was measured, over 500,000 arguments.
    assert largest_error(log, mpmath.log, arguments_of_log()) <= 1.0


@pytest.mark.parametrize("x", [np.nextafter(-708.0, -709.0), -709.0, -745.0, -1e3, -1e300, -np.inf])
def test_exp_is_zero_below_708(x):
    assert exp(x) == 0.0


def test_exp_is_positive_down_to_708():
    assert exp(-708.0) == pytest.approx(math.exp(-708.0), rel=4e-16)


@pytest.mark.parametrize("x", [np.nextafter(np.float32(-87), np.float32(-88)), -88.0, -103.0, -1e38, -np.inf])
def test_exp_of_float32_is_zero_below_87(x):
    assert exp_single(np.float32(x)) == 0.0


def test_exp_of_float32_is_positive_down_to_87():
    assert exp_single(np.float32(-87.0)) == pytest.approx(math.exp(-87.0), rel=2e-7)


@pytest.mark.parametrize("x", [0.0, -0.0, 1e-9, -1e-9, 1e-45])
def test_exp_of_next_to_nothing_is_one_in_float32(x):
    assert exp_single(np.float32(x)) == 1.0


@pytest.mark.parametrize("x", [np.nan, np.inf])
def test_what_is_no_number_stays_none(x):
    # Log-densities are at most 0 after the largest is taken off: +inf - inf is the NaN that marks a row as lost.
    with np.errstate(invalid="ignore"):
        assert np.isnan(exp(x)) and np.isnan(exp_single(np.float32(x)))


@pytest.mark.parametrize("x", [0.0, -0.0, 1e-17, -1e-17, 5e-324])
def test_exp_of_next_to_nothing_is_one(x):
    assert exp(x) == 1.0


def test_log_of_one_is_exactly_zero():
    assert log(1.0) == 0.0


@pytest.mark.parametrize("exponent", [-1022, -1, 1, 2, 1023])
def test_log_of_a_power_of_two(exponent):
    assert log(2.0**exponent) == exponent * math.log(2.0)


def test_log_at_the_ends_of_the_range():
    for x in (np.finfo(float).tiny, np.finfo(float).max):
        assert log(x) == pytest.approx(math.log(x), rel=2.3e-16)


def test_log_undoes_exp():
    for x in np.linspace(-700, 700, 281):
        assert log(exp(x)) == pytest.approx(x, rel=4e-16, abs=4e-16)
