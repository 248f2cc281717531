"""The functions offered to users' densities against fifty digits, at the ends of their ranges, and in loops."""

import functools
import math
import re
import subprocess
import sys
from pathlib import Path

import mpmath
import numba
import numpy as np
import pytest

import fastgmm.math
from fastgmm.kernels.elementary import fma

INF, NAN = math.inf, math.nan
TINY, SMALLEST, LARGEST = 2.0**-1022, 5e-324, sys.float_info.max
FUNCTIONS = [name for name in fastgmm.math.__all__ if name != "logaddexp"]
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def lengths_of_ten(random, low, high, count):
    """Numbers of either sign, their logarithms uniform."""
    return random.choice([-1.0, 1.0], count) * 10.0 ** random.uniform(low, high, count)


def around(values):
    return np.concatenate([np.nextafter(values, -INF), values, np.nextafter(values, INF)])


def arguments_of_exp(random):
    halves = (np.arange(-1075, 1024) + 0.5) * math.log(2)  # where the reduced argument is largest
    ends = around(np.array([709.782712893384, -745.1332191019412, -708.3964185322641, -708.0, 709.0]))
    return [
        *random.uniform(-746, 710, 2000),
        *random.uniform(-1.2, 1.2, 2000),
        *random.uniform(-745.2, -708, 1000),  # subnormal results
        *lengths_of_ten(random, -320, 3, 1000),
        *random.uniform(36, 38, 500),  # where the 1 of e**x - 1 gets lost
        *around(halves[::3]),
        *ends,
    ]


def arguments_of_log(random):
    borders = math.sqrt(0.5) * 2.0 ** np.arange(-1021, 1024, 5)  # where the reduced argument is largest
    return [
        *2.0 ** random.uniform(-1074, 1024, 3000),
        *2.0 ** random.uniform(-1074, -1020, 500),  # subnormal arguments
        *random.uniform(0.5, 4, 2000),
        *1.0 + lengths_of_ten(random, -16, -0.4, 2000),
        *around(borders),
        *[SMALLEST, 2 * SMALLEST, TINY, LARGEST],
        *around(np.array([1.0, 2.0, TINY])),
    ]


def arguments_of_log1p(random):
    return [
        *lengths_of_ten(random, -323, 0, 2000),
        *random.uniform(-0.99, 4, 4000),
        *-1.0 + 10.0 ** random.uniform(-16, -0.5, 1000),
        *2.0 ** random.uniform(0, 1024, 1000),
        *around(np.array([math.sqrt(0.5) - 1, math.sqrt(2) - 1, 2 * math.sqrt(2) - 1, 1.0, 2.0**53, 2.0**54])),
        *[SMALLEST, -SMALLEST, LARGEST, np.nextafter(-1.0, 0)],
    ]


# Largest errors seen over 200,000 arguments of these kinds: 1.02, 1.15, 0.75, 0.79, 0.5 ulp.
CASES = {
    "exp": (mpmath.exp, arguments_of_exp, 1.1),
    "expm1": (mpmath.expm1, arguments_of_exp, 1.2),
    "log": (mpmath.log, arguments_of_log, 1.0),
    "log1p": (mpmath.log1p, arguments_of_log1p, 1.0),
    "sqrt": (mpmath.sqrt, arguments_of_log, 0.501),
}


@functools.cache
def in_a_loop(function):
    @numba.njit
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    return loop


def in_a_loop_of_pairs(function):
    @numba.njit
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i], 1.0 - x[i])

    return loop


def evaluated(name, x):
    out = np.empty(len(x))
    in_a_loop(getattr(fastgmm.math, name))(x, out)
    return out


@every_function
def test_errors_in_units_of_the_last_place(name):
    oracle, arguments, bound = CASES[name]
    x = np.array(arguments(np.random.default_rng(0)), dtype=float)
    found = evaluated(name, x)
    with mpmath.workdps(50):
        for argument, value in zip(x.tolist(), found.tolist(), strict=True):
            exact = oracle(mpmath.mpf(argument))
            rounded = float(exact)
            if math.isinf(rounded):
                assert value == rounded, argument
            else:
                assert abs(value - exact) <= bound * math.ulp(rounded), (argument, value)


def test_error_of_logaddexp():
    random = np.random.default_rng(1)
    a = lengths_of_ten(random, -3, 3, 3000)
    b = a + lengths_of_ten(random, -17, 2, 3000)
    with mpmath.workdps(50):
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            exact = mpmath.log(mpmath.exp(x) + mpmath.exp(y))
            # 1.3 was measured, over 6,000 pairs.
            assert abs(fastgmm.math.logaddexp(x, y) - exact) <= 2 * math.ulp(max(1.0, abs(x), abs(y))), (x, y)


SPECIAL = {
    "exp": [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (709.79, INF), (1e300, INF), (-745.14, 0.0),
            (-1e300, 0.0), (-745.13, SMALLEST), (SMALLEST, 1.0), (-SMALLEST, 1.0)],
    "expm1": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -1.0), (709.79, INF), (-1e300, -1.0), (-38.0, -1.0),
              (SMALLEST, SMALLEST), (-SMALLEST, -SMALLEST), (TINY, TINY)],
    "log": [(0.0, -INF), (-0.0, -INF), (INF, INF), (-INF, NAN), (-1.0, NAN), (-SMALLEST, NAN), (1.0, 0.0),
            (SMALLEST, -744.4400719213812)],
    "log1p": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, NAN), (-1.0, -INF), (-1.5, NAN), (SMALLEST, SMALLEST),
              (-SMALLEST, -SMALLEST), (LARGEST, 709.782712893384)],
    "sqrt": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, NAN), (-1.0, NAN), (-SMALLEST, NAN),
             (SMALLEST, 2.2227587494850775e-162)],
}  # fmt: skip


def same(found, expected):
    return math.isnan(found) if math.isnan(expected) else (
        found == expected and math.copysign(1.0, found) == math.copysign(1.0, expected)
    )  # fmt: skip


@every_function
def test_special_values(name):
    function = getattr(fastgmm.math, name)
    for x, expected in [*SPECIAL[name], (NAN, NAN)]:
        assert same(function(x), expected), (x, function(x))
    x = np.array([x for x, _ in SPECIAL[name]])
    assert all(map(same, evaluated(name, x), [expected for _, expected in SPECIAL[name]]))


def test_special_values_of_logaddexp():
    cases = [(INF, INF, INF), (-INF, -INF, -INF), (INF, -INF, INF), (-INF, 3.0, 3.0), (3.0, -INF, 3.0), (NAN, 1.0, NAN)]
    cases += [(1.0, NAN, NAN), (INF, NAN, NAN), (NAN, -INF, NAN), (-INF, INF, INF), (2.0, INF, INF)]
    cases += [(LARGEST, -LARGEST, LARGEST), (-1e308, -1e307, -1e307), (0.0, 0.0, math.log(2)), (-0.0, 0.0, math.log(2))]
    for a, b, expected in cases:
        assert same(fastgmm.math.logaddexp(a, b), expected), (a, b)


@every_function
def test_integers_and_single_precision_are_taken_as_double(name):
    function = getattr(fastgmm.math, name)
    assert function(2) == function(np.float32(2)) == function(np.int32(2)) == function(2.0)
    assert function(np.float32(0.1)) == function(float(np.float32(0.1)))
    assert fastgmm.math.logaddexp(1, np.float32(2)) == fastgmm.math.logaddexp(1.0, 2.0)


@every_function
def test_same_bits_alone_and_in_a_loop(name):
    function = getattr(fastgmm.math, name)
    x = np.random.default_rng(2).uniform(0.01, 3, 37)
    whole = evaluated(name, x)
    assert (whole == [function(value) for value in x]).all()
    for count in range(1, 20):
        assert (evaluated(name, x[:count]) == whole[:count]).all()


@pytest.mark.compiled
@pytest.mark.parametrize("name", fastgmm.math.__all__)
def test_a_loop_around_them_is_vectorised(name):
    loop = (in_a_loop_of_pairs if name == "logaddexp" else in_a_loop)(getattr(fastgmm.math, name))
    loop(np.ones(3), np.ones(3))
    (code,) = loop.inspect_llvm().values()
    assert re.search(r"call <\d+ x double> @llvm\.(fma|sqrt)", code)
    assert not re.search(r"(call|invoke) [^@\n]*@[^(\n]*fastgmm", code)


BITS = """
import hashlib, warnings
import numpy as np
import fastgmm.math
warnings.simplefilter("error")
random = np.random.default_rng(3)
x = np.concatenate([random.uniform(-750, 720, 60), random.uniform(-1.1, 3, 60), [0, -0.0, np.inf, -np.inf, 1e300]])
values = [getattr(fastgmm.math, name)(float(v)) for name in fastgmm.math.__all__ if name != "logaddexp" for v in x]
values += [fastgmm.math.logaddexp(float(a), float(b)) for a, b in zip(x, x[::-1])]
values = np.array([float(v) for v in values])
values[np.isnan(values)] = np.nan  # whatever its sign
print(hashlib.sha256(values.tobytes()).hexdigest())
"""


@pytest.mark.compiled
def test_same_bits_compiled_and_not_and_no_warning(monkeypatch):
    folder = str(Path(fastgmm.__file__).parent.parent)
    program = f"import sys; sys.path.insert(0, {folder!r})\n{BITS}"
    digests = []
    for disabled in ("0", "1"):
        monkeypatch.setenv("NUMBA_DISABLE_JIT", disabled)
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        digests.append(run.stdout)
    assert digests[0] == digests[1]


def test_fused_product_rounds_once():
    @numba.njit
    def fused(a, b, c):
        return fma(a, b, c)

    e = 2.0**-30
    assert fused(1.0 + e, 1.0 - e, -1.0) == -(e**2)
    assert fused(1e300, 1e300, -INF) == -INF and fused(1e300, 1e300, -1e300) == INF
    assert math.copysign(1.0, fused(-0.0, 1.0, -0.0)) == -1.0
    assert fused(SMALLEST, 0.5, SMALLEST) == 2 * SMALLEST  # 1.5, to even
